"""Going through rows a page at a time and back again: where each page began, and the two buttons. No queries."""

from typing import Any

import streamlit as st

Trail = list[Any]
"""Where each page from the first to the one that is shown begins; None is the beginning of all."""


def trail(name: str, question: str) -> Trail:
    """Where this page begins, and those before it; another question begins anew.

    Args:
        name: Of what is gone through.
        question: What was asked for, in any words that differ where it does.
    """
    kept = st.session_state.get(name)
    return kept[1] if kept and kept[0] == question else [None]


def pager(name: str, question: str, way: Trail, after: object) -> None:
    """Show the buttons; ``after`` is where the next page begins, None where there is none."""

    def go(new: Trail) -> None:
        st.session_state[name] = (question, new)

    with st.container(horizontal=True, horizontal_alignment="center", vertical_alignment="center"):
        st.button("Previous", icon=":material/chevron_left:", disabled=len(way) == 1, on_click=go, args=(way[:-1],))
        st.write(f"Page {len(way)}")
        st.button("Next", icon=":material/chevron_right:", disabled=after is None, on_click=go, args=([*way, after],))
