"""The sensor that starts the trainings that clients ask for, and ends jobs whose run ended without a word."""

from enum import Enum, auto
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.jobs import Job, JobKind, end_training, open_jobs
from imgpipe_dagster.catalogue.ticks import note_tick
from imgpipe_dagster.instance import FINISHED_RUNS
from imgpipe_dagster.partitions import temple_partition, temples
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.sensors.common import catalogue_skip

NAME = "training_jobs_sensor"
JOB_ID_TAG = "imgpipe/job_id"


class TrainingAction(Enum):
    """What to do about an open training job."""

    REQUEST = auto()
    WAIT = auto()
    GIVE_UP = auto()


def decide_training(run: dg.DagsterRunStatus | None) -> TrainingAction:
    """What to do about an open training job, by the status of its run; None if it has none yet."""
    if run is None:
        return TrainingAction.REQUEST
    return TrainingAction.GIVE_UP if run in FINISHED_RUNS else TrainingAction.WAIT


def build_training_jobs_sensor(job: Any) -> dg.SensorDefinition:  # noqa: ANN401 - dagster's own
    """The sensor. The run itself keeps the job's row up to date; only where it could not, the sensor does."""

    @dg.sensor(
        name=NAME,
        job=job,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts the trainings that clients of the API ask for.",
    )
    def training_jobs_sensor(
        context: dg.SensorEvaluationContext, database: DatabaseResource
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            due: list[Job] = []
            for asked in open_jobs(database.engine, JobKind.TRAIN):
                match decide_training(_run_status(context.instance, asked.job_id)):
                    case TrainingAction.REQUEST:
                        due.append(asked)
                    case TrainingAction.GIVE_UP:
                        why = "Its run ended without a model: Dagster's page of runs and its log say why."
                        end_training(database.engine, asked.job_id, error=why)
                    case TrainingAction.WAIT:
                        pass
            note_tick(database.engine, NAME, f"{len(due)} trainings requested")
        except SQLAlchemyError as error:
            return catalogue_skip(error)
        if not due:
            return dg.SkipReason("No training was asked for.")
        keys = {temple_partition(asked.parameters["temple_id"]) for asked in due}
        new = sorted(keys - set(context.instance.get_dynamic_partitions(str(temples.name))))
        return dg.SensorResult(
            run_requests=[_request(asked) for asked in due],
            dynamic_partitions_requests=[temples.build_add_request(new)] if new else [],
        )

    return training_jobs_sensor


def _request(asked: Job) -> dg.RunRequest:
    config = {"forceful": asked.parameters["forceful"], "job_id": asked.job_id}
    return dg.RunRequest(
        run_key=f"job:{asked.job_id}",
        partition_key=temple_partition(asked.parameters["temple_id"]),
        run_config={"ops": {"temple_models": {"config": config}}},
        tags={JOB_ID_TAG: asked.job_id},
    )


def _run_status(instance: dg.DagsterInstance, job_id: str) -> dg.DagsterRunStatus | None:
    runs = instance.get_runs(dg.RunsFilter(tags={JOB_ID_TAG: job_id}), limit=1)
    return runs[0].status if runs else None
