"""The sensor that turns new rows into batches and runs, and looks after every open batch. The decision is pure.

A claimed batch needs the job ``analyse``, an analysed one ``enhance``; each is looked after in the same way.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

import dagster as dg
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.batches import (
    Batch,
    BatchLimits,
    begin_attempt,
    claim_batch,
    fail_batch,
    get_batch,
    hold_batch,
    note_heartbeat,
    open_batches,
)
from imgpipe_dagster.catalogue.tables import BatchState, Claimant
from imgpipe_dagster.catalogue.temple_models import is_abandoned
from imgpipe_dagster.catalogue.ticks import note_tick
from imgpipe_dagster.partitions import ATTEMPT_TAG, PARTITION_TAG, image_batches, temple_of_partition
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.sensors.common import catalogue_skip

RUN_KEY_TAG = "dagster/run_key"
BATCH_TAG = "imgpipe/batch"


class RunView(Enum):
    """What a batch's run of the current attempt is doing, as the decision needs it."""

    NONE = auto()
    QUEUED = auto()
    STARTED = auto()
    SUCCEEDED = auto()
    FAILED = auto()
    CANCELED = auto()


class Action(Enum):
    """What to do about an open batch."""

    LEAVE = auto()
    REQUEST_RUN = auto()
    NEXT_ATTEMPT = auto()
    ACCUSE_RUN = auto()  # its worker is gone without a word: report it as failed, then the next attempt
    HOLD = auto()
    GIVE_UP = auto()


@dataclass(frozen=True)
class AttemptLimits:
    """How long a run may be silent and how often a batch is tried; after a retry by hand, as often again."""

    max_attempts: int = 3
    heartbeat_limit_s: float = 600

    def is_silent(self, batch: Batch) -> bool:
        """Whether nothing was heard for too long. A heartbeat far ahead was left there by a clock that was set back."""
        return abs(batch.heartbeat_age_s) > self.heartbeat_limit_s


def decide(batch: Batch, run: RunView, limits: AttemptLimits) -> Action:
    """What to do about one open batch, from its row and its run of the current attempt.

    Pure: the same row and run give the same action, so asking twice does no harm.
    """
    silent = limits.is_silent(batch)
    last = batch.attempt % limits.max_attempts == 0
    match run:
        case RunView.NONE if batch.claimed_by is Claimant.CLI and not silent:
            return Action.LEAVE  # the command that claimed it is about to start its run
        case RunView.NONE:
            return Action.REQUEST_RUN
        case RunView.QUEUED:
            return Action.LEAVE
        case RunView.STARTED:
            return Action.ACCUSE_RUN if silent else Action.LEAVE
        case RunView.CANCELED:
            return Action.HOLD
        case RunView.FAILED | RunView.SUCCEEDED:  # a green run that left the batch open has not done its work
            return Action.GIVE_UP if last else Action.NEXT_ATTEMPT


def run_key(batch: Batch) -> str:
    """The key by which Dagster knows the current attempt of the job that the batch needs."""
    return f"{batch.key}:{batch.job}:{batch.attempt}"


def run_request(batch: Batch) -> dg.RunRequest:
    """The run of the current attempt."""
    return dg.RunRequest(run_key=run_key(batch), job_name=batch.job, partition_key=batch.key, tags=run_tags(batch))


def run_tags(batch: Batch) -> dict[str, str]:
    """Tags by which people find the runs of a batch."""
    return {BATCH_TAG: batch.key, ATTEMPT_TAG: str(batch.attempt)}


def view_of(runs: Iterable[dg.DagsterRun]) -> RunView:
    """The runs of one attempt as one: a live one counts first, then a success, then the latest.

    There may be several, because a re-execution keeps the run key.
    """
    views = [_VIEWS[run.status] for run in runs]
    for wanted in (RunView.STARTED, RunView.QUEUED, RunView.SUCCEEDED):
        if wanted in views:
            return wanted
    return views[0] if views else RunView.NONE


def build_new_images_sensor(
    jobs: Sequence[Any],
    batch_limits: BatchLimits,
    attempt_limits: AttemptLimits,
    max_open_batches: int,
) -> dg.SensorDefinition:
    """The sensor over ``product_images`` that runs the job that each batch needs, one of ``define_asset_job``'s."""

    @dg.sensor(
        name="new_images_sensor",
        jobs=jobs,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Claims waiting images as batches, requests their runs, and looks after every open batch.",
    )
    def new_images_sensor(
        context: dg.SensorEvaluationContext, database: DatabaseResource
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            wanted = tick(context.instance, database.engine, batch_limits, attempt_limits, max_open_batches)
            note_tick(database.engine, "new_images_sensor", f"{len(wanted)} runs requested")
        except SQLAlchemyError as error:
            return catalogue_skip(error)
        if not wanted:
            return dg.SkipReason("No batch needs a run and no new batch is due.")
        return dg.SensorResult(
            run_requests=[run_request(batch) for batch in wanted],
            dynamic_partitions_requests=[image_batches.build_add_request([batch.key for batch in wanted])],
        )

    return new_images_sensor


def tick(
    instance: dg.DagsterInstance,
    engine: Engine,
    batch_limits: BatchLimits,
    attempt_limits: AttemptLimits,
    max_open_batches: int,
) -> list[Batch]:
    """Look after the open batches and claim new ones: those that need a run of their current attempt.

    Batches that wait for their enhancement do not keep new ones from being claimed. Only the oldest of them are looked
    after: enhancement is slower than analysis, and the others' turn comes.
    """
    batches = open_batches(engine)
    claimed = [batch for batch in batches if batch.state is BatchState.CLAIMED]
    analysed = [batch for batch in batches if batch.state is BatchState.ANALYSED][:max_open_batches]
    watched = [*claimed, *analysed]
    runs = runs_of_attempts(instance, watched)
    wanted: list[Batch] = []
    for batch in watched:
        own = runs.get(run_key(batch), [])
        view = view_of(own)
        if view is RunView.QUEUED:
            note_heartbeat(engine, batch.key)  # silence counts from the start of the work, however long the queue
        next_run = _act(instance, engine, batch, own, decide(batch, view, attempt_limits))
        if next_run is not None:
            wanted.append(next_run)
    accuse_forgotten_runs(instance, engine, {run.run_id for own in runs.values() for run in own}, attempt_limits)
    for _ in range(max_open_batches - len(claimed)):
        new = claim_batch(engine, batch_limits, Claimant.SENSOR)
        if new is None:
            break
        wanted.append(new)
    return wanted


def runs_of_attempts(instance: dg.DagsterInstance, batches: Sequence[Batch]) -> Mapping[str, list[dg.DagsterRun]]:
    """The runs of the current attempt of each batch by run key, latest first."""
    found: dict[str, list[dg.DagsterRun]] = {}
    if batches:
        for run in instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: [run_key(batch) for batch in batches]})):
            found.setdefault(run.tags[RUN_KEY_TAG], []).append(run)
    return found


def accuse_runs(instance: dg.DagsterInstance, batch: Batch, runs: Iterable[dg.DagsterRun]) -> None:
    """Report the runs of a silent batch as failed, so that their slots in the queue are free again."""
    for run in runs:
        if not run.is_finished:
            instance.report_run_failed(
                run, f"No sign of life for {batch.heartbeat_age_s:.0f} seconds: counted as lost."
            )


def accuse_forgotten_runs(
    instance: dg.DagsterInstance, engine: Engine, watched: Collection[str], limits: AttemptLimits
) -> None:
    """Report runs as failed that are lost and that no open batch waits for, so that their slots are free again.

    A backfill's, a re-execution's, a training, or one whose worker died between its last rows and its own end: nobody
    asks for their next attempt, but while they count as started, the queue holds others back for them.

    Args:
        instance: Dagster's instance.
        engine: The catalogue.
        watched: Ids of runs that are looked after already.
        limits: How long a run may be silent.
    """
    now = time.time()
    for record in instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        run = record.dagster_run
        began = record.start_time or record.create_timestamp.timestamp()
        # One from far ahead began before the clock was set back.
        is_young = abs(now - began) <= limits.heartbeat_limit_s
        if run.run_id in watched or PARTITION_TAG not in run.tags or is_young:
            continue
        if _is_lost(engine, run.tags[PARTITION_TAG], limits):
            instance.report_run_failed(run, "Nothing was heard of its work for too long: counted as lost.")


def _is_lost(engine: Engine, partition_key: str, limits: AttemptLimits) -> bool:
    """Whether the work on a batch, or on a temple's model, has fallen silent. Of other partitions nothing is known."""
    batch = get_batch(engine, partition_key)
    if batch is None:
        return is_abandoned(engine, temple_of_partition(partition_key))
    return limits.is_silent(batch)


def _act(
    instance: dg.DagsterInstance, engine: Engine, batch: Batch, runs: Sequence[dg.DagsterRun], action: Action
) -> Batch | None:
    """Carry out an action; the batch with the attempt to request a run for, or None."""
    match action:
        case Action.REQUEST_RUN:
            return batch
        case Action.NEXT_ATTEMPT:
            return replace(batch, attempt=batch.attempt + 1) if begin_attempt(engine, batch) else None
        case Action.ACCUSE_RUN:
            accuse_runs(instance, batch, runs)  # the next tick sees a failed run
        case Action.HOLD:
            hold_batch(engine, batch, "Its run was canceled.")
        case Action.GIVE_UP:
            fail_batch(engine, batch, _last_words(runs))
        case Action.LEAVE:
            pass
    return None


def _last_words(runs: Sequence[dg.DagsterRun]) -> str:
    return f"Its last run was {runs[0].run_id}." if runs else "It had no run."


_VIEWS: dict[dg.DagsterRunStatus, RunView] = {
    dg.DagsterRunStatus.QUEUED: RunView.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED: RunView.QUEUED,
    dg.DagsterRunStatus.MANAGED: RunView.QUEUED,
    dg.DagsterRunStatus.STARTING: RunView.QUEUED,  # run monitoring guards the start
    dg.DagsterRunStatus.STARTED: RunView.STARTED,
    dg.DagsterRunStatus.CANCELING: RunView.STARTED,
    dg.DagsterRunStatus.SUCCESS: RunView.SUCCEEDED,
    dg.DagsterRunStatus.FAILURE: RunView.FAILED,
    dg.DagsterRunStatus.CANCELED: RunView.CANCELED,
}
