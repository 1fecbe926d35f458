"""Running batches from the command line, without a daemon: the same job, the same claims, visible in Dagster's UI."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg
from dagster import DagsterExecutionInterruptedError
from sqlalchemy.engine import Engine

from imgpipe_dagster.build import build_defs
from imgpipe_dagster.catalogue.batches import (
    Batch,
    BatchLimits,
    begin_attempt,
    claim_batch,
    fail_batch,
    get_batch,
    open_batches,
    release_batch,
)
from imgpipe_dagster.catalogue.tables import BatchState, Claimant
from imgpipe_dagster.instance import dagster_instance
from imgpipe_dagster.partitions import image_batches
from imgpipe_dagster.sensors.new_images import (
    RUN_KEY_TAG,
    Action,
    AttemptLimits,
    RunView,
    accuse_runs,
    decide,
    run_key,
    run_tags,
    runs_of_attempts,
    view_of,
)
from imgpipe_dagster.settings import Settings

log = logging.getLogger(__name__)

JOB = "analyse"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}  # the run's log is in Dagster's storage


@dataclass(frozen=True)
class BatchOutcome:
    """How one batch ended."""

    key: str
    images: int
    attempts: int
    succeeded: bool
    seconds: float
    error: str | None


class InterruptedRunError(RuntimeError):
    """Somebody stopped the command; its images wait again."""


def run_pending(
    settings: Settings, engine: Engine, on_batch: Callable[[BatchOutcome], None] = lambda _outcome: None
) -> list[BatchOutcome]:
    """Claim and process all that waits, batch after batch, until nothing does.

    Batches that an earlier run left behind are taken up as the sensor would.

    Args:
        settings: This installation's settings.
        engine: The catalogue.
        on_batch: Called as each batch ends.

    Raises:
        InterruptedRunError: on SIGINT or SIGTERM; the images of the batch under way wait again.
    """
    job = build_defs(settings).resolve_job_def(JOB)
    limits = BatchLimits(settings.batch_size, settings.batch_max_size, max_wait_s=0)
    attempts = AttemptLimits(settings.max_attempts, settings.heartbeat_limit_s)
    outcomes: list[BatchOutcome] = []
    with dagster_instance(settings) as instance:
        left_behind = _left_behind(instance, engine, attempts, outcomes)
        while (batch := left_behind.pop(0) if left_behind else claim_batch(engine, limits, Claimant.CLI)) is not None:
            try:
                outcome = _run_batch(job, instance, engine, batch, attempts)
            except BaseException:
                release_batch(engine, batch)  # a fault outside the run, such as in Dagster's own storage
                raise
            outcomes.append(outcome)
            on_batch(outcome)
    return outcomes


def _run_batch(
    job: dg.JobDefinition, instance: dg.DagsterInstance, engine: Engine, batch: Batch, limits: AttemptLimits
) -> BatchOutcome:
    started = time.monotonic()
    instance.add_dynamic_partitions(str(image_batches.name), [batch.key])
    while True:
        error = _run_attempt(job, instance, engine, batch)
        if error is None:
            break
        log.warning("Batch %s, attempt %d failed: %s", batch.key, batch.attempt, error)
        if decide(batch, RunView.FAILED, limits) is Action.GIVE_UP:
            fail_batch(engine, batch, error)
            break
        if not begin_attempt(engine, batch, Claimant.CLI):
            break  # a sensor has taken it up
        batch = get_batch(engine, batch.key) or batch
    seconds = time.monotonic() - started
    return BatchOutcome(batch.key, batch.image_count, batch.attempt, error is None, seconds, error)


def _run_attempt(job: dg.JobDefinition, instance: dg.DagsterInstance, engine: Engine, batch: Batch) -> str | None:
    """Run one attempt in this process: None if it succeeded, else what went wrong."""
    try:
        job.execute_in_process(
            instance=instance,
            partition_key=batch.key,
            tags={RUN_KEY_TAG: run_key(batch.key, JOB, batch.attempt), **run_tags(batch.key, batch.attempt)},
            run_config=_QUIET,
        )
    except (DagsterExecutionInterruptedError, KeyboardInterrupt) as interrupt:
        release_batch(engine, batch)
        raise InterruptedRunError(f"Interrupted: the images of batch {batch.key} wait again.") from interrupt
    except Exception as error:  # noqa: BLE001 - whatever an asset raises is the failure of this attempt
        # A database's error goes on with the statement and all its values.
        first_line, _, _ = str(error).partition("\n")
        return f"{type(error).__name__}: {first_line}"
    state = (get_batch(engine, batch.key) or batch).state
    return None if state is BatchState.ANALYSED else "The run ended well but left the batch open."


def _left_behind(
    instance: dg.DagsterInstance, engine: Engine, limits: AttemptLimits, outcomes: list[BatchOutcome]
) -> list[Batch]:
    """Open batches that nobody works on, ready for their next attempt; those that are given up join the outcomes."""
    batches = open_batches(engine)
    runs = runs_of_attempts(instance, [run_key(batch.key, JOB, batch.attempt) for batch in batches])
    taken: list[Batch] = []
    for batch in batches:
        own = runs.get(run_key(batch.key, JOB, batch.attempt), [])
        action = decide(batch, view_of(own), limits)
        if action is Action.ACCUSE_RUN:
            accuse_runs(instance, batch, own)
            action = decide(batch, RunView.FAILED, limits)
        if action is Action.GIVE_UP:
            fail_batch(engine, batch, "Its last run was lost.")
            lost = BatchOutcome(batch.key, batch.image_count, batch.attempt, False, 0.0, "Its last run was lost.")
            outcomes.append(lost)
        elif action is Action.REQUEST_RUN and batch.heartbeat_age_s <= limits.heartbeat_limit_s:
            continue  # whoever has just claimed it is about to start its run
        elif action in (Action.NEXT_ATTEMPT, Action.REQUEST_RUN) and begin_attempt(engine, batch, Claimant.CLI):
            taken.append(get_batch(engine, batch.key) or batch)
    return taken
