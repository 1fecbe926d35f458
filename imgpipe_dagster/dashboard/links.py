"""Where else to look: the page of one image, and Dagster's pages."""

from urllib.parse import quote

import streamlit as st

IMAGE_PATH = "image"
_LARGEST_NUMBER = 2**53 - 1  # that a browser can hold


def image_link(image_id: int, label: str) -> None:
    """Show a link to the page of one image."""
    _link(IMAGE_PATH, image_id, label, "image")


def _link(path: str, image_id: int, label: str, icon: str) -> None:
    # A page is known by its path; what it shows is said where the navigation is made.
    page = st.Page(_elsewhere, title=label, url_path=path)
    st.page_link(page, label=label, icon=f":material/{icon}:", query_params={"id": str(image_id)})


def _elsewhere() -> None:
    raise NotImplementedError


def asked_for_image() -> int | None:
    """The image that the address of the page names."""
    text = st.query_params.get("id", "")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 17 else 0
    return number if 0 < number <= _LARGEST_NUMBER else None


def batch_url(dagster_url: str | None, batch_key: str) -> str | None:
    """Where Dagster shows the runs of a batch."""
    if dagster_url is None:
        return None
    return f"{dagster_url.rstrip('/')}/runs?q[0]={quote(f'tag:dagster/partition={batch_key}', safe='')}"


def run_url(dagster_url: str | None, run_id: str | None) -> str | None:
    """Where Dagster shows a run."""
    return None if dagster_url is None or run_id is None else f"{dagster_url.rstrip('/')}/runs/{quote(run_id, safe='')}"
