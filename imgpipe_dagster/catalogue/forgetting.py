"""Forgetting one image: what rows know of it, and removing them. No bytes are touched here."""

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.references import IMAGE_KEYS, KEYS
from imgpipe_dagster.catalogue.retention import OVER
from imgpipe_dagster.catalogue.tables import (
    BATCH_TABLES,
    ImageBatch,
    IngestedFile,
    ProductImage,
    QcReviewLog,
    Sku,
    TempleImage,
)
from imgpipe_dagster.store.keys import STORED_SCHEME, frame_number, stored_image_key


class ImageBusyError(RuntimeError):
    """The image is being processed and cannot be forgotten now."""


@dataclass(frozen=True)
class Traces:
    """What there is of an image.

    Attributes:
        image_id: The image.
        batch_keys: Batches that have rows of it.
        own_keys: Objects that no other image's row points at.
        shared_keys: Objects that other rows point at too: they stay.
    """

    image_id: int
    batch_keys: tuple[str, ...]
    own_keys: tuple[str, ...]
    shared_keys: tuple[str, ...]


def find_images(engine: Engine, image: str) -> list[int]:
    """The ids that a text means: an id, or the URL of one or several images."""
    which = ProductImage.id == int(image) if image.isascii() and image.isdecimal() else ProductImage.image_url == image
    query = sa.select(ProductImage.id).where(which).order_by(ProductImage.id)
    return list(transact(engine, lambda connection: connection.scalars(query).all(), writes=False))


def forget_image(engine: Engine, image_id: int, remove_bytes: Callable[[Traces], None]) -> Traces:
    """Remove every row of an image, after its bytes: if that fails, rows still name what is left, for another try.

    Args:
        engine: The catalogue.
        image_id: The image.
        remove_bytes: Removes the objects. No batch can claim the image meanwhile. It may be called again.

    Raises:
        KeyError: there is no such image.
        ImageBusyError: it is being processed.
    """

    def forget(connection: Connection) -> Traces:
        locked = sa.select(ProductImage.batch_key, ProductImage.sku_id, ProductImage.image_url).where(
            ProductImage.id == image_id
        )
        row = connection.execute(locked.with_for_update()).first()
        if row is None:
            raise KeyError(image_id)
        state = connection.scalar(sa.select(ImageBatch.state).where(ImageBatch.batch_key == row.batch_key))
        if state is not None and state not in OVER:
            raise ImageBusyError(f"Image {image_id} is being processed in batch {row.batch_key}: wait for its end.")
        traces = _traces(connection, image_id, row.image_url)
        remove_bytes(traces)
        for table in BATCH_TABLES:
            connection.execute(sa.delete(table).where(table.image_id == image_id))  # type: ignore[attr-defined]
        for table in (QcReviewLog, TempleImage):
            connection.execute(sa.delete(table).where(table.image_id == image_id))
        numbers = [number for key in traces.own_keys if (number := frame_number(key)) is not None]
        connection.execute(sa.delete(IngestedFile).where(IngestedFile.frame.in_(numbers)))
        connection.execute(sa.delete(ProductImage).where(ProductImage.id == image_id))
        if row.sku_id is not None:
            fewer = sa.update(Sku).where(Sku.sku_id == row.sku_id, Sku.image_count > 0)
            connection.execute(fewer.values(image_count=Sku.image_count - 1))
        return traces

    return transact(engine, forget)


def _traces(connection: Connection, image_id: int, url: str | None) -> Traces:
    batches: set[str] = set()
    for table in BATCH_TABLES:
        own = sa.select(table.batch_key).where(table.image_id == image_id)  # type: ignore[attr-defined]
        batches.update(connection.scalars(own.distinct()))
    keys: set[str] = set()
    for column in IMAGE_KEYS:
        keys.update(filter(None, connection.scalars(sa.select(column).where(column.class_.image_id == image_id))))
    if url is not None and url.startswith(f"{STORED_SCHEME}:"):
        keys.add(stored_image_key(url))
    shared = {key for key in keys if _is_shared(connection, key, image_id)}
    return Traces(image_id, tuple(sorted(batches)), tuple(sorted(keys - shared)), tuple(sorted(shared)))


def _is_shared(connection: Connection, key: str, image_id: int) -> bool:
    """Whether a row that is not this image's points at an object."""
    for column in KEYS:
        others = sa.select(sa.literal(1)).where(column == key).limit(1)
        if any(column is known for known in IMAGE_KEYS):
            owner = column.class_.image_id
            others = others.where(sa.or_(owner.is_(None), owner != image_id))
        if connection.scalar(others):
            return True
    if not key.startswith("images/"):
        return False
    named = sa.select(sa.literal(1)).where(
        ProductImage.image_url == f"{STORED_SCHEME}:{key}", ProductImage.id != image_id
    )
    return connection.scalar(named.limit(1)) is not None
