"""API keys and the users behind them: making, finding, revoking. What a key allows is decided by the API."""

import datetime as dt
import hashlib
import logging
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from imgpipe_dagster.catalogue.engine import describe_error, transact
from imgpipe_dagster.catalogue.tables import ApiKey, User
from imgpipe_dagster.catalogue.types import insert_or_ignore, seconds_ago, utc_now

log = logging.getLogger(__name__)

KEY_PREFIX = "imgpipe_"
"""What every key begins with, so that people and scanners recognise one."""

_NOTED_EVERY_S = 60.0
_LOOK_FOR_S = 5.0  # a request is refused rather than kept waiting while the database is away


@dataclass(frozen=True)
class KnownKey:
    """A key as the catalogue knows it: everything but the key."""

    id: int
    name: str
    scopes: tuple[str, ...]
    user_id: str | None
    created_at: dt.datetime
    expires_at: dt.datetime | None
    last_used_at: dt.datetime | None
    revoked_at: dt.datetime | None
    idle_s: float | None
    is_active: bool


class KeyNameTakenError(ValueError):
    """A key of that name exists, perhaps a revoked one: names are not used twice."""


def create_key(
    engine: Engine,
    name: str,
    scopes: Sequence[str],
    *,
    email: str | None = None,
    valid_for: dt.timedelta | None = None,
) -> str:
    """Make a key.

    Args:
        engine: The catalogue.
        name: For people, unique for ever.
        scopes: What it allows.
        email: Of the user that its requests are logged under.
        valid_for: After that it is refused; default: until it is revoked.

    Returns:
        The key, 256 random bits: only its SHA-256 is stored.

    Raises:
        KeyNameTakenError: There is a key of that name.
    """
    key = KEY_PREFIX + secrets.token_urlsafe(32)

    def insert(connection: Connection) -> None:
        if connection.scalar(sa.select(ApiKey.id).where(ApiKey.name == name)):
            raise KeyNameTakenError(f"There is a key {name!r} already (perhaps a revoked one): choose another name.")
        now = connection.scalars(sa.select(utc_now())).one()
        connection.execute(
            sa.insert(ApiKey).values(
                name=name,
                key_sha256=digest(key),
                scopes=list(scopes),
                user_id=_user_id(connection, email) if email else None,
                expires_at=now + valid_for if valid_for else None,
            )
        )

    transact(engine, insert)
    return key


def list_keys(engine: Engine) -> list[KnownKey]:
    """Every key there has been, oldest first."""
    return transact(engine, lambda connection: _keys(connection, sa.true()), writes=False)


def find_key(engine: Engine, key: str) -> KnownKey | None:
    """The active key of that text, or None. Notes now and then that it is in use."""
    mine = ApiKey.key_sha256 == digest(key)
    found = transact(engine, lambda connection: _keys(connection, mine), writes=False, retry_for_s=_LOOK_FOR_S)
    if not found or not found[0].is_active:
        return None
    if found[0].idle_s is None or found[0].idle_s > _NOTED_EVERY_S:
        use = sa.update(ApiKey).where(ApiKey.id == found[0].id).values(last_used_at=utc_now())
        try:
            transact(engine, lambda connection: connection.execute(use), retry_for_s=_LOOK_FOR_S)
        except DBAPIError as error:  # who may only read goes on reading where nothing can be written
            log.warning("The use of the key %s cannot be noted: %s", found[0].name, describe_error(error))
    return found[0]


def any_key_is_active(engine: Engine) -> bool:
    """Whether there is a key that would be accepted."""
    return transact(engine, lambda connection: any(key.is_active for key in _keys(connection, sa.true())), writes=False)


def revoke_key(engine: Engine, name: str) -> bool:
    """Refuse a key from now on; False if there is no active key of that name."""
    revoke = sa.update(ApiKey).where(ApiKey.name == name, ApiKey.revoked_at.is_(None)).values(revoked_at=utc_now())
    return transact(engine, lambda connection: connection.execute(revoke).rowcount) == 1


def user_id_of(engine: Engine, email: str) -> str:
    """The user of that name, made when first seen."""
    return transact(engine, lambda connection: _user_id(connection, email), retry_for_s=_LOOK_FOR_S)


def digest(text: str) -> str:
    """SHA-256 in hexadecimal. Keys are random enough for a plain hash."""
    return hashlib.sha256(text.encode()).hexdigest()


def _user_id(connection: Connection, email: str) -> str:
    find = sa.select(User.user_id).where(User.email == email)
    known = connection.scalar(find)
    if known is None:
        user = {"user_id": str(uuid.uuid4()), "username": email, "email": email}
        connection.execute(insert_or_ignore(User), [user])  # somebody else may be faster
        known = connection.scalars(find).one()
    return known


def _keys(connection: Connection, which: sa.ColumnElement[bool]) -> list[KnownKey]:
    active = sa.and_(
        ApiKey.revoked_at.is_(None), sa.or_(ApiKey.expires_at.is_(None), seconds_ago(ApiKey.expires_at) < 0)
    )
    rows = connection.execute(
        sa.select(
            ApiKey.id,
            ApiKey.name,
            ApiKey.scopes,
            ApiKey.user_id,
            ApiKey.created_at,
            ApiKey.expires_at,
            ApiKey.last_used_at,
            ApiKey.revoked_at,
            seconds_ago(ApiKey.last_used_at),
            sa.case((active, 1), else_=0),
        )
        .where(which)
        .order_by(ApiKey.id)
    )
    return [
        KnownKey(id_, name, tuple(scopes), user_id, created, expires, used, revoked, idle_s, bool(is_active))
        for id_, name, scopes, user_id, created, expires, used, revoked, idle_s, is_active in rows
    ]
