"""Column types, functions and statements that behave the same on SQLite and MySQL/MariaDB. No tables."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite autoincrements only INTEGER keys
UTC_DATETIME = sa.DateTime().with_variant(
    mysql.DATETIME(fsp=6), "mysql", "mariadb"
)  # plain DATETIME drops microseconds
HEX_DIGEST = sa.String(64).with_variant(mysql.CHAR(64, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
DOUBLE = sa.Double()  # Float is single precision on MariaDB
LONG_BYTES = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")  # plain BLOB holds 64 KB
JSON = sa.JSON(none_as_null=True)  # without it None becomes the JSON value null


class utc_now(GenericFunction[Any]):
    """The database's clock in UTC with microseconds (milliseconds on SQLite), as a naive DATETIME."""

    type = UTC_DATETIME
    inherit_cache = True


class seconds_ago(GenericFunction[Any]):
    """``seconds_ago(column)``: how long ago a UTC DATETIME lies by the database's clock, as a float."""

    type = sa.Double()
    inherit_cache = True


def seconds_apart(moment: Any) -> sa.ColumnElement[float]:  # noqa: ANN401 - a column, or anything that seconds_ago takes
    """How far a UTC DATETIME lies from now by the database's clock: a time that is still to come counts as so long ago.

    Such a time was noted before the clock was set back. It must neither hide that something is silent nor keep a claim
    until the clock has caught up.
    """
    return sa.func.abs(seconds_ago(moment), type_=sa.Double())


def insert_or_ignore(table: type[Any]) -> sa.Insert:
    """An INSERT that leaves out rows whose unique key is there already."""
    insert = sa.insert(table)
    for dialect, word in (("mysql", "IGNORE"), ("mariadb", "IGNORE"), ("sqlite", "OR IGNORE")):
        insert = insert.prefix_with(word, dialect=dialect)
    return insert


class utc_in(GenericFunction[Any]):
    """``utc_in(seconds)``: the time so many seconds from now by the database's clock; a number below 0 is the past."""

    type = UTC_DATETIME
    inherit_cache = True


@compiles(utc_now)
def _utc_now(_element: utc_now, _compiler: SQLCompiler, **_kw: object) -> str:
    return "UTC_TIMESTAMP(6)"


@compiles(utc_now, "sqlite")
def _utc_now_sqlite(_element: utc_now, _compiler: SQLCompiler, **_kw: object) -> str:
    # Padded to six digits, so that stored texts compare as times do.
    return "(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')"


@compiles(seconds_ago)
def _seconds_ago(element: seconds_ago, compiler: SQLCompiler, **kw: object) -> str:
    return f"(TIMESTAMPDIFF(MICROSECOND, {compiler.process(element.clauses, **kw)}, UTC_TIMESTAMP(6)) / 1e6)"


@compiles(seconds_ago, "sqlite")
def _seconds_ago_sqlite(element: seconds_ago, compiler: SQLCompiler, **kw: object) -> str:
    return f"((julianday('now') - julianday({compiler.process(element.clauses, **kw)})) * 86400.0)"


@compiles(utc_in)
def _utc_in(element: utc_in, compiler: SQLCompiler, **kw: object) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"DATE_ADD(UTC_TIMESTAMP(6), INTERVAL ROUND({seconds} * 1000000) MICROSECOND)"


@compiles(utc_in, "sqlite")
def _utc_in_sqlite(element: utc_in, compiler: SQLCompiler, **kw: object) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', printf('%.3f seconds', {seconds})) || '000')"
