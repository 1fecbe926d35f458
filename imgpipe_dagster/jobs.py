"""The jobs: which assets run together. No logic."""

import dagster as dg

from imgpipe_dagster.alerts.watch import FEED_CHECKS
from imgpipe_dagster.assets.classifications import classifications
from imgpipe_dagster.assets.detections import detections
from imgpipe_dagster.assets.enhancement import enhanced_images, published_enhancements
from imgpipe_dagster.assets.ingest import raw_images, validated_images
from imgpipe_dagster.assets.model_versions import MODEL_CHECKS
from imgpipe_dagster.assets.predictions import image_predictions, metadata_reports, published_predictions
from imgpipe_dagster.assets.temple_models import temple_models, temple_training_sets
from imgpipe_dagster.partitions import image_batches, temples

JOB_TAG = "imgpipe/job"
ANALYSE_ASSETS = [
    raw_images,
    validated_images,
    detections,
    classifications,
    image_predictions,
    metadata_reports,
    published_predictions,
]
ENHANCE_ASSETS = [enhanced_images, published_enhancements]
TRAINING_ASSETS = [temple_training_sets, temple_models]

analyse = dg.define_asset_job(
    name="analyse",
    description="From new rows to published predictions, for one batch of images.",
    # Questions to the whole catalogue are not asked by each batch: freshness by a sensor, models by a daily job.
    selection=dg.AssetSelection.assets(*ANALYSE_ASSETS)
    - dg.AssetSelection.checks(
        *(dg.AssetCheckKey(dg.AssetKey("image_predictions"), name) for name in FEED_CHECKS.values()), *MODEL_CHECKS
    ),
    partitions_def=image_batches,
    executor_def=dg.in_process_executor,  # libraries and models load once a run
    tags={"dagster/max_retries": "0"},  # the batch's attempts are the only retry
)

enhance = dg.define_asset_job(
    name="enhance",
    description="From published predictions to enhanced pictures and their verdicts, for one batch of images.",
    selection=dg.AssetSelection.assets(*ENHANCE_ASSETS),
    partitions_def=image_batches,
    executor_def=dg.in_process_executor,
    tags={
        "dagster/max_retries": "0",
        "dagster/priority": "-1",  # predictions never wait for enhancement
        "dagster/max_runtime": "86400",  # a batch of thousands takes hours; the heartbeat watches over it
        JOB_TAG: "enhance",  # dagster.yaml keeps a slot free of what has this tag
    },
)

check_models = dg.define_asset_job(
    name="check_models",
    description="Whether today's models made what counts; `imgpipe stale` says the same.",
    selection=dg.AssetSelection.checks(*MODEL_CHECKS),
    executor_def=dg.in_process_executor,
    tags={"dagster/max_retries": "0", "dagster/priority": "-20", JOB_TAG: "check_models"},
)

training = dg.define_asset_job(
    name="training",
    description="From a temple's labelled pictures to a model that was tested, for one temple.",
    selection=dg.AssetSelection.assets(*TRAINING_ASSETS),
    partitions_def=temples,
    executor_def=dg.in_process_executor,
    tags={
        "dagster/max_retries": "0",
        "dagster/priority": "-1",
        JOB_TAG: "training",  # it shares the slot of enhancement
    },
)
