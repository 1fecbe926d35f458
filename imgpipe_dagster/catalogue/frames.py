"""Frames and batch tables: replacing the rows of one batch in one transaction, reading them back with their types."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import BATCH_TABLES, Base, ImageBatch, ProductImage
from imgpipe_dagster.catalogue.types import utc_now

_TABLES: dict[str, sa.Table] = {t.__tablename__: Base.metadata.tables[t.__tablename__] for t in BATCH_TABLES}
_CHUNK = 5000


def batch_table(name: str) -> sa.Table:
    """The batch table of that name.

    Raises:
        KeyError: if there is none; the message lists those that are.
    """
    if name not in _TABLES:
        raise KeyError(f"{name!r} is not a batch table; there are {', '.join(sorted(_TABLES))}.")
    return _TABLES[name]


def replace_batch(
    engine: Engine,
    name: str,
    batch_key: str,
    frame: pd.DataFrame,
    *,
    then: Callable[[Connection], None] | None = None,
) -> int:
    """Make ``frame`` the rows of one batch in table ``name``, in one transaction.

    The same frame twice gives the same rows. Where the table has ``created_at``, an image keeps the time of its first
    row in any batch; new ones get the database's time. There the row of an image that has moved to another batch stays,
    although the frame has none for it any more: it remembers that time until the other batch has answered.

    Args:
        engine: The catalogue.
        name: A batch table.
        batch_key: The batch; a column ``batch_key`` in the frame is not needed.
        frame: The rows; missing columns become NULL or the server's default.
        then: What else belongs to the same transaction.

    Returns:
        The number of rows.

    Raises:
        ValueError: if the frame has columns that the table has not, or lacks one that the table demands.
    """
    table = batch_table(name)
    rows = _to_rows(table, batch_key, frame)

    def replace(connection: Connection) -> None:
        # Two runs of a batch take turns: neither sees the other's new rows when it deletes, but both when they insert.
        own = sa.select(ImageBatch.id).where(ImageBatch.batch_key == batch_key)
        connection.execute(own.with_for_update())
        replaced = sa.delete(table).where(table.c.batch_key == batch_key)
        if "created_at" in table.c:
            _keep_first_created(connection, table, rows)
            replaced = replaced.where(table.c.image_id.not_in(_moved_on(connection, table, batch_key, rows)))
        connection.execute(replaced)
        for start in range(0, len(rows), _CHUNK):
            connection.execute(sa.insert(table), rows[start : start + _CHUNK])
        if then is not None:
            then(connection)

    transact(engine, replace)
    return len(rows)


def load_batch(engine: Engine, name: str, batch_key: str, *, counting: bool = False) -> pd.DataFrame:
    """The rows of one batch in the order of the primary key, each column with the type that the table gives it.

    Args:
        engine: The catalogue.
        name: A batch table.
        batch_key: The batch.
        counting: Only the rows that count: those of images that have not moved to a newer batch.
    """
    table = batch_table(name)
    query = sa.select(table).where(table.c.batch_key == batch_key).order_by(*table.primary_key.columns)
    if counting:
        still_here = sa.and_(ProductImage.id == table.c.image_id, ProductImage.batch_key == batch_key)
        query = query.join(ProductImage, still_here)
    rows = transact(engine, lambda connection: connection.execute(query).mappings().all(), writes=False)
    frame = pd.DataFrame(rows, columns=list(table.c.keys()))
    return frame.astype({column.name: _pandas_type(column) for column in table.c})


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as SQL takes them: numpy scalars fail on SQLite, NaN or NA would be stored as values."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]


def _to_rows(table: sa.Table, batch_key: str, frame: pd.DataFrame) -> list[dict[str, Any]]:
    unknown = sorted(set(frame.columns) - set(table.c.keys()))
    required = {c.name for c in table.c if not c.nullable and c.server_default is None} - {"batch_key"}
    missing = sorted(required - set(frame.columns))
    if unknown or (missing and len(frame)):
        raise ValueError(f"Table {table.name} has no columns {unknown}, and needs {missing}.")
    return to_records(frame.assign(batch_key=batch_key))


def _keep_first_created(connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    first: dict[int, Any] = {}
    ids = [row["image_id"] for row in rows]
    for start in range(0, len(ids), _CHUNK):
        query = (
            sa.select(table.c.image_id, sa.func.min(table.c.created_at))
            .where(table.c.image_id.in_(ids[start : start + _CHUNK]))
            .group_by(table.c.image_id)
        )
        first.update((image_id, created_at) for image_id, created_at in connection.execute(query))
    now = connection.scalars(sa.select(utc_now())).one()
    for row in rows:
        row["created_at"] = first.get(row["image_id"], now)
        row["updated_at"] = now


def _moved_on(connection: Connection, table: sa.Table, batch_key: str, rows: list[dict[str, Any]]) -> set[int]:
    """Images that have rows of the batch, belong to another one now, and are not among ``rows``."""
    query = (
        sa.select(table.c.image_id)
        .join(ProductImage, ProductImage.id == table.c.image_id)
        .where(table.c.batch_key == batch_key, ProductImage.batch_key != batch_key)
    )
    return set(connection.scalars(query)) - {row["image_id"] for row in rows}


def _pandas_type(column: sa.Column[Any]) -> str:
    match column.type:
        case sa.Boolean():
            return "boolean" if column.nullable else "bool"
        case sa.Integer():
            return "Int64" if column.nullable else "int64"
        case sa.Float():
            return "Float64" if column.nullable else "float64"
        case sa.Boolean():
            return "boolean" if column.nullable else "bool"
        case sa.DateTime():
            return "datetime64[us]"
        case sa.JSON():
            return "object"
        case _:
            return "string"
