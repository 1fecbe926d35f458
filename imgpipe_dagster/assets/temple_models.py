"""The temples' stage: what each is trained on, and its models. One partition a temple; rows are not batches.

The registry of models is append-only, so no IO manager has a hand in it: the assets report what the services did.
"""

import logging
import math

import dagster as dg
from pydantic import Field

from imgpipe_dagster.assets.common import OWNERS, check_result
from imgpipe_dagster.assets.temple_metadata import model_metadata, training_set_metadata
from imgpipe_dagster.catalogue.jobs import following_training
from imgpipe_dagster.catalogue.temple_images import training_set
from imgpipe_dagster.catalogue.temple_models import Version
from imgpipe_dagster.models.temple_report import TestReport
from imgpipe_dagster.partitions import temple_of_partition, temples
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.image_store import ImageStoreResource
from imgpipe_dagster.resources.temple_trainer import TempleTrainerResource
from imgpipe_dagster.temples.registry import ModelFileChangedError, doubt_about_version, find_version, load_files
from imgpipe_dagster.temples.training import make_model

log = logging.getLogger(__name__)

MOST_FALSE_ALARMS = 0.05
MIN_CATEGORIES = 2


class TrainingConfig(dg.Config):
    """How a model is to be made."""

    forceful: bool = Field(default=True, description="Train although the temple has a model; the better one serves.")
    job_id: str | None = Field(default=None, description="The row of processing_jobs that asked for it, if one did.")


@dg.asset(
    partitions_def=temples,
    group_name="temple_models",
    kinds={"sqlalchemy"},
    owners=OWNERS,
    check_specs=[
        dg.AssetCheckSpec(
            "two_categories_have_pictures",
            asset="temple_training_sets",
            description="There are training pictures of at least two categories.",
            blocking=True,
        ),
        dg.AssetCheckSpec(
            "no_test_picture_is_trained_on",
            asset="temple_training_sets",
            description="No content is both in the temple's frozen test pictures and in what it would be trained on.",
        ),
    ],
)
def temple_training_sets(context: dg.AssetExecutionContext, database: DatabaseResource) -> dg.MaterializeResult:
    """What a temple's model is trained and tested on: its labelled pictures and those of `common`; the test is frozen.

    The data version is a fingerprint of all contents and their categories.
    """
    data = training_set(database.engine, temple_of_partition(context.partition_key))
    failures = {
        "two_categories_have_pictures": max(0, MIN_CATEGORIES - len(data.categories)),
        "no_test_picture_is_trained_on": data.leaked,
    }
    checks = [_check(context, database, "temple_training_sets", name, count) for name, count in failures.items()]
    return dg.MaterializeResult(
        metadata=training_set_metadata(data), check_results=checks, data_version=dg.DataVersion(data.fingerprint)
    )


@dg.asset(
    partitions_def=temples,
    group_name="temple_models",
    kinds={"tensorflow", "onnx"},
    owners=OWNERS,
    deps=[temple_training_sets],
    check_specs=[
        dg.AssetCheckSpec(
            "champion_is_as_registered",
            asset="temple_models",
            description="Every file of the model that serves has the SHA-256 that the registry knows.",
        ),
        dg.AssetCheckSpec(
            "false_alarms_are_rare",
            asset="temple_models",
            description="At most 5% of the frozen test pictures of known categories are flagged as anomalies.",
        ),
        dg.AssetCheckSpec(
            "champion_is_better_than_guessing",
            asset="temple_models",
            description="Naming the largest category each time gets clearly fewer of the frozen test pictures right "
            "than the model that serves.",
        ),
    ],
)
def temple_models(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    database: DatabaseResource,
    image_store: ImageStoreResource,
    temple_trainer: TempleTrainerResource,
) -> dg.MaterializeResult:
    """Models of a temple, a version for each training, for ever. It serves if it is not worse on the frozen test."""
    with following_training(database.engine, config.job_id) as note_stage:
        made = make_model(
            database.engine,
            image_store.store,
            temple_of_partition(context.partition_key),
            temple_trainer.settings,
            temple_trainer.logs,
            forceful=config.forceful,
            by=f"run {context.run_id[:8]}",
            on_stage=note_stage,
        )
    serving = find_version(database.engine, made.version.temple_id)
    tested = made.report if made.serves else made.champion_report
    doubt = tested.doubt if tested is not None else doubt_about_version(serving)
    failures = {
        "champion_is_as_registered": count_damaged_files(image_store, serving),
        "false_alarms_are_rare": excess_alarms(made.report),
        "champion_is_better_than_guessing": int(doubt is not None),
    }
    checks = [_check(context, database, "temple_models", name, count) for name, count in failures.items()]
    return dg.MaterializeResult(
        metadata=model_metadata(made), check_results=checks, data_version=dg.DataVersion(made.version.version)
    )


def excess_alarms(report: TestReport) -> int:
    """How many more test pictures are flagged than may be."""
    return max(0, report.flagged - math.ceil(report.pictures * MOST_FALSE_ALARMS))


def count_damaged_files(image_store: ImageStoreResource, version: Version) -> int:
    """How many files of a version are not what the registry says."""
    damaged = 0
    for name in version.files:
        try:
            load_files(image_store.store, version, [name])
        except ModelFileChangedError as error:
            log.warning("%s", error)
            damaged += 1
    return damaged


_RECOVER = {
    "two_categories_have_pictures": "Add some: imgpipe temple add TEMPLE DIR --split train, a folder for each "
    "category.",
    "no_test_picture_is_trained_on": "They are left out of the training. A picture of common is a test picture here: "
    "nothing is to do.",
    "champion_is_as_registered": "A damaged model is never loaded: imgpipe temple promote names another version.",
    "false_alarms_are_rare": "Test pictures look unlike the training ones: add training pictures of such light or "
    "angle.",
    "champion_is_better_than_guessing": "imgpipe temple list tells why. Add pictures of each category to training and "
    "test, look for wrong labels, and train again.",
}


def _check(
    context: dg.AssetExecutionContext, database: DatabaseResource, asset: str, name: str, failures: int
) -> dg.AssetCheckResult:
    return check_result(
        context, database.engine, asset=asset, name=name, failures=failures, recover=_RECOVER[name], place="temple"
    )
