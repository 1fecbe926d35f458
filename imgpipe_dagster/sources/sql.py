"""Rows of another table as images: a configured query reads them, a configured statement tells the table the answers.

Which rows a reading may leave out is decided in ``sweeps.py``; SQL about the catalogue is in ``catalogue/``.
"""

import datetime as dt
import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from imgpipe_dagster.catalogue.alerts import AlertKind, write_alert
from imgpipe_dagster.catalogue.engine import connect, describe_error, is_transient, transact
from imgpipe_dagster.catalogue.imports import BadRow, ImportReport, ImportRow, import_rows
from imgpipe_dagster.catalogue.source_states import load_state, save_state
from imgpipe_dagster.catalogue.types import UTC_DATETIME, utc_now
from imgpipe_dagster.catalogue.write_backs import Answer, due_answers, make_refused_due, mark_told
from imgpipe_dagster.fetch.urls import complete, scheme_of
from imgpipe_dagster.imaging.modes import Mode
from imgpipe_dagster.sources.base import SourceError, Taken, WrittenBack, add_reports
from imgpipe_dagster.sources.sweeps import (
    Progress,
    RowId,
    Sweep,
    end_sweep,
    from_state,
    next_sweep,
    note_page,
    to_state,
)

SOURCE = "sql"
PAGE_ROWS = 1000
RETRY_FOR_S = 5.0
WRITE_BACK_ROWS = 200

REQUIRED_COLUMNS = ("image_id", "image")
OPTIONAL_COLUMNS = ("sku_id", "product_group_id", "temple_id", "image_type", "enhancement_mode", "base_url")
QUERY_PARAMETERS = frozenset({"since", "after_id"})
ANSWER_PARAMETERS = frozenset(
    {
        *("image_id", "status", "reason", "object_count", "objects_by_class", "top_class", "top_confidence"),
        *("detector_version", "qc_status", "enhanced_image_url", "answered_at", "batch_key"),
    }
)
_VALUE = re.compile(r"'.*' for ")  # in MySQL's errors: Duplicate entry '…' for key, Incorrect string value: '…' for
_CHECK_FAILED = frozenset({3819, 4025})  # MySQL's and MariaDB's CHECK, which the driver takes for operational errors
_BEFORE_ALL = dt.datetime(1970, 1, 2)  # noqa: DTZ001 - a day later than the epoch, in whatever zone


@dataclass(frozen=True)
class SqlSourceConfig:
    """Which rows are taken over, and how their source is told.

    Attributes:
        query: A SELECT with the columns `REQUIRED_COLUMNS` and any of `OPTIONAL_COLUMNS`; ``image_id`` is a number or a
            text that is there once. It may use the parameters ``:since`` and ``:after_id``, see
            `imgpipe_dagster.sources.sweeps`.
        url: The database; None for the catalogue itself.
        update: The statement that tells the source an answer, with `ANSWER_PARAMETERS`; None to tell nothing.
        base_url: What completes an ``image`` that is only a file name, unless its row has a ``base_url``.
        time_zone: The zone of the times in the source, for ``:since`` and ``:answered_at``.
        overlap_s: How long a transaction of the source may take until its commit.
    """

    query: str
    url: URL | None = None
    update: str | None = None
    base_url: str | None = None
    time_zone: str = "UTC"
    overlap_s: float = 900


@contextmanager
def open_sql_source(config: SqlSourceConfig, catalogue: Engine) -> Iterator["SqlSource"]:
    """The source, its connections closed afterwards.

    Raises:
        SourceError: The query or the statement has parameters that there are not.
        CatalogueError: The URL names neither SQLite nor MySQL/MariaDB.
    """
    shared = config.url is None or config.url == catalogue.url
    engine = catalogue if shared else connect(config.url or catalogue.url, own=False)
    try:
        yield SqlSource(config, catalogue, engine)
    finally:
        if not shared:
            engine.dispose()


class SqlSource:
    """A query over a database, and the catalogue that its rows go to; made by `open_sql_source`."""

    def __init__(self, config: SqlSourceConfig, catalogue: Engine, engine: Engine) -> None:
        self._config = config
        self._catalogue = catalogue
        self._engine = engine
        self._zone = ZoneInfo(config.time_zone)
        self._query = config.query.strip().rstrip(";")
        self._parameters = _parameters(self._query, QUERY_PARAMETERS, "IMGPIPE_SQL_SOURCE_QUERY")
        self._told = frozenset[str]()
        self._has_numbers: bool | None = None  # whether its ids are numbers; None while nothing was read
        self._statement: str | None = None  # digest of the statement that was told with last
        if config.update is not None:
            self._told = _parameters(config.update, ANSWER_PARAMETERS, "IMGPIPE_SQL_SOURCE_UPDATE")
            if "image_id" not in self._told:
                raise SourceError("IMGPIPE_SQL_SOURCE_UPDATE must say which row it changes: … WHERE id = :image_id")

    def take(self, *, max_rows: int | None = None, max_seconds: float | None = None, anew: bool = False) -> Taken:
        """Take over rows that the catalogue does not have yet; what it has already is passed over.

        Safe to interrupt and to run any number of times at once: a row is known by its id in the source.

        Args:
            max_rows: Read no more than about so many rows, and go on there the next time.
            max_seconds: Begin no new page after this time.
            anew: Read everything from the beginning, as if for the first time.

        Raises:
            SourceError: The source is away, or the query cannot be run or lacks columns; the message names them.
            sqlalchemy.exc.DBAPIError: The catalogue is away.
        """
        stop = time.monotonic() + (max_seconds if max_seconds is not None else float("inf"))
        digest = hashlib.sha256(self._query.encode()).hexdigest()
        state, version, now = load_state(self._catalogue, SOURCE)
        progress = Progress(digest) if anew else from_state(state, digest)
        if "since" in self._parameters and self._engine is not self._catalogue:
            now = self._clock()  # what is compared with the source's own times
        before, self._statement = progress, state.get("statement")
        progress, sweep = next_sweep(progress, now, dt.timedelta(seconds=self._config.overlap_s))
        self._has_numbers = progress.highest is not None
        total = ImportReport()
        while True:
            rows = self._page(sweep)
            if rows:
                report = import_rows(self._catalogue, self._import_rows(rows))
                self._tell_bad(report)
                total = add_reports(total, report)
                progress = note_page(progress, sweep, [row["image_id"] for row in rows])
                sweep = progress.sweep or sweep
            finished = len(rows) < PAGE_ROWS
            if finished and not rows and before.last_began is not None and before.sweep is None and not anew:
                return Taken(total, finished=True)  # nothing new: the next sweep begins where this one began
            if finished:
                progress = end_sweep(progress, sweep)
            self._has_numbers = progress.highest is not None
            state = {**to_state(progress), "statement": self._statement}
            if save_state(self._catalogue, SOURCE, state, version):
                version += 1
            elif not finished:
                return Taken(total, finished=False)  # somebody else reads the same rows
            if finished or time.monotonic() >= stop or (max_rows is not None and total.read >= max_rows):
                return Taken(total, finished)

    def write_back(
        self, *, max_rows: int | None = None, max_seconds: float | None = None, anew: bool = False
    ) -> WrittenBack:
        """Tell the source the answers that it does not know yet, each once; what it refuses becomes an alert a cause.

        Where the source is the catalogue itself, statement and mark are one transaction. Otherwise the statement is
        committed first: a crash between the two repeats it with the same values.

        Args:
            max_rows: Tell no more than about so many answers.
            max_seconds: Begin no new page after this time.
            anew: Tell also what the source refused, as for a statement that it has not been given before.

        Raises:
            SourceError: The source is away, or the statement cannot be run.
            sqlalchemy.exc.DBAPIError: The catalogue is away.
        """
        if self._config.update is None:
            return WrittenBack()
        stop = time.monotonic() + (max_seconds if max_seconds is not None else float("inf"))
        if self._has_numbers is None:
            state = load_state(self._catalogue, SOURCE)[0]
            self._has_numbers, self._statement = isinstance(state.get("highest"), int), state.get("statement")
        digest = hashlib.sha256(self._config.update.encode()).hexdigest()
        if anew or self._statement != digest:
            make_refused_due(self._catalogue)
            self._note_statement(digest)
        integers = self._has_numbers
        told, refused, seen, causes = 0, 0, WRITE_BACK_ROWS, frozenset[str]()
        while seen == WRITE_BACK_ROWS:
            seen, news, met = transact(
                self._catalogue, lambda connection, causes=causes: self._tell_some(connection, integers, causes)
            )
            told, refused, causes = told + news, refused + len(met), causes.union(met)
            if time.monotonic() >= stop or (max_rows is not None and told >= max_rows):
                break
        return WrittenBack(told, refused)

    def _clock(self) -> dt.datetime:
        with self._errors("IMGPIPE_SQL_SOURCE_URL"):
            query = sa.select(utc_now())
            return transact(self._engine, lambda c: c.scalars(query).one(), writes=False, retry_for_s=RETRY_FOR_S)

    def _page(self, sweep: Sweep) -> list[dict[str, Any]]:
        after = "" if sweep.cursor is None else " WHERE q.image_id > :imgpipe_cursor"
        # The databases merge the query into this and read no more than a page by its index.
        statement = sa.text(f"SELECT q.* FROM ({self._query}\n) AS q{after} ORDER BY q.image_id LIMIT {PAGE_ROWS}")  # noqa: S608 - the operator's own query
        values: dict[str, Any] = {}
        if "since" in self._parameters:
            statement = statement.bindparams(sa.bindparam("since", type_=UTC_DATETIME))
            values["since"] = _BEFORE_ALL if sweep.since is None else self._to_zone(sweep.since)
        if "after_id" in self._parameters:
            values["after_id"] = -1 if sweep.after_id is None else sweep.after_id
        if sweep.cursor is not None:
            values["imgpipe_cursor"] = sweep.cursor

        def read(connection: Connection) -> list[dict[str, Any]]:
            try:
                result = connection.execute(statement, values)
            except OperationalError as error:
                if not is_transient(error):
                    self._check_columns(connection, values)  # the column of the ids may be what is missing
                raise
            _check_columns(list(result.keys()))
            return [dict(row) for row in result.mappings()]

        with self._errors("IMGPIPE_SQL_SOURCE_QUERY"):
            rows = transact(self._engine, read, writes=False, retry_for_s=RETRY_FOR_S)
        for row in rows:
            row["image_id"] = _row_id(row["image_id"])
        return rows

    def _check_columns(self, connection: Connection, values: Mapping[str, Any]) -> None:
        statement = sa.text(f"SELECT q.* FROM ({self._query}\n) AS q WHERE 1 = 0")  # noqa: S608 - the operator's own query
        _check_columns(list(connection.execute(statement, values).keys()))

    def _import_rows(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[ImportRow | BadRow]:
        for place, row in enumerate(rows, 1):
            try:
                yield to_import_row(row, self._config.base_url)
            except ValueError as error:
                yield BadRow(place, f"image_id {row['image_id']}: {error}")

    def _tell_bad(self, report: ImportReport) -> None:
        """Write an alert for rows that cannot be taken over, once for the same rows."""
        if report.rejected:
            listed = "\n".join(bad.reason for bad in report.bad[:20])
            key = f"source_rejected:{SOURCE}:{hashlib.sha256(report.bad[0].reason.encode()).hexdigest()[:32]}"
            body = f"{listed}\nCorrect the rows in the source; they are looked at again with `imgpipe poll --all`."
            subject = f"{report.rejected} rows of the SQL source cannot be taken over"
            transact(
                self._catalogue,
                lambda connection: write_alert(
                    connection, kind=AlertKind.SOURCE_REJECTED, subject=subject, body=body, dedupe_key=key
                ),
            )

    def _note_statement(self, digest: str) -> None:
        while self._statement != digest:
            state, version, _ = load_state(self._catalogue, SOURCE)
            if save_state(self._catalogue, SOURCE, {**state, "statement": digest}, version):
                self._statement = digest

    def _tell_some(
        self, connection: Connection, integers: bool, known_causes: frozenset[str]
    ) -> tuple[int, int, list[str]]:
        """Tell some answers, whose images the connection's transaction locks; a new cause of refusals is an alert.

        Returns:
            How many were due, how many the source was told, and the cause of each that it refuses.
        """
        answers = due_answers(connection, WRITE_BACK_ROWS)
        digests = {answer.catalogue_id: answer.digest(self._told) for answer in answers}
        news = [answer for answer in answers if answer.told != digests[answer.catalogue_id]]
        refused = self._update(connection, news, integers)
        causes = [_VALUE.sub("'…' for ", why) for _, why in refused]
        examples = {cause: example for cause, example in reversed(list(zip(causes, refused, strict=True)))}
        for cause, (answer, why) in examples.items():
            if cause not in known_causes:
                self._tell_refusal(connection, answer, cause, why)
        bad = {answer.catalogue_id for answer, _ in refused}
        mark_told(connection, [(a, None if a.catalogue_id in bad else digests[a.catalogue_id]) for a in answers])
        return len(answers), len(news) - len(refused), causes

    def _tell_refusal(self, connection: Connection, answer: Answer, cause: str, why: str) -> None:
        known = hashlib.sha256(f"{answer.digest(self._told)}:{cause}".encode()).hexdigest()[:32]
        write_alert(
            connection,
            kind=AlertKind.WRITE_BACK_REFUSED,
            subject=f"The SQL source refuses answers: {cause}",
            body=f"For its row {answer.source_ref}, for example: {why}\n"
            "Widen its column, or change IMGPIPE_SQL_SOURCE_UPDATE. The answers are told again with "
            "`imgpipe poll --all`, when that statement changes, and each when it changes itself.",
            dedupe_key=f"write_back_refused:{answer.catalogue_id}:{known}",
        )

    def _update(self, connection: Connection, answers: list[Answer], integers: bool) -> list[tuple[Answer, str]]:
        """Run the statement for each answer: those that the source refuses, and why."""
        statement = sa.text(self._config.update or "")
        if "answered_at" in self._told:
            statement = statement.bindparams(sa.bindparam("answered_at", type_=UTC_DATETIME))
        refused: list[tuple[Answer, str]] = []

        def tell(source: Connection) -> None:
            refused.clear()
            for answer in answers:
                try:
                    with source.begin_nested():  # what is refused takes nothing else along
                        source.execute(statement, self._values(answer, integers))
                except DBAPIError as error:
                    if not _is_refusal(error):
                        raise
                    refused.append((answer, describe_error(error)))

        with self._errors("IMGPIPE_SQL_SOURCE_UPDATE"):
            if self._engine is self._catalogue:
                tell(connection)
            elif answers:
                transact(self._engine, tell, retry_for_s=RETRY_FOR_S)
        return refused

    @contextmanager
    def _errors(self, setting: str) -> Iterator[None]:
        """Turn the database's errors into the source's, but for those after which the same transaction may succeed."""
        try:
            yield
        except DBAPIError as error:
            if self._engine is self._catalogue and is_transient(error):
                raise
            raise SourceError(f"The SQL source cannot be used ({setting}): {describe_error(error)}") from error

    def _values(self, answer: Answer, integers: bool) -> dict[str, Any]:
        values: dict[str, Any] = {
            **answer.values,
            "objects_by_class": json.dumps(answer.values["objects_by_class"]),
            "image_id": int(answer.source_ref) if integers else answer.source_ref,
            "answered_at": answer.answered_at and self._to_zone(answer.answered_at),
            "batch_key": answer.batch_key,
        }
        return {name: values[name] for name in self._told}

    def _to_zone(self, time: dt.datetime) -> dt.datetime:
        """A UTC time as the source writes it: without a zone, in its own."""
        return time.replace(tzinfo=dt.UTC).astimezone(self._zone).replace(tzinfo=None)


def to_import_row(row: Mapping[str, Any], base_url: str | None = None) -> ImportRow:
    """One row of the query as a row to import.

    Raises:
        ValueError: A value is too long, of another kind, or an unknown mode; the message names it.
    """
    image = row["image"]
    mode = row.get("enhancement_mode")
    if mode not in (None, "", *Mode):
        raise ValueError(f"enhancement_mode {mode!r} is not one of {', '.join(Mode)}")
    base = row.get("base_url") or base_url
    if isinstance(image, str) and image.strip() and base and scheme_of(image) is None:
        image = complete(image.strip(), str(base))
    return ImportRow(
        image,
        source=SOURCE,
        source_ref=str(row["image_id"]),
        sku_id=row.get("sku_id"),
        product_group_id=row.get("product_group_id"),
        temple_id=row.get("temple_id"),
        image_type=row.get("image_type") or "",
        enhancement_mode=mode,
    )


def _is_refusal(error: DBAPIError) -> bool:
    """Whether it is about the values of one answer, and not about the statement or the database."""
    original = error.orig
    code = original.args[0] if original is not None and original.args else None
    return isinstance(error, DataError | IntegrityError) or code in _CHECK_FAILED


def _parameters(statement: str, known: frozenset[str], setting: str) -> frozenset[str]:
    names = frozenset(sa.text(statement).compile().params)
    if unknown := sorted(names - known):
        raise SourceError(
            f"{setting} has no parameters {', '.join(unknown)}; there are {', '.join(sorted(known))}. "
            r"A colon that begins no parameter is written \:."
        )
    return names


def _check_columns(found: list[str]) -> None:
    missing = [name for name in REQUIRED_COLUMNS if name not in found]
    if missing:
        raise SourceError(
            f"IMGPIPE_SQL_SOURCE_QUERY gives no column {' and no '.join(missing)}. It gives {', '.join(found)}; "
            f"write SELECT … AS image_id, … AS image. Optional are {', '.join(OPTIONAL_COLUMNS)}."
        )


def _row_id(value: object) -> RowId:
    match value:
        case bool():
            pass
        case int() | str():
            return value
        case None:
            raise SourceError(
                "The SQL source gives a row without an image_id, which nothing would tell apart from others: leave "
                "such rows out of IMGPIPE_SQL_SOURCE_QUERY, with WHERE … IS NOT NULL."
            )
        case Decimal() if value == value.to_integral_value():
            return int(value)
    raise SourceError(
        f"image_id must be a number or a text, not a {type(value).__name__}: for binary ids write HEX(…) AS image_id."
    )
