"""Bringing images into the catalogue from files and other sources. A row that comes again changes nothing."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import InstrumentedAttribute

from imgpipe_dagster.catalogue.engine import CatalogueError, transact
from imgpipe_dagster.catalogue.import_files import (
    BadRow,
    Columns,
    ImportFileError,
    ImportRow,
    read_csv,
    read_json,
    sample_csv,
    source_key,
)
from imgpipe_dagster.catalogue.tables import Base, ProductGroup, ProductImage, Sku
from imgpipe_dagster.catalogue.types import insert_or_ignore, utc_now

__all__ = [
    "BadRow",
    "ImportFileError",
    "ImportReport",
    "ImportRow",
    "import_csv",
    "import_json",
    "import_rows",
    "sample_csv",
    "source_key",
]

log = logging.getLogger(__name__)

MAX_BAD_LISTED = 1000
"""Bad rows that a report lists; further ones are only counted, so that memory stays bounded."""

_CHUNK = 1000  # rows in one transaction
_RACES = 10


@dataclass(frozen=True)
class ImportReport:
    """What became of the rows: ``read == inserted + known + rejected``.

    Attributes:
        read: Rows seen, empty lines not counted.
        inserted: New in the catalogue.
        known: In the catalogue before, or earlier in the same import.
        rejected: Not imported.
        bad: The rejected rows, the first `MAX_BAD_LISTED` of them.
    """

    read: int = 0
    inserted: int = 0
    known: int = 0
    rejected: int = 0
    bad: tuple[BadRow, ...] = ()


class _RacedError(Exception):
    """Somebody else inserted a row between our look and our insert."""


def import_csv(
    engine: Engine,
    path: Path,
    *,
    url_column: str = Columns.image_url,
    sku_column: str = Columns.sku_id,
    product_group_column: str = Columns.product_group_id,
    type_column: str = Columns.image_type,
    temple_column: str = Columns.temple_id,
    encoding: str | None = None,
    on_progress: Callable[[ImportReport], None] | None = None,
) -> ImportReport:
    """Import a CSV file with a header; see `import_rows` and `imgpipe_dagster.catalogue.import_files.read_csv`.

    Args:
        engine: The catalogue.
        path: The file, read a little at a time.
        url_column: Name of the column with the URL or file name; the file must have it.
        sku_column: Name of the column with the SKU.
        product_group_column: Name of the column with the product group.
        type_column: Name of the column with the kind of picture.
        temple_column: Name of the column with the site.
        encoding: The file's encoding; by default that of its byte order mark, or else UTF-8.
        on_progress: Called after each transaction with the report so far.

    Raises:
        ImportFileError: The file cannot be read, or only up to a line that the message names. What was imported by
            then stays.
        OSError: The file cannot be opened.
    """
    columns = Columns(url_column, sku_column, product_group_column, type_column, temple_column)
    return import_rows(engine, read_csv(path, columns, encoding), on_progress=on_progress)


def import_json(
    engine: Engine,
    path: Path,
    *,
    url_column: str = Columns.image_url,
    sku_column: str = Columns.sku_id,
    product_group_column: str = Columns.product_group_id,
    type_column: str = Columns.image_type,
    temple_column: str = Columns.temple_id,
    encoding: str | None = None,
    on_progress: Callable[[ImportReport], None] | None = None,
) -> ImportReport:
    """Import a JSON list of objects, ``{"images": [...]}``, or JSON lines; otherwise as `import_csv`."""
    columns = Columns(url_column, sku_column, product_group_column, type_column, temple_column)
    return import_rows(engine, read_json(path, columns, encoding), on_progress=on_progress)


def import_rows(
    engine: Engine,
    rows: Iterable[ImportRow | BadRow],
    *,
    on_progress: Callable[[ImportReport], None] | None = None,
) -> ImportReport:
    """Insert the rows that the catalogue does not have yet, with their SKUs and product groups.

    A row is known by its `source_key`. Rows go in by the thousand, each thousand in one transaction, so an import that
    was interrupted goes on where it stopped when it is run again. Any number of imports may run at once; the
    ``image_count`` of a SKU grows by what each has inserted.

    Args:
        engine: The catalogue.
        rows: Taken as needed, never all at once. Bad ones go into the report.
        on_progress: Called after each transaction with the report so far.

    Raises:
        CatalogueError: The database takes some rows neither as new nor as known.
        sqlalchemy.exc.DBAPIError: The database is away for longer than `transact` waits.
    """
    source = iter(rows)
    read = inserted = known = rejected = 0
    bad: list[BadRow] = []
    while taken := list(islice(source, _CHUNK)):
        good = [row for row in taken if isinstance(row, ImportRow)]
        wrong = [row for row in taken if isinstance(row, BadRow)]
        new = _store(engine, good) if good else 0
        read += len(taken)
        inserted += new
        known += len(good) - new
        rejected += len(wrong)
        bad += wrong[: MAX_BAD_LISTED - len(bad)]
        if on_progress:
            on_progress(ImportReport(read, inserted, known, rejected, tuple(bad)))
    return ImportReport(read, inserted, known, rejected, tuple(bad))


def _store(engine: Engine, rows: Iterable[ImportRow]) -> int:
    """Insert what is new of the rows in one transaction, and say how many that were."""
    by_key: dict[str, ImportRow] = {}
    for row in rows:
        by_key.setdefault(row.source_key, row)
    for _ in range(_RACES):
        try:
            return transact(engine, lambda connection: _insert(connection, by_key))
        except _RacedError:
            log.info("Another import inserted some of the same rows: looking again.")
    raise CatalogueError("The database takes some rows neither as new nor as known: see its error log.")


def _insert(connection: Connection, by_key: dict[str, ImportRow]) -> int:
    new = _insert_missing(
        connection,
        ProductImage,
        ProductImage.source_key,
        {
            key: {
                "source_key": key,
                "image_url": row.image_url,
                "image_type": row.image_type,
                "sku_id": row.sku_id,
                "product_group_id": row.product_group_id,
                "temple_id": row.temple_id,
                "source": row.source,
                "source_ref": row.source_ref,
                "report_name": row.report_name,
                "enhancement_mode": row.enhancement_mode,
            }
            for key, row in by_key.items()
        },
    )
    rows = [by_key[key] for key in new]
    groups = sorted({row.product_group_id for row in rows if row.product_group_id})
    _insert_missing(
        connection,
        ProductGroup,
        ProductGroup.product_group_id,
        {group: {"product_group_id": group} for group in groups},
    )
    # In one order everywhere, so that imports of the same products wait for each other and do not deadlock.
    skus = sorted({(row.sku_id, row.product_group_id or "") for row in rows if row.sku_id})
    _insert_missing(
        connection,
        Sku,
        Sku.sku_id,
        {sku_id: {"sku_id": sku_id, "product_group_id": group or None} for sku_id, group in skus},
    )
    _grow_image_counts(connection, Counter(row.sku_id for row in rows if row.sku_id))
    return len(new)


def _insert_missing(
    connection: Connection, table: type[Base], key_column: InstrumentedAttribute[Any], rows: dict[str, dict[str, Any]]
) -> list[str]:
    """Insert the rows whose key is not there yet; give their keys.

    It looks first, because an ignored insert locks the row that is there, and two imports that then want to change it
    deadlock; and because only then it is known which rows were new.

    Raises:
        _RacedError: A key was there after all when the row was inserted.
    """
    if not rows:
        return []
    there = set(connection.scalars(sa.select(key_column).where(key_column.in_(list(rows)))))
    missing = [key for key in rows if key not in there]
    if missing:
        if connection.execute(insert_or_ignore(table), [rows[key] for key in missing]).rowcount != len(missing):
            raise _RacedError
    return missing


def _grow_image_counts(connection: Connection, grown: Counter[str]) -> None:
    by_growth: defaultdict[int, list[str]] = defaultdict(list)
    for sku_id, images in grown.items():
        by_growth[images].append(sku_id)
    for images, sku_ids in by_growth.items():
        connection.execute(
            sa.update(Sku)
            .where(Sku.sku_id.in_(sku_ids))
            .values(image_count=Sku.image_count + images, updated_at=utc_now())
        )
