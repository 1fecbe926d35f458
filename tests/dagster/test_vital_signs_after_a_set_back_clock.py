"""What has stopped is found although its last sign of life is still to come: the clock was set back since."""

import time

import pytest
import sqlalchemy as sa
from dagster._daemon.types import DaemonHeartbeat

from imgpipe_dagster.catalogue.tables import SensorTick
from imgpipe_dagster.catalogue.ticks import note_tick, tick_ages
from imgpipe_dagster.catalogue.types import utc_in
from imgpipe_dagster.instance import dagster_instance
from imgpipe_dagster.watchdog import dagster_signs

DAY_S = 86400


def test_a_sensor_that_has_stopped(pipeline):
    note_tick(pipeline.engine, "alerts_sensor", "")
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(SensorTick).values(ticked_at=utc_in(DAY_S)))
    assert tick_ages(pipeline.engine)["alerts_sensor"] == pytest.approx(DAY_S, abs=60)


def test_a_daemon_that_has_stopped(pipeline):
    with dagster_instance(pipeline.settings) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() + DAY_S, "SENSOR", "1", []))
    beats, _ = dagster_signs(pipeline.settings)
    assert beats["SENSOR"] == pytest.approx(DAY_S, abs=60)
