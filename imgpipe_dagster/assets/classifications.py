"""The classification stage: what classifiers say about the valid images of a batch and about objects in them.

Temples' champions are classifiers too: what they say is in ``temple_classifications``.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from imgpipe_dagster.assets.common import OWNERS, Progress, check_result, sample
from imgpipe_dagster.assets.sheets import TILE_HEIGHT, TILE_WIDTH, ContactSheet
from imgpipe_dagster.assets.temple_classifications import (
    classify_temples,
    temple_metadata,
    temple_rows,
    unusable_champions,
)
from imgpipe_dagster.assets.temple_models import temple_models
from imgpipe_dagster.catalogue.images import temples_of_images
from imgpipe_dagster.catalogue.tables import BOTTLE_STATUS
from imgpipe_dagster.imaging.draw import class_colour, thumbnail
from imgpipe_dagster.models.classifier import Classifier, Probabilities
from imgpipe_dagster.partitions import image_batches
from imgpipe_dagster.resources.classifier import ClassifierResource
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.image_store import ImageStoreResource
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.streaming import read_all

CLASSIFICATION_COLUMNS = [
    "classification_id",
    "image_id",
    "detection_id",
    "classifier",
    "class_name",
    "confidence_score",
    "probabilities",
    "model_version",
]


@dg.asset(
    partitions_def=image_batches,
    group_name="analysis",
    kinds={"pytorch", "ultralytics"},
    owners=OWNERS,
    pool="model",
    io_manager_key="table_io_manager",
    check_specs=[
        dg.AssetCheckSpec(
            "every_valid_image_was_classified",
            asset="classifications",
            blocking=True,
            description="Each valid image has one bottle status of its own, beside those of objects in it.",
        ),
        dg.AssetCheckSpec(
            "every_champion_could_be_used",
            asset="classifications",
            description="Each temple of the batch that has a model has one whose files are as the registry knows them.",
        ),
    ],
    # For lineage: an image asks for today's champion. Which are out of date, the rows say: imgpipe stale.
    deps=[dg.AssetDep(temple_models, partition_mapping=dg.AllPartitionMapping())],
)
def classifications(
    context: dg.AssetExecutionContext,
    validated_images: pd.DataFrame,
    detections: pd.DataFrame,
    database: DatabaseResource,
    image_store: ImageStoreResource,
    classifier: ClassifierResource,
) -> Iterator[dg.MaterializeResult]:
    """What classifiers say: a row per valid image, and one per detected object of the classes that are cropped.

    Images of a temple have one more, from the temple's champion: its category, or `no_model`.

    ``detection_id`` is empty for a whole image. ``probabilities`` holds those of all classes.
    """
    valid = validated_images[validated_images["reason"].isna()]
    objects = detections[detections["class_name"].isin(classifier.crop_classes)]
    progress = Progress(context, database.engine, len(valid))
    sheet = ContactSheet(valid["image_id"], "Classified images")
    with progress.opening(classifier.open()) as model:
        frame = classify_images(model, context.partition_key, valid, objects, image_store.store, progress, sheet)
    temples = temples_of_images(database.engine, context.partition_key)
    answers = classify_temples(database.engine, image_store.store, valid, temples, progress)
    whole = frame.loc[frame["detection_id"].isna(), "image_id"]
    check = check_result(
        context,
        database.engine,
        asset="classifications",
        name="every_valid_image_was_classified",
        failures=len(set(valid["image_id"]) ^ set(whole)) + int(whole.duplicated().sum()),
        recover="This is a fault of the classifier: keep the run's log and re-run the batch.",
    )
    shown = {"contact_sheet": sheet.markdown(), "sample": sample(frame, CLASSIFICATION_COLUMNS[1:6])}
    usable = check_result(
        context,
        database.engine,
        asset="classifications",
        name="every_champion_could_be_used",
        failures=len(unusable := unusable_champions(answers)),
        recover=" ".join([*unusable.values(), "Then: imgpipe backfill --asset classifications --temple TEMPLE."]),
    )
    yield dg.MaterializeResult(
        value=pd.concat([frame, temple_rows(context.partition_key, answers)], ignore_index=True),
        metadata={**classification_metadata(frame, progress), **temple_metadata(answers), **shown},
        check_results=[check, usable],
    )


def classify_images(
    model: Classifier,
    batch_key: str,
    valid: pd.DataFrame,
    objects: pd.DataFrame,
    store: ImageStore,
    progress: Progress,
    sheet: ContactSheet,
) -> pd.DataFrame:
    """Run the bottle classifier over the valid images of a batch and over objects in them; each is decoded once.

    Args:
        model: The classifier.
        batch_key: The batch.
        valid: ``image_id`` and ``object_key`` of its valid images.
        objects: Rows of ``detections`` to classify as crops.
        store: Where the images are.
        progress: Counts the images.
        sheet: Shows some of them.

    Returns:
        Rows of ``classifications``.
    """
    ids, boxes = _objects_by_image(objects)

    def show(image_id: int, image: np.ndarray, found: list[Probabilities]) -> None:
        if sheet.wants(image_id):
            whole = found[0]
            verdict = (f" {whole.confidence:.2f} ", class_colour(whole.class_id))
            tile = (thumbnail(image, TILE_WIDTH, TILE_HEIGHT), [(f"#{image_id} ", None), verdict])
            sheet.add(image_id, tile, {whole.class_id: model.names[whole.class_id]})

    files = read_all(store, zip(valid["image_id"].astype(int), valid["object_key"].astype(str), strict=True))
    answers = model.classify_all(files, boxes_of=lambda image_id: boxes.get(image_id, _NO_BOXES), visit=show)
    rows: list[dict[str, Any]] = []
    for image_id, found in progress.watch(answers):
        for detection_id, answer in zip([None, *ids.get(image_id, [])], found, strict=True):
            # A detection's id ends with the number of its box.
            end = BOTTLE_STATUS if detection_id is None else f"{BOTTLE_STATUS}:{detection_id.rpartition(':')[2]}"
            row = {"classification_id": f"{batch_key}:{image_id}:{end}", "detection_id": detection_id}
            rows.append({**row, "image_id": image_id, **_answer_columns(model, answer)})
    frame = pd.DataFrame(rows, columns=CLASSIFICATION_COLUMNS)
    return frame.sort_values(["image_id", "classification_id"], ignore_index=True)


def classification_metadata(frame: pd.DataFrame, progress: Progress) -> dict[str, Any]:
    """How many pictures and crops, how fast, of which classes, by which model."""
    whole = frame["detection_id"].isna()
    return {
        "images": int(whole.sum()),
        "crops": int((~whole).sum()),
        "images_by_class": frame.loc[whole, "class_name"].value_counts().sort_index().astype(int).to_dict(),
        "crops_by_class": frame.loc[~whole, "class_name"].value_counts().sort_index().astype(int).to_dict(),
        "images_per_second": round(progress.per_second, 1),
        "model_version": ", ".join(sorted(frame["model_version"].dropna().unique())) or "none",
    }


_NO_BOXES = np.empty((0, 4), np.float32)


def _objects_by_image(objects: pd.DataFrame) -> tuple[dict[int, list[str]], dict[int, np.ndarray]]:
    """The ids of each image's objects, and their boxes in the same order."""
    ids: dict[int, list[str]] = {}
    boxes: dict[int, np.ndarray] = {}
    for image_id, own in objects.groupby("image_id"):
        ids[int(str(image_id))] = own["detection_id"].astype(str).tolist()
        boxes[int(str(image_id))] = own[["x1", "y1", "x2", "y2"]].to_numpy(np.float32)
    return ids, boxes


def _answer_columns(model: Classifier, answer: Probabilities) -> dict[str, Any]:
    return {
        "classifier": BOTTLE_STATUS,
        "class_name": model.names[answer.class_id],
        "confidence_score": answer.confidence,
        "probabilities": {model.names[number]: round(float(value), 6) for number, value in enumerate(answer.values)},
        "model_version": model.version,
    }
