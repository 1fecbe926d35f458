"""The registry of temples' models: versions that are only ever added, the one that serves, and who trains just now."""

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import (
    TempleChampion,
    TempleImage,
    TempleLease,
    TempleModelOrigin,
    TempleModelVersion,
    TempleSplit,
)
from imgpipe_dagster.catalogue.temple_images import COMMON
from imgpipe_dagster.catalogue.types import insert_or_ignore, seconds_apart, utc_now

LEASE_LIMIT_S = 60.0
"""A lease whose holder has been silent for longer may be taken by another."""

LABELS_SEEN = "labels_seen"
"""Of ``metrics``: how many training pictures there were when a version was trained."""


class TempleModelError(RuntimeError):
    """What was asked of a temple's models cannot be done; the message says why and what to do."""


class NoModelError(TempleModelError):
    """The temple has no such model."""


class ModelExistsError(TempleModelError):
    """The temple has a model already, and nobody said to make another."""


class TempleBusyError(TempleModelError):
    """A model of the temple is being made just now."""


@dataclass(frozen=True)
class NewVersion:
    """A version to register; its files are in the store. The fields are the columns of the table."""

    temple_id: str
    version: str
    number: int
    origin: TempleModelOrigin
    data_fingerprint: str | None
    files: dict[str, dict[str, Any]]
    labels: list[str]
    input_height: int
    input_width: int
    train_images: int
    test_images: int
    trained_seconds: float
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Version(NewVersion):
    """A registered version."""

    verdict: str
    created_at: dt.datetime


@dataclass(frozen=True)
class Champion:
    """Which version of a temple serves."""

    temple_id: str
    version: str
    previous: str | None
    promoted_at: dt.datetime
    promoted_by: str
    why: str


@dataclass(frozen=True)
class TrainingState:
    """How many labels a temple has and how many of them its newest model has seen.

    Attributes:
        temple_id: The temple.
        labels: Training pictures, those of ``common`` included.
        seen: As many as there were when its newest trained model was made; 0 if there is none.
        busy: Somebody makes a model of it just now.
    """

    temple_id: str
    labels: int
    seen: int
    busy: bool


def training_states(engine: Engine) -> list[TrainingState]:
    """Every temple that has training pictures of its own, by id."""
    counts = (
        sa.select(TempleImage.temple_id, sa.func.count())
        .where(TempleImage.split == TempleSplit.TRAIN.value)
        .group_by(TempleImage.temple_id)
    )
    newest = (
        sa.select(TempleModelVersion.temple_id, sa.func.max(TempleModelVersion.number).label("number"))
        .where(TempleModelVersion.origin == TempleModelOrigin.TRAINED.value)
        .group_by(TempleModelVersion.temple_id)
        .subquery()
    )
    metrics = sa.select(TempleModelVersion.temple_id, TempleModelVersion.metrics).join(
        newest,
        sa.and_(newest.c.temple_id == TempleModelVersion.temple_id, newest.c.number == TempleModelVersion.number),
    )
    held = sa.select(TempleLease.temple_id).where(~_silent())

    def look(connection: Connection) -> list[TrainingState]:
        labels = {temple: count for temple, count in connection.execute(counts)}
        common = labels.pop(COMMON, 0)
        seen = {temple: found.get(LABELS_SEEN, 0) for temple, found in connection.execute(metrics)}
        busy = set(connection.scalars(held))
        return [
            TrainingState(temple, own + common, seen.get(temple, 0), temple in busy)
            for temple, own in sorted(labels.items())
        ]

    return transact(engine, look, writes=False)


def take_lease(engine: Engine, temple_id: str) -> str:
    """Become the one who makes a model of a temple; the owner's token, for :func:`renew_lease`.

    Raises:
        TempleBusyError: Somebody else is.
    """
    owner = str(uuid.uuid4())

    def take(connection: Connection) -> bool:
        connection.execute(insert_or_ignore(TempleLease), [{"temple_id": temple_id, "owner": owner}])
        connection.execute(
            sa.update(TempleLease)
            .where(TempleLease.temple_id == temple_id, _silent())
            .values(owner=owner, taken_at=utc_now(), heartbeat_at=utc_now())
        )
        return connection.scalar(sa.select(TempleLease.owner).where(TempleLease.temple_id == temple_id)) == owner

    if not transact(engine, take):
        raise TempleBusyError(
            f"A model of {temple_id} is being made just now: wait for its end. (If it was killed, wait a minute.)"
        )
    return owner


def is_abandoned(engine: Engine, temple_id: str) -> bool:
    """Whether somebody who was making a model of a temple is dead: others leave no lease behind."""
    left = sa.select(TempleLease.temple_id).where(TempleLease.temple_id == temple_id, _silent())
    return transact(engine, lambda connection: connection.scalar(left), writes=False) is not None


def renew_lease(engine: Engine, temple_id: str, owner: str) -> bool:
    """Say that the work goes on; False if the lease is another's by now."""
    renew = _lease(temple_id, owner, sa.update(TempleLease)).values(heartbeat_at=utc_now())
    return transact(engine, lambda connection: connection.execute(renew).rowcount) == 1


def end_lease(engine: Engine, temple_id: str, owner: str) -> None:
    """Let others make a model of the temple."""
    end = _lease(temple_id, owner, sa.delete(TempleLease))
    transact(engine, lambda connection: connection.execute(end))


def next_number(engine: Engine, temple_id: str) -> int:
    """The number of the temple's next version."""
    highest = sa.select(sa.func.max(TempleModelVersion.number)).where(TempleModelVersion.temple_id == temple_id)
    return (transact(engine, lambda connection: connection.scalar(highest), writes=False) or 0) + 1


def register(
    engine: Engine, new: NewVersion, *, owner: str, verdict: str, promote_over: str | None, promote: bool, by: str
) -> bool:
    """Add a version, and make it champion if it is to be, in one transaction.

    Args:
        engine: The catalogue.
        new: The version.
        owner: Whose lease this is; a version of somebody who has lost it is not registered.
        verdict: Why it becomes champion, or why not.
        promote_over: The champion that it was compared with; None if there was none.
        promote: Make it champion, if the champion still is that one.
        by: Who.

    Returns:
        Whether it is champion now.

    Raises:
        TempleBusyError: The lease is another's by now.
    """

    def add(connection: Connection) -> bool:
        held = _lease(new.temple_id, owner, sa.select(TempleLease.temple_id)).with_for_update()
        if connection.scalar(held) is None:
            raise TempleBusyError(f"Another has begun to make a model of {new.temple_id}; this one is not kept.")
        serving = _champion(connection, new.temple_id, lock=True)
        takes_over = promote and (serving.version if serving else None) == promote_over
        told = verdict
        if promote and not takes_over:
            told = f"{verdict} But the champion was changed meanwhile: promote it yourself if you want it."
        values = {name: getattr(new, name) for name in NewVersion.__dataclass_fields__}
        connection.execute(sa.insert(TempleModelVersion).values(**values, verdict=told))
        if takes_over:
            _crown(connection, new.temple_id, new.version, serving, by, told)
        return takes_over

    return transact(engine, add)


def promote(engine: Engine, temple_id: str, version: str, *, by: str, why: str) -> Champion:
    """Make a version champion, whatever it was compared with.

    Args:
        engine: The catalogue.
        temple_id: The temple.
        version: A version or its number.
        by: Who.
        why: Why.

    Raises:
        NoModelError: There is no such version.
        TempleModelError: It serves already.
    """

    def change(connection: Connection) -> Champion:
        chosen = _version(connection, temple_id, version)
        serving = _champion(connection, temple_id, lock=True)
        if serving and serving.version == chosen.version:
            raise TempleModelError(f"Version {chosen.version} of {temple_id} serves already.")
        return _crown(connection, temple_id, chosen.version, serving, by, why)

    return transact(engine, change)


def rollback(engine: Engine, temple_id: str, *, by: str) -> Champion:
    """Make the champion before the present one champion again.

    Raises:
        NoModelError: There is none.
    """

    def change(connection: Connection) -> Champion:
        serving = _champion(connection, temple_id, lock=True)
        if serving is None or serving.previous is None:
            raise NoModelError(f"{temple_id} has no earlier champion to go back to: imgpipe temple promote names one.")
        return _crown(connection, temple_id, serving.previous, serving, by, f"Rolled back from {serving.version}.")

    return transact(engine, change)


def champion(engine: Engine, temple_id: str) -> Champion | None:
    """Which version of a temple serves, or None."""
    return transact(engine, lambda connection: _champion(connection, temple_id), writes=False)


def champions(engine: Engine) -> dict[str, Champion]:
    """Which version serves, by temple."""
    query = sa.select(*_CHAMPION).order_by(TempleChampion.temple_id)
    rows = transact(engine, lambda connection: connection.execute(query).all(), writes=False)
    return {row[0]: Champion(*row) for row in rows}


def get_version(engine: Engine, temple_id: str, version: str) -> Version:
    """A version by its name or number.

    Raises:
        NoModelError: There is no such version.
    """
    return transact(engine, lambda connection: _version(connection, temple_id, version), writes=False)


def versions(engine: Engine, temple_id: str) -> list[Version]:
    """Every version of a temple, oldest first."""
    return transact(
        engine, lambda connection: _versions(connection, TempleModelVersion.temple_id == temple_id), writes=False
    )


_CHAMPION = (
    TempleChampion.temple_id,
    TempleChampion.version,
    TempleChampion.previous,
    TempleChampion.promoted_at,
    TempleChampion.promoted_by,
    TempleChampion.why,
)


def _silent() -> sa.ColumnElement[bool]:
    return seconds_apart(TempleLease.heartbeat_at) > LEASE_LIMIT_S


def _lease(temple_id: str, owner: str, statement: Any) -> Any:  # noqa: ANN401 - a SELECT, an UPDATE or a DELETE
    return statement.where(TempleLease.temple_id == temple_id, TempleLease.owner == owner)


def _champion(connection: Connection, temple_id: str, *, lock: bool = False) -> Champion | None:
    query = sa.select(*_CHAMPION).where(TempleChampion.temple_id == temple_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return Champion(*row) if row else None


def _crown(
    connection: Connection, temple_id: str, version: str, serving: Champion | None, by: str, why: str
) -> Champion:
    values = {"version": version, "promoted_at": utc_now(), "promoted_by": by, "why": why}
    if serving is None:
        connection.execute(sa.insert(TempleChampion).values(temple_id=temple_id, previous=None, **values))
    else:
        # After a rollback there is no way back but by name: two rollbacks must not swing to and fro.
        previous = None if serving.previous == version else serving.version
        connection.execute(
            sa.update(TempleChampion).where(TempleChampion.temple_id == temple_id).values(previous=previous, **values)
        )
    made = _champion(connection, temple_id)
    if made is None:
        raise NoModelError(f"{temple_id} has no champion.")
    return made


def _version(connection: Connection, temple_id: str, version: str) -> Version:
    which = TempleModelVersion.version == version
    if version.isascii() and version.isdigit() and len(version) < 10:
        which = TempleModelVersion.number == int(version)
    found = _versions(connection, sa.and_(TempleModelVersion.temple_id == temple_id, which))
    if not found:
        raise NoModelError(f"{temple_id} has no model version {version!r}: imgpipe temple list shows those it has.")
    return found[0]


def _versions(connection: Connection, which: sa.ColumnElement[bool]) -> list[Version]:
    fields = list(Version.__dataclass_fields__)
    columns = [getattr(TempleModelVersion, field) for field in fields]
    rows = connection.execute(sa.select(*columns).where(which).order_by(TempleModelVersion.number)).mappings()
    return [Version(**{**row, "origin": TempleModelOrigin(row["origin"])}) for row in rows]
