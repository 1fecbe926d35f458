"""Reading images: those of a batch, and how many stand where. Reads only."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.batches import INTERRUPTED
from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import (
    BOTTLE_STATUS,
    BatchState,
    Classification,
    DetectedImage,
    Detection,
    EnhancedImage,
    ImageBatch,
    ImagePrediction,
    ImageStatus,
    MetadataReport,
    ProductImage,
    PublishedEnhancement,
    PublishedPrediction,
    QcStatus,
    RawImage,
    ValidatedImage,
)
from imgpipe_dagster.catalogue.types import seconds_ago


def images_of_batch(engine: Engine, batch_key: str) -> pd.DataFrame:
    """The images that count for a batch, by id.

    Returns:
        ``image_id`` (int64), and as strings ``image_url``, ``report_name``, and ``rejected_key``: where the picture is
        in the store that a person has rejected and that is to be enhanced otherwise.
    """
    newest = (
        sa.select(RawImage.object_key)
        .where(RawImage.image_id == ProductImage.id, RawImage.object_key.is_not(None))
        .order_by(RawImage.batch_key.desc())
        .limit(1)
        .scalar_subquery()
    )
    in_rework = sa.and_(ProductImage.rework_count > 0, ProductImage.qc_status == QcStatus.PENDING)
    query = (
        sa.select(
            ProductImage.id.label("image_id"),
            ProductImage.image_url,
            ProductImage.report_name,
            sa.case((in_rework, newest)).label("rejected_key"),
        )
        .where(ProductImage.batch_key == batch_key)
        .order_by(ProductImage.id)
    )
    rows = transact(engine, lambda connection: connection.execute(query).mappings().all(), writes=False)
    texts = ["image_url", "report_name", "rejected_key"]
    return pd.DataFrame(rows, columns=["image_id", *texts]).astype(
        {"image_id": "int64", **dict.fromkeys(texts, "string")}
    )


def count_by_status(engine: Engine) -> dict[str, int]:
    """How many images have each status."""
    query = sa.select(ProductImage.status, sa.func.count()).group_by(ProductImage.status)
    with engine.connect() as connection:
        return {status: count for status, count in connection.execute(query)}


def count_by_reason(engine: Engine) -> dict[str, int]:
    """How many failed images carry each reason code, most frequent first."""
    query = (
        sa.select(ProductImage.reason, sa.func.count().label("images"))
        .where(ProductImage.status == ImageStatus.FAILED)
        .group_by(ProductImage.reason)
        .order_by(sa.desc("images"), ProductImage.reason)
    )
    with engine.connect() as connection:
        return {reason or "": count for reason, count in connection.execute(query)}


def count_batches_by_state(engine: Engine) -> dict[str, int]:
    """How many batches are in each state; of the failed, those that were only interrupted apart."""
    query = sa.select(ImageBatch.state, sa.func.count()).group_by(ImageBatch.state)
    interrupted = sa.select(sa.func.count()).where(
        ImageBatch.state == BatchState.FAILED, ImageBatch.reason == INTERRUPTED
    )
    with engine.connect() as connection:
        counts = {state: count for state, count in connection.execute(query)}
        if counts.get(BatchState.FAILED):
            counts["interrupted"] = connection.scalar(interrupted) or 0
            counts[BatchState.FAILED] -= counts["interrupted"]
    return {state: count for state, count in counts.items() if count}


def count_by_qc_status(engine: Engine) -> dict[str, int]:
    """How many images have each status of review; ``pending`` are those that have not been enhanced."""
    query = sa.select(ProductImage.qc_status, sa.func.count()).group_by(ProductImage.qc_status)
    with engine.connect() as connection:
        return {status: count for status, count in connection.execute(query)}


def count_verdicts(engine: Engine, batch_key: str) -> int:
    """How many images of a batch have a verdict on their enhancement."""
    query = sa.select(sa.func.count()).where(PublishedEnhancement.batch_key == batch_key)
    with engine.connect() as connection:
        return connection.scalar(query) or 0


def last_prediction_age_s(engine: Engine) -> float | None:
    """Seconds since the newest first answer of any image, or None if there is none yet."""
    newest = sa.select(sa.func.max(ImagePrediction.created_at)).scalar_subquery()
    with engine.connect() as connection:
        age = connection.scalar(sa.select(seconds_ago(newest)))
    return None if age is None else float(age)


def summarize_batches(engine: Engine, batch_keys: Sequence[str]) -> dict[str, Any]:
    """What became of the images of some batches.

    Returns:
        ``images``, ``completed``, ``failed``, ``objects``, ``enhanced``, ``auto_approved``, ``needs_review`` (counts),
        ``rejected_by_reason``, ``objects_by_class``, ``images_by_status`` and ``bottles_by_status`` (counts by name;
        the last two of the bottle classifier, for whole images and for crops).
    """
    of_images = sa.select(ProductImage.status, ProductImage.reason, sa.func.count()).group_by(
        ProductImage.status, ProductImage.reason
    )
    of_boxes = sa.select(Detection.class_name, sa.func.count()).group_by(Detection.class_name)
    of_verdicts = sa.select(PublishedEnhancement.qc_status, sa.func.count()).group_by(PublishedEnhancement.qc_status)
    of_files = sa.select(sa.func.count()).where(EnhancedImage.object_key.is_not(None))
    is_crop = Classification.detection_id.is_not(None)
    of_classes = (
        sa.select(is_crop, Classification.class_name, sa.func.count())
        .where(Classification.classifier == BOTTLE_STATUS)
        .group_by(is_crop, Classification.class_name)
    )
    bottles: dict[bool, dict[str, int]] = {False: {}, True: {}}
    by_status: dict[str, int] = {}
    by_reason: dict[str, int] = {}
    by_class: dict[str, int] = {}
    by_verdict: dict[str, int] = {}
    enhanced = 0
    with engine.connect() as connection:
        for key in batch_keys:
            for status, reason, count in connection.execute(of_images.where(ProductImage.batch_key == key)):
                by_status[status] = by_status.get(status, 0) + count
                if reason:
                    by_reason[reason] = by_reason.get(reason, 0) + count
            for class_name, count in connection.execute(of_boxes.where(Detection.batch_key == key)):
                by_class[class_name] = by_class.get(class_name, 0) + count
            for crop, class_name, count in connection.execute(of_classes.where(Classification.batch_key == key)):
                bottles[bool(crop)][class_name] = bottles[bool(crop)].get(class_name, 0) + count
            for status, count in connection.execute(of_verdicts.where(PublishedEnhancement.batch_key == key)):
                by_verdict[status] = by_verdict.get(status, 0) + count
            enhanced += connection.scalar(of_files.where(EnhancedImage.batch_key == key)) or 0
    return {
        "images": sum(by_status.values()),
        "completed": by_status.get(ImageStatus.COMPLETED, 0),
        "failed": by_status.get(ImageStatus.FAILED, 0),
        "objects": sum(by_class.values()),
        "enhanced": enhanced,
        "auto_approved": by_verdict.get(QcStatus.AUTO_APPROVED, 0),
        "needs_review": by_verdict.get(QcStatus.NEEDS_REVIEW, 0),
        "rejected_by_reason": dict(sorted(by_reason.items(), key=lambda item: (-item[1], item[0]))),
        "objects_by_class": dict(sorted(by_class.items())),
        "images_by_status": dict(sorted(bottles[False].items())),
        "bottles_by_status": dict(sorted(bottles[True].items())),
    }


def count_stages(engine: Engine, batch_keys: Sequence[str]) -> dict[str, int]:
    """How many images of some batches came through each stage, in the order of the stages."""
    good = {
        "downloaded": (RawImage, RawImage.reason.is_(None)),
        "valid": (ValidatedImage, ValidatedImage.reason.is_(None)),
        "looked at by the detector": (DetectedImage, sa.true()),
        "classified": (Classification, Classification.detection_id.is_(None)),
        "with an answer": (ImagePrediction, sa.true()),
        "with a report": (MetadataReport, sa.true()),
        "published": (PublishedPrediction, sa.true()),
    }
    with engine.connect() as connection:
        return {
            stage: connection.scalar(
                sa.select(sa.func.count()).select_from(table).where(table.batch_key.in_(batch_keys), condition)
            )
            or 0
            for stage, (table, condition) in good.items()
        }


def temples_of_images(engine: Engine, batch_key: str) -> dict[int, str]:
    """The temple of each image of a batch that has one."""
    query = sa.select(ProductImage.id, ProductImage.temple_id).where(
        ProductImage.batch_key == batch_key, ProductImage.temple_id.is_not(None)
    )
    rows = transact(engine, lambda connection: connection.execute(query).all(), writes=False)
    return {image_id: str(temple) for image_id, temple in rows}
