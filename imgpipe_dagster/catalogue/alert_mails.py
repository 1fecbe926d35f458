"""Mails about alerts: forming them, leasing one for sending, noting what became of it. No SMTP, no text."""

import datetime as dt
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.alerts import AlertKind, muted_kinds
from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import Alert, AlertMail, AlertState, Severity
from imgpipe_dagster.catalogue.types import seconds_ago, utc_in, utc_now

SHOWN_ALERTS = 20
"""So many alerts of a mail are told in full; of the others it says how many there are."""

NO_WAIT_IS_LONGER_S = 3600.0
"""A time that lies further ahead was written before the clock was set back."""

NO_COOL_DOWN = frozenset({AlertKind.TEST.topic})


@dataclass(frozen=True)
class OutboxAlert:
    """One alert as a mail tells it."""

    id: int
    kind: str
    severity: str
    subject: str
    body: str
    details: Mapping[str, Any]
    run_id: str | None
    created_at: dt.datetime


@dataclass(frozen=True)
class LeasedMail:
    """A mail that is this process's to send until its lease ends.

    Attributes:
        id: Its row.
        token: The lease.
        message_id: The same at each attempt.
        attempts: This one included.
        accepted_s_ago: For how long somebody has had it; 0 if nobody has.
        recipients: What became of each address so far; an empty text is one who has the mail.
        counts: How many alerts of each kind it is about.
        first_at: When the first of them was written.
        last_at: When the last of them was written.
        alerts: The first of them, in full.
    """

    id: int
    token: str
    message_id: str
    attempts: int
    accepted_s_ago: float
    recipients: dict[str, str]
    counts: dict[str, int]
    first_at: dt.datetime
    last_at: dt.datetime
    alerts: list[OutboxAlert]


def form_mails(engine: Engine, *, cool_down_s: float) -> int:
    """Put the waiting alerts of each topic into one mail, unless the topic's last mail is too young or not sent yet.

    Alerts of muted kinds are set aside. Safe with several callers at once: they take turns on the waiting rows.

    Returns:
        The number of mails that were formed.
    """
    return transact(engine, lambda connection: _form(connection, cool_down_s))


def lease_mail(engine: Engine, *, lease_s: float) -> LeasedMail | None:
    """Take the next mail that is due: for ``lease_s`` seconds nobody else gets it. None if none is due."""
    token = str(uuid.uuid4())
    due = is_due(), sa.or_(AlertMail.lease_until.is_(None), _has_come(AlertMail.lease_until))

    def lease(connection: Connection) -> LeasedMail | None:
        mail_id = connection.scalar(sa.select(AlertMail.id).where(*due).order_by(AlertMail.next_attempt_at).limit(1))
        if mail_id is None:
            return None
        changed = connection.execute(
            sa.update(AlertMail)
            .where(AlertMail.id == mail_id, *due)
            .values(lease_token=token, lease_until=utc_in(lease_s), attempts=AlertMail.attempts + 1)
        ).rowcount
        return _read(connection, mail_id, token) if changed else None

    return transact(engine, lease)


def is_due() -> sa.ColumnElement[bool]:
    """Whether it is time for a mail's next attempt."""
    return sa.and_(AlertMail.closed_at.is_(None), _has_come(AlertMail.next_attempt_at))


def note_sent(
    engine: Engine, mail: LeasedMail, recipients: Mapping[str, str], *, error: str | None, retry_in_s: float | None
) -> bool:
    """Note an attempt whose server took the mail for at least one recipient, now or before.

    Args:
        engine: The catalogue.
        mail: The mail.
        accepted_s_ago: For how long somebody has had it; 0 if nobody has.
        recipients: What became of each address; an empty text is one who has the mail.
        error: What went wrong for some, for people.
        retry_in_s: When to try those who are left; None closes the mail.

    Returns:
        Whether the lease still was this process's.
    """

    def note(connection: Connection) -> bool:
        values = {"recipients": dict(recipients), "last_error": error, "lease_token": None, "lease_until": None}
        if retry_in_s is None:
            values["closed_at"] = utc_now()
        else:
            values["next_attempt_at"] = utc_in(retry_in_s)
        accepted = sa.func.coalesce(AlertMail.accepted_at, utc_now())
        if not connection.execute(_leased(mail).values(accepted_at=accepted, **values)).rowcount:
            return False
        connection.execute(
            sa.update(Alert)
            .where(Alert.mail_id == mail.id, Alert.state == AlertState.WAITING)
            .values(state=AlertState.SENT, sent_at=utc_now())
        )
        return True

    return transact(engine, note)


def note_unsent(
    engine: Engine, mail: LeasedMail, recipients: Mapping[str, str], *, error: str, retry_in_s: float
) -> bool:
    """Note an attempt after which nobody has the mail; it is tried again in ``retry_in_s`` seconds."""
    statement = _leased(mail).values(
        recipients=dict(recipients),
        last_error=error,
        next_attempt_at=utc_in(retry_in_s),
        lease_token=None,
        lease_until=None,
    )
    return transact(engine, lambda connection: connection.execute(statement).rowcount) == 1


def undelivered(connection: Connection) -> tuple[int, float]:
    """How many alerts wait for somebody to get them, and for how many seconds the oldest has waited."""
    row = connection.execute(
        sa.select(sa.func.count(), seconds_ago(sa.func.min(Alert.created_at))).where(Alert.state == AlertState.WAITING)
    ).one()
    return row[0], float(row[1] or 0.0)


def list_alerts(connection: Connection, *, limit: int, waiting_only: bool = False) -> list[dict[str, Any]]:
    """The newest alerts with what became of their mails, newest first."""
    query = (
        sa.select(
            Alert.id,
            Alert.kind,
            Alert.severity,
            Alert.state,
            Alert.subject,
            Alert.created_at,
            Alert.sent_at,
            AlertMail.attempts,
            AlertMail.last_error,
            AlertMail.recipients,
            AlertMail.message_id,
        )
        .outerjoin(AlertMail, AlertMail.id == Alert.mail_id)
        .order_by(Alert.id.desc())
        .limit(limit)
    )
    if waiting_only:
        query = query.where(Alert.state == AlertState.WAITING)
    return [dict(row) for row in connection.execute(query).mappings()]


def _form(connection: Connection, cool_down_s: float) -> int:
    unformed = Alert.state == AlertState.WAITING, Alert.mail_id.is_(None)
    # Whoever locks the first row forms; others wait here, and then find nothing left or a young mail.
    if connection.scalar(sa.select(Alert.id).where(*unformed).order_by(Alert.id).limit(1).with_for_update()) is None:
        return 0
    muted = muted_kinds(connection)
    if muted:
        connection.execute(
            sa.update(Alert).where(*unformed, Alert.kind.in_(muted)).values(state=AlertState.MUTED, mail_id=None)
        )
    topics: dict[str, list[tuple[str, str]]] = {}
    kinds = sa.select(Alert.kind, Alert.severity).where(*unformed).distinct()
    for kind, severity in connection.execute(kinds):
        topics.setdefault(_topic(kind, severity), []).append((kind, severity))
    return sum(_form_topic(connection, topic, members, cool_down_s) for topic, members in topics.items())


def _topic(kind: str, severity: str) -> str:
    """The end of something is told apart from its beginning: the cool-down must not hold it back."""
    topic = AlertKind(kind).topic if kind in list(AlertKind) else kind
    return f"{topic}:over" if severity == Severity.INFO else topic


def _form_topic(connection: Connection, topic: str, members: list[tuple[str, str]], cool_down_s: float) -> bool:
    newest = sa.select(sa.func.max(AlertMail.id)).where(AlertMail.topic == topic).scalar_subquery()
    last = connection.execute(
        sa.select(AlertMail.accepted_at, seconds_ago(AlertMail.accepted_at)).where(AlertMail.id == newest)
    ).first()
    if last is not None and topic not in NO_COOL_DOWN and (last[0] is None or 0 <= float(last[1]) < cool_down_s):
        return False
    wanted = [
        Alert.state == AlertState.WAITING,
        Alert.mail_id.is_(None),
        sa.or_(*(sa.and_(Alert.kind == kind, Alert.severity == severity) for kind, severity in members)),
    ]
    first, last_id, count, first_at = connection.execute(
        sa.select(sa.func.min(Alert.id), sa.func.max(Alert.id), sa.func.count(), sa.func.min(Alert.created_at)).where(
            *wanted
        )
    ).one()
    # The time keeps the ids of one installation apart from those of another.
    digest = hashlib.sha256(f"{topic}:{first}:{last_id}:{count}:{first_at}".encode()).hexdigest()[:32]
    inserted = connection.execute(sa.insert(AlertMail).values(topic=topic, message_id=f"<{digest}@imgpipe.alerts>"))
    (mail_id,) = inserted.inserted_primary_key or (None,)
    connection.execute(sa.update(Alert).where(*wanted, Alert.id <= last_id).values(mail_id=mail_id))
    return True


def _read(connection: Connection, mail_id: int, token: str) -> LeasedMail:
    message_id, attempts, recipients, accepted_s_ago = connection.execute(
        sa.select(
            AlertMail.message_id, AlertMail.attempts, AlertMail.recipients, seconds_ago(AlertMail.accepted_at)
        ).where(AlertMail.id == mail_id)
    ).one()
    mine = Alert.mail_id == mail_id
    counts = sa.select(Alert.kind, sa.func.count(), sa.func.min(Alert.created_at), sa.func.max(Alert.created_at))
    kinds = connection.execute(counts.where(mine).group_by(Alert.kind)).all()
    shown = connection.execute(sa.select(*Alert.__table__.c).where(mine).order_by(Alert.id).limit(SHOWN_ALERTS))
    return LeasedMail(
        id=mail_id,
        token=token,
        message_id=message_id,
        attempts=attempts,
        accepted_s_ago=float(accepted_s_ago or 0.0),
        recipients=dict(recipients or {}),
        counts={kind: count for kind, count, _, _ in kinds},
        first_at=min(row[2] for row in kinds),
        last_at=max(row[3] for row in kinds),
        alerts=[
            OutboxAlert(
                row.id, row.kind, row.severity, row.subject, row.body, row.details or {}, row.run_id, row.created_at
            )
            for row in shown
        ],
    )


def _has_come(time: Any) -> sa.ColumnElement[bool]:  # noqa: ANN401 - a column
    return sa.or_(time <= utc_now(), time > utc_in(NO_WAIT_IS_LONGER_S))


def _leased(mail: LeasedMail) -> sa.Update:
    return sa.update(AlertMail).where(AlertMail.id == mail.id, AlertMail.lease_token == mail.token)
