"""The trace that every sensor tick leaves, by which a watchdog outside Dagster sees that ticks have stopped."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import SensorTick
from imgpipe_dagster.catalogue.types import seconds_apart, utc_now


def tick_ages(engine: Engine) -> dict[str, float]:
    """Seconds since the last tick of every sensor that ever ticked, by the database's clock.

    A tick that is still to come counts as so long ago: a clock that was set back must not hide that ticks have stopped.
    """
    query = sa.select(SensorTick.sensor_name, seconds_apart(SensorTick.ticked_at))
    rows = transact(engine, lambda connection: connection.execute(query).all(), writes=False, retry_for_s=5.0)
    return {name: float(age) for name, age in rows}


def note_tick(engine: Engine, sensor_name: str, outcome: str) -> None:
    """Note that a sensor ran to its end just now."""

    def note(connection: Connection) -> None:
        values = {"ticked_at": utc_now(), "outcome": outcome}
        known = connection.execute(sa.update(SensorTick).where(SensorTick.sensor_name == sensor_name).values(**values))
        if known.rowcount == 0:
            connection.execute(sa.insert(SensorTick).values(sensor_name=sensor_name, **values))

    transact(engine, note)
