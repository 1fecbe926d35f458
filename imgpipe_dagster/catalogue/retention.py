"""Removing rows that have had their time, in small transactions: superseded ones, empty batches, what is old."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import InstrumentedAttribute, aliased

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.frames import batch_table
from imgpipe_dagster.catalogue.tables import (
    BATCH_TABLES,
    Alert,
    AlertMail,
    AlertState,
    BatchState,
    ClassifyRequest,
    ImageBatch,
    ImageStatus,
    ProcessingJob,
    ProcessingJobImage,
    ProductImage,
    RequestClassification,
)
from imgpipe_dagster.catalogue.types import seconds_ago, utc_in
from imgpipe_dagster.streams import chunks

OVER = (
    BatchState.ENHANCED,
    BatchState.FAILED,
    BatchState.HELD,
    BatchState.ENHANCEMENT_FAILED,
    BatchState.ENHANCEMENT_HELD,
)
"""States in which no job of a batch is due."""

_ANSWERED = (
    BatchState.ANALYSED,
    BatchState.ENHANCED,
    BatchState.ENHANCEMENT_FAILED,
    BatchState.ENHANCEMENT_HELD,
)
_BATCHES = 200  # batches in one look
_ROWS = 500  # rows in one deletion


def old_batches(engine: Engine, older_than_s: float, *, after: str | None = None, limit: int = _BATCHES) -> list[str]:
    """Keys of batches that are over and have not changed for so long, by age, ``limit`` of those after a key."""
    query = (
        sa.select(ImageBatch.batch_key)
        .where(ImageBatch.state.in_(OVER), seconds_ago(ImageBatch.updated_at) > older_than_s)
        .order_by(ImageBatch.id)
        .limit(limit)
    )
    if after is not None:
        known = sa.select(ImageBatch.id).where(ImageBatch.batch_key == after).scalar_subquery()
        query = query.where(ImageBatch.id > known)
    return list(transact(engine, lambda connection: connection.scalars(query).all(), writes=False))


def thinned_batches(engine: Engine, batch_keys: Sequence[str]) -> list[str]:
    """Those of some batches that images have left, for a newer batch or for good: only they have superseded rows."""
    left = sa.select(sa.func.count()).where(ProductImage.batch_key == ImageBatch.batch_key).scalar_subquery()
    query = sa.select(ImageBatch.batch_key).where(ImageBatch.batch_key.in_(batch_keys), ImageBatch.image_count > left)
    return list(transact(engine, lambda connection: connection.scalars(query).all(), writes=False))


def remove_superseded(engine: Engine, batch_keys: Sequence[str], *, dry_run: bool) -> int:
    """Remove the rows of images that have moved to a newer batch and been answered there; how many there are.

    An image that still waits for its newer answer keeps the older one, and with it the time of its first answer. Rows
    whose image is gone count as superseded too.
    """
    return sum(_remove_from(engine, table.__tablename__, batch_keys, dry_run=dry_run) for table in BATCH_TABLES)


def remove_empty_batches(engine: Engine, batch_keys: Sequence[str], *, dry_run: bool) -> list[str]:
    """Remove batches that no image and no row belongs to any more; their keys."""

    def remove(connection: Connection) -> list[str]:
        own = ImageBatch.batch_key
        used = [sa.exists().where(ProductImage.batch_key == own)]
        used += [sa.exists().where(table.batch_key == own) for table in BATCH_TABLES]  # type: ignore[attr-defined]
        query = sa.select(own).where(own.in_(batch_keys), ImageBatch.state.in_(OVER), *(~use for use in used))
        empty = list(connection.scalars(query))
        if empty and not dry_run:
            connection.execute(sa.delete(ImageBatch).where(own.in_(empty)))
        return empty

    return transact(engine, remove, writes=not dry_run)


def remove_old_alerts(engine: Engine, older_than_s: float, *, dry_run: bool) -> int:
    """Remove alerts that somebody has got or that were muted, and their mails; how many. None that waits goes."""
    old = sa.select(Alert.id).where(Alert.state != AlertState.WAITING, Alert.created_at < utc_in(-older_than_s))
    total = _remove(engine, old, Alert.id, dry_run=dry_run)
    mails = sa.select(AlertMail.id).where(
        AlertMail.closed_at.is_not(None),
        AlertMail.created_at < utc_in(-older_than_s),
        ~sa.exists().where(Alert.mail_id == AlertMail.id),
    )
    _remove(engine, mails, AlertMail.id, dry_run=dry_run)
    return total


def remove_old_requests(engine: Engine, older_than_s: float, *, dry_run: bool) -> int:
    """Remove requests to classify and their answers; how many requests. Pictures that were kept are orphans then."""
    old = sa.select(ClassifyRequest.request_id).where(ClassifyRequest.timestamp < utc_in(-older_than_s))
    return _remove(engine, old, RequestClassification.request_id, ClassifyRequest.request_id, dry_run=dry_run)


def remove_old_jobs(engine: Engine, older_than_s: float, *, dry_run: bool) -> int:
    """Remove jobs of clients that are over, and the lists of their images; how many jobs.

    A job that was the last to take an image stays: its settings are those of that image.
    """
    limit = utc_in(-older_than_s)
    old = sa.select(ProcessingJob.job_id).where(
        ProcessingJob.status.in_([ImageStatus.COMPLETED, ImageStatus.FAILED]),
        ProcessingJob.created_at < limit,
        sa.func.coalesce(ProcessingJob.completed_at, ProcessingJob.created_at) < limit,
        ~sa.exists().where(ProductImage.job_id == ProcessingJob.job_id),
    )
    return _remove(engine, old, ProcessingJobImage.job_id, ProcessingJob.job_id, at_once=1, dry_run=dry_run)


def _remove(
    engine: Engine, old: sa.Select[Any], *columns: InstrumentedAttribute[Any], at_once: int = _ROWS, dry_run: bool
) -> int:
    """Remove what a query names, some at a time, from the table of each column that holds its names; how many names."""
    if dry_run:
        count = sa.select(sa.func.count()).select_from(old.subquery())
        return transact(engine, lambda connection: connection.scalar(count) or 0, writes=False)

    def remove(connection: Connection) -> int:
        names = connection.scalars(old.limit(at_once)).all()
        for column in columns if names else ():
            connection.execute(sa.delete(column.class_.__table__).where(column.in_(names)))
        return len(names)

    total = 0
    while some := transact(engine, remove):
        total += some
    return total


def _remove_from(engine: Engine, name: str, batch_keys: Sequence[str], *, dry_run: bool) -> int:
    table = batch_table(name)
    newer = aliased(ImageBatch)
    key = table.c.detection_id if name == "detections" else table.c.image_id
    superseded = (
        sa.select(table.c.batch_key, key)
        .outerjoin(ProductImage, ProductImage.id == table.c.image_id)
        .outerjoin(newer, newer.batch_key == ProductImage.batch_key)
        .where(
            table.c.batch_key.in_(batch_keys),
            sa.or_(
                ProductImage.id.is_(None),
                sa.and_(ProductImage.batch_key != table.c.batch_key, newer.state.in_(_ANSWERED)),
            ),
        )
    )
    if dry_run:  # an image may have several rows
        count = sa.select(sa.func.count()).select_from(superseded.subquery())
        return transact(engine, lambda connection: connection.scalar(count) or 0, writes=False)
    rows = transact(engine, lambda connection: connection.execute(superseded.distinct()).all(), writes=False)
    by_batch: dict[str, list[Any]] = {}
    for batch_key, own in rows:
        by_batch.setdefault(batch_key, []).append(own)
    removed = 0
    for batch_key, owns in by_batch.items():
        for chunk in chunks(owns, _ROWS):
            delete = sa.delete(table).where(table.c.batch_key == batch_key, key.in_(chunk))
            removed += transact(engine, lambda connection, delete=delete: connection.execute(delete).rowcount)
    return removed
