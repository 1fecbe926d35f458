"""Looking after the pipeline from its rows: what lasts is raised, reminded of and cleared. No mail, no Dagster."""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.engine import Engine

from imgpipe_dagster.alerts.freshness import Freshness, judge_freshness
from imgpipe_dagster.catalogue.alerts import AlertKind, Condition, is_due, note_conditions, raised_conditions
from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.feeds import FeedAge, feed_ages
from imgpipe_dagster.catalogue.pulse import Pulse, describe_backlog, take_pulse
from imgpipe_dagster.catalogue.tables import FeedKind

FEED_CHECKS = {FeedKind.TEMPLE: "every_temple_is_fresh", FeedKind.SOURCE: "every_source_is_fresh"}
"""The asset checks on ``image_predictions`` that say whether each feed is fresh."""

FEEDS_SHOWN = 10


@dataclass(frozen=True)
class WatchLimits:
    """What is still well.

    Attributes:
        freshness_s: Age of the newest prediction.
        only_waiting: Old predictions count only while images wait.
        feed_s: Age of the newest prediction of each temple and each source.
        forget_feed_s: A feed that has been silent for longer is not expected any more.
        backlog_s: Wait of an image in the queue.
        disk_bytes: Free space of every folder in ``folders``.
        folders: Folders that must not fill up.
        remind_after_s: What lasts is told again after so long; 0 means never.
    """

    freshness_s: float = 3600.0
    only_waiting: bool = False
    feed_s: float = 86400.0
    forget_feed_s: float = 30 * 86400.0
    backlog_s: float = 7200.0
    disk_bytes: int = 2 * 2**30
    folders: tuple[Path, ...] = ()
    remind_after_s: float = 4 * 3600.0


def observe(engine: Engine, limits: WatchLimits) -> tuple[Pulse, list[str]]:
    """Look at the rows and the disks, and write an alert for what has changed.

    Safe beside other observers: each change is told once.

    Returns:
        What was seen, and the subjects of the alerts that were written.
    """
    pulse = take_pulse(engine)
    due = [c for c in judge(pulse, limits) if is_due(c, pulse.conditions, limits.remind_after_s)]
    if not due:
        return pulse, []
    facts = describe_backlog(engine)
    told = [replace(condition, details={**condition.details, **facts}) for condition in due]
    return pulse, note_conditions(engine, told, pulse.conditions, remind_after_s=limits.remind_after_s)


def observe_feeds(engine: Engine, limits: WatchLimits) -> tuple[list[Condition], list[str]]:
    """Look at each temple and each source by itself, and write an alert for what has changed, as `observe` does.

    Returns:
        The verdict on the temples and that on the sources, and the subjects of the alerts that were written.
    """
    ages = feed_ages(engine)
    found = [judge_feeds(ages, kind, limits) for kind in FeedKind]
    known = transact(engine, raised_conditions, writes=False)
    return found, note_conditions(engine, found, known, remind_after_s=limits.remind_after_s)


def judge(pulse: Pulse, limits: WatchLimits) -> list[Condition]:
    """What lasts and what does not."""
    return [judge_predictions(pulse, limits), judge_backlog(pulse, limits), judge_disks(limits)]


def judge_predictions(pulse: Pulse, limits: WatchLimits) -> Condition:
    """Whether predictions are stale, and how an alert says so."""
    verdict = judge_freshness(
        pulse.last_prediction_s, pulse.unanswered_s, window_s=limits.freshness_s, only_waiting=limits.only_waiting
    )
    last = pulse.last_prediction_s
    details: dict[str, str | int | float] = {
        "newest prediction": "none" if last is None else f"{human_duration(last)} ago",
        "allowed": human_duration(limits.freshness_s),
    }
    match verdict:
        case Freshness.STALE if last is None:
            subject = "No prediction yet, though images have waited for " + human_duration(pulse.unanswered_s or 0)
        case Freshness.STALE:
            subject = f"Predictions are stale: the newest is {human_duration(last or 0)} old"
        case Freshness.FRESH:
            subject = "Predictions are fresh again"
        case Freshness.QUIET:
            subject = "No image waits for its prediction any more"
    body = (
        "No image has got its first answer for too long. Either no new images come (look at their source), or they are "
        "not processed: look at `imgpipe status`, at `imgpipe doctor`, and at the runs in Dagster."
    )
    over = "New images get their answers."
    stale = verdict is Freshness.STALE
    return Condition("predictions_stale", AlertKind.PREDICTIONS_STALE, stale, subject, body if stale else over, details)


def judge_feeds(ages: list[FeedAge], kind: FeedKind, limits: WatchLimits) -> Condition:
    """Whether a temple (or a source) has got no prediction for too long, while others may."""
    expected = [age for age in ages if age.kind is kind and age.age_s <= limits.forget_feed_s]
    stale = [age for age in expected if age.age_s > limits.feed_s]
    shown = ", ".join(age.feed for age in stale[:FEEDS_SHOWN])
    more = f" and {len(stale) - FEEDS_SHOWN} more" if len(stale) > FEEDS_SHOWN else ""
    return Condition(
        f"check:image_predictions:{FEED_CHECKS[kind]}",
        AlertKind.CHECK_FAILED,
        bool(stale),
        f"{len(stale)} of {len(expected)} {kind}s are stale" if stale else f"Every {kind} is fresh again",
        f"No prediction for: {shown}{more}. Look at what sends the images of each." if stale else "All send images.",
        {
            "expected": len(expected),
            "stale": len(stale),
            "longest silence": human_duration(max((age.age_s for age in expected), default=0.0)),
            "allowed": human_duration(limits.feed_s),
        },
    )


def judge_backlog(pulse: Pulse, limits: WatchLimits) -> Condition:
    """Whether an image has waited too long in the queue."""
    waiting = pulse.waiting_s or 0.0
    old = waiting > limits.backlog_s
    return Condition(
        "backlog_old",
        AlertKind.BACKLOG_OLD,
        old,
        f"An image has waited for {human_duration(waiting)}" if old else "The backlog is short again",
        "Images come faster than they are processed, or nothing processes them: look at `imgpipe status`, at the "
        "daemon, and at IMGPIPE_MAX_CONCURRENT_BATCHES."
        if old
        else "No image waits for too long.",
        {"allowed": human_duration(limits.backlog_s)},
    )


def judge_disks(limits: WatchLimits) -> Condition:
    """Whether a disk is nearly full."""
    free = {str(folder): free_bytes(folder) for folder in limits.folders}
    low = {folder: left for folder, left in free.items() if left < limits.disk_bytes}
    return Condition(
        "disk_low",
        AlertKind.DISK_LOW,
        bool(low),
        f"Little disk is left at {', '.join(low)}" if low else "There is room on the disks again",
        "Make room. A full disk fails batches; they are kept, and `imgpipe retry` takes them up."
        if low
        else "Free space is above the limit.",
        {folder: f"{left / 2**30:.1f} GiB free" for folder, left in free.items()},
    )


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or would be made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def human_duration(seconds: float) -> str:
    """A duration for people, such as ``3 h 20 min``."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds / 86400:.0f} days"
