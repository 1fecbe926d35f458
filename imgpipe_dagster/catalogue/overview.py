"""What a person sees first: answers over time, the newest batches and the newest alerts. Reads only, and bounded."""

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import Alert, ImageBatch, ImagePrediction, ProductImage
from imgpipe_dagster.catalogue.types import utc_in

COUNTED_AT_MOST = 50_000
"""Answers that are counted: the newest ones. A page costs a bounded amount of work on a table of any size."""

_LOOK_FOR_S = 5.0  # a reader is told that the catalogue is away rather than kept waiting


class Interval(IntEnum):
    """How long a bar of a chart lasts; the value is the length of its name as the databases write times."""

    DAY = 10
    HOUR = 13
    MINUTE = 16


@dataclass(frozen=True)
class AnswerCounts:
    """Answers of some time, counted by when the image had its first one.

    Attributes:
        answers: How many there are.
        is_partial: Whether there are more, older ones that are not counted.
        predicted: Count of images with an answer, by beginning of the interval (UTC, without a zone).
        rejected: Count of rejected images, likewise.
        by_reason: Rejected images by reason code, most frequent first.
        by_class: Images by their most certain class, most frequent first; None where nothing was found.
    """

    answers: int
    is_partial: bool
    predicted: Mapping[dt.datetime, int]
    rejected: Mapping[dt.datetime, int]
    by_reason: Mapping[str, int]
    by_class: Mapping[str | None, int]


def count_answers(
    engine: Engine, *, seconds: float, interval: Interval, source: str | None = None, at_most: int = COUNTED_AT_MOST
) -> AnswerCounts:
    """Count the answers that count for their images.

    Args:
        engine: The catalogue.
        seconds: Of the last so many seconds.
        interval: How long a bar of the chart lasts.
        source: Only images that this source brought in.
        at_most: How many of the newest answers are looked at.
    """
    answer = ImagePrediction
    newest = (
        sa.select(answer.batch_key, answer.image_id, answer.created_at, answer.reason, answer.top_class)
        .where(ImagePrediction.created_at >= utc_in(-seconds))
        .order_by(ImagePrediction.created_at.desc())
        .limit(at_most)
        .subquery()
    )
    begin = sa.func.substr(newest.c.created_at, 1, int(interval), type_=sa.String()).label("begin")
    counting = sa.and_(ProductImage.id == newest.c.image_id, ProductImage.batch_key == newest.c.batch_key)
    query = (
        sa.select(begin, newest.c.reason, newest.c.top_class, sa.func.count().label("images"))
        .select_from(newest.join(ProductImage, counting))
        .group_by("begin", newest.c.reason, newest.c.top_class)
    )
    if source is not None:
        query = query.where(sa.func.coalesce(ProductImage.source, "") == source)

    def look(connection: Connection) -> AnswerCounts:
        predicted, rejected = Counter[dt.datetime](), Counter[dt.datetime]()
        by_reason, by_class = Counter[str](), Counter[str | None]()
        for text, reason, top_class, images in connection.execute(query):
            time = _begin(text)
            if reason is None:
                predicted[time] += images
                by_class[top_class] += images
            else:
                rejected[time] += images
                by_reason[reason] += images
        looked_at = connection.scalar(sa.select(sa.func.count()).select_from(newest)) or 0
        return AnswerCounts(
            answers=predicted.total() + rejected.total(),
            is_partial=looked_at >= at_most,
            predicted=predicted,
            rejected=rejected,
            by_reason=dict(by_reason.most_common()),
            by_class=dict(by_class.most_common()),
        )

    return transact(engine, look, writes=False, retry_for_s=_LOOK_FOR_S)


def newest_batches(engine: Engine, *, at_most: int = 20) -> Sequence[Mapping[Any, Any]]:
    """The youngest batches, the youngest first."""
    return _rows(
        engine, sa.select(ImageBatch.__table__).where(ImageBatch.id > 0).order_by(ImageBatch.id.desc()).limit(at_most)
    )


def newest_alerts(engine: Engine, *, at_most: int = 20) -> Sequence[Mapping[Any, Any]]:
    """The youngest alerts, the youngest first."""
    return _rows(engine, sa.select(Alert.__table__).where(Alert.id > 0).order_by(Alert.id.desc()).limit(at_most))


def _rows(engine: Engine, query: sa.Select[Any]) -> Sequence[Mapping[Any, Any]]:
    return transact(
        engine, lambda connection: connection.execute(query).mappings().all(), writes=False, retry_for_s=_LOOK_FOR_S
    )


def _begin(text: str) -> dt.datetime:
    """The beginning of an interval by its name, such as ``2026-11-20 10``."""
    return dt.datetime.fromisoformat(f"{text}:00" if len(text) == Interval.HOUR else text)
