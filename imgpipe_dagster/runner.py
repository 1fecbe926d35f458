"""Running batches from the command line, without a daemon: the same jobs, the same claims, visible in Dagster's UI."""

import logging
import time
from collections.abc import Callable, Iterator
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
    note_heartbeat,
    offer_batch,
    open_batches,
    release_batch,
)
from imgpipe_dagster.catalogue.images import count_verdicts
from imgpipe_dagster.catalogue.tables import BatchState, Claimant
from imgpipe_dagster.instance import dagster_instance
from imgpipe_dagster.partitions import image_batches
from imgpipe_dagster.sensors.jobs import tick
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

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}  # the run's log is in Dagster's storage

_JOBS_BATCHES = 100  # of clients' jobs that may be open at once


@dataclass(frozen=True)
class JobOutcome:
    """How one job on one batch ended.

    Attributes:
        key: The batch.
        job: The job.
        images: The images of the batch that the job is for.
        attempts: The number of the last attempt.
        succeeded: Whether it did its work.
        seconds: All attempts together.
        error: What went wrong in the last attempt.
    """

    key: str
    job: str
    images: int
    attempts: int
    succeeded: bool
    seconds: float
    error: str | None


class InterruptedRunError(RuntimeError):
    """Somebody stopped the command; what was under way waits again."""


def run_pending(
    settings: Settings, engine: Engine, on_job: Callable[[JobOutcome], None] = lambda _outcome: None
) -> list[JobOutcome]:
    """Claim and process all that waits, batch after batch, until nothing does.

    All images get their predictions before any is enhanced. Batches that an earlier run left behind are taken up as the
    sensor would, and what clients' jobs ask for comes first.

    Args:
        settings: This installation's settings.
        engine: The catalogue.
        on_job: Called as each job on a batch ends.

    Raises:
        InterruptedRunError: on SIGINT or SIGTERM; what was under way waits again.
    """
    with dagster_instance(settings) as instance:
        runner = _Runner(settings, engine, instance, on_job)
        try:
            runner.look_after_jobs()
            going_on = True
            while going_on:
                runner.analyse_all()
                runner.enhance_all()
                going_on = runner.look_after_jobs()
        except BaseException:
            runner.offer_the_rest()
            raise
    return runner.outcomes


class _Runner:
    """The work of one command."""

    def __init__(
        self, settings: Settings, engine: Engine, instance: dg.DagsterInstance, on_job: Callable[[JobOutcome], None]
    ) -> None:
        self._defs = build_defs(settings)
        self._engine = engine
        self._instance = instance
        self._on_job = on_job
        self._batch_limits = BatchLimits(settings.batch_size, settings.batch_max_size, max_wait_s=0)
        self._attempt_limits = AttemptLimits(settings.max_attempts, settings.heartbeat_limit_s)
        self._analysed: set[str] = set()  # by this command, which is to enhance them
        self.outcomes: list[JobOutcome] = []

    def look_after_jobs(self) -> bool:
        """Form batches of what clients' jobs ask for, and keep up how far each is; whether there are new batches."""
        formed, _ = tick(self._engine, self._batch_limits.size, _JOBS_BATCHES)
        return formed > 0

    def analyse_all(self) -> None:
        """Analyse what was left behind, then all images that wait."""
        for batch in self._left_behind(BatchState.CLAIMED):
            self._run(batch)
        while (batch := claim_batch(self._engine, self._batch_limits, Claimant.CLI)) is not None:
            self._run(batch)

    def enhance_all(self) -> None:
        """Enhance what this command has analysed, and what was left behind."""
        for batch in self._left_behind(BatchState.ANALYSED):
            self._run(batch)

    def offer_the_rest(self) -> None:
        """Let others enhance what this command has analysed and will not come to."""
        for key in self._analysed:
            offer_batch(self._engine, key)

    def _run(self, batch: Batch) -> None:
        """Run the job that the batch needs until it succeeds or is given up."""
        started = time.monotonic()
        job = str(batch.job)
        while True:
            try:
                error = self._run_attempt(batch)
            except BaseException:
                release_batch(self._engine, batch)  # interrupted, or a fault outside the run as in Dagster's storage
                raise
            if error is None:
                break
            log.warning("Batch %s, %s, attempt %d failed: %s", batch.key, job, batch.attempt, error)
            if decide(batch, RunView.FAILED, self._attempt_limits) is Action.GIVE_UP:
                fail_batch(self._engine, batch, error)
                break
            if not begin_attempt(self._engine, batch, Claimant.CLI):
                break  # a sensor has taken it up
            batch = get_batch(self._engine, batch.key) or batch
        if error is None and batch.state is BatchState.CLAIMED:
            self._analysed.add(batch.key)
        self._end(batch, error, time.monotonic() - started)

    def _run_attempt(self, batch: Batch) -> str | None:
        """Run one attempt in this process: None if it succeeded, else what went wrong."""
        job = self._defs.resolve_job_def(str(batch.job))
        self._instance.add_dynamic_partitions(str(image_batches.name), [batch.key])
        try:
            job.execute_in_process(
                instance=self._instance,
                partition_key=batch.key,
                tags={RUN_KEY_TAG: run_key(batch), **run_tags(batch)},
                run_config=_QUIET,
            )
        except (DagsterExecutionInterruptedError, KeyboardInterrupt) as interrupt:
            waits = (
                f"the images of batch {batch.key} wait again"
                if batch.state is BatchState.CLAIMED
                else f"the enhancement of batch {batch.key} waits again"
            )
            raise InterruptedRunError(f"Interrupted: {waits}.") from interrupt
        except Exception as error:  # noqa: BLE001 - whatever an asset raises is the failure of this attempt
            # A database's error goes on with the statement and all its values.
            first_line, _, _ = str(error).partition("\n")
            return f"{type(error).__name__}: {first_line}"
        now = get_batch(self._engine, batch.key) or batch
        return None if now.state is not batch.state else "The run ended well but left the batch open."

    def _left_behind(self, state: BatchState) -> Iterator[Batch]:
        """The open batches in a state that nobody works on, each taken for its next attempt as its turn comes."""
        for seen in open_batches(self._engine):
            batch = get_batch(self._engine, seen.key) if seen.state is state else None
            if batch is not None and batch.state is state and (taken := self._take(batch)) is not None:
                yield taken

    def _take(self, batch: Batch) -> Batch | None:
        runs = runs_of_attempts(self._instance, [batch]).get(run_key(batch), [])
        view = view_of(runs)
        if view is RunView.NONE and batch.key in self._analysed:
            note_heartbeat(self._engine, batch.key)
            return batch
        action = decide(batch, view, self._attempt_limits)
        if action is Action.ACCUSE_RUN:
            accuse_runs(self._instance, batch, runs)
            action = decide(batch, RunView.FAILED, self._attempt_limits)
        if action is Action.GIVE_UP:
            fail_batch(self._engine, batch, "Its last run was lost.")
            self._end(batch, "Its last run was lost.", 0.0)
            return None
        if action is Action.REQUEST_RUN and not self._attempt_limits.is_silent(batch):
            return None  # whoever has just claimed it is about to start its run
        if action in (Action.NEXT_ATTEMPT, Action.REQUEST_RUN) and begin_attempt(self._engine, batch, Claimant.CLI):
            return get_batch(self._engine, batch.key) or batch
        return None

    def _end(self, batch: Batch, error: str | None, seconds: float) -> None:
        enhances = batch.state is BatchState.ANALYSED
        images = count_verdicts(self._engine, batch.key) if enhances else batch.image_count
        outcome = JobOutcome(batch.key, str(batch.job), images, batch.attempt, error is None, seconds, error)
        self.outcomes.append(outcome)
        self._on_job(outcome)
