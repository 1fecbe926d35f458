"""The sensor that gives temples their partitions and trains those with enough new labels. The decision is pure."""

from collections.abc import Collection, Sequence
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.temple_images import temple_ids
from imgpipe_dagster.catalogue.temple_models import TrainingState, training_states
from imgpipe_dagster.catalogue.ticks import note_tick
from imgpipe_dagster.instance import FINISHED_RUNS
from imgpipe_dagster.partitions import PARTITION_TAG, temple_partition, temples
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.sensors.common import catalogue_skip

NAME = "temple_training_sensor"
_UNDER_WAY = [status for status in dg.DagsterRunStatus if status not in FINISHED_RUNS]


def plan_trainings(
    states: Sequence[TrainingState], under_way: Collection[str], retrain_after: int
) -> list[TrainingState]:
    """Which temples to train: those with enough labels that no model of theirs has seen, and no training under way.

    Args:
        states: Of every temple.
        under_way: Temples that have a run which is not over.
        retrain_after: New labels that are enough; 0: never.
    """
    if not retrain_after:
        return []
    return [
        state
        for state in states
        if state.labels - state.seen >= retrain_after and not state.busy and state.temple_id not in under_way
    ]


def build_temple_training_sensor(job: Any, retrain_after: int) -> dg.SensorDefinition:  # noqa: ANN401 - dagster's own
    """The sensor; what fails is tried again when as many labels have come once more."""

    @dg.sensor(
        name=NAME,
        job=job,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Gives every temple its partition, and trains a temple that has enough new labels.",
    )
    def temple_training_sensor(
        context: dg.SensorEvaluationContext, database: DatabaseResource
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            known = temple_ids(database.engine)
            due = plan_trainings(training_states(database.engine), _under_way(context.instance, known), retrain_after)
            note_tick(database.engine, NAME, f"{len(due)} trainings requested")
        except SQLAlchemyError as error:
            return catalogue_skip(error)
        have = set(context.instance.get_dynamic_partitions(str(temples.name)))
        new = [key for key in map(temple_partition, known) if key not in have]
        if not due and not new:
            return dg.SkipReason("No temple has enough new labels.")
        return dg.SensorResult(
            run_requests=[_request(state, retrain_after) for state in due],
            dynamic_partitions_requests=[temples.build_add_request(new)] if new else [],
        )

    return temple_training_sensor


def _request(state: TrainingState, retrain_after: int) -> dg.RunRequest:
    """The run; its key stays the same until ``retrain_after`` more labels have come, and Dagster drops doubles."""
    key = temple_partition(state.temple_id)
    waiting = state.labels - state.seen
    return dg.RunRequest(run_key=f"{key}:training:{state.seen}+{waiting - waiting % retrain_after}", partition_key=key)


def _under_way(instance: dg.DagsterInstance, known: Sequence[str]) -> set[str]:
    """Temples with a run that is not over, whatever started it."""
    if not known:
        return set()
    by_key = {temple_partition(temple): temple for temple in known}
    runs = instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: list(by_key)}, statuses=_UNDER_WAY))
    return {by_key[run.tags[PARTITION_TAG]] for run in runs}
