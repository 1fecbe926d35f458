"""How far each source has been read, as a JSON state that only the source understands. No reading of sources."""

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import SourceState
from imgpipe_dagster.catalogue.types import utc_now


def load_state(engine: Engine, source: str) -> tuple[dict[str, Any], int, dt.datetime]:
    """The state of a source, its version, and the catalogue's clock before it was read (UTC).

    A source that has none yet has an empty state and version 0.
    """
    # From one row, whether or not there is a state: a tick is to cost few queries.
    clock = sa.select(utc_now().label("now")).subquery()
    own = SourceState.source == source
    query = sa.select(SourceState.state, SourceState.version, clock.c.now).select_from(
        clock.outerjoin(SourceState, own)
    )
    state, version, now = transact(engine, lambda connection: connection.execute(query).one(), writes=False)
    return state or {}, version or 0, now


def save_state(engine: Engine, source: str, state: dict[str, Any], version: int) -> bool:
    """Store the state that follows the one of that version.

    Returns:
        False if somebody else has stored one meanwhile; nothing is changed then.
    """

    def save(connection: Connection) -> bool:
        if version == 0:
            connection.execute(sa.insert(SourceState).values(source=source, state=state, version=1))
            return True
        follows = SourceState.source == source, SourceState.version == version
        values = {"state": state, "version": version + 1, "updated_at": utc_now()}
        return connection.execute(sa.update(SourceState).where(*follows).values(values)).rowcount == 1

    try:
        return transact(engine, save)
    except IntegrityError:  # the other was first with the first state
        return False
