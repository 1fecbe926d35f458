"""What came of review: who decided how much and how fast, why pictures were rejected, whether people agree."""

from typing import Any

import pandas as pd
import streamlit as st

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.catalogue.qc_reports import review_figures
from imgpipe_dagster.catalogue.tables import QcStatus
from imgpipe_dagster.dashboard.charts import bar_chart
from imgpipe_dagster.dashboard.people import Person, require
from imgpipe_dagster.dashboard.services import engine
from imgpipe_dagster.dashboard.words import spoken

DAYS = {"today and yesterday": 2, "7 days": 7, "30 days": 30, "a year": 365}
FEWEST_BARS = 14
"""Days that the chart shows at least: the bar of a single day would fill it."""


def show(who: Person) -> None:
    """Show the page."""
    st.title("Review figures")
    if not require(Scope.READ, who):
        return
    chosen = st.segmented_control("Time", list(DAYS), default="30 days", required=True, key="figures_days")
    figures = _figures(DAYS[str(chosen)])
    _totals(figures)
    if not figures["decisions"]:
        st.info("Nobody has decided in this time. The page Review shows what waits.", icon=":material/inbox:")
        return
    days = pd.DataFrame(figures["days"]).set_index("day")[["approved", "reworked", "rejected"]]
    days.index = pd.to_datetime(days.index)
    st.header("Decisions by day")
    last = days.index.max()
    every = pd.date_range(min(days.index.min(), last - pd.Timedelta(days=FEWEST_BARS - 1)), last)
    told = f"Decisions on {len(days)} days: " + ", ".join(f"{count:,} {name}" for name, count in days.sum().items())
    bar_chart(
        days.reindex(every, fill_value=0),
        what=told,
        x_label="day (UTC)",
        y_label="decisions",
        time_unit="yearmonthdate",
    )
    left, right = st.columns(2)
    with left:
        st.header("Sent back, by reason")
        _counts("reason", {spoken(code): count for code, count in figures["rejection_reasons"].items()})
    with right:
        st.header("Pictures")
        # Pending are above all the images without a SKU, which nobody ever reviews.
        reviewed = {status: count for status, count in figures["images"].items() if status != QcStatus.PENDING}
        _counts("status", {spoken(status): count for status, count in reviewed.items()})
    st.header("Reviewers")
    rows = [{**row, "audit": agreement(row["audit"])} for row in figures["reviewers"]]
    names = {"reviewer_id": "reviewer", "mean_seconds": "seconds each", "audit": "audit agrees"}
    st.dataframe(pd.DataFrame(rows).rename(columns=names), hide_index=True)
    st.caption("Audit: pictures that the score would have let pass, drawn to be looked at; how many were approved.")


@st.cache_data(ttl=30, show_spinner=False)
def _figures(days: int) -> dict[str, Any]:
    return review_figures(engine(), days=days)


def _totals(figures: dict[str, Any]) -> None:
    decided, seconds, agreed = st.columns(3)
    decided.metric("Decisions", f"{figures['decisions']:,}")
    seconds.metric(
        "Seconds for each", "none yet" if figures["mean_seconds"] is None else f"{figures['mean_seconds']:.1f}"
    )
    agreed.metric("Audit agrees", agreement(figures["audit"]))


def agreement(audit: dict[str, Any]) -> str:
    """How often people approve what the score would have let pass."""
    return "none yet" if audit["agreement"] is None else f"{audit['agreement']:.0%} of {audit['decided']}"


def _counts(name: str, counts: dict[str, int]) -> None:
    if counts:
        st.dataframe(pd.DataFrame({name: list(counts), "pictures": list(counts.values())}), hide_index=True)
    else:
        st.write("None.")
