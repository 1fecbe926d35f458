"""Whether Dagster is alive, as a table of cases."""

import pytest

from imgpipe_dagster.alerts.vital_signs import VitalLimits, judge_outbox, judge_vital_signs

LIMITS = VitalLimits(heartbeat_s=100, tick_s=300, outbox_s=1800)
ALIVE = {"SENSOR": 10.0, "BACKFILL": 20.0}
TICKING = {"new_images_sensor": 5.0, "alerts_sensor": 10.0}


@pytest.mark.parametrize(
    ("heartbeats", "ticks", "turned_off", "wrong"),
    [
        (ALIVE, TICKING, set(), []),
        # Without Dagster there is nothing to watch, whatever rows an earlier time has left.
        ({}, {"new_images_sensor": 9e6}, set(), []),
        # A stopped daemon explains silent sensors: one mail, not two.
        ({"SENSOR": 101.0, "BACKFILL": 120.0}, {"new_images_sensor": 400.0}, set(), ["daemon_down"]),
        # One part may be late for longer than all of them may.
        ({"SENSOR": 10.0, "BACKFILL": 200.0}, TICKING, set(), []),
        ({"SENSOR": 10.0, "BACKFILL": 301.0}, TICKING, set(), ["daemon_down"]),
        # A dead code server stops every sensor while every daemon reports healthy.
        (ALIVE, {"new_images_sensor": 301.0, "alerts_sensor": 400.0}, set(), ["code_location_down"]),
        (ALIVE, {"new_images_sensor": 301.0, "alerts_sensor": 10.0}, set(), ["ticks_stopped"]),
        # Who turns a sensor off knows it.
        (ALIVE, {"new_images_sensor": 301.0, "alerts_sensor": 10.0}, {"new_images_sensor"}, []),
        (ALIVE, {"new_images_sensor": 301.0}, {"new_images_sensor"}, []),
        # Before the first tick.
        (ALIVE, {}, set(), []),
    ],
)
def test_each_case_has_its_verdict(heartbeats, ticks, turned_off, wrong):
    found = judge_vital_signs(heartbeats, ticks, turned_off, LIMITS)
    assert [condition.name for condition in found if condition.active] == wrong


@pytest.mark.parametrize(("waiting", "oldest_s", "stuck"), [(0, 0.0, False), (3, 1800.0, False), (3, 1801.0, True)])
def test_alerts_that_reach_nobody_are_noticed(waiting, oldest_s, stuck):
    assert judge_outbox(waiting, oldest_s, LIMITS).active is stuck
