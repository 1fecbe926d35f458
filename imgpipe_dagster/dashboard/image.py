"""One image: its picture with what was found in it, its answer, its quality, its history, its files."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.catalogue.browse import ImageDetails, image_details
from imgpipe_dagster.catalogue.history import image_history
from imgpipe_dagster.catalogue.tables import NO_MODEL
from imgpipe_dagster.dashboard.links import asked_for_image
from imgpipe_dagster.dashboard.people import Person, require
from imgpipe_dagster.dashboard.pictures import with_boxes
from imgpipe_dagster.dashboard.quality import show_quality
from imgpipe_dagster.dashboard.services import engine, store
from imgpipe_dagster.dashboard.words import counted, plain, spoken, utc
from imgpipe_dagster.imaging.formats import DecodeError, ImageFormat
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.store.base import ObjectNotFoundError, StoreError

GONE = "The file is no longer in the store."
_SIDES = {"x1": "left", "y1": "top", "x2": "right", "y2": "bottom"}


def show(who: Person) -> None:
    """Show the page."""
    image_id = asked_for_image()
    st.title("Image" if image_id is None else f"Image {image_id}")
    if not require(Scope.READ, who):
        return
    with st.form("image_number", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        number = st.number_input("Number of an image", min_value=1, value=image_id, step=1)
        if st.form_submit_button("Show") and number:
            st.query_params["id"] = str(number)
            st.rerun()
    if image_id is None:
        st.info("Enter the number of an image, or choose one on the page Images.")
        return
    found = image_details(engine(), image_id)
    if found is None:
        st.info(f"There is no image {image_id}. The page Images shows those that there are.")
        return
    _answer(found)
    _picture(found)
    classes, quality, history, report, files = st.tabs(["Classifications", "Quality", "History", "Report", "Files"])
    with classes:
        _classifications(found)
    with quality:
        show_quality(found)
    with history:
        _history(image_id)
    with report:
        _report(found)
    with files:
        _files(found)


def _answer(found: ImageDetails) -> None:
    row, answer = found.image, found.prediction or {}
    facts = {
        "status": row["status"],
        "review": None if row["sku_id"] is None else spoken(row["qc_status"]),  # without a SKU it is never reviewed
        "SKU": row["sku_id"],
        "product group": row["product_group_id"],
        "temple": row["temple_id"],
        "source": row["source"],
        "batch": row["batch_key"],
        "bottle": _sure(answer.get("bottle_status"), answer.get("bottle_confidence")),
        "category at the temple": _sure(_named(answer.get("temple_category")), answer.get("temple_confidence")),
        "detector": answer.get("detector_version"),
        "URL": row["image_url"],
    }
    st.markdown("  \n".join(f"**{name}** {plain(value, 2048)}" for name, value in facts.items() if value))
    reason = row["reason"]
    if reason:
        advice = Reason(reason).advice if reason in list(Reason) else ""
        st.warning(f"Rejected: {plain(spoken(reason))}. {advice}", icon=":material/block:")
    elif not answer:
        st.info("It has no answer yet: it waits for its batch, or is being processed.", icon=":material/hourglass:")


def _named(name: str | None) -> str:
    """What a classifier said; its names are shown as people gave them."""
    return spoken(name) if name == NO_MODEL else name or ""


def _sure(name: str | None, confidence: float | None) -> str | None:
    return name if name is None or confidence is None else f"{name} {confidence:.2f}"


@st.fragment
def _picture(found: ImageDetails) -> None:
    key = found.file.get("object_key")
    if key is None or found.file.get("reason") is not None:
        return
    objects = chosen_objects(found.objects)
    try:
        st.image(with_boxes(store(), key, objects), alt=_described(objects), width="stretch")
    except (StoreError, DecodeError) as error:
        _cannot_show("picture", error)
        return
    if objects:
        with st.expander(counted(len(objects), "object")):
            _objects(objects, numbers(found))


def chosen_objects(objects: Sequence[Mapping[Any, Any]]) -> list[Mapping[Any, Any]]:
    """The objects whose class and confidence are switched on."""
    if not objects:
        st.write("Nothing was found in it.")
        return []
    names = sorted({item["class_name"] for item in objects})
    left, right = st.columns(2)
    shown = left.pills("Classes", names, selection_mode="multi", default=names, format_func=plain, key="image_classes")
    low, high = right.slider("Confidence", 0.0, 1.0, (0.0, 1.0), 0.01, key="image_confidence")
    return [item for item in objects if item["class_name"] in shown and low <= item["confidence"] <= high]


def _described(objects: Sequence[Mapping[Any, Any]]) -> str:
    counts = pd.Series([item["class_name"] for item in objects], dtype=str).value_counts()
    return "The picture with boxes: " + (", ".join(f"{n} {name}" for name, n in counts.items()) or "none")


def numbers(found: ImageDetails) -> dict[str, int]:
    """The number of each object by its id: 1 is the most confident one."""
    return {item["detection_id"]: number for number, item in enumerate(found.objects, 1)}


def _objects(objects: Sequence[Mapping[Any, Any]], numbered: Mapping[str, int]) -> None:
    rows = [
        {
            "object": numbered[item["detection_id"]],
            "class": item["class_name"],
            "confidence": item["confidence"],
            **{label: item[side] for side, label in _SIDES.items()},
        }
        for item in objects
    ]
    whole = dict.fromkeys(_SIDES.values(), st.column_config.NumberColumn(format="%.0f"))
    sure = st.column_config.NumberColumn(format="%.2f")
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config={"confidence": sure, **whole})
    st.caption("Left, top, right and bottom are in pixels of the upright picture.")


def _classifications(found: ImageDetails) -> None:
    if not found.classifications:
        st.write("It has not been classified.")
        return
    numbered = numbers(found)
    rows = [
        {
            "what": "object " + str(numbered.get(row["detection_id"], "")) if row["detection_id"] else "the picture",
            "by": spoken(row["classifier"]),
            "class": _named(row["class_name"]),
            "confidence": "" if row["confidence_score"] is None else f"{row['confidence_score']:.2f}",
            "anomaly": {True: "yes", False: "no"}.get(row["anomaly"], ""),
        }
        for row in found.classifications
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


def _history(image_id: int) -> None:
    events = image_history(engine(), image_id)
    frame = pd.DataFrame(
        {
            "when": [utc(event.at) for event in events],
            "what": [spoken(event.what) for event in events],
            "who or which batch": [event.by or "" for event in events],
            "notes": [event.notes or "" for event in events],
        }
    )
    st.dataframe(frame, hide_index=True)


def _report(found: ImageDetails) -> None:
    if found.report is None:
        st.write("There is no report yet: it is written after the answer.")
        return
    try:
        data = store().get(found.report["object_key"])
        st.json(json.loads(data), expanded=1)
    except (StoreError, ValueError) as error:
        _cannot_show("report", error)
        return
    st.download_button("Download the report", data, f"image-{found.image['id']}.json", "application/json")


def _cannot_show(what: str, error: Exception) -> None:
    """Say that a file cannot be shown; its key and its place are for who looks for it."""
    why = GONE if isinstance(error, ObjectNotFoundError) else "It cannot be read."
    st.error(f"The {what} cannot be shown. {why}", icon=":material/hide_source:")
    with st.expander("Details"):
        st.text(str(error))


def _files(found: ImageDetails) -> None:
    number, original, made = found.image["id"], found.file, found.enhanced
    known = original.get("image_format")
    # What is no picture is handed out as bytes, never as a page.
    kind = ImageFormat(known) if known and original.get("reason") is None else None
    if original.get("object_key"):
        size = f"{original['byte_size']:,} bytes" if original.get("byte_size") is not None else ""
        pixels = f"{original.get('width') or '?'} by {original.get('height') or '?'} pixels"
        st.write(f"{plain(known or 'file')}, {pixels}, {size}")
        name = f"image-{number}.{kind.extension if kind else 'bin'}"
        _download("original", original["object_key"], name, kind.mime if kind else "application/octet-stream")
    else:
        st.write("It was not downloaded.")
    if made is not None and made["object_key"]:
        name = f"image-{number}-enhanced.{made['image_format']}"
        _download("enhanced picture", made["object_key"], name, f"image/{made['image_format']}")


def _download(what: str, object_key: str, name: str, mime: str) -> None:
    if not store().exists(object_key):
        st.write(f"The {what} cannot be downloaded. {GONE}")
        return
    label = f"Download the {what}"
    # Read when it is asked for: a page of an image does not move its files.
    st.download_button(label, lambda: store().get(object_key), name, mime, on_click="ignore", key=label)
