"""The page that opens first: whether answers are fresh, what came out lately, which batches and alerts there are."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from imgpipe_dagster.alerts.freshness import Freshness, judge_freshness
from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.catalogue.batches import waiting_images
from imgpipe_dagster.catalogue.feeds import feed_ages
from imgpipe_dagster.catalogue.overview import (
    COUNTED_AT_MOST,
    AnswerCounts,
    Interval,
    count_answers,
    newest_alerts,
    newest_batches,
)
from imgpipe_dagster.catalogue.pulse import Pulse, take_pulse
from imgpipe_dagster.catalogue.tables import FeedKind
from imgpipe_dagster.dashboard.charts import bar_chart
from imgpipe_dagster.dashboard.links import batch_url, run_url
from imgpipe_dagster.dashboard.people import Person, require
from imgpipe_dagster.dashboard.services import engine, settings
from imgpipe_dagster.dashboard.words import age, plain, spoken, utc
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.settings import Settings

RANGES: dict[str, tuple[dt.timedelta, Interval, str]] = {
    "1 hour": (dt.timedelta(hours=1), Interval.MINUTE, "min"),
    "24 hours": (dt.timedelta(days=1), Interval.HOUR, "h"),
    "7 days": (dt.timedelta(days=7), Interval.HOUR, "h"),
    "30 days": (dt.timedelta(days=30), Interval.DAY, "D"),
}
_TIME_UNITS = {
    Interval.MINUTE: "yearmonthdatehoursminutes",
    Interval.HOUR: "yearmonthdatehours",
    Interval.DAY: "yearmonthdate",
}
EVERY_SOURCE = "every source"
WAITING_AT_MOST = 10_000
_PREDICTED, _REJECTED = "predicted", "rejected"


def show(who: Person) -> None:
    """Show the page."""
    st.title("Overview")
    if not require(Scope.READ, who):
        return
    _now(settings())
    left, right = st.columns(2)
    chosen = left.segmented_control("Time", list(RANGES), default="24 hours", required=True, key="overview_range")
    source = right.selectbox("Source", [EVERY_SOURCE, *_sources()], key="overview_source")
    length, interval, unit = RANGES[str(chosen)]
    counts = _counts(length.total_seconds(), interval, None if source == EVERY_SOURCE else str(source))
    if not counts.answers:
        st.info(
            f"No image had its first answer in the last {chosen}. Bring images in with `imgpipe import csv FILE`, and "
            "let Dagster's sensor or `imgpipe run --once` process them; or choose a longer time.",
            icon=":material/inbox:",
        )
    else:
        _charts(counts, length, interval, unit)
    _batches(settings())
    _alerts(settings())


def _now(found: Settings) -> None:
    pulse = take_pulse(engine())
    waiting = waiting_images(engine(), at_most=WAITING_AT_MOST)
    fresh, waits, oldest = st.columns(3)
    colour, verdict = freshness(pulse, found)
    fresh.metric("Since the last prediction", age(pulse.last_prediction_s))
    fresh.badge(verdict, color=colour)
    waits.metric("Images that wait", f"{waiting:,}" + ("+" if waiting == WAITING_AT_MOST else ""))
    oldest.metric(
        "Longest without an answer", age(pulse.unanswered_s) if pulse.unanswered_s is not None else "all have one"
    )


def freshness(pulse: Pulse, found: Settings) -> tuple[Any, str]:
    """The colour and the words for the age of the newest answer, by the same policy as the alerts and Dagster's UI."""
    limit_s, warn_s = found.freshness_minutes * 60, found.effective_freshness_warn_minutes * 60
    judged = judge_freshness(
        pulse.last_prediction_s, pulse.unanswered_s, window_s=limit_s, only_waiting=found.freshness_only_waiting
    )
    match judged:
        case Freshness.STALE:
            return "red", f"stale: older than {age(limit_s)}"
        case Freshness.QUIET:
            return "gray", "nothing to expect yet"
        case Freshness.FRESH if pulse.last_prediction_s is not None and pulse.last_prediction_s > warn_s:
            return "orange", f"soon stale: older than {age(warn_s)}"
        case Freshness.FRESH:
            return "green", "fresh"


@st.cache_data(ttl=30, show_spinner=False)
def _counts(seconds: float, interval: Interval, source: str | None) -> AnswerCounts:
    return count_answers(engine(), seconds=seconds, interval=interval, source=source)


@st.cache_data(ttl=30, show_spinner=False)
def _sources() -> list[str]:
    return sorted(feed.feed for feed in feed_ages(engine()) if feed.kind is FeedKind.SOURCE)


def bars(counts: AnswerCounts, length: dt.timedelta, unit: str, now: dt.datetime) -> pd.DataFrame:
    """What the chart shows: images by interval, also of intervals without any.

    Args:
        counts: The answers.
        length: How far back the chart goes.
        unit: Pandas' name of the interval.
        now: The time, in UTC without a zone.
    """
    every = pd.date_range(now - length, now, freq=unit, inclusive="both").floor(unit)
    frame = pd.DataFrame({_PREDICTED: counts.predicted, _REJECTED: counts.rejected})
    return frame.reindex(every.union(pd.DatetimeIndex(frame.index))).fillna(0).sort_index()


def _charts(counts: AnswerCounts, length: dt.timedelta, interval: Interval, unit: str) -> None:
    if counts.is_partial:
        st.caption(f"The newest {COUNTED_AT_MOST:,} answers of this time are counted.")
    st.header(f"Images per {interval.name.lower()}")
    frame = bars(counts, length, unit, dt.datetime.now(dt.UTC).replace(tzinfo=None))
    told = f"{counts.answers:,} images had their first answer, {sum(counts.rejected.values()):,} were rejected."
    bar_chart(frame, what=told, x_label="UTC", y_label="images", time_unit=_TIME_UNITS[interval])
    st.caption(told)
    left, right = st.columns([2, 1])  # what to do is a sentence
    with left:
        st.header("Rejected, by reason")
        if counts.by_reason:
            advice = [Reason(code).advice if code in list(Reason) else "" for code in counts.by_reason]
            said = [plain(spoken(code)) for code in counts.by_reason]
            rows = zip(said, counts.by_reason.values(), advice, strict=True)
            # A table of the page's own: its sentences are wrapped, not cut.
            st.table(pd.DataFrame(rows, columns=["reason", "images", "what to do"]).set_index("reason"))
        else:
            st.write("No image was rejected.")
    with right:
        st.header("Predictions, by class")
        _table(
            {
                "most certain object": [name or "nothing found" for name in counts.by_class],
                "images": list(counts.by_class.values()),
            }
        )


def _batches(found: Settings) -> None:
    st.header("Batches")
    rows = newest_batches(engine())
    if not rows:
        st.write("No batch has been claimed yet: Dagster's sensor or `imgpipe run --once` does that.")
        return
    _table(
        {
            "batch": [row["batch_key"] for row in rows],
            "state": [row["state"] for row in rows],
            "images": [row["image_count"] for row in rows],
            "attempt": [row["attempt"] for row in rows],
            "claimed": [utc(row["created_at"]) for row in rows],
            "why": [row["reason"] or "" for row in rows],
            "in Dagster": [batch_url(found.dagster_url, row["batch_key"]) for row in rows],
        },
        link="in Dagster",
    )
    if found.dagster_url is None:
        st.caption("IMGPIPE_DAGSTER_URL makes links to the runs in Dagster.")


def _alerts(found: Settings) -> None:
    st.header("Alerts")
    rows = newest_alerts(engine())
    if not rows:
        st.write("There has been no alert.")
        return
    _table(
        {
            "when": [utc(row["created_at"]) for row in rows],
            "severity": [row["severity"] for row in rows],
            "what": [row["subject"] for row in rows],
            "mail": [row["state"] for row in rows],
            "in Dagster": [run_url(found.dagster_url, row["run_id"]) for row in rows],
        },
        link="in Dagster",
    )
    with st.expander("The latest alert in full"):
        st.text(rows[0]["body"])
        st.caption(plain(rows[0]["kind"]))


def _table(columns: Mapping[str, list[Any]], link: str | None = None) -> None:
    shown = {name: values for name, values in columns.items() if name != link or any(values)}
    config = {link: st.column_config.LinkColumn(display_text="open")} if link else None
    st.dataframe(pd.DataFrame(shown), hide_index=True, column_config=config)
