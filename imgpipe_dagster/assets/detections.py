"""The detection stage: which objects a detector finds in the valid images of a batch."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from imgpipe_dagster.assets.common import OWNERS, Made, Progress, check_result, results, sample
from imgpipe_dagster.assets.sheets import TILE_HEIGHT, TILE_WIDTH, ContactSheet
from imgpipe_dagster.imaging.draw import annotated_tile
from imgpipe_dagster.models.detector import Boxes, Detector
from imgpipe_dagster.partitions import image_batches
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.detector import DetectorResource
from imgpipe_dagster.resources.image_store import ImageStoreResource
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.streaming import read_all

DETECTION_COLUMNS = [
    "detection_id",
    "image_id",
    "class_id",
    "class_name",
    "confidence",
    "x1",
    "y1",
    "x2",
    "y2",
    "model_version",
]


@dg.multi_asset(
    name="detections",
    partitions_def=image_batches,
    group_name="analysis",
    pool="model",
    can_subset=True,
    outs={
        "detected_images": dg.AssetOut(
            is_required=False,
            io_manager_key="table_io_manager",
            kinds={"pytorch", "ultralytics"},
            owners=OWNERS,
            description="Which valid images of a batch the detector looked at: a row per image, with the number of "
            "objects and the version of the model, also where nothing was found.",
        ),
        "detections": dg.AssetOut(
            is_required=False,
            io_manager_key="table_io_manager",
            kinds={"pytorch", "ultralytics"},
            owners=OWNERS,
            description="Boxes found in one batch: a row per box, with its class, confidence and corners in pixels of "
            "the upright image.",
        ),
    },
    check_specs=[
        dg.AssetCheckSpec(
            "boxes_inside_the_image",
            asset="detections",
            blocking=True,
            description="No box reaches beyond its image and none is empty.",
        ),
        dg.AssetCheckSpec(
            "every_valid_image_was_looked_at",
            asset="detected_images",
            blocking=True,
            description="Each valid image has one row, whether objects were found or not.",
        ),
    ],
)
def detections(
    context: dg.AssetExecutionContext,
    validated_images: pd.DataFrame,
    database: DatabaseResource,
    image_store: ImageStoreResource,
    detector: DetectorResource,
) -> Iterator[dg.MaterializeResult]:
    """Objects in the valid images of one batch."""
    valid = validated_images[validated_images["reason"].isna()]
    progress = Progress(context, database.engine, len(valid))
    sheet = ContactSheet(valid["image_id"], "Annotated images")
    with progress.opening(detector.open()) as model:
        images, boxes = detect_images(model, context.partition_key, valid, image_store.store, progress, sheet)
    metadata = detection_metadata(images, boxes, progress)
    looked_at = check_result(
        context,
        database.engine,
        asset="detected_images",
        name="every_valid_image_was_looked_at",
        failures=len(set(valid["image_id"]) ^ set(images["image_id"])),
        recover="This is a fault of the detector: keep the run's log and re-run the batch.",
    )
    outside = boxes_outside(boxes, valid)
    inside = check_result(
        context,
        database.engine,
        asset="detections",
        name="boxes_inside_the_image",
        failures=len(outside),
        recover="The weights or their export are broken: check IMGPIPE_DETECTOR_WEIGHTS and re-run the batch.",
        found={"sample": sample(outside, ["image_id", "x1", "y1", "x2", "y2"])},
    )
    pictures = {"contact_sheet": sheet.markdown(), "sample": sample(boxes, DETECTION_COLUMNS[1:-1])}
    yield from results(
        context,
        database.engine,
        [
            Made("detected_images", images, metadata, (looked_at,)),
            Made("detections", boxes, {**metadata, **pictures}, (inside,)),
        ],
    )


def detect_images(
    model: Detector, batch_key: str, valid: pd.DataFrame, store: ImageStore, progress: Progress, sheet: ContactSheet
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run the detector over the valid images of a batch: the rows of ``detected_images`` and of ``detections``."""
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    files = read_all(store, zip(valid["image_id"].astype(int), valid["object_key"].astype(str), strict=True))

    def show(image_id: int, image: np.ndarray, boxes: Boxes) -> None:
        if sheet.wants(image_id):
            size = {"width": TILE_WIDTH, "height": TILE_HEIGHT}
            tile = annotated_tile(image, boxes.xyxy, boxes.class_id, label=f"#{image_id}", **size)
            sheet.add(image_id, tile, {class_id: model.names[class_id] for class_id in set(boxes.class_id.tolist())})

    results = model.detect_all(files, visit=show)
    for image_id, boxes in progress.watch(results):
        images.append({"image_id": image_id, "object_count": len(boxes), "model_version": model.version})
        rows.extend(_box_rows(image_id, boxes, model))
    looked_at = pd.DataFrame(images, columns=["image_id", "object_count", "model_version"])
    found = pd.DataFrame(rows, columns=DETECTION_COLUMNS[1:])
    found = found.sort_values(["image_id", "confidence", "x1", "y1"], ascending=[True, False, True, True])
    number = found.groupby("image_id").cumcount()
    ids = [f"{batch_key}:{image_id}:{n:04d}" for image_id, n in zip(found["image_id"], number, strict=True)]
    return looked_at.sort_values("image_id", ignore_index=True), found.assign(detection_id=ids)


def boxes_outside(boxes: pd.DataFrame, valid: pd.DataFrame) -> pd.DataFrame:
    """The boxes that are empty or reach beyond their image."""
    sized = boxes.merge(valid[["image_id", "width", "height"]], on="image_id", how="left")
    good = (
        (sized["x1"] >= 0)
        & (sized["y1"] >= 0)
        & (sized["x2"] > sized["x1"])
        & (sized["y2"] > sized["y1"])
        & (sized["x2"] <= sized["width"])
        & (sized["y2"] <= sized["height"])
    )
    return sized[~good.astype(bool)]


def detection_metadata(images: pd.DataFrame, boxes: pd.DataFrame, progress: Progress) -> dict[str, Any]:
    """How many, how fast, of which classes, by which model."""
    return {
        "images": len(images),
        "objects": len(boxes),
        "objects_by_class": boxes["class_name"].value_counts().sort_index().astype(int).to_dict(),
        "images_without_objects": int((images["object_count"] == 0).sum()),
        "images_per_second": round(progress.per_second, 1),
        "model_version": ", ".join(sorted(images["model_version"].unique())) or "none",
    }


def _box_rows(image_id: int, boxes: Boxes, model: Detector) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id,
            "class_id": int(class_id),
            "class_name": model.names[int(class_id)],
            "confidence": float(confidence),
            "x1": float(x1),
            "y1": float(y1),
            "x2": float(x2),
            "y2": float(y2),
            "model_version": model.version,
        }
        for (x1, y1, x2, y2), confidence, class_id in zip(boxes.xyxy, boxes.confidence, boxes.class_id, strict=True)
    ]
