"""What came of review: figures about decisions, and the pictures that may be published. Reads only."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import ImageStatus, ProductImage, QcReviewLog, QcStatus
from imgpipe_dagster.catalogue.types import utc_now

COUNTED_AT_MOST = 10_000
"""Counts of what waits stop here."""

_CHUNK = 1000
PUBLISHED_COLUMNS: tuple[str, ...] = (
    "image_id",
    "sku_id",
    "product_group_id",
    "image_type",
    "image_url",
    "enhanced_image_url",
    "enhanced_sha256",
    "qc_status",
)
_PUBLISHED = (QcStatus.AUTO_APPROVED, QcStatus.APPROVED)


def review_figures(engine: Engine, *, days: float = 30) -> dict[str, Any]:
    """What reviewers decided in the last days; decisions that were undone do not count.

    Returns:
        ``images`` (count by ``qc_status``, whenever decided), ``decisions``, ``approved``, ``reworked``, ``rejected``
        (counts), ``mean_seconds`` (from claim to decision), ``reviewers`` (the same for each), ``rejection_reasons``
        (count by reason, most frequent first), ``days`` (counts by day), and ``audit``: of the pictures that would
        have passed without a person and were drawn to be looked at, how many reviewers approved (``agreement``, 0…1).
    """

    def look(connection: Connection) -> dict[str, Any]:
        since = connection.scalars(sa.select(utc_now())).one() - dt.timedelta(days=days)
        undoing = aliased(QcReviewLog)
        counted = sa.and_(
            QcReviewLog.created_at >= since,
            QcReviewLog.undoes_id.is_(None),
            ~sa.exists().where(undoing.undoes_id == QcReviewLog.id),
        )
        day = sa.func.date(QcReviewLog.created_at).label("day")
        by_reason = (
            sa.select(QcReviewLog.reason, sa.func.count().label("images"))
            .where(counted, QcReviewLog.reason.is_not(None))
            .group_by(QcReviewLog.reason)
            .order_by(sa.desc("images"), QcReviewLog.reason)
        )
        by_status = sa.select(ProductImage.qc_status, sa.func.count()).group_by(ProductImage.qc_status)
        by_day = sa.select(day, *_figures()).where(counted).group_by(day).order_by(day)
        by_reviewer = (
            sa.select(QcReviewLog.reviewer_id, *_figures())
            .where(counted)
            .group_by(QcReviewLog.reviewer_id)
            .order_by(QcReviewLog.reviewer_id)
        )
        total = _readable(connection.execute(sa.select(*_figures()).where(counted)).mappings().one())
        return {
            "images": {status: count for status, count in connection.execute(by_status)},
            **total,
            "reviewers": [_readable(row) for row in connection.execute(by_reviewer).mappings()],
            "rejection_reasons": {str(reason): count for reason, count in connection.execute(by_reason)},
            "days": [_readable(row) for row in connection.execute(by_day).mappings()],
        }

    return transact(engine, look, writes=False)


@dataclass(frozen=True)
class ReviewProgress:
    """Decisions of today (UTC) that were not undone, and what is left.

    Attributes:
        mine: Of one reviewer.
        all: Of all reviewers.
        waiting: Pictures that wait, counted up to ``COUNTED_AT_MOST``.
    """

    mine: int
    all: int
    waiting: int


def review_progress(engine: Engine, reviewer: str) -> ReviewProgress:
    """How far review has come today, in a few short queries: it is asked for after every decision."""
    waiting = sa.select(ProductImage.id).where(
        ProductImage.qc_status == QcStatus.NEEDS_REVIEW, ProductImage.status == ImageStatus.COMPLETED
    )
    # An undoing takes a decision away that is counted as well.
    counted = sa.func.coalesce(sa.func.sum(sa.case((QcReviewLog.undoes_id.is_(None), 1), else_=-1)), 0)
    mine = sa.func.coalesce(
        sa.func.sum(sa.case((QcReviewLog.reviewer_id != reviewer, 0), (QcReviewLog.undoes_id.is_(None), 1), else_=-1)),
        0,
    )

    def look(connection: Connection) -> ReviewProgress:
        midnight = connection.scalars(sa.select(utc_now())).one().replace(hour=0, minute=0, second=0, microsecond=0)
        row = connection.execute(sa.select(mine, counted).where(QcReviewLog.created_at >= midnight)).one()
        left = connection.scalar(sa.select(sa.func.count()).select_from(waiting.limit(COUNTED_AT_MOST).subquery()))
        return ReviewProgress(int(row[0]), int(row[1]), left or 0)

    return transact(engine, look, writes=False)


def published_pictures(engine: Engine) -> Iterator[dict[str, Any]]:
    """Every picture that may be published, by image id, read a little at a time.

    Yields:
        A row with the ``PUBLISHED_COLUMNS``.
    """
    columns = [ProductImage.__table__.c[name] for name in PUBLISHED_COLUMNS[1:]]
    query = (
        sa.select(ProductImage.id.label("image_id"), *columns)
        .where(ProductImage.qc_status.in_(_PUBLISHED), ProductImage.enhanced_image_url.is_not(None))
        .order_by(ProductImage.id)
        .limit(_CHUNK)
    )
    last = 0
    while True:
        page = query.where(ProductImage.id > last)
        rows = transact(engine, lambda connection, page=page: connection.execute(page).mappings().all(), writes=False)
        yield from (dict(row) for row in rows)
        if len(rows) < _CHUNK:
            return
        last = rows[-1]["image_id"]


def _figures() -> list[sa.ColumnElement[Any]]:
    def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)

    approved, audited = QcReviewLog.status == QcStatus.APPROVED, QcReviewLog.audited == sa.true()
    return [
        sa.func.count().label("decisions"),
        count(approved).label("approved"),
        count(QcReviewLog.status == QcStatus.PENDING).label("reworked"),
        count(QcReviewLog.status == QcStatus.REJECTED).label("rejected"),
        sa.func.avg(QcReviewLog.seconds).label("mean_seconds"),
        count(audited).label("audited"),
        count(sa.and_(audited, approved)).label("audited_approved"),
    ]


def _readable(row: Any) -> dict[str, Any]:  # noqa: ANN401 - a row of some of these columns
    figures = {name: str(value) if name in ("day", "reviewer_id") else value for name, value in row.items()}
    audited, agreed = int(figures.pop("audited")), int(figures.pop("audited_approved"))
    counts = {name: int(figures[name]) for name in ("decisions", "approved", "reworked", "rejected")}
    seconds = figures["mean_seconds"]
    return {
        **figures,
        **counts,
        "mean_seconds": None if seconds is None else round(float(seconds), 1),
        "audit": {"decided": audited, "agreed": agreed, "agreement": round(agreed / audited, 3) if audited else None},
    }
