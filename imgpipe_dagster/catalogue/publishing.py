"""Giving images the answers and verdicts of their batch. No claims, no decisions."""

from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import CatalogueError
from imgpipe_dagster.catalogue.feeds import note_answers
from imgpipe_dagster.catalogue.frames import replace_batch, to_records
from imgpipe_dagster.catalogue.tables import BatchState, ImageBatch, ImageStatus, ProductImage, QcStatus
from imgpipe_dagster.catalogue.types import utc_now
from imgpipe_dagster.streams import chunks

_CHUNK = 1000
_BY_PEOPLE = (QcStatus.APPROVED, QcStatus.REJECTED)


def publish_batch(engine: Engine, name: str, batch_key: str, answers: pd.DataFrame, *, enhance: bool = True) -> int:
    """Store a batch's answers in table ``name``, give them to its images and close the analysis, in one transaction.

    The batch needs the enhance job next if ``enhance`` and one of its completed images has a SKU; its attempts begin
    anew. An image that waits for a new batch, or has moved to one, keeps its state.

    Raises:
        CatalogueError: an image of the batch has no answer; nothing is changed then.

    Args:
        engine: The catalogue.
        name: The batch table that keeps the answers.
        batch_key: The batch.
        answers: ``image_id``, ``status`` and ``reason`` of every image of the batch.
        enhance: Whether images that have a SKU are to be enhanced.

    Returns:
        The number of answers.
    """
    return replace_batch(
        engine, name, batch_key, answers, then=lambda connection: _publish(connection, batch_key, answers, enhance)
    )


def publish_enhancements(engine: Engine, name: str, batch_key: str, verdicts: pd.DataFrame) -> int:
    """Store a batch's verdicts in table ``name``, give them to its images and close the batch, in one transaction.

    A person's decision stands for the bytes that it was made on: an image that is approved or rejected keeps that, and
    what it publishes, as long as its enhanced file has the SHA-256 of the verdict before. With other bytes it is judged
    afresh, and whoever has claimed its review must claim it again. An image that waits for a new batch, or has moved to
    one, keeps its state.

    Raises:
        CatalogueError: a completed image of the batch with a SKU has no verdict; nothing is changed then.

    Args:
        engine: The catalogue.
        name: The batch table that keeps the verdicts.
        batch_key: The batch.
        verdicts: The columns of ``published_enhancements`` for every enhanced image of the batch.

    Returns:
        The number of verdicts.
    """
    return replace_batch(
        engine, name, batch_key, verdicts, then=lambda connection: _publish_verdicts(connection, batch_key, verdicts)
    )


def _publish(connection: Connection, batch_key: str, answers: pd.DataFrame, enhance: bool) -> None:
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
    of_batch = sa.select(sa.func.count()).where(ProductImage.batch_key == batch_key)
    unanswered = connection.scalar(of_batch.where(ProductImage.status == ImageStatus.PROCESSING))
    if unanswered:
        raise CatalogueError(f"{unanswered} images of batch {batch_key} have no answer: materialize from raw_images.")
    to_enhance = of_batch.where(ProductImage.status == ImageStatus.COMPLETED, ProductImage.sku_id.is_not(None))
    note_answers(connection, batch_key)
    closed = {"reason": None, "analysed_at": utc_now(), "updated_at": utc_now()}
    if enhance and connection.scalar(to_enhance):
        closed |= {"state": BatchState.ANALYSED, "attempt": 1, "heartbeat_at": utc_now()}
    else:
        closed |= {"state": BatchState.ENHANCED}
    connection.execute(
        sa.update(ImageBatch)
        .where(
            ImageBatch.batch_key == batch_key,
            ImageBatch.state.in_([BatchState.CLAIMED, BatchState.FAILED, BatchState.HELD]),
        )
        .values(closed)
    )


def _publish_verdicts(connection: Connection, batch_key: str, verdicts: pd.DataFrame) -> None:
    # Locked, so that a reviewer who decides at this moment comes before or after, never in between.
    locked = sa.select(ProductImage.__table__).where(ProductImage.batch_key == batch_key).with_for_update()
    completed = {
        image["id"]: dict(image)
        for image in connection.execute(locked).mappings()
        if image["status"] == ImageStatus.COMPLETED
    }
    verdict_of = {row["image_id"]: row for row in to_records(verdicts)}
    missing = sum(image["sku_id"] is not None and image["id"] not in verdict_of for image in completed.values())
    if missing:
        raise CatalogueError(
            f"{missing} images of batch {batch_key} have no verdict: materialize from enhanced_images."
        )
    changes = [
        _change(image, verdict_of[image_id])
        for image_id, image in completed.items()
        if image_id in verdict_of and not _is_decided(image, verdict_of[image_id])
    ]
    if changes:
        connection.execute(
            sa.update(ProductImage)
            .where(ProductImage.id == sa.bindparam("changed_id"))
            .values({column: sa.bindparam(column) for column in changes[0] if column != "changed_id"})
            .values(updated_at=utc_now()),
            changes,
        )
    connection.execute(
        sa.update(ImageBatch)
        .where(
            ImageBatch.batch_key == batch_key,
            ImageBatch.state.in_([BatchState.ANALYSED, BatchState.ENHANCEMENT_FAILED, BatchState.ENHANCEMENT_HELD]),
        )
        .values(state=BatchState.ENHANCED, reason=None, enhanced_at=utc_now(), updated_at=utc_now())
    )


def _is_decided(image: dict[str, Any], verdict: dict[str, Any]) -> bool:
    """Whether a person has decided on this very file."""
    return image["qc_status"] in _BY_PEOPLE and image["enhanced_sha256"] == verdict["sha256"]


def _change(image: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """What the image's row becomes; who reviews this very file goes on doing so."""
    reviewed = verdict["qc_status"] == QcStatus.NEEDS_REVIEW and image["enhanced_sha256"] == verdict["sha256"]
    return {
        "changed_id": image["id"],
        "qc_status": verdict["qc_status"],
        "qc_priority": verdict["qc_priority"],
        "qc_claimed_by": image["qc_claimed_by"] if reviewed else None,
        "qc_claimed_at": image["qc_claimed_at"] if reviewed else None,
        "enhanced_image_url": verdict["enhanced_image_url"],
        "enhanced_sha256": verdict["sha256"],
    }
