"""Temples: the model that serves each, those before it, what they get wrong; labels and trainings."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.catalogue.jobs import JobKind, create_training_job, open_jobs
from imgpipe_dagster.catalogue.tables import TempleImageOrigin, TempleSplit
from imgpipe_dagster.catalogue.temple_images import (
    TempleNameError,
    TemplePicture,
    check_category,
    correct_label,
    count_pictures,
    pictures_of,
    temple_ids,
)
from imgpipe_dagster.catalogue.temple_models import Version, champion, versions
from imgpipe_dagster.dashboard.people import Person, require
from imgpipe_dagster.dashboard.pictures import small_pictures
from imgpipe_dagster.dashboard.services import engine, store, validator
from imgpipe_dagster.dashboard.words import counted, plain, utc
from imgpipe_dagster.temples.pictures import AddReport, LabelledFile, add_files
from imgpipe_dagster.temples.registry import doubt_about_version

NO_CATEGORY = "no category"
_COLUMNS = 4
_CURVES = {"accuracy": "training", "val_accuracy": "validation"}


def show(who: Person) -> None:
    """Show the page."""
    st.title("Temples")
    if not require(Scope.READ, who):
        return
    known = temple_ids(engine())
    if not known:
        st.info(
            "There is no temple yet. Add labelled pictures below, or with "
            "`imgpipe temple add NAME FOLDER --split train`.",
            icon=":material/inbox:",
        )
        _add(None, who)
        return
    temple_id = st.selectbox("Temple", known, key="temple")
    serving = champion(engine(), temple_id)
    made = versions(engine(), temple_id)
    if serving is None:
        st.info(
            "No model serves it yet: add labelled pictures and ask for a training.", icon=":material/model_training:"
        )
    else:
        st.write(f"{plain(serving.version)} serves since {utc(serving.promoted_at)}: {plain(serving.why, 500)}")
        doubt = next((doubt_about_version(version) for version in made if version.version == serving.version), None)
        if doubt:
            st.warning(plain(doubt, 500), icon=":material/help:")
    _versions(made, who)
    _training(temple_id, who)
    _pictures(temple_id)
    _add(temple_id, who)


def _versions(made: Sequence[Version], who: Person) -> None:
    if not made:
        return
    st.header("Versions")
    figures = ("accuracy", "false_alarm_rate", "unknown_flagged_rate")
    rows = [
        {
            "number": version.number,
            "version": version.version,
            "made": utc(version.created_at),
            "origin": str(version.origin),
            "pictures": version.train_images,
            "test pictures": version.test_images,
            **{name.replace("_", " "): version.metrics.get(name) for name in figures},
            "verdict": version.verdict,
        }
        for version in made
    ]
    st.dataframe(pd.DataFrame(rows).round(3), hide_index=True)
    by_number = {version.number: version for version in made}
    number = st.selectbox("Version", sorted(by_number, reverse=True), key="temple_version")
    version = by_number[number]
    left, right = st.columns(2)
    with left:
        _curve(version.metrics.get("curve"))
    with right:
        _confusion(version)
    _mistakes(version.metrics.get("mistakes") or [], who)


def _curve(curve: dict[str, list[float | None]] | None) -> None:
    st.header("Learning curve")
    shown = {name: curve[figure] for figure, name in _CURVES.items() if curve and curve.get(figure)}
    if not shown:
        st.write("It was trained elsewhere.")
        return
    frame = pd.DataFrame(shown)
    frame.index = frame.index + 1
    st.line_chart(frame, x_label="pass over the pictures", y_label="accuracy", height=260)


def _confusion(version: Version) -> None:
    st.header("Confusion")
    rows = version.metrics.get("confusion")
    if not rows:
        st.write("There were no test pictures.")
        return
    frame = pd.DataFrame(
        rows, index=pd.Index(version.labels, name="people said"), columns=[*version.labels, NO_CATEGORY]
    )
    st.dataframe(frame)
    st.caption("A row is what people said, a column what the model said.")


def _mistakes(mistakes: list[dict[str, Any]], who: Person) -> None:
    st.header("Misclassified test pictures")
    if not mistakes:
        st.write("There are none.")
        return
    found = {picture.id: picture for picture in pictures_of(engine(), [mistake["id"] for mistake in mistakes])}
    _labels(
        [found[mistake["id"]] for mistake in mistakes if mistake["id"] in found],
        {m["id"]: f"model: {m['image_class']} {m['class_confidence']:.2f}" for m in mistakes},
        "mistake",
        who,
    )


def _pictures(temple_id: str) -> None:
    st.header("Labelled pictures")
    counts = count_pictures(engine()).get(temple_id, {})
    frame = pd.DataFrame({str(split): pd.Series(of_split) for split, of_split in counts.items()}).fillna(0).astype(int)
    st.dataframe(frame.rename_axis("category").reset_index(), hide_index=True)


def _labels(pictures: Sequence[TemplePicture], told: dict[int, str], key: str, who: Person) -> None:
    """Pictures with their labels, which can be corrected."""
    small = small_pictures(store(), [picture.object_key for picture in pictures])
    for start in range(0, len(pictures), _COLUMNS):
        for column, picture in zip(st.columns(_COLUMNS), pictures[start : start + _COLUMNS], strict=False):
            with column.container(border=True):
                if picture.object_key in small:
                    st.image(small[picture.object_key], alt=f"Labelled {picture.category}", width="stretch")
                else:
                    st.write(":material/hide_image: no longer in the store")
                st.caption(plain(told.get(picture.id, "")))
                _correct(picture, f"{key}_{picture.id}", who)


def _correct(picture: TemplePicture, key: str, who: Person) -> None:
    category = st.text_input("People said", picture.category, key=key, max_chars=100).strip()
    if not category or category == picture.category:
        return
    if st.button("Correct the label", key=f"{key}_save", icon=":material/edit:") and require(Scope.WRITE, who):
        try:
            correct_label(engine(), picture.id, check_category(category))
        except TempleNameError as error:
            st.error(str(error))
            return
        st.success("Corrected: the next training uses it.")


def _training(temple_id: str, who: Person) -> None:
    st.header("Training")
    mine = [job for job in open_jobs(engine(), JobKind.TRAIN) if job.parameters.get("temple_id") == temple_id]
    if mine:
        for job in mine:
            st.info(f"A training is {job.status}: {plain(job.parameters.get('stage') or 'it has not begun')}.")
        st.button("Look again", icon=":material/refresh:")
        return
    st.write("A training begins within seconds where Dagster's daemon runs.")
    if st.button("Ask for a training", icon=":material/model_training:") and require(Scope.TRAIN, who):
        create_training_job(engine(), temple_id, forceful=False, by=who.name)
        st.rerun()


def _add(temple_id: str | None, who: Person) -> None:
    st.header("Add labelled pictures")
    with st.form("temple_add", clear_on_submit=True):
        name = st.text_input("Name of the temple", max_chars=100) if temple_id is None else temple_id
        left, right = st.columns(2)
        category = left.text_input("Category", max_chars=100)
        split = right.selectbox("For", list(TempleSplit), help="Test pictures are frozen: no model is trained on them.")
        files = st.file_uploader("Pictures", ["jpg", "jpeg", "png", "webp", "bmp", "tif"], accept_multiple_files=True)
        asked = st.form_submit_button("Add", icon=":material/add_photo_alternate:")
    if not asked or not require(Scope.WRITE, who):
        return
    try:
        labelled = [LabelledFile(file.name, check_category(category), file.getvalue) for file in files]
        with st.spinner("Looking at the pictures …"):
            report = add_files(
                engine(), store(), validator(), name, TempleSplit(split), labelled, origin=TempleImageOrigin.IMPORT
            )
    except TempleNameError as error:
        st.error(str(error))
        return
    _tell(report)


def _tell(report: AddReport) -> None:
    st.success(f"{counted(report.added, 'picture')} added, {report.known:,} known already.")
    for refused in report.refused[:20]:
        st.warning(f"{plain(refused.name)}: {plain(refused.why, 500)}")
