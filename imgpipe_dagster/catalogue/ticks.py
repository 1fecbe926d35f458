"""The trace that every sensor tick leaves, by which a watchdog outside Dagster sees that ticks have stopped."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import SensorTick
from imgpipe_dagster.catalogue.types import utc_now


def note_tick(engine: Engine, sensor_name: str, outcome: str) -> None:
    """Note that a sensor ran to its end just now."""

    def note(connection: Connection) -> None:
        values = {"ticked_at": utc_now(), "outcome": outcome}
        known = connection.execute(sa.update(SensorTick).where(SensorTick.sensor_name == sensor_name).values(**values))
        if known.rowcount == 0:
            connection.execute(sa.insert(SensorTick).values(sensor_name=sensor_name, **values))

    transact(engine, note)
