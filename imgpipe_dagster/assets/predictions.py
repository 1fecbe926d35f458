"""The prediction stage: one answer for every image of a batch, its report in the store, its status in the catalogue."""

import datetime as dt
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from imgpipe_dagster.assets.common import OWNERS, Progress, check_result, sample
from imgpipe_dagster.catalogue.images import images_of_batch
from imgpipe_dagster.catalogue.tables import BOTTLE_STATUS, TEMPLE_CATEGORY, ImageStatus, PredictionStatus
from imgpipe_dagster.partitions import image_batches
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.image_store import ImageStoreResource
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.keys import report_key
from imgpipe_dagster.streams import map_unordered

STORE_THREADS = 8


@dg.asset(
    partitions_def=image_batches,
    group_name="analysis",
    kinds={"pandas"},
    owners=OWNERS,
    io_manager_key="table_io_manager",
    check_specs=[
        dg.AssetCheckSpec(
            "every_image_has_an_answer",
            asset="image_predictions",
            blocking=True,
            description="Claimed images = predicted + rejected: none is lost, none is doubled.",
        )
    ],
)
def image_predictions(
    context: dg.AssetExecutionContext,
    validated_images: pd.DataFrame,
    detected_images: pd.DataFrame,
    detections: pd.DataFrame,
    classifications: pd.DataFrame,
    database: DatabaseResource,
) -> Iterator[dg.MaterializeResult]:
    """The answer for every image of a batch: a row per image, predicted or rejected with its reason.

    ``created_at`` is the time of the image's first answer and survives every re-run; ``updated_at`` moves.
    """
    frame = answer_images(validated_images, detected_images, detections, classifications)
    claimed = images_of_batch(database.engine, context.partition_key)["image_id"]
    answered = frame["image_id"]
    check = check_result(
        context,
        database.engine,
        asset="image_predictions",
        name="every_image_has_an_answer",
        failures=len(set(claimed) ^ set(answered)) + int(answered.duplicated().sum()),
        recover="Images moved while the run worked, or rows are missing: re-run the batch from raw_images.",
        found={"claimed": len(claimed), "answered": len(answered)},
    )
    yield dg.MaterializeResult(value=frame, metadata=prediction_metadata(frame), check_results=[check])


@dg.asset(
    partitions_def=image_batches,
    group_name="analysis",
    kinds={"json", "s3"},
    owners=OWNERS,
    io_manager_key="table_io_manager",
)
def metadata_reports(
    context: dg.AssetExecutionContext,
    validated_images: pd.DataFrame,
    image_predictions: pd.DataFrame,
    detections: pd.DataFrame,
    classifications: pd.DataFrame,
    database: DatabaseResource,
    image_store: ImageStoreResource,
) -> dg.MaterializeResult[pd.DataFrame]:
    """Where the JSON report of each image lies in the store: a row per image, rejected ones included."""
    progress = Progress(context, database.engine, len(image_predictions))
    images = images_of_batch(database.engine, context.partition_key)
    reports = build_reports(
        context.partition_key, images, validated_images, image_predictions, detections, classifications
    )
    rows = map_unordered(lambda item: _write_report(image_store.store, *item), reports, threads=STORE_THREADS)
    frame = pd.DataFrame(list(progress.watch(rows)), columns=["image_id", "object_key", "sha256", "byte_size"])
    frame = frame.sort_values("image_id", ignore_index=True)
    return dg.MaterializeResult(
        value=frame,
        metadata={
            "reports": len(frame),
            "bytes": int(frame["byte_size"].sum()),
            "images_per_second": round(progress.per_second, 1),
            "sample": sample(frame, ["image_id", "object_key", "byte_size"]),
        },
    )


@dg.asset(
    partitions_def=image_batches,
    group_name="analysis",
    kinds={"sqlalchemy"},
    owners=OWNERS,
    deps=[metadata_reports],  # a published image has its report
    io_manager_key="publishing_io_manager",
)
def published_predictions(image_predictions: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """The status and reason that ``product_images`` was given: a row per image. Writing it closes the batch."""
    frame = publishable(image_predictions)
    return dg.MaterializeResult(
        value=frame,
        metadata={
            "images": len(frame),
            "completed": int((frame["status"] == ImageStatus.COMPLETED).sum()),
            "failed": int((frame["status"] == ImageStatus.FAILED).sum()),
        },
    )


def answer_images(
    validated: pd.DataFrame, detected: pd.DataFrame, boxes: pd.DataFrame, classified: pd.DataFrame
) -> pd.DataFrame:
    """Join what the stages found into the rows of ``image_predictions``, one for every row of ``validated``."""
    top = boxes.sort_values("confidence", ascending=False, kind="stable").drop_duplicates("image_id")
    top = top[["image_id", "class_name", "confidence"]].rename(
        columns={"class_name": "top_class", "confidence": "top_confidence"}
    )
    looked = detected.rename(columns={"model_version": "detector_version"})
    looked = looked[["image_id", "object_count", "detector_version"]]
    frame = (
        validated[["image_id", "reason"]]
        .merge(looked, on="image_id", how="left")
        .merge(top, on="image_id", how="left")
        .merge(_bottle_status(classified), on="image_id", how="left")
        .merge(_temple_category(classified), on="image_id", how="left")
    )
    rejected = frame["reason"].notna()
    frame["status"] = rejected.map({True: PredictionStatus.REJECTED.value, False: PredictionStatus.PREDICTED.value})
    frame["object_count"] = frame["object_count"].fillna(0).astype("int64")
    return frame.sort_values("image_id", ignore_index=True)


def _bottle_status(classified: pd.DataFrame) -> pd.DataFrame:
    """The bottle status of each whole image."""
    whole = classified[(classified["classifier"] == BOTTLE_STATUS) & classified["detection_id"].isna()]
    return whole.rename(
        columns={
            "class_name": "bottle_status",
            "confidence_score": "bottle_confidence",
            "model_version": "classifier_version",
        }
    )[["image_id", "bottle_status", "bottle_confidence", "classifier_version"]]


def _temple_category(classified: pd.DataFrame) -> pd.DataFrame:
    """What the temple's champion says of each image that has a temple."""
    found = classified[classified["classifier"] == TEMPLE_CATEGORY]
    return found.rename(
        columns={
            "class_name": "temple_category",
            "confidence_score": "temple_confidence",
            "model_version": "temple_version",
        }
    )[["image_id", "temple_category", "temple_confidence", "temple_version"]]


def publishable(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``published_predictions``: ``completed`` for a predicted image, ``failed`` for a rejected one."""
    status = predictions["status"].map(
        {
            PredictionStatus.PREDICTED.value: ImageStatus.COMPLETED.value,
            PredictionStatus.REJECTED.value: ImageStatus.FAILED.value,
        }
    )
    return predictions[["image_id", "reason"]].assign(status=status)


def build_reports(
    batch_key: str,
    images: pd.DataFrame,
    validated: pd.DataFrame,
    predictions: pd.DataFrame,
    boxes: pd.DataFrame,
    classified: pd.DataFrame,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON report of each image, as ``(key in the store, report)``. The same rows give the same report."""
    boxes_of, classes_of = _rows_by_image(boxes), _rows_by_image(classified)
    facts = predictions.merge(
        validated[["image_id", "object_key", "sha256", "image_format", "width", "height"]], on="image_id", how="left"
    ).merge(images, on="image_id", how="left")
    for fact in _records(facts):
        objects = boxes_of.get(fact["image_id"], [])
        counts: dict[str, int] = {}
        for box in objects:
            counts[box["class_name"]] = counts.get(box["class_name"], 0) + 1
        reason = fact["reason"]
        yield (
            report_key(fact["report_name"] or int(fact["image_id"])),
            {
                "image_id": int(fact["image_id"]),
                "image_url": fact["image_url"],
                "image_path": fact["object_key"],
                "sha256": fact["sha256"],
                "format": fact["image_format"],
                "width": fact["width"],
                "height": fact["height"],
                "batch_key": batch_key,
                "status": fact["status"],
                "reason": reason,
                "advice": Reason(reason).advice if reason else None,
                "predicted_at": _utc(fact["created_at"]),
                "detector_version": fact["detector_version"],
                "classifier_version": fact["classifier_version"],
                "object_count": len(objects),
                "objects_by_class": dict(sorted(counts.items())),
                "objects": [
                    {
                        "class_id": int(box["class_id"]),
                        "class_name": box["class_name"],
                        "confidence": round(box["confidence"], 6),
                        "box": {side: round(box[side], 2) for side in ("x1", "y1", "x2", "y2")},
                    }
                    for box in objects
                ],
                "classifications": _reported_classes(classes_of.get(fact["image_id"], []), objects),
            },
        )


def _rows_by_image(frame: pd.DataFrame) -> dict[int, list[dict[str, Any]]]:
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in _records(frame):
        rows.setdefault(row["image_id"], []).append(row)
    return rows


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]


def _reported_classes(classes: list[dict[str, Any]], objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What classifiers said, as the report tells it; ``object`` is the place in its list of objects, if of one."""
    places = {box["detection_id"]: place for place, box in enumerate(objects)}
    return [
        {
            "classifier": found["classifier"],
            "object": places.get(found["detection_id"]),
            "class_name": found["class_name"],
            "confidence": found["confidence_score"] and round(found["confidence_score"], 6),
            "probabilities": found["probabilities"],
            "anomaly": found["anomaly"],
            "anomaly_score": found["anomaly_score"],
            "model_version": found["model_version"],
        }
        for found in classes
        if found["detection_id"] is None or found["detection_id"] in places
    ]


def prediction_metadata(frame: pd.DataFrame) -> dict[str, Any]:
    """How many images were answered, and how."""
    rejected = frame[frame["status"] == PredictionStatus.REJECTED.value]
    return {
        "images": len(frame),
        "predicted": len(frame) - len(rejected),
        "rejected": len(rejected),
        "rejected_by_reason": rejected["reason"].value_counts().sort_index().astype(int).to_dict(),
        "objects": int(frame["object_count"].sum()),
        "bottle_status": frame["bottle_status"].value_counts().sort_index().astype(int).to_dict(),
        "model_version": ", ".join(sorted(frame["detector_version"].dropna().unique())) or "none",
        "classifier_version": ", ".join(sorted(frame["classifier_version"].dropna().unique())) or "none",
        "sample": sample(
            frame, ["image_id", "status", "reason", "object_count", "top_class", "top_confidence", "bottle_status"]
        ),
    }


def _write_report(store: ImageStore, key: str, report: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(report, ensure_ascii=False, indent=1).encode()
    store.put(key, data, content_type="application/json")
    return {
        "image_id": report["image_id"],
        "object_key": key,
        "sha256": hashlib.sha256(data).hexdigest(),
        "byte_size": len(data),
    }


def _utc(time: dt.datetime) -> str:
    return f"{time.isoformat(timespec='seconds')}Z"
