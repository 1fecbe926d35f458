"""Charts, in Vega-Lite's own words: Streamlit's shorter ones take a fifth of a second to be checked. No queries."""

from typing import Any

import pandas as pd
import streamlit as st

_COLOURS = ["#1f77b4", "#d95f02", "#7f7f7f"]  # can be told apart by everybody, on light and on dark
_HEIGHT = 260
# The theme's grey does not stand out enough from white (WCAG 2.1, 1.4.3), and no other would from white and dark alike.
_INK = {"expr": "luminance(background) > 0.5 ? '#31333F' : '#E6EAF1'"}
_INKS = {"labelColor": _INK, "titleColor": _INK}


def bar_chart(frame: pd.DataFrame, *, what: str, x_label: str, y_label: str, time_unit: str) -> None:
    """Show bars over time, a column of the frame on the other.

    Args:
        frame: By time, in UTC without a zone.
        what: What it shows, for those who do not see it.
        x_label: Of the time.
        y_label: Of the values.
        time_unit: How long a bar lasts, as Vega-Lite calls it: ``yearmonthdate``.
    """
    x = {"type": "temporal", "timeUnit": time_unit, "title": x_label, "axis": {"labelFlush": True}}
    _chart(frame, {"type": "bar", "tooltip": True}, x, {"title": y_label}, what)


def line_chart(frame: pd.DataFrame, *, what: str, x_label: str, y_label: str) -> None:
    """Show a line for each column of a frame whose index counts; values go from 0 to 1."""
    x = {"type": "quantitative", "title": x_label, "axis": {"tickMinStep": 1}, "scale": {"nice": False}}
    y = {"title": y_label, "scale": {"domain": [0, 1]}}
    _chart(frame, {"type": "line", "tooltip": True}, x, y, what)


def _chart(frame: pd.DataFrame, mark: dict[str, Any], x: dict[str, Any], y: dict[str, Any], what: str) -> None:
    columns = list(map(str, frame.columns))
    long = frame.set_axis(columns, axis="columns").rename_axis("x").reset_index().melt("x", var_name="of")
    spec = {
        "description": what,
        "height": _HEIGHT,
        "mark": mark,
        "config": {"axis": _INKS, "legend": _INKS},
        "encoding": {
            "x": {"field": "x", **x},
            "y": {"field": "value", "type": "quantitative", **y},
            "color": {
                "field": "of",
                "type": "nominal",
                "title": None,
                "scale": {"domain": columns, "range": _COLOURS[: len(columns)]},
                "legend": {"orient": "top", "offset": 8, "padding": 0},  # else the theme leaves a third of the height
            },
        },
    }
    st.vega_lite_chart(long, spec)
