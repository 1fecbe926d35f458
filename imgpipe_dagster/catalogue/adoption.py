"""Taking over the database of an older system in place: every row is kept, and those that have a place here get it.

An older table whose name is needed becomes ``legacy_<name>``, with all its rows and columns, for good. Then the schema
is made, and rows are copied by the columns that both tables have. Doing it again goes on where it stopped.
"""

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import CatalogueError, transact
from imgpipe_dagster.catalogue.import_files import source_key
from imgpipe_dagster.catalogue.schema import current_revision, missing_file, older_tables, upgrade
from imgpipe_dagster.catalogue.tables import Base, ImageStatus, QcStatus

LEGACY = "legacy_"
COPIED = (
    "product_groups",
    "skus",
    "product_images",
    "processing_jobs",
    "enhancement_configs",
    "qc_review_logs",
    "options",
)
"""Tables whose rows mean the same here. Those of others, results of other models, stay in their legacy table."""

_CHUNK = 1000
_KNOWN: Mapping[tuple[str, str], Sequence[str]] = {
    ("product_images", "status"): list(ImageStatus),
    ("product_images", "qc_status"): list(QcStatus),
}
_JOB_ENDED = "It was open when the older system's database was taken over; its images are processed by themselves."


@dataclass(frozen=True)
class AdoptedTable:
    """What becomes of one older table.

    Attributes:
        name: The table.
        rows: How many rows it has, all kept in its legacy table.
        columns: Columns whose values are taken over; none where the rows only stay.
        left: Columns that are in the legacy table only.
        is_aside: Whether it is a legacy table already.
        missing: Rows that have no place here yet and get one.
        copied: Rows that have got a place here now; 0 before it is done.
    """

    name: str
    rows: int
    columns: tuple[str, ...]
    left: tuple[str, ...]
    is_aside: bool
    missing: int = 0
    copied: int = 0


def plan_adoption(engine: Engine) -> list[AdoptedTable]:
    """What would be taken over, without changing anything.

    Raises:
        CatalogueError: The database is not there, holds no older table, or is a catalogue that was not adopted.
    """
    return [replace(table, missing=_missing(engine, table)) for table in _older(engine)]


def adopt(engine: Engine) -> list[AdoptedTable]:
    """Take the older tables over.

    Raises:
        CatalogueError: as `plan_adoption`.
    """
    tables = _older(engine)
    for table in tables:
        if not table.is_aside:
            _set_aside(engine, table.name)
    upgrade(engine)
    return [replace(table, is_aside=True, copied=_copy(engine, table)) for table in tables]


def _older(engine: Engine) -> list[AdoptedTable]:
    """The older tables, those that are aside first."""
    if (path := missing_file(engine)) is not None:
        raise CatalogueError(f"There is no database at {path}: check IMGPIPE_DATABASE_URL.")
    present = set(sa.inspect(engine).get_table_names())
    aside = [name for name in Base.metadata.tables if f"{LEGACY}{name}" in present]
    older = transact(engine, older_tables, writes=False)
    if not aside and not older:
        if current_revision(engine) is None:
            raise CatalogueError("There is no table of an older system in this database: run `imgpipe db upgrade`.")
        raise CatalogueError("This database is a catalogue of this project already: run `imgpipe db upgrade`.")
    return [
        *(_look_at(engine, name, is_aside=True) for name in aside),
        *(_look_at(engine, name, is_aside=False) for name in older if name not in aside),
    ]


def _look_at(engine: Engine, name: str, *, is_aside: bool) -> AdoptedTable:
    place = f"{LEGACY}{name}" if is_aside else name
    old = [column["name"] for column in sa.inspect(engine).get_columns(place)]
    own = Base.metadata.tables[name].columns
    taken = [column for column in old if name in COPIED and column in own and own[column].computed is None]
    needed = [c.name for c in own if not c.nullable and c.server_default is None and not _numbers_itself(c)]
    if set(needed) - set(taken) - set(_FILLED.get(name, ())):
        taken = []  # a row here would say something that the older one does not
    count = sa.select(sa.func.count()).select_from(sa.table(place))
    rows = transact(engine, lambda connection: connection.scalar(count), writes=False) or 0
    return AdoptedTable(name, rows, tuple(taken), tuple(column for column in old if column not in taken), is_aside)


_FILLED: Mapping[str, Sequence[str]] = {"qc_review_logs": ["previous_status"]}
"""Columns that are filled where the older table has none."""


def _numbers_itself(column: sa.Column[Any]) -> bool:
    return column.primary_key and isinstance(column.type, sa.Integer)


def _set_aside(engine: Engine, name: str) -> None:
    """Rename an older table. Names of its indexes are freed where they count for the whole database."""
    quote = engine.dialect.identifier_preparer.quote
    own = {str(index.name) for table in Base.metadata.tables.values() for index in table.indexes}

    def rename(connection: Connection) -> None:
        if engine.dialect.name == "sqlite":
            for index in sa.inspect(connection).get_indexes(name):
                if index["name"] in own:
                    connection.exec_driver_sql(f"DROP INDEX {quote(str(index['name']))}")
        connection.exec_driver_sql(f"ALTER TABLE {quote(name)} RENAME TO {quote(LEGACY + name)}")

    transact(engine, rename)


def _missing(engine: Engine, table: AdoptedTable) -> int:
    """How many rows would be copied."""
    if not table.columns or not table.is_aside or current_revision(engine) is None:
        return table.rows if table.columns else 0
    (key,) = Base.metadata.tables[table.name].primary_key.columns
    return sum(
        len(transact(engine, lambda connection, rows=rows: _unknown(connection, key, rows), writes=False))
        for rows in _pages(engine, table, key.name)
    )


def _unknown(connection: Connection, key: sa.Column[Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = set(connection.scalars(sa.select(key).where(key.in_([row[key.name] for row in rows]))))
    return [row for row in rows if row[key.name] not in known]


def _copy(engine: Engine, table: AdoptedTable) -> int:
    """Copy the rows that are not there yet; how many."""
    if not table.columns:
        return 0
    own = Base.metadata.tables[table.name]
    (key,) = own.primary_key.columns
    seen: set[str] = set()
    copied = 0
    for rows in _pages(engine, table, key.name):
        fitting = [_fit(table.name, row, seen) for row in rows]

        def store(connection: Connection, fitting: list[dict[str, Any]] = fitting) -> int:
            new = _unknown(connection, key, fitting)
            if new:
                connection.execute(sa.insert(own), new)
            return len(new)

        copied += transact(engine, store)
    return copied


def _pages(engine: Engine, table: AdoptedTable, key: str) -> Iterator[list[dict[str, Any]]]:
    """The columns that are taken over, a page of rows at a time; rows without a key are numbered in their order."""
    columns = table.columns if key in table.columns else (*table.columns, *table.left)
    old = sa.table(f"{LEGACY}{table.name}", *map(sa.column, columns))
    order = [old.c[key]] if key in columns else list(old.c)
    start = 0
    while True:
        query = sa.select(*(old.c[name] for name in table.columns)).order_by(*order).limit(_CHUNK).offset(start)
        rows = transact(engine, lambda c, query=query: c.execute(query).mappings().all(), writes=False)
        if rows:
            yield [{key: start + place, **row} for place, row in enumerate(rows, 1)]
        if len(rows) < _CHUNK:
            return
        start += _CHUNK


def _fit(name: str, row: dict[str, Any], seen: set[str]) -> dict[str, Any]:
    """An older row as one of this schema; ``seen`` are the source keys that are given out."""
    columns = Base.metadata.tables[name].columns
    fitted = {}
    for column, value in row.items():
        try:
            fitted[column] = _value(columns[column], value)
        except ValueError as error:
            key = ", ".join(f"{column.name} {row.get(column.name)}" for column in columns if column.primary_key)
            raise CatalogueError(
                f"{LEGACY}{name}, {key}: {column} cannot be read ({error}). Correct it there and call "
                "`imgpipe db adopt` again: it goes on where it was, and nothing is lost."
            ) from error
    for (table, column), known in _KNOWN.items():
        if table == name and column in fitted and fitted[column] not in known:
            fitted[column] = "pending"  # another word, or none: it is decided anew
    if name == "product_images":
        if fitted.get("status") == ImageStatus.PROCESSING:
            fitted["status"] = ImageStatus.PENDING  # nobody works on it
        own = source_key("import", str(fitted.get("image_url") or ""), str(fitted.get("sku_id") or ""))
        fitted["source_key"] = None if own in seen else own  # the older table may hold the same image twice
        seen.add(own)
    if name == "processing_jobs":
        fitted.setdefault("error", None)
        if fitted.get("status") not in (ImageStatus.COMPLETED, ImageStatus.FAILED):
            fitted |= {"status": ImageStatus.FAILED, "error": _JOB_ENDED}  # which images it had is not known here
    if name == "qc_review_logs":
        fitted.setdefault("previous_status", QcStatus.NEEDS_REVIEW)
    return fitted


def _value(column: sa.Column[Any], value: object) -> object:
    match column.type:
        case sa.JSON() if isinstance(value, str | bytes):
            return json.loads(value)
        case sa.DateTime() if isinstance(value, str):
            value = None if value.startswith("0000-00-00") else dt.datetime.fromisoformat(value)  # MySQL's "no time"
    if value is None and not column.nullable:
        match column.type:
            case sa.DateTime():
                return dt.datetime.now(dt.UTC).replace(tzinfo=None)
            case sa.Integer() | sa.Float():
                return 0
            case _:
                return "primary" if column.name == "image_type" else ""
    return value.lower() if isinstance(value, str) and column.name in ("status", "qc_status") else value
