"""Requests that may be sent twice and are done once: who is at it, and what the answer was."""

import datetime as dt
from dataclasses import dataclass
from enum import Enum, auto

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import IdempotencyKey
from imgpipe_dagster.catalogue.types import insert_or_ignore, seconds_apart, utc_now

_LOOK_FOR_S = 5.0
_GONE_AT_ONCE = 1000


@dataclass(frozen=True)
class Answer:
    """An answer as it was given."""

    status: int
    headers: dict[str, str]
    body: bytes


class Standing(Enum):
    """Where a request stands that has no answer yet."""

    MINE = auto()  # nobody has done it: the caller does
    BUSY = auto()  # somebody is doing it
    OTHER = auto()  # the key belongs to another request


def begin(engine: Engine, key: str, request: str, *, abandoned_after_s: float) -> Answer | Standing:
    """Say who does a request.

    Args:
        engine: The catalogue.
        key: SHA-256 of who called, the path and the client's key.
        request: SHA-256 of what was asked.
        abandoned_after_s: A request without an answer for so long is done again: whoever did it is gone.
    """

    def look(connection: Connection) -> Answer | Standing:
        mine = {"key_sha256": key, "request_sha256": request}
        if connection.execute(insert_or_ignore(IdempotencyKey), [mine]).rowcount:
            return Standing.MINE
        row = connection.execute(
            sa.select(
                IdempotencyKey.request_sha256,
                IdempotencyKey.status,
                IdempotencyKey.headers,
                IdempotencyKey.body,
                seconds_apart(IdempotencyKey.created_at),
            ).where(IdempotencyKey.key_sha256 == key)
        ).one()
        asked, status, headers, body, age_s = row
        if asked != request:
            return Standing.OTHER
        if status is not None:
            return Answer(status, headers or {}, body or b"")
        if age_s <= abandoned_after_s:
            return Standing.BUSY
        taken = sa.update(IdempotencyKey).where(
            IdempotencyKey.key_sha256 == key,
            IdempotencyKey.status.is_(None),
            seconds_apart(IdempotencyKey.created_at) > abandoned_after_s,  # of two that find it so, one takes it
        )
        return Standing.MINE if connection.execute(taken.values(created_at=utc_now())).rowcount else Standing.BUSY

    return transact(engine, look, retry_for_s=_LOOK_FOR_S)


def finish(engine: Engine, key: str, answer: Answer) -> None:
    """Keep the answer for whoever asks again."""
    keep = sa.update(IdempotencyKey).where(IdempotencyKey.key_sha256 == key)
    values = {"status": answer.status, "headers": answer.headers, "body": answer.body}
    transact(engine, lambda connection: connection.execute(keep.values(**values)), retry_for_s=_LOOK_FOR_S)


def forget(engine: Engine, key: str) -> None:
    """Let the request be done again: it was refused, or failed."""
    gone = sa.delete(IdempotencyKey).where(IdempotencyKey.key_sha256 == key, IdempotencyKey.status.is_(None))
    transact(engine, lambda connection: connection.execute(gone), retry_for_s=_LOOK_FOR_S)


def expire(engine: Engine, older_than: dt.timedelta) -> int:
    """Forget what is older, a thousand rows a transaction; the number of rows."""

    def some(connection: Connection) -> int:
        limit = connection.scalars(sa.select(utc_now())).one() - older_than
        old = sa.select(IdempotencyKey.key_sha256).where(IdempotencyKey.created_at < limit).limit(_GONE_AT_ONCE)
        keys = connection.scalars(old).all()
        if keys:
            connection.execute(sa.delete(IdempotencyKey).where(IdempotencyKey.key_sha256.in_(keys)))
        return len(keys)

    total = 0
    while gone := transact(engine, some):
        total += gone
    return total
