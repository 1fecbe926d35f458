"""The freshness decision as a table of cases."""

import math

import pytest

from imgpipe_dagster.alerts.freshness import Freshness, judge_freshness

HOUR = 3600.0


@pytest.mark.parametrize(
    ("last", "waiting", "only_waiting", "expected"),
    [
        # A new installation: nothing to judge by, then images that wait without any answer.
        (None, None, False, Freshness.QUIET),
        (None, 10.0, False, Freshness.QUIET),
        (None, HOUR + 1, False, Freshness.STALE),
        (None, HOUR + 1, True, Freshness.STALE),
        # The rule of old: silence counts whether or not images wait, as it may mean a dead feed.
        (10.0, None, False, Freshness.FRESH),
        (HOUR, None, False, Freshness.FRESH),
        (HOUR + 1, None, False, Freshness.STALE),
        (HOUR + 1, 5.0, False, Freshness.STALE),
        # Narrowed to waiting images: a feed may be silent, and an image that has just come has not waited yet.
        (HOUR + 1, None, True, Freshness.QUIET),
        (HOUR + 1, 5.0, True, Freshness.QUIET),
        (HOUR + 1, HOUR + 1, True, Freshness.STALE),
        # While answers come, a long queue is another alert's matter.
        (10.0, 9 * HOUR, True, Freshness.FRESH),
        # Clocks that jump: a time in the future is young, one that cannot be read is old.
        (-500.0, None, False, Freshness.FRESH),
        (None, math.inf, False, Freshness.STALE),
    ],
)
def test_each_case_has_its_verdict(last, waiting, only_waiting, expected):
    assert judge_freshness(last, waiting, window_s=HOUR, only_waiting=only_waiting) is expected
