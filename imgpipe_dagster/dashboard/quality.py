"""Quality before and after enhancement, what was done and why, and what a profile's rules say: parts of pages."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from imgpipe_dagster.catalogue.browse import ImageDetails
from imgpipe_dagster.catalogue.tables import QcStatus
from imgpipe_dagster.dashboard.words import gain, plain, spoken


def show_quality(found: ImageDetails) -> None:
    """Show the scores of an image, or say why it has none."""
    if not found.quality and found.enhanced is not None:
        st.write("Its scores are not known yet: its batch is being enhanced.")
        return
    if not found.quality:
        st.write(f"It was not enhanced: {why_not_enhanced(found.image)}")
        return
    show_scores(found.quality)
    if found.enhanced is not None:
        waits = found.image["qc_status"] == QcStatus.NEEDS_REVIEW
        show_work(found.enhanced, found.verdict, waits=waits)


def why_not_enhanced(image: Mapping[str, Any]) -> str:
    """Why an image, a row of ``product_images``, was not enhanced."""
    if image["sku_id"] is None:
        return "only images that have a SKU are, after their answer."
    if image["reason"]:
        return f"it was rejected ({plain(spoken(image['reason']))})."
    return "it waits to be enhanced again." if image["rework_count"] else "it waits for its answer and for enhancement."


def show_scores(quality: Mapping[str, Mapping[str, Any]]) -> None:
    """Scores of 0 to 100 and their components of 0 to 1, before and after."""
    shown = {phase: metric["score"] for phase, metric in quality.items()}
    before, after = shown.get("before"), shown.get("after")
    left, right = st.columns(2)
    if before is not None:
        left.metric("Score before", round(before))
    if after is not None:
        right.metric("Score after", round(after), gain(before, after))
    phases = [phase for phase in ("before", "after") if phase in quality]
    frame = pd.DataFrame({phase: pd.Series(quality[phase]["components"] or {}) for phase in phases})
    st.dataframe(
        frame.rename_axis("component").reset_index(),
        hide_index=True,
        column_config={
            phase: st.column_config.ProgressColumn(phase, min_value=0, max_value=1, format="%.2f") for phase in phases
        },
    )
    for phase in phases:
        issues = quality[phase]["issues"] or []
        st.caption(f"Wrong {phase}: {plain(spoken(issues)) or 'nothing'}")


def show_work(made: Mapping[str, Any], verdict: Mapping[str, Any] | None, *, waits: bool) -> None:
    """What enhancement did and why, and why a person has to look, or had to where it no longer waits."""
    if made["reason"]:
        st.warning(f"Nothing could be made: {plain(spoken(made['reason']))}. {plain(made['detail'] or '')}")
        return
    st.header("Steps")
    steps = made["steps"] or []
    if steps:
        st.dataframe(
            pd.DataFrame({"step": [s["step"] for s in steps], "why": [s["why"] for s in steps]}), hide_index=True
        )
    else:
        st.write("No step was needed.")
    show_rules(made["failed_rules"] or [], made["profile"])
    reasons = (verdict or made)["review_reasons"]
    if reasons:
        st.write(f"A person {'has' if waits else 'had'} to look because: {plain(spoken(reasons))}")


def show_rules(failed: list[dict[str, Any]], profile: str | None) -> None:
    """The rules of a marketplace that a picture breaks."""
    if profile is None:
        return
    st.header(f"Rules of {plain(profile)}")
    if failed:
        st.dataframe(pd.DataFrame(failed).astype(str), hide_index=True)
    else:
        st.write("The picture keeps all of them.")
