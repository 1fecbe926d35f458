"""How far each source has been read, as a JSON state that only the source understands. No reading of sources."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import SourceState
from imgpipe_dagster.catalogue.types import utc_now


def load_state(engine: Engine, source: str) -> tuple[dict[str, Any], int]:
    """The state of a source and its version; an empty state and 0 for a source that has none yet."""
    query = sa.select(SourceState.state, SourceState.version).where(SourceState.source == source)
    row = transact(engine, lambda connection: connection.execute(query).first(), writes=False)
    return (row[0], row[1]) if row else ({}, 0)


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
