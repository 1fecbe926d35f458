"""Requests to classify pictures: who asked what and what was answered. Addresses of people are forgotten in time."""

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import ClassifyRequest, RequestClassification
from imgpipe_dagster.catalogue.types import utc_in

_LOOK_FOR_S = 5.0
_CHUNK = 1000
_DAY_S = 86_400


@dataclass(frozen=True)
class NewRequest:
    """A request that is to be noted.

    Attributes:
        image_id: Names its picture.
        user_id: The row of ``users``, if there is one.
        model_version: What answered.
        ip_address: Where it came from.
        metrics: Anything else, as JSON has it.
        object_key: Its picture in the store, where pictures are kept.
        answer: The class and its confidence; None where there was no answer.
        request_id: Its id.
    """

    image_id: str
    user_id: str | None
    model_version: str | None
    ip_address: str | None
    metrics: Mapping[str, Any]
    object_key: str | None
    answer: tuple[str, float] | None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True)
class KnownRequest:
    """A request as it was noted, without the address. The time is UTC without a zone."""

    request_id: str
    image_id: str
    user_id: str | None
    model_version: str | None
    timestamp: dt.datetime
    metrics: Mapping[str, Any] | None
    object_key: str | None
    class_name: str | None
    confidence_score: float | None

    @property
    def position(self) -> tuple[dt.datetime, str]:
        """Where the next page begins: after this one."""
        return self.timestamp, self.request_id


def note_requests(engine: Engine, requests: Sequence[NewRequest]) -> None:
    """Note requests with their answers, all or none."""
    rows = [
        {
            "request_id": request.request_id,
            "user_id": request.user_id,
            "model_version": request.model_version,
            "ip_address": request.ip_address,
            "metrics": dict(request.metrics),
            "image_id": request.image_id,
            "object_key": request.object_key,
        }
        for request in requests
    ]
    answers = [
        {
            "classification_id": str(uuid.uuid4()),
            "request_id": request.request_id,
            "class_name": request.answer[0],
            "confidence_score": request.answer[1],
        }
        for request in requests
        if request.answer is not None
    ]

    def insert(connection: Connection) -> None:
        if rows:
            connection.execute(sa.insert(ClassifyRequest), rows)
        if answers:
            connection.execute(sa.insert(RequestClassification), answers)

    transact(engine, insert, retry_for_s=_LOOK_FOR_S)


def list_requests(
    engine: Engine,
    *,
    since: dt.datetime | None,
    until: dt.datetime | None,
    after: tuple[dt.datetime, str] | None,
    at_most: int,
) -> list[KnownRequest]:
    """A page of requests, the oldest first.

    Args:
        engine: The catalogue.
        since: Not before this time, in UTC without a zone.
        until: Before this time.
        after: The ``position`` of the last one of the page before.
        at_most: Requests in a page.
    """
    query = _known().order_by(ClassifyRequest.timestamp, ClassifyRequest.request_id).limit(at_most)
    if since is not None:
        query = query.where(ClassifyRequest.timestamp >= since)
    if until is not None:
        query = query.where(ClassifyRequest.timestamp < until)
    if after is not None:
        time, request_id = after
        query = query.where(
            ClassifyRequest.timestamp >= time,
            sa.or_(ClassifyRequest.timestamp > time, ClassifyRequest.request_id > request_id),
        )
    return _read(engine, query)


def find_request(engine: Engine, image_id: str) -> KnownRequest | None:
    """The request of a picture, or None."""
    return next(iter(_read(engine, _known().where(ClassifyRequest.image_id == image_id))), None)


def forget_addresses(engine: Engine, *, after_days: float) -> int:
    """Forget the addresses of requests that are older. The requests stay.

    Args:
        engine: The catalogue.
        after_days: How old.

    Returns:
        How many addresses.
    """
    old = (
        sa.select(ClassifyRequest.request_id, ClassifyRequest.timestamp)
        .where(ClassifyRequest.ip_address.is_not(None), ClassifyRequest.timestamp < utc_in(-after_days * _DAY_S))
        .order_by(ClassifyRequest.timestamp)
        .limit(_CHUNK)
    )
    forgotten = 0
    since: dt.datetime | None = None  # so that none is read again whose address is gone

    def forget(connection: Connection) -> Sequence[Any]:
        rows = connection.execute(old if since is None else old.where(ClassifyRequest.timestamp >= since)).all()
        if rows:
            ids = [row.request_id for row in rows]
            which = ClassifyRequest.request_id.in_(ids)
            connection.execute(sa.update(ClassifyRequest).where(which).values(ip_address=None))
        return rows

    while rows := transact(engine, forget):
        forgotten += len(rows)
        since = rows[-1].timestamp
    return forgotten


def _known() -> sa.Select[*tuple[Any, ...]]:
    return sa.select(
        ClassifyRequest.request_id,
        ClassifyRequest.image_id,
        ClassifyRequest.user_id,
        ClassifyRequest.model_version,
        ClassifyRequest.timestamp,
        ClassifyRequest.metrics,
        ClassifyRequest.object_key,
        RequestClassification.class_name,
        RequestClassification.confidence_score,
    ).outerjoin(RequestClassification, RequestClassification.request_id == ClassifyRequest.request_id)


def _read(engine: Engine, query: sa.Select[*tuple[Any, ...]]) -> list[KnownRequest]:
    rows = transact(
        engine, lambda connection: connection.execute(query).mappings().all(), writes=False, retry_for_s=_LOOK_FOR_S
    )
    return [KnownRequest(**row) for row in rows]
