"""What happens every day: retention, which ``pruning.py`` decides, and the question whether models have changed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from imgpipe_dagster.jobs import JOB_TAG
from imgpipe_dagster.pruning import Age, prune
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.detector import DetectorResource
from imgpipe_dagster.resources.image_store import ImageStoreResource


def build_prune_job(age: Age) -> dg.JobDefinition:
    """The job that takes away what is older."""

    @dg.op(
        name="prune_everywhere",
        description="Superseded rows, old partitions and event logs, alerts, requests and jobs, orphaned objects.",
    )
    def prune_op(
        context: dg.OpExecutionContext,
        database: DatabaseResource,
        image_store: ImageStoreResource,
        detector: DetectorResource,
    ) -> None:
        models = Path(detector.cache_dir)
        report = prune(database.engine, image_store.store, context.instance, models, age, dry_run=False)
        context.add_output_metadata(asdict(report))

    @dg.job(
        name="prune",
        description="Takes away what has had its time; nothing that counts. The same as `imgpipe prune`.",
        executor_def=dg.in_process_executor,
        tags={"dagster/max_retries": "0", "dagster/priority": "-20", "dagster/max_runtime": "86400", JOB_TAG: "prune"},
    )
    def prune_job() -> None:
        prune_op()

    return prune_job


def build_prune_schedule(job: dg.JobDefinition, cron: str) -> dg.ScheduleDefinition:
    """Once a day, from the start."""
    return _daily("daily_prune", job, cron, "Retention: IMGPIPE_RETENTION_DAYS, IMGPIPE_PRUNE_CRON.")


def build_models_schedule(job: Any, cron: str) -> dg.ScheduleDefinition:  # noqa: ANN401 - one of define_asset_job's
    """Once a day, from the start."""
    description = "Shows what an older model made, as checks of detections and classifications."
    return _daily("daily_model_check", job, cron, description)


def _daily(name: str, job: Any, cron: str, description: str) -> dg.ScheduleDefinition:  # noqa: ANN401 - of either kind
    return dg.ScheduleDefinition(
        name=name,
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )
