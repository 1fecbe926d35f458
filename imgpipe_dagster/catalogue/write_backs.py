"""Answers that an SQL source has yet to be told: which they are, and marking those that it was told or refused."""

import datetime as dt
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import Detection, ImagePrediction, ProductImage

_DUE = ProductImage.write_back_due == 1
_REFUSED = sa.and_(ProductImage.written_back_at.is_not(None), ProductImage.written_back.is_(None))
_PAGE = 1000


@dataclass(frozen=True)
class Answer:
    """What the pipeline found out about one row of an SQL source.

    Attributes:
        catalogue_id: The image's id in the catalogue.
        source_ref: The row's id in its source.
        covers: The ``updated_at`` of the image that this answer was read with.
        told: Digest of the answer that the source was told last, or None.
        answered_at: When the image's newest answer was stored, UTC; None where its batch failed.
        batch_key: The batch that answered.
        values: What the answer says: ``status``, ``reason``, ``object_count``, ``objects_by_class`` (counts by name),
            ``top_class``, ``top_confidence``, ``detector_version``, ``qc_status``, ``enhanced_image_url``.
    """

    catalogue_id: int
    source_ref: str
    covers: dt.datetime
    told: str | None
    answered_at: dt.datetime | None
    batch_key: str | None
    values: dict[str, Any] = field(default_factory=dict)

    def digest(self, names: Collection[str]) -> str:
        """SHA-256 of what the answer says under these names; the same answer of a later run has the same."""
        said = {name: value for name, value in self.values.items() if name in names}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def count_due(engine: Engine) -> int:
    """How many images have ended in a way that their source has not been told."""
    query = sa.select(sa.func.count()).select_from(ProductImage).where(_DUE)
    return transact(engine, lambda connection: connection.scalar(query), writes=False) or 0


def due_answers(connection: Connection, limit: int) -> list[Answer]:
    """Up to ``limit`` answers to tell, by id; their images are locked, and those that others have locked left out."""
    query = (
        sa.select(ProductImage, ImagePrediction)
        .outerjoin(
            ImagePrediction,
            sa.and_(ImagePrediction.image_id == ProductImage.id, ImagePrediction.batch_key == ProductImage.batch_key),
        )
        .where(_DUE)
        .order_by(ProductImage.id)
        .limit(limit)
        .with_for_update(of=ProductImage, skip_locked=True)
    )
    rows = connection.execute(query.with_only_columns(*_columns())).mappings().all()
    counts = _counts_by_class(connection, [row["id"] for row in rows]) if rows else {}
    return [_answer(row, counts.get(row["id"], {})) for row in rows]


def mark_told(connection: Connection, digests: Sequence[tuple[Answer, str | None]]) -> None:
    """Note what the source knows of these answers: the digest, or None of an answer that it refuses."""
    if not digests:
        return
    statement = (
        sa.update(ProductImage)
        .where(ProductImage.id == sa.bindparam("catalogue_id"))
        .values(written_back_at=sa.bindparam("covers"), written_back=sa.bindparam("digest"))
    )
    values = [{"catalogue_id": a.catalogue_id, "covers": a.covers, "digest": digest} for a, digest in digests]
    connection.execute(statement, values)


def make_refused_due(engine: Engine) -> None:
    """Make the answers that their source refused due again, a page at a time: nobody waits for long."""
    after = 0
    while True:
        page = (
            sa.select(ProductImage.id).where(_REFUSED, ProductImage.id > after).order_by(ProductImage.id).limit(_PAGE)
        )
        ids = transact(engine, lambda connection, page=page: connection.scalars(page).all(), writes=False)
        if not ids:
            return
        change = sa.update(ProductImage).where(ProductImage.id.in_(ids), _REFUSED).values(written_back_at=None)
        transact(engine, lambda connection, change=change: connection.execute(change))
        after = ids[-1]


def _columns() -> tuple[Any, ...]:
    return (
        *(ProductImage.id, ProductImage.source_ref, ProductImage.updated_at, ProductImage.written_back),
        *(ProductImage.batch_key, ProductImage.status, ProductImage.reason),
        *(ProductImage.qc_status, ProductImage.enhanced_image_url),
        *(ImagePrediction.object_count, ImagePrediction.top_class, ImagePrediction.top_confidence),
        *(ImagePrediction.detector_version, ImagePrediction.updated_at.label("answered_at")),
    )


def _counts_by_class(connection: Connection, image_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    query = (
        sa.select(Detection.image_id, Detection.class_name, sa.func.count())
        .join(
            ProductImage,
            sa.and_(ProductImage.id == Detection.image_id, ProductImage.batch_key == Detection.batch_key),
        )
        .where(Detection.image_id.in_(image_ids))
        .group_by(Detection.image_id, Detection.class_name)
        .order_by(Detection.image_id, Detection.class_name)
    )
    counts: dict[int, dict[str, int]] = {}
    for image_id, class_name, count in connection.execute(query):
        counts.setdefault(image_id, {})[class_name] = count
    return counts


def _answer(row: Any, objects_by_class: dict[str, int]) -> Answer:  # noqa: ANN401 - a row mapping
    values = {
        "status": row["status"],
        "reason": row["reason"],
        "object_count": row["object_count"] or 0,
        "objects_by_class": objects_by_class,
        "top_class": row["top_class"],
        "top_confidence": row["top_confidence"],
        "detector_version": row["detector_version"],
        "qc_status": row["qc_status"],
        "enhanced_image_url": row["enhanced_image_url"],
    }
    return Answer(
        catalogue_id=row["id"],
        source_ref=row["source_ref"],
        covers=row["updated_at"],
        told=row["written_back"],
        answered_at=row["answered_at"],
        batch_key=row["batch_key"],
        values=values,
    )
