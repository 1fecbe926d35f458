"""Giving images the answers of their batch. No claims, no decisions."""

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import CatalogueError
from imgpipe_dagster.catalogue.frames import replace_batch
from imgpipe_dagster.catalogue.tables import BatchState, ImageBatch, ImageStatus, ProductImage
from imgpipe_dagster.catalogue.types import utc_now
from imgpipe_dagster.streams import chunks

_CHUNK = 1000


def publish_batch(engine: Engine, name: str, batch_key: str, answers: pd.DataFrame) -> int:
    """Store a batch's answers in table ``name``, give them to its images and close the batch, in one transaction.

    An image that waits for a new batch, or has moved to one, keeps its state.

    Raises:
        CatalogueError: an image of the batch has no answer; nothing is changed then.

    Args:
        engine: The catalogue.
        name: The batch table that keeps the answers.
        batch_key: The batch.
        answers: ``image_id``, ``status`` and ``reason`` of every image of the batch.

    Returns:
        The number of answers.
    """
    return replace_batch(
        engine, name, batch_key, answers, then=lambda connection: _publish(connection, batch_key, answers)
    )


def _publish(connection: Connection, batch_key: str, answers: pd.DataFrame) -> None:
    by_answer: dict[tuple[str, str | None], list[int]] = {}
    for image_id, status, reason in answers[["image_id", "status", "reason"]].to_numpy(dtype=object):
        by_answer.setdefault((status, None if pd.isna(reason) else reason), []).append(int(image_id))
    for (status, reason), ids in by_answer.items():
        for chunk in chunks(sorted(ids), _CHUNK):
            connection.execute(
                sa.update(ProductImage)
                .where(
                    ProductImage.id.in_(chunk),
                    ProductImage.batch_key == batch_key,
                    ProductImage.status != ImageStatus.PENDING,
                )
                .values(status=status, reason=reason, updated_at=utc_now())
            )
    unanswered = connection.scalar(
        sa.select(sa.func.count()).where(
            ProductImage.batch_key == batch_key, ProductImage.status == ImageStatus.PROCESSING
        )
    )
    if unanswered:
        raise CatalogueError(f"{unanswered} images of batch {batch_key} have no answer: materialize from raw_images.")
    connection.execute(
        sa.update(ImageBatch)
        .where(
            ImageBatch.batch_key == batch_key,
            ImageBatch.state.in_([BatchState.CLAIMED, BatchState.FAILED, BatchState.HELD]),
        )
        .values(state=BatchState.ANALYSED, reason=None, analysed_at=utc_now(), updated_at=utc_now())
    )
