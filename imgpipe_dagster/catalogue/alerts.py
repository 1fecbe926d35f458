"""The outbox of alerts: written in the transaction of what they tell about; what lasts; what is muted. No mail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import Alert, AlertCondition, AlertMute, Option, Severity
from imgpipe_dagster.catalogue.types import seconds_ago, seconds_apart, utc_in, utc_now
from imgpipe_dagster.streams import chunks

RECIPIENTS_GROUP = "error_alert"
RECIPIENTS_KEY = "email"

_CHUNK = 100  # alerts in one transaction


class AlertKind(StrEnum):
    """What an alert is about. The closed list; ``docs/operations.md`` says what each means and what to do."""

    PREDICTIONS_STALE = "predictions_stale"
    BACKLOG_OLD = "backlog_old"
    DISK_LOW = "disk_low"
    DAEMON_DOWN = "daemon_down"
    CODE_LOCATION_DOWN = "code_location_down"
    TICKS_STOPPED = "ticks_stopped"
    OUTBOX_STUCK = "outbox_stuck"
    RUN_FAILED = "run_failed"
    BATCH_FAILED = "batch_failed"
    ENHANCEMENT_FAILED = "enhancement_failed"
    CHECK_FAILED = "check_failed"
    DEAD_LETTER = "dead_letter"
    SOURCE_REJECTED = "source_rejected"
    WRITE_BACK_REFUSED = "write_back_refused"
    TEST = "test"

    @property
    def topic(self) -> str:
        """Kinds of one topic share mails and their cool-down: one broken run fails in several ways."""
        return "failures" if self in _FAILURES else self.value


_FAILURES = frozenset(
    {
        AlertKind.RUN_FAILED,
        AlertKind.BATCH_FAILED,
        AlertKind.ENHANCEMENT_FAILED,
        AlertKind.CHECK_FAILED,
        AlertKind.DEAD_LETTER,
        AlertKind.SOURCE_REJECTED,
        AlertKind.WRITE_BACK_REFUSED,
    }
)


@dataclass(frozen=True)
class NewAlert:
    """An alert to be written; see `write_alert` for the fields."""

    kind: AlertKind
    subject: str
    body: str
    dedupe_key: str | None
    severity: Severity = Severity.ERROR
    details: Mapping[str, str | int | float] | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class Condition:
    """Something that lasts, as a check has just found it.

    Attributes:
        name: What lasts: one name, one row, so that two observers never raise it twice.
        kind: The kind of its alerts.
        active: Whether it holds now.
        subject: One line for people: what holds, or that it is over.
        body: What it means and what to do.
        details: Facts, by label.
    """

    name: str
    kind: AlertKind
    active: bool
    subject: str
    body: str
    details: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Raised:
    """A row of ``alert_conditions``."""

    episode: int = 0
    raised: bool = False
    reminders: int = 0
    noted_s_ago: float = 0.0


def write_alert(
    connection: Connection,
    *,
    kind: AlertKind | str,
    subject: str,
    body: str,
    dedupe_key: str | None = None,
    severity: Severity = Severity.ERROR,
    details: Mapping[str, str | int | float] | None = None,
    run_id: str | None = None,
) -> bool:
    """Put an alert in the outbox.

    Args:
        connection: The transaction that the alert belongs to.
        kind: What happened.
        subject: One line for people.
        body: What happened and what to do.
        dedupe_key: An alert with a key that was used before is not written again.
        severity: How much it matters.
        details: Facts for people, by label.
        run_id: The Dagster run, for a link to it.

    Returns:
        Whether a row was written.

    Raises:
        ValueError: if there is no such kind.
    """
    alert = NewAlert(AlertKind(kind), subject, body, dedupe_key, severity, details, run_id)
    if dedupe_key is not None and connection.scalar(sa.select(Alert.id).where(Alert.dedupe_key == dedupe_key)):
        return False
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(Alert).values(_row(alert)))
    except IntegrityError:
        if dedupe_key is None:
            raise
        return False  # another writer was faster by a moment
    return True


def write_alerts(engine: Engine, alerts: Sequence[NewAlert]) -> int:
    """Put many alerts with keys in the outbox, those that are there already left out; how many were new."""
    written = 0
    for chunk in chunks(alerts, _CHUNK):

        def write(connection: Connection, chunk: Sequence[NewAlert] = chunk) -> int:
            keys = [alert.dedupe_key for alert in chunk]
            known = set(connection.scalars(sa.select(Alert.dedupe_key).where(Alert.dedupe_key.in_(keys))))
            new = {alert.dedupe_key: alert for alert in chunk if alert.dedupe_key not in known}
            if not new:
                return 0
            try:
                with connection.begin_nested():
                    connection.execute(sa.insert(Alert), [_row(alert) for alert in new.values()])
            except IntegrityError:  # another writer has just written one of them
                return sum(write_alert(connection, **vars(alert)) for alert in new.values())
            return len(new)

        written += transact(engine, write)
    return written


def _row(alert: NewAlert) -> dict[str, Any]:
    return {
        **vars(alert),
        "subject": " ".join(alert.subject.split())[:255],
        "details": dict(alert.details) if alert.details else None,
    }


def raised_conditions(connection: Connection) -> dict[str, Raised]:
    """Every condition that was ever raised, by name."""
    rows = connection.execute(
        sa.select(
            AlertCondition.name,
            AlertCondition.episode,
            AlertCondition.raised_at.is_not(None),
            AlertCondition.reminders,
            seconds_apart(AlertCondition.noted_at),
        )
    )
    return {
        name: Raised(episode, bool(raised), reminders, float(age)) for name, episode, raised, reminders, age in rows
    }


def note_conditions(
    engine: Engine, found: list[Condition], known: Mapping[str, Raised], *, remind_after_s: float
) -> list[str]:
    """Raise, remind of and clear conditions, each exactly once however many observers there are.

    Args:
        engine: The catalogue.
        found: What holds now and what does not.
        known: What ``raised_conditions`` gave; where nothing has changed, nothing is asked of the database.
        remind_after_s: An active condition is told again after so long; 0 means never.

    Returns:
        The subjects of the alerts that were written.
    """
    written: list[str] = []
    for condition in found:
        if is_due(condition, known, remind_after_s):
            seen = known.get(condition.name, Raised())
            subject = transact(engine, lambda connection, c=condition, seen=seen: _change(connection, c, seen))
            written += [subject] if subject else []
    return written


def is_due(condition: Condition, known: Mapping[str, Raised], remind_after_s: float) -> bool:
    """Whether there is something to tell about a condition: it began, it ended, or it has lasted for long."""
    seen = known.get(condition.name, Raised())
    if condition.active != seen.raised:
        return True
    return seen.raised and 0 < remind_after_s <= seen.noted_s_ago


def _change(connection: Connection, condition: Condition, seen: Raised) -> str | None:
    """Make one change to a condition, if it still is as it was seen, and write its alert: the alert's subject."""
    episode, subject, severity = seen.episode, condition.subject, Severity.ERROR
    changes: dict[str, Any]
    if condition.active and not seen.raised:
        episode += 1
        suffix, changes = "raised", {"raised_at": utc_now(), "reminders": 0}
    elif condition.active:
        suffix, changes = f"reminder-{seen.reminders + 1}", {"reminders": seen.reminders + 1}
        subject = f"Still: {subject}"
    else:
        suffix, severity, changes = "recovered", Severity.INFO, {"raised_at": None}
    if seen.episode == 0:
        try:
            with connection.begin_nested():
                row = {"name": condition.name, "kind": condition.kind, "episode": 0}
                connection.execute(sa.insert(AlertCondition).values(row))
        except IntegrityError:
            return None  # another observer has just raised it
    changed = connection.execute(
        sa.update(AlertCondition)
        .where(
            AlertCondition.name == condition.name,
            AlertCondition.episode == seen.episode,
            AlertCondition.reminders == seen.reminders,
            AlertCondition.raised_at.is_not(None) if seen.raised else AlertCondition.raised_at.is_(None),
        )
        .values(episode=episode, noted_at=utc_now(), **changes)
    ).rowcount
    if not changed:
        return None
    write_alert(
        connection,
        kind=condition.kind,
        severity=severity,
        subject=subject,
        body=condition.body,
        details=condition.details,
        dedupe_key=f"{condition.name}:{episode}:{suffix}",
    )
    return subject


def mute(engine: Engine, kind: AlertKind, seconds: float) -> None:
    """Send no mail about a kind for so many seconds; 0 ends it. Its alerts stay in the outbox, as muted."""

    def change(connection: Connection) -> None:
        connection.execute(sa.delete(AlertMute).where(AlertMute.kind == kind))
        if seconds > 0:
            connection.execute(sa.insert(AlertMute).values(kind=kind, muted_until=utc_in(seconds)))

    transact(engine, change)


def muted_kinds(connection: Connection) -> dict[str, float]:
    """The kinds that are muted now, with the seconds that are left."""
    rows = connection.execute(
        sa.select(AlertMute.kind, -seconds_ago(AlertMute.muted_until)).where(AlertMute.muted_until > utc_now())
    )
    return {kind: float(left) for kind, left in rows}


def address_options(connection: Connection) -> list[tuple[str, str]]:
    """What people wrote into ``options`` about recipients and sender: value and meta of each row, in order."""
    rows = connection.execute(
        sa.select(Option.option_value, Option.option_meta)
        .where(Option.option_group == RECIPIENTS_GROUP, Option.option_key == RECIPIENTS_KEY)
        .order_by(Option.id)
    )
    return [(value or "", meta or "") for value, meta in rows]
