"""Connecting to the catalogue and running transactions that survive deadlocks and short outages. No queries."""

import logging
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_FOR_S = 60.0
"""How long a transaction is tried again while the database is away or busy."""

# Lock wait timeout, deadlock, record changed (MariaDB 11.6), cannot connect, gone away, lost connection, shutdown,
# too many connections.
_TRANSIENT_MYSQL = frozenset({1205, 1213, 1020, 2002, 2003, 2006, 2013, 1053, 1040, 1927})
_PATIENCE = "imgpipe_retry_for_s"
_TRANSIENT_SQLITE = ("database is locked", "database table is locked", "database is busy")


class CatalogueError(RuntimeError):
    """The catalogue cannot be used; the message says why and what to do, without secrets."""


class CatalogueFileGoneError(sqlite3.OperationalError):
    """The file of a SQLite database that should be there is not."""


def connect(url: URL, *, own: bool = True) -> Engine:
    """An engine for the catalogue at ``url``; no connection is made yet.

    Args:
        url: Where it is.
        own: False for a database of somebody else, or one that is only looked at: it keeps its kind of journal, and a
            file that is not there is not made.

    Raises:
        CatalogueError: if the URL names neither SQLite nor MySQL/MariaDB.
    """
    match url.get_backend_name():
        case "sqlite":
            return _connect_sqlite(url, own=own)
        case "mysql" | "mariadb":
            return sa.create_engine(
                url.update_query_dict({"charset": "utf8mb4"}),
                isolation_level="READ COMMITTED",  # at InnoDB's default, concurrent claims die of deadlocks
                pool_pre_ping=True,
                pool_recycle=1800,
                connect_args={"connect_timeout": 10, "init_command": "SET time_zone = '+00:00'"},
            )
        case other:
            raise CatalogueError(f"The catalogue runs on SQLite or MySQL/MariaDB, not on {other!r}.")


def transact(
    engine: Engine, work: Callable[[Connection], T], *, writes: bool = True, retry_for_s: float | None = None
) -> T:
    """Run ``work`` in one transaction; on a deadlock, a lock timeout or an outage run it again, whole.

    Args:
        engine: The catalogue.
        work: Reads and writes through the connection it is given; it may run several times.
        writes: False where ``work`` only reads: on SQLite it then waits for no writer.
        retry_for_s: When this many seconds have passed, the next transient error is raised; default: what `patient`
            said of the engine.

    Raises:
        sqlalchemy.exc.DBAPIError: an error that is not transient, or one that did not pass in time.
    """
    patience: float = engine.get_execution_options().get(_PATIENCE, RETRY_FOR_S)
    deadline = time.monotonic() + (patience if retry_for_s is None else retry_for_s)
    pause = 0.05
    while True:
        try:
            with engine.connect().execution_options(imgpipe_writes=writes) as connection, connection.begin():
                return work(connection)
        except DBAPIError as error:
            if not is_transient(error) or time.monotonic() >= deadline:
                raise
            log.warning("The database is busy or away (%s); trying again.", describe_error(error))
        time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
        pause = min(pause * 2, 2.0)


def patient(engine: Engine, retry_for_s: float) -> Engine:
    """The same catalogue for those who wait, or do not wait, for one that is away: see `transact`."""
    return engine.execution_options(**{_PATIENCE: retry_for_s})


def is_transient(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed a moment later."""
    original = error.orig
    if isinstance(original, sqlite3.OperationalError):
        return str(original).lower().startswith(_TRANSIENT_SQLITE)
    if error.connection_invalidated:
        return True
    code = original.args[0] if original is not None and original.args else None
    return code in _TRANSIENT_MYSQL


def is_away(error: DBAPIError) -> bool:
    """Whether the database is the matter and not what was asked of it: it is busy, away or gone."""
    return is_transient(error) or isinstance(error.orig, CatalogueFileGoneError)


def describe_url(url: URL) -> str:
    """The URL for people: without its password."""
    return url.render_as_string(hide_password=True)


def describe_error(error: SQLAlchemyError) -> str:
    """An error of the database for people: its first line, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).partition("\n")[0][:300]


def _connect_sqlite(url: URL, *, own: bool) -> Engine:
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _configure(dbapi_connection: sqlite3.Connection, _record: object) -> None:
        dbapi_connection.isolation_level = None  # the begin event below starts transactions, not the driver
        # Other programs may have written text that is not UTF-8: one such row must not fail its whole batch.
        dbapi_connection.text_factory = lambda text: text.decode("utf-8", "replace")
        if own:
            dbapi_connection.execute("PRAGMA journal_mode = WAL")
            dbapi_connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that turns writer midway can only fail; one that will write says so at once.
        writes = connection.get_execution_options().get("imgpipe_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    if url.database and url.database != ":memory:" and "uri" not in url.query:
        _follow_file(engine, Path(url.database).absolute(), may_create=own)
    return engine


def _follow_file(engine: Engine, path: Path, *, may_create: bool) -> None:
    """Let connections go that hold a file which is no longer the one at ``path``: what they write would be lost.

    The first connection may create the file, with ``may_create``. Where it is missing later, that is an error: a new
    and empty one in its place would hide the loss.
    """
    must_exist = not may_create

    @event.listens_for(engine, "do_connect")
    def _refuse_new_file(*_arguments: object) -> None:
        if must_exist and not path.exists():
            raise CatalogueFileGoneError(f"there is no file {path}")

    @event.listens_for(engine, "connect")
    def _note_file(_dbapi_connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        nonlocal must_exist
        must_exist = True
        record.info["file"] = _identity(path)

    @event.listens_for(engine, "checkout")
    def _check_file(_dbapi_connection: sqlite3.Connection, record: ConnectionPoolEntry, _proxy: object) -> None:
        # While a connection holds the old file its inode is not given to another.
        if record.info["file"] != _identity(path):
            raise DisconnectionError(f"{path} is another file now")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
