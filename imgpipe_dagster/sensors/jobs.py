"""The sensor that turns the jobs clients ask for into batches, and follows them to their ends. The decision is pure."""

from enum import Enum, auto

import dagster as dg
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.jobs import (
    JobKind,
    JobProgress,
    job_progress,
    note_progress,
    open_jobs,
    take_into_batch,
)
from imgpipe_dagster.catalogue.ticks import note_tick
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.sensors.common import catalogue_skip

NAME = "jobs_sensor"


class JobAction(Enum):
    """What to do about an open job."""

    WAIT = auto()
    FORM_BATCH = auto()
    FINISH = auto()


def decide_job(progress: JobProgress, *, batches_left: int) -> JobAction:
    """What to do about one open job.

    Args:
        progress: Where its images stand.
        batches_left: How many batches of jobs may be opened now.
    """
    if progress.waiting == 0 and progress.open == 0:
        return JobAction.FINISH
    if progress.free > 0 and batches_left > 0:
        return JobAction.FORM_BATCH
    return JobAction.WAIT


def build_jobs_sensor(batch_size: int, max_open_batches: int) -> dg.SensorDefinition:
    """The sensor. It requests no runs itself: ``new_images_sensor`` does so for every open batch."""

    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Moves the images of enhancement jobs into batches, and keeps up how far each job is.",
    )
    def jobs_sensor(database: DatabaseResource) -> dg.SkipReason:
        try:
            formed, finished = tick(database.engine, batch_size, max_open_batches)
            outcome = f"{formed} batches formed, {finished} jobs finished."
            note_tick(database.engine, NAME, outcome)
        except SQLAlchemyError as error:
            return catalogue_skip(error)
        return dg.SkipReason(outcome)

    return jobs_sensor


def tick(engine: Engine, batch_size: int, max_open_batches: int) -> tuple[int, int]:
    """Look after every open job, oldest first: how many batches were formed and how many jobs ended."""
    jobs = open_jobs(engine, JobKind.ENHANCE)
    progress = {job.job_id: job_progress(engine, job.job_id) for job in jobs}
    batches_left = max_open_batches - sum(one.batches for one in progress.values())
    formed = finished = 0
    for job in jobs:
        found = progress[job.job_id]
        action = decide_job(found, batches_left=batches_left)
        is_done = action is JobAction.FINISH
        if is_done or (found.done, found.failed) != (job.processed_images, job.failed_images):
            note_progress(engine, job.job_id, found, is_done=is_done)
        match action:
            case JobAction.FORM_BATCH if take_into_batch(engine, job.job_id, at_most=batch_size) is not None:
                formed += 1
                batches_left -= 1
            case JobAction.FINISH:
                finished += 1
            case _:
                pass
    return formed, finished
