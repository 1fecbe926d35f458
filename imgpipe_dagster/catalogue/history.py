"""What happened to one image, and where its files lie. Reads only."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import (
    ImageBatch,
    ProductImage,
    QcReviewLog,
    RawImage,
    ValidatedImage,
)

_LOOK_FOR_S = 5.0  # a reader is told that the catalogue is away rather than kept waiting
_MOST_EVENTS = 200


@dataclass(frozen=True)
class Event:
    """Something that happened to an image.

    Attributes:
        at: When, in UTC without a zone.
        what: In a few words.
        by: A reviewer, or the batch that it happened in.
        notes: What the reviewer wrote.
    """

    at: dt.datetime
    what: str
    by: str | None = None
    notes: str | None = None


def image_history(engine: Engine, image_id: int) -> list[Event]:
    """What happened to one image, the latest first: its batches and what reviewers decided."""
    batches = (
        sa.select(ImageBatch.__table__)
        .join(RawImage, RawImage.batch_key == ImageBatch.batch_key)
        .where(RawImage.image_id == image_id)
        .limit(_MOST_EVENTS)
    )
    logs = (
        sa.select(QcReviewLog.__table__)
        .where(QcReviewLog.image_id == image_id)
        .order_by(QcReviewLog.id.desc())
        .limit(_MOST_EVENTS)
    )
    created = sa.select(ProductImage.created_at).where(ProductImage.id == image_id)

    def look(connection: Connection) -> list[Event]:
        events = [Event(at, "came into the catalogue") for at in connection.scalars(created)]
        for batch in connection.execute(batches).mappings():
            stages = {"created_at": "claimed", "analysed_at": "analysed", "enhanced_at": "enhanced"}
            events += [Event(batch[at], what, batch["batch_key"]) for at, what in stages.items() if batch[at]]
        events += [
            Event(log["created_at"], _decision(log), log["reviewer_id"], log["notes"])
            for log in connection.execute(logs).mappings()
        ]
        return sorted(events, key=lambda event: event.at, reverse=True)

    return transact(engine, look, writes=False, retry_for_s=_LOOK_FOR_S)


def original_keys(engine: Engine, image_ids: Sequence[int]) -> dict[int, str]:
    """Where the valid originals of some images lie in the store, by image."""
    counting = sa.and_(ValidatedImage.image_id == ProductImage.id, ValidatedImage.batch_key == ProductImage.batch_key)
    query = (
        sa.select(ProductImage.id, ValidatedImage.object_key)
        .join(ValidatedImage, counting)
        .where(ProductImage.id.in_(image_ids), ValidatedImage.object_key.is_not(None), ValidatedImage.reason.is_(None))
    )
    rows = transact(engine, lambda connection: connection.execute(query).all(), writes=False, retry_for_s=_LOOK_FOR_S)
    return {image_id: key for image_id, key in rows if key is not None}


def _decision(log: Mapping[Any, Any]) -> str:
    if log["undoes_id"] is not None:
        return f"decision undone: {log['status']}"
    return f"{log['previous_status']} → {log['status']}" + (f" ({log['reason']})" if log["reason"] else "")
