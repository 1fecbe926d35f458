"""A grid of images by what is known of them, a page at a time."""

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import streamlit as st

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.catalogue.browse import ImageFilter, list_images
from imgpipe_dagster.catalogue.history import original_keys
from imgpipe_dagster.catalogue.tables import ImageStatus
from imgpipe_dagster.dashboard.links import image_link
from imgpipe_dagster.dashboard.paging import pager, trail
from imgpipe_dagster.dashboard.people import Person, require
from imgpipe_dagster.dashboard.pictures import small_pictures
from imgpipe_dagster.dashboard.services import engine, store
from imgpipe_dagster.dashboard.words import counted, plain, spoken, utc
from imgpipe_dagster.reasons import Reason

PER_PAGE = 24
COLUMNS = 4
ANY = "any"
_TRAIL = "images_trail"
_EVERYTHING = (0.0, 1.0)
_SELECTION = "images_selection"
_WHOLE = "The whole of it, as it is written in the catalogue: capitals count."


def _ends(text: str) -> tuple[float, float]:
    low, high = map(float, text.split("-"))
    if not 0 <= low <= high <= 1:
        raise ValueError(text)
    return low, high


def _dates(text: str) -> tuple[dt.date, ...]:
    days = tuple(dt.date.fromisoformat(day) for day in text.split(","))
    if len(days) > 2 or list(days) != sorted(days):
        raise ValueError(text)
    return days


_Text = tuple[Callable[[Any], str], Callable[[str], Any]]
# What stands in the page's address, so that a link or a reload shows the same: each condition's value where none was
# chosen, and how one is written and read there. (Streamlit's own way loses it where a browser goes back.)
_CONDITIONS: dict[str, tuple[Any, _Text]] = {
    "status": (ANY, (str, ImageStatus)),
    "reason": (ANY, (str, Reason)),
    "class": ("", (str, str)),
    "confidence": (_EVERYTHING, (lambda ends: "-".join(map(str, ends)), _ends)),
    "sku": ("", (str, str)),
    "temple": ("", (str, str)),
    "days": ((), (lambda days: ",".join(map(str, days)), _dates)),
    "newest": (True, (lambda first: "yes" if first else "no", lambda text: text != "no")),
}


def show(who: Person) -> None:
    """Show the page."""
    st.title("Images")
    if not require(Scope.READ, who):
        return
    which, newest_first = _filter()
    question = repr((which, newest_first))
    way = trail(_TRAIL, question)
    page = list_images(engine(), which, after=way[-1], at_most=PER_PAGE, newest_first=newest_first)
    if page.images:
        _grid(page.images)
    elif page.next is not None:
        st.info("None of the images of this page fit all conditions. There are more: go to the next page.")
    elif len(way) > 1:
        st.info("There are no more images.")
    elif which == ImageFilter():
        st.info(
            "The catalogue has no images yet. Bring some in with `imgpipe import csv FILE`, or look at rendered ones "
            "with `make ui`.",
            icon=":material/inbox:",
        )
    else:
        st.info("No image fits all of these conditions. Take some of them away.", icon=":material/filter_alt_off:")
    pager(_TRAIL, question, way, page.next)


def _choose_again() -> None:
    """Choose what the address says or, where it says nothing, what was chosen when the page was left."""
    if all(f"images_{name}" in st.session_state for name in _CONDITIONS):
        return
    chosen = dict(st.session_state.get(_SELECTION, {}))
    if any(name in st.query_params for name in _CONDITIONS):
        chosen = {}
        for name, (_, (_, read)) in _CONDITIONS.items():
            with suppress(ValueError):  # it is somebody's typing
                if name in st.query_params:
                    chosen[name] = read(st.query_params[name])
    for name, (default, _) in _CONDITIONS.items():
        st.session_state[f"images_{name}"] = chosen.get(name, default)


def _tell_address() -> None:
    """Write the selection into the address, and keep it for a return to the page."""
    chosen = {name: st.session_state[f"images_{name}"] for name in _CONDITIONS}
    st.session_state[_SELECTION] = chosen
    told = {name: write(chosen[name]) for name, (default, (write, _)) in _CONDITIONS.items() if chosen[name] != default}
    if st.query_params.to_dict() != told:
        st.query_params.from_dict(told)


def _filter() -> tuple[ImageFilter, bool]:
    _choose_again()
    with st.expander("Filters", expanded=True, icon=":material/filter_alt:"):
        first, second, third, fourth = st.columns(4)
        status = first.selectbox("Status", [ANY, *ImageStatus], key="images_status")
        reason = second.selectbox("Rejected because", [ANY, *Reason], key="images_reason", format_func=spoken)
        class_name = third.text_input(
            "Class of an object", key="images_class", placeholder="bottle", max_chars=100, help=_WHOLE
        )
        ends = fourth.slider("Its confidence", 0.0, 1.0, step=0.05, key="images_confidence")
        first, second, third, fourth = st.columns(4)
        sku_id = first.text_input("SKU", key="images_sku", max_chars=100, help=_WHOLE)
        temple_id = second.text_input("Temple", key="images_temple", max_chars=100, help=_WHOLE)
        days = third.date_input("Came in (UTC)", key="images_days", help="One day, or the first and the last.")
        newest_first = fourth.toggle("Newest first", key="images_newest")
    _tell_address()
    confidence = cast("tuple[float, float]", ends)  # as it has two in the session's state
    created_from, created_to = _times(days)
    which = ImageFilter(
        status=None if status == ANY else ImageStatus(status),
        sku_id=(sku_id or "").strip() or None,
        temple_id=(temple_id or "").strip() or None,
        class_name=(class_name or "").strip() or None,
        confidence=None if confidence == _EVERYTHING else confidence,
        reason=None if reason == ANY else str(reason),
        created_from=created_from,
        created_to=created_to,
    )
    return which, newest_first


def _times(days: Any) -> tuple[dt.datetime | None, dt.datetime | None]:  # noqa: ANN401 - a date, or up to two
    chosen = list(days) if isinstance(days, tuple | list) else [days]
    if not chosen:
        return None, None
    begin = dt.datetime.combine(chosen[0], dt.time())
    last = min(chosen[-1], dt.date.max - dt.timedelta(days=1))
    return begin, dt.datetime.combine(last, dt.time()) + dt.timedelta(days=1)


def _grid(rows: tuple[Mapping[Any, Any], ...]) -> None:
    keys = original_keys(engine(), [row["id"] for row in rows])
    pictures = small_pictures(store(), keys.values())
    for start in range(0, len(rows), COLUMNS):
        for column, row in zip(st.columns(COLUMNS), rows[start : start + COLUMNS], strict=False):
            key = keys.get(row["id"])
            with column.container(border=True):
                _card(row, pictures.get(key) if key else None, was_valid=key is not None)


def _card(row: Mapping[Any, Any], picture: bytes | None, *, was_valid: bool) -> None:
    found = _found(row)
    if picture is not None:
        st.image(picture, alt=f"Image {row['id']}: {found}", width="stretch")
    elif was_valid:
        st.warning("The file is no longer in the store.", icon=":material/hide_image:")
    else:
        st.write(":material/hide_image: no picture")
    image_link(row["id"], f"Image {row['id']}")
    lines = [found, row["sku_id"], row["temple_id"] and f"temple {row['temple_id']}", utc(row["created_at"])]
    st.caption("  \n".join(plain(line) for line in lines if line))


def _found(row: Mapping[Any, Any]) -> str:
    """What came of an image, in a few words."""
    if row["reason"]:
        return f"{row['status']}: {spoken(row['reason'])}"
    if row["object_count"] is None:
        return str(row["status"])
    if not row["object_count"]:
        return "nothing found"
    sure = "" if row["top_confidence"] is None else f" {row['top_confidence']:.2f}"  # rows of another program
    return f"{counted(row['object_count'], 'object')}, {row['top_class']}{sure}"
