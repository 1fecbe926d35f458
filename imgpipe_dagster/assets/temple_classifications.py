"""What temples' champions say of the valid images of a batch, as rows of ``classifications``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from sqlalchemy.engine import Engine

from imgpipe_dagster.assets.common import Progress
from imgpipe_dagster.catalogue.tables import NO_MODEL, TEMPLE_CATEGORY
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.temples.batches import ImageAnswer, ImageOfTemple, classify_images

_COLUMNS = [
    "classification_id",
    "image_id",
    "detection_id",
    "classifier",
    "class_name",
    "confidence_score",
    "probabilities",
    "anomaly",
    "anomaly_score",
    "model_version",
]


def classify_temples(
    engine: Engine, store: ImageStore, valid: pd.DataFrame, temples: Mapping[int, str], progress: Progress
) -> list[ImageAnswer]:
    """Ask the champions of the temples of a batch, each once for all its images.

    Args:
        engine: The catalogue.
        store: Where the images are.
        valid: ``image_id`` and ``object_key`` of the valid images.
        temples: The temple of each image that has one.
        progress: Keeps the batch's heartbeat going.
    """
    pairs = zip(valid["image_id"].astype(int), valid["object_key"].astype(str), strict=True)
    images = [ImageOfTemple(image_id, temples[image_id], key) for image_id, key in pairs if image_id in temples]
    answers = progress.follow(classify_images(engine, store, images))
    return sorted(answers, key=lambda answer: answer.image.image_id)


def temple_rows(batch_key: str, answers: Sequence[ImageAnswer]) -> pd.DataFrame:
    """Rows of ``classifications``; the anomaly's score is the scene's distance, of which 1 is the limit."""
    rows = [{**_told(found), **_named(batch_key, found)} for found in answers]
    return pd.DataFrame(rows, columns=_COLUMNS)


def temple_metadata(answers: Sequence[ImageAnswer]) -> dict[str, Any]:
    """How many images of temples there are, of which category, and which champions answered."""
    versions = {f"{found.image.temple_id}: {found.version}" for found in answers if found.version}
    return {
        "temple_images": len(answers),
        "temple_images_by_class": dict(sorted(Counter(_told(found)["class_name"] for found in answers).items())),
        "temple_anomalies": sum(found.answer is not None and found.answer.anomaly for found in answers),
        "temple_models": ", ".join(sorted(versions)) or "none",
    }


def unusable_champions(answers: Sequence[ImageAnswer]) -> dict[str, str]:
    """Temples whose champion could not be used, and why."""
    return {found.image.temple_id: found.problem for found in answers if found.problem}


def _named(batch_key: str, found: ImageAnswer) -> dict[str, Any]:
    return {
        "classification_id": f"{batch_key}:{found.image.image_id}:{TEMPLE_CATEGORY}",
        "image_id": found.image.image_id,
        "detection_id": None,
        "classifier": TEMPLE_CATEGORY,
        "model_version": found.version,
    }


def _told(found: ImageAnswer) -> dict[str, Any]:
    answer = found.answer
    if answer is None:
        return {"class_name": NO_MODEL}
    return {
        "class_name": answer.image_class,
        "confidence_score": answer.class_confidence,
        "probabilities": {label: round(value, 6) for label, value in answer.probabilities.items()},
        "anomaly": answer.anomaly,
        "anomaly_score": answer.scene_distance,
    }
