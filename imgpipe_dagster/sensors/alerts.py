"""The sensors of the alerts: for the pipeline as a whole and delivery, for each feed, for failed runs. Thin shells."""

import datetime as dt
import json
from collections.abc import Sequence

import dagster as dg
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.alerts.delivery import DeliveryPolicy, deliver_due
from imgpipe_dagster.alerts.watch import WatchLimits, observe, observe_feeds
from imgpipe_dagster.assets.freshness import freshness_evaluation
from imgpipe_dagster.backfills import BACKFILL_TAG
from imgpipe_dagster.catalogue.alerts import AlertKind, NewAlert, write_alerts
from imgpipe_dagster.catalogue.batches import interrupted_attempts
from imgpipe_dagster.catalogue.tables import FeedKind, Severity
from imgpipe_dagster.catalogue.ticks import note_tick
from imgpipe_dagster.partitions import ATTEMPT_TAG, PARTITION_TAG, temple_of_partition
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.mailer import MailerResource
from imgpipe_dagster.sensors.common import catalogue_skip
from imgpipe_dagster.sensors.new_images import BATCH_TAG

DELIVERY_BUDGET_S = 15.0  # no attempt is begun later; Dagster gives a tick 60 seconds
FAILURES_A_TICK = 500
OVERLAP = dt.timedelta(seconds=60)  # a run's end may become visible later than that of one that ended after it
FIRST_LOOK_BACK = dt.timedelta(days=1)


def build_alerts_sensor(limits: WatchLimits, policy: DeliveryPolicy) -> dg.SensorDefinition:
    """The sensor that raises what lasts, clears what is over, and delivers the outbox."""

    @dg.sensor(
        name="alerts_sensor",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Finds stale predictions, an old backlog and full disks in the rows, and delivers alert mails.",
    )
    def alerts_sensor(database: DatabaseResource, mailer: MailerResource) -> dg.SkipReason:
        try:
            outcome = watch_and_deliver(database.engine, mailer, limits, policy)
            note_tick(database.engine, "alerts_sensor", outcome)
        except SQLAlchemyError as error:
            return catalogue_skip(error)
        return dg.SkipReason(outcome)

    return alerts_sensor


def watch_and_deliver(engine: Engine, mailer: MailerResource, limits: WatchLimits, policy: DeliveryPolicy) -> str:
    """Look, write, deliver: what happened, for people."""
    pulse, written = observe(engine, limits)
    if not written and not pulse.mail_due:
        return "Nothing new; no mail is due."
    report = deliver_due(engine, mailer.open(), policy, fallback_sender=mailer.login, budget_s=DELIVERY_BUDGET_S)
    return " ".join([*(f"{subject}." for subject in written), f"{report.sent} mails sent.", *report.problems])


def build_feeds_sensor(limits: WatchLimits) -> dg.SensorDefinition:
    """The sensor that judges each temple and each source, and reports the verdicts as asset checks, without runs."""

    @dg.sensor(
        name="feeds_sensor",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports whether each temple and each source is fresh, as checks of image_predictions.",
    )
    def feeds_sensor(
        context: dg.SensorEvaluationContext, database: DatabaseResource
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            found, written = observe_feeds(database.engine, limits)
            note_tick(database.engine, "feeds_sensor", " ".join(written) or "Nothing new.")
        except SQLAlchemyError as error:
            return catalogue_skip(error)
        verdicts = [freshness_evaluation(kind, condition) for kind, condition in zip(FeedKind, found, strict=True)]
        told = json.dumps([[verdict.passed, verdict.description] for verdict in verdicts])
        if told == context.cursor:
            return dg.SkipReason("The verdicts are as they were.")
        return dg.SensorResult(asset_events=verdicts, cursor=told)

    return feeds_sensor


def build_run_failures_sensor(max_attempts: int) -> dg.SensorDefinition:
    """The sensor that writes an alert for each failed run.

    Dagster's own run-failure sensor goes on when its body fails: with the catalogue away, alerts would be lost. This
    one keeps its cursor until they are written.
    """

    @dg.sensor(
        name="run_failures_sensor",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Writes an alert for each run that failed, also for those that failed while it could not. "
        "A run that somebody stopped, so that its images wait again, is none of them.",
    )
    def run_failures_sensor(context: dg.SensorEvaluationContext, database: DatabaseResource) -> dg.SkipReason:
        now = dt.datetime.now(dt.UTC)
        since = dt.datetime.fromisoformat(context.cursor) if context.cursor else now - FIRST_LOOK_BACK
        records = failed_runs(context.instance, since)
        try:
            failed = uninterrupted(database.engine, records)
            alerts = [describe_failure(context.instance, record, max_attempts) for record in failed]
            written = write_alerts(database.engine, alerts)
            outcome = f"{written} failed runs noted."
            note_tick(database.engine, "run_failures_sensor", outcome)
        except SQLAlchemyError as error:
            return catalogue_skip(error)  # the cursor stays: nothing is lost
        context.update_cursor(next_cursor(records, since, now).isoformat())
        return dg.SkipReason(outcome)

    return run_failures_sensor


def failed_runs(instance: dg.DagsterInstance, since: dt.datetime) -> Sequence[dg.RunRecord]:
    """Runs that failed after that time, in the order of their ends, at most ``FAILURES_A_TICK``."""
    filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    return instance.get_run_records(filters, limit=FAILURES_A_TICK, order_by="update_timestamp", ascending=True)


def uninterrupted(engine: Engine, records: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
    """The runs without those whose batch was given back because somebody stopped them."""
    attempts = [
        (record, record.dagster_run.tags.get(BATCH_TAG), record.dagster_run.tags.get(ATTEMPT_TAG)) for record in records
    ]
    keys = {batch for _, batch, _ in attempts if batch is not None}
    if not keys:
        return list(records)
    given_back = {(key, str(attempt)) for key, attempt in interrupted_attempts(engine, keys)}
    return [record for record, batch, attempt in attempts if (batch, attempt) not in given_back]


def next_cursor(records: Sequence[dg.RunRecord], since: dt.datetime, now: dt.datetime) -> dt.datetime:
    """Where the next look begins: after the last of a full page, else a little before now."""
    if len(records) >= FAILURES_A_TICK:
        return records[-1].update_timestamp - dt.timedelta(microseconds=1)
    return max(since, now - OVERLAP)


def describe_failure(instance: dg.DagsterInstance, record: dg.RunRecord, max_attempts: int) -> NewAlert:
    """The alert about a failed run."""
    run = record.dagster_run
    batch, attempt = run.tags.get(BATCH_TAG), run.tags.get(ATTEMPT_TAG)
    again = attempt is not None and attempt.isdigit() and int(attempt) % max_attempts != 0
    partition, backfill = run.tags.get(PARTITION_TAG), run.tags.get(BACKFILL_TAG)
    job = job_title(run)
    what = f"of batch {batch}, attempt {attempt}," if batch else ""
    details: dict[str, str | int | float] = {"job": job}
    if again:
        advice = "It is tried again by itself."
    elif backfill:
        advice = f"Read its log in Dagster; `imgpipe backfill --resume {backfill}` does again what failed."
    else:
        advice = "Read its log in Dagster."
    if partition:
        details["partition"] = partition
        what = what or f"of {temple_of_partition(partition)}"
    return NewAlert(
        kind=AlertKind.RUN_FAILED,
        subject=" ".join(filter(None, ["A run", what, f"failed ({job})"])),
        body=f"{failure_cause(instance, run.run_id)}\n{advice}",
        dedupe_key=f"run_failed:{run.run_id}",
        severity=Severity.WARNING if again else Severity.ERROR,
        details=details,
        run_id=run.run_id,
    )


def job_title(run: dg.DagsterRun) -> str:
    """The run's job, or its assets where somebody started just these and Dagster made up a job for them."""
    if not run.job_name.startswith("__") or not run.asset_selection:
        return run.job_name
    first, *others = sorted(key.to_user_string() for key in run.asset_selection)
    return f"{first} and {len(others)} more" if others else first


def failure_cause(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed, in one line."""
    for kind in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        for record in instance.get_records_for_run(run_id, of_type=kind, limit=1).records:
            event = record.event_log_entry.dagster_event
            data = event.event_specific_data if event else None
            error = getattr(data, "error", None)
            if event and error:
                while error.cause is not None:
                    error = error.cause
                # A database's error goes on with the statement and all its values.
                step = f"{event.step_key}: " if event.step_key else ""
                return f"{step}{error.message.strip().splitlines()[0][:500]}"
            if event and event.message:
                return event.message.splitlines()[0][:500]
    return "Dagster knows no cause."
