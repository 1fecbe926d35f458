"""The schema's life: bringing a database up to date, asking where it stands, printing the SQL. No tables."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import CatalogueError
from imgpipe_dagster.catalogue.tables import Base

_DIALECTS = {"mysql": mysql.dialect, "sqlite": sqlite.dialect}
_REVISIONS = "alembic_version"
_UPGRADE_WAIT_S = 300


class OlderDatabaseError(CatalogueError):
    """The database is that of an older system."""

    def __init__(self) -> None:
        super().__init__(
            "This is the database of an older system: look with `imgpipe db adopt --dry-run`, then `imgpipe db adopt`."
        )


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema up to date; a schema that is stays as it is. Upgrades at the same time take turns.

    Returns:
        The revision before (None for an empty database) and the one after.

    Raises:
        CatalogueError: if another upgrade does not end, or the database is that of an older system: it stays as it is.
    """
    if engine.dialect.name == "sqlite" and engine.url.database not in (None, "", ":memory:"):
        Path(str(engine.url.database)).parent.mkdir(parents=True, exist_ok=True)
    config = _config()
    with engine.connect().execution_options(imgpipe_writes=True) as connection, _alone(connection):
        before = MigrationContext.configure(connection).get_current_revision()
        if before is None:
            if older_tables(connection):
                raise OlderDatabaseError
            _drop_remains(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, head_revision()


def current_revision(engine: Engine) -> str | None:
    """The revision that the database is at, or None where it has no schema."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def older_tables(connection: Connection) -> list[str]:
    """Tables of an older system whose names are needed here. There are none once there is a revision.

    Nor does that count which an upgrade made that was killed before its first revision, as MySQL keeps it.
    """
    if MigrationContext.configure(connection).get_current_revision() is not None:
        return []
    present = set(sa.inspect(connection).get_table_names())
    remains = _remains(connection, present)
    return [name for name in Base.metadata.tables if name in present and name not in remains]


def _remains(connection: Connection, present: set[str]) -> list[str]:
    """What a killed first upgrade has left: it names its table of revisions first, and fills none of the others."""
    if _REVISIONS not in present:
        return []
    return [
        table.name
        for table in reversed(Base.metadata.sorted_tables)
        if table.name in present
        and {column["name"] for column in sa.inspect(connection).get_columns(table.name)} <= set(table.columns.keys())
        and connection.execute(sa.select(sa.literal(1)).select_from(sa.table(table.name)).limit(1)).first() is None
    ]


def _drop_remains(connection: Connection) -> None:
    remains = _remains(connection, set(sa.inspect(connection).get_table_names()))
    views = set(sa.inspect(connection).get_view_names())
    quote = connection.dialect.identifier_preparer.quote
    for name in remains:
        if (view := f"current_{name}") in views:
            connection.exec_driver_sql(f"DROP VIEW {quote(view)}")
    for name in remains:
        connection.exec_driver_sql(f"DROP TABLE {quote(name)}")


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Keep other upgrades of the same database out."""
    if connection.dialect.name == "sqlite":
        yield  # the upgrade is one transaction that locks the database from its first statement
        return
    lock = sa.func.concat("imgpipe-upgrade-", sa.func.sha1(sa.func.database()))  # a name counts for the whole server
    if connection.scalar(sa.select(sa.func.get_lock(lock, _UPGRADE_WAIT_S))) != 1:
        raise CatalogueError(f"Another upgrade of this catalogue has not ended within {_UPGRADE_WAIT_S} s.")
    try:
        yield
    finally:
        connection.execute(sa.select(sa.func.release_lock(lock)))


def head_revision() -> str:
    """The revision that this version of the package needs."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def require_current(engine: Engine) -> None:
    """Refuse to work on a schema that is not up to date.

    Raises:
        CatalogueError: if the schema is missing, old, newer than this version, or that of an older system.
    """
    if (path := missing_file(engine)) is not None:
        raise CatalogueError(f"There is no catalogue at {path}: run `imgpipe db upgrade`.")
    if current_revision(engine) == head_revision():
        return
    with engine.connect() as connection:
        if older_tables(connection):
            raise OlderDatabaseError
    raise CatalogueError("The catalogue's schema is not up to date: run `imgpipe db upgrade`.")


def missing_file(engine: Engine) -> str | None:
    """The path of a SQLite database that is not there; None where it is, or where it is on a server."""
    place = engine.url.database
    if engine.dialect.name != "sqlite" or not place or place == ":memory:":
        return None
    return None if Path(place).exists() else place


def schema_sql(dialect: str) -> str:
    """The SQL that makes the schema on an empty database.

    Raises:
        ValueError: if the dialect is not ``mysql`` or ``sqlite``.
    """
    if dialect not in _DIALECTS:
        raise ValueError(f"There is no dialect {dialect!r}; choose one of {', '.join(_DIALECTS)}.")
    text = io.StringIO()
    config = _config(output_buffer=text)
    config.attributes["dialect"] = dialect
    command.upgrade(config, "head", sql=True)
    return text.getvalue()


def _config(output_buffer: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output_buffer) if output_buffer else Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
