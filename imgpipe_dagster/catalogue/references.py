"""Which objects of the store rows point at: the closed list of columns that do. Reads only."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import InstrumentedAttribute

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import (
    ClassifyRequest,
    EnhancedImage,
    MetadataReport,
    ModelVersion,
    ProductImage,
    PublishedEnhancement,
    RawImage,
    TempleImage,
    TempleModelVersion,
    ValidatedImage,
)

IMAGE_KEYS: tuple[InstrumentedAttribute[Any], ...] = (
    RawImage.object_key,
    ValidatedImage.object_key,
    MetadataReport.object_key,
    EnhancedImage.object_key,
    TempleImage.object_key,
)
"""Columns that hold a key, in tables whose ``image_id`` is one of ``product_images``."""

KEYS: tuple[InstrumentedAttribute[Any], ...] = (*IMAGE_KEYS, ClassifyRequest.object_key)
"""Columns that hold a key."""

URLS: tuple[InstrumentedAttribute[Any], ...] = (
    ProductImage.image_url,
    ProductImage.enhanced_image_url,
    PublishedEnhancement.enhanced_image_url,
)
"""Columns that may hold the URL of an object, among other URLs."""

FILES: tuple[InstrumentedAttribute[Any], ...] = (TempleModelVersion.files, ModelVersion.files)
"""Columns of JSON: files by name, each a key or with its key."""

_CHUNK = 10_000


def references(engine: Engine) -> Iterator[str]:
    """Every key and every URL that some row holds, the same one perhaps several times."""
    for column in (*KEYS, *URLS):
        yield from (text for (text,) in _stream(engine, column) if text)
    for column in FILES:
        for (files,) in _stream(engine, column):
            yield from (file if isinstance(file, str) else file["object_key"] for file in (files or {}).values())


def stream_keys(engine: Engine, column: InstrumentedAttribute[Any]) -> Iterator[tuple[int, str]]:
    """The image and the key in each row of a table that has both, without those that have no key."""
    image_id = column.class_.image_id
    for key, image in _stream(engine, column, image_id):
        if key:
            yield int(image), str(key)


def _stream(engine: Engine, *columns: InstrumentedAttribute[Any]) -> Iterator[Sequence[Any]]:
    """Rows in the order of the primary key, read in chunks: no long transaction, no long list."""
    table = columns[0].class_.__table__
    key = list(table.primary_key.columns)
    last: Sequence[Any] | None = None
    while True:
        query = sa.select(*columns, *key).order_by(*key).limit(_CHUNK)
        if last is not None:
            query = query.where(_after(key, last))
        rows = transact(engine, lambda connection, query=query: connection.execute(query).all(), writes=False)
        yield from (row[: len(columns)] for row in rows)
        if len(rows) < _CHUNK:
            return
        last = rows[-1][len(columns) :]


def _after(key: Sequence[sa.Column[Any]], last: Sequence[Any]) -> sa.ColumnElement[bool]:
    """``(a, b) > (x, y)``, spelled out so that both databases use the key for it."""
    cases = [
        sa.and_(*(column == value for column, value in zip(key[:i], last[:i], strict=True)), key[i] > last[i])
        for i in range(len(key))
    ]
    return sa.and_(key[0] >= last[0], sa.or_(*cases))
