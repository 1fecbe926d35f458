"""Whether predictions are stale: the decision alone. Pure; ages come from the catalogue."""

from enum import Enum, auto


class Freshness(Enum):
    """What the ages of rows say."""

    FRESH = auto()
    STALE = auto()
    QUIET = auto()  # nothing to judge by: no prediction yet, or none is expected


def judge_freshness(
    last_prediction_s: float | None, waiting_s: float | None, *, window_s: float, only_waiting: bool
) -> Freshness:
    """Judge the newest prediction.

    Old predictions are stale whether or not images wait, because silence may mean a dead feed. Where there is no
    prediction at all, images that have waited for the window are what is stale.

    Args:
        last_prediction_s: Seconds since the newest first answer of any image, or None if there is none.
        waiting_s: Seconds that the oldest image has waited for its answer, or None if none waits.
        window_s: How old the newest answer may be.
        only_waiting: Old predictions count only while an image has waited for the window.
    """
    waits_long = waiting_s is not None and waiting_s > window_s
    if last_prediction_s is not None and last_prediction_s <= window_s:
        return Freshness.FRESH
    if waits_long or (last_prediction_s is not None and not only_waiting):
        return Freshness.STALE
    return Freshness.QUIET
