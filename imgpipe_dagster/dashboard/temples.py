"""Temples: the model that serves each, those before it, what they get wrong; labels and trainings."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.catalogue.jobs import Job, create_training_job, last_training
from imgpipe_dagster.catalogue.tables import ImageStatus, TempleImageOrigin, TempleSplit
from imgpipe_dagster.catalogue.temple_images import (
    TempleNameError,
    TemplePicture,
    check_category,
    check_temple_id,
    correct_label,
    count_pictures,
    list_pictures,
    pictures_of,
    temple_ids,
)
from imgpipe_dagster.catalogue.temple_models import Champion, Version, champion, versions
from imgpipe_dagster.dashboard.charts import line_chart
from imgpipe_dagster.dashboard.paging import pager, trail
from imgpipe_dagster.dashboard.people import Person, require
from imgpipe_dagster.dashboard.pictures import small_pictures
from imgpipe_dagster.dashboard.services import engine, store, validator
from imgpipe_dagster.dashboard.telling import told
from imgpipe_dagster.dashboard.words import counted, plain, spoken, utc
from imgpipe_dagster.models.temple_training import Stage
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.temples.pictures import AddReport, LabelledFile, add_files
from imgpipe_dagster.temples.registry import doubt_about_version

NO_CATEGORY = "No category (Anomaly)"
ANY_CATEGORY = "every category"
NEW_CATEGORY = "a new category …"
PER_PAGE = 12
_COLUMNS = 4
_TEMPLE = "temple"
_TRAIL = "temple_trail"
_CORRECTED = "temple_corrected"
_ADDED, _ADDINGS = "temple_added", "temple_additions"
_CURVES = {"accuracy": "training", "val_accuracy": "validation"}
_LOOK_EVERY_S = 5
_STAGES = {
    Stage.TRAINING_DATA: "the training pictures are read",
    Stage.TESTING_DATA: "the test pictures are read",
    Stage.ARCHITECTURE: "the layers are laid",
    Stage.TRAINED: "it is trained",
    Stage.TESTED: "it is tested",
    Stage.SAVED: "it is saved",
}


def show(who: Person) -> None:
    """Show the page."""
    st.title("Temples")
    if not require(Scope.READ, who):
        return
    known = temple_ids(engine())
    if (added := st.session_state.pop(_ADDED, None)) is not None:
        temple_id, report = added
        if temple_id in known:  # what is common to all temples is none
            st.session_state[_TEMPLE] = temple_id
        _tell(report)
    if not known:
        st.info(
            "There is no temple yet. Add labelled pictures below, or with "
            "`imgpipe temple add NAME FOLDER --split train`.",
            icon=":material/inbox:",
        )
        _add(None, who)
        return
    if corrected := st.session_state.pop(_CORRECTED, None):
        st.success(corrected)
        st.toast(corrected)  # whoever corrects labels is far below
    temple_id = st.selectbox("Temple", known, key=_TEMPLE)
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
    counts = count_pictures(engine(), temple_id).get(temple_id)
    known_categories = sorted({category for of_split in (counts or {}).values() for category in of_split})
    _versions(temple_id, made, known_categories, who)
    _training(temple_id, made, serving, who)
    _pictures(temple_id, counts, known_categories, who)
    _add(temple_id, who)


def _versions(temple_id: str, made: Sequence[Version], known: Sequence[str], who: Person) -> None:
    if not made:
        return
    st.header("Versions")
    figures = {"accuracy": "accuracy", "false_alarm_rate": "false alarms", "unknown_flagged_rate": "unknown flagged"}
    rows = [
        {
            "number": version.number,
            "version": version.version,
            "made": utc(version.created_at),
            "origin": str(version.origin),
            "pictures": version.train_images,
            "test pictures": version.test_images,
            **{label: _percent(version.metrics.get(name)) for name, label in figures.items()},
        }
        for version in made
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)
    by_number = {version.number: version for version in made}
    # By its key another widget as soon as there is a newer one, which is then the one that is shown.
    number = st.selectbox(
        "Version", sorted(by_number, reverse=True), key=f"temple_version_{temple_id}_{max(by_number)}"
    )
    version = by_number[number]
    st.write(plain(version.verdict, 500))
    _curve(version.metrics.get("curve"))
    _confusion(version)
    _mistakes(version.metrics.get("mistakes") or [], known, who)


def _percent(part: float | None) -> str:
    return "" if part is None else f"{part:.1%}"


def _curve(curve: dict[str, list[float | None]] | None) -> None:
    st.header("Learning curve")
    shown = {name: curve[figure] for figure, name in _CURVES.items() if curve and curve.get(figure)}
    if not shown:
        st.write("It was trained elsewhere.")
        return
    frame = pd.DataFrame(shown)
    frame.index = frame.index + 1
    last = ", ".join(f"{name} {value:.2f}" for name, value in frame.iloc[-1].dropna().items())
    told = f"Accuracy over {len(frame)} passes, at the end: {last}"
    line_chart(frame, what=told, x_label="pass over the pictures", y_label="accuracy")


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


def _mistakes(mistakes: list[dict[str, Any]], known: Sequence[str], who: Person) -> None:
    st.header("Misclassified test pictures")
    if not mistakes:
        st.write("There are none.")
        return
    found = {picture.id: picture for picture in pictures_of(engine(), [mistake["id"] for mistake in mistakes])}
    said: dict[int, str] = {}
    for mistake in mistakes:
        words = f"model: {mistake['image_class']} {mistake['class_confidence']:.2f}"
        picture = found.get(mistake["id"])
        if picture is not None and picture.category != mistake["category"]:
            words += f"; people had said {mistake['category']}"
        said[mistake["id"]] = words
    _labels([found[number] for number in said if number in found], said, "mistake", known, who)


def _pictures(
    temple_id: str, counts: dict[TempleSplit, dict[str, int]] | None, known: Sequence[str], who: Person
) -> None:
    st.header("Labelled pictures")
    if counts is None:
        st.write("It has none yet: add some below.")
        return
    frame = pd.DataFrame({str(split): pd.Series(of_split) for split, of_split in counts.items()}).fillna(0).astype(int)
    st.dataframe(frame.rename_axis("category").reset_index(), hide_index=True)
    look = st.expander(
        "Look through them and correct labels", icon=":material/photo_library:", key="temple_look", on_change="rerun"
    )
    if look.open:  # else nothing is read for it
        with look:
            _browse(temple_id, counts, known, who)


def _browse(temple_id: str, counts: dict[TempleSplit, dict[str, int]], known: Sequence[str], who: Person) -> None:
    left, right = st.columns(2)
    split = TempleSplit(left.selectbox("Which", [s for s in TempleSplit if s in counts], key="temple_split"))
    category = right.selectbox("Category", [ANY_CATEGORY, *counts[split]], key="temple_category")
    question = repr((temple_id, split, category))
    way = trail(_TRAIL, question)
    only = None if category == ANY_CATEGORY else str(category)
    page = list_pictures(engine(), temple_id, split, category=only, before=way[-1], at_most=PER_PAGE + 1)
    shown = page[:PER_PAGE]
    _labels(shown, {}, "picture", known, who)
    pager(_TRAIL, question, way, shown[-1].id if len(page) > PER_PAGE else None)


def _labels(
    pictures: Sequence[TemplePicture], said: dict[int, str], key: str, known: Sequence[str], who: Person
) -> None:
    """Pictures with their labels, which can be corrected."""
    small = small_pictures(store(), [picture.object_key for picture in pictures])
    for start in range(0, len(pictures), _COLUMNS):
        for column, picture in zip(st.columns(_COLUMNS), pictures[start : start + _COLUMNS], strict=False):
            with column.container(border=True):
                if picture.object_key in small:
                    st.image(small[picture.object_key], alt=f"Labelled {picture.category}", width="stretch")
                else:
                    st.write(":material/hide_image: no longer in the store")
                if picture.id in said:
                    st.caption(plain(said[picture.id]))
                _correct(picture, f"{key}_{picture.id}", known, who)


def _correct(picture: TemplePicture, key: str, known: Sequence[str], who: Person) -> None:
    """What people said of a picture: another known category, or on purpose one that is new."""
    choices = [*sorted({*known, picture.category}), NEW_CATEGORY]
    chosen = st.selectbox(
        "People said", choices, index=choices.index(picture.category), key=f"{key}_{picture.category}"
    )
    if chosen == NEW_CATEGORY:
        chosen = st.text_input("New category", key=f"{key}_new", max_chars=100).strip()
    if not chosen or chosen == picture.category:
        return
    if st.button("Correct the label", key=f"{key}_save", icon=":material/edit:") and require(Scope.WRITE, who):
        try:
            correct_label(engine(), picture.id, check_category(chosen))
        except TempleNameError as error:
            st.error(plain(error, 500))
            return
        trained = "the next training uses it."
        tested = "No model is trained on a test picture; the next one and the one that serves are measured by it."
        st.session_state[_CORRECTED] = (
            f"Corrected: {trained}" if picture.split is TempleSplit.TRAIN else f"Corrected. {tested}"
        )
        st.rerun()  # what stands above counts it as what it was


def _training(temple_id: str, made: Sequence[Version], serving: Champion | None, who: Person) -> None:
    st.header("Training")
    job = last_training(engine(), temple_id)
    if job is not None and job.is_open:
        _watch(temple_id)
        return
    if job is not None:
        _outcome(job, made, serving)
    st.write("A training begins within seconds where Dagster's daemon runs. Its model serves if it is no worse.")
    if st.button("Ask for a training", icon=":material/model_training:") and require(Scope.TRAIN, who):
        create_training_job(engine(), temple_id, forceful=True, by=who.name)
        st.rerun()


@st.fragment(run_every=_LOOK_EVERY_S)
def _watch(temple_id: str) -> None:
    """How far the training is, looked at again by itself until it is over: the page is then made anew."""
    with told(again=False):
        job = last_training(engine(), temple_id)
        if job is None or not job.is_open:
            st.rerun()
        asked = f"asked for {utc(job.created_at)}"
        if job.started_at is None:
            st.progress(0.0, text=f"A training was {asked} and has not begun.")
            return
        done = [Stage(stage) for stage in job.parameters.get("stages", ()) if stage in list(Stage)]
        last = _STAGES[done[-1]] if done else "it has begun"
        st.progress(len(done) / len(Stage), text=f"A training, {asked}: {last}.")


def _outcome(job: Job, made: Sequence[Version], serving: Champion | None) -> None:
    """What came of the training that was asked for last."""
    if job.status is ImageStatus.FAILED:
        why = plain(job.error or "nobody knows why", 500)
        st.error(f"The training asked for {utc(job.created_at)} made no model: {why}", icon=":material/error:")
    else:
        st.write(f"The training asked for {utc(job.created_at)} is done since {utc(job.completed_at)}.")
        newest = max(made, key=lambda version: version.number, default=None)
        if newest is not None and job.started_at is not None and newest.created_at >= job.started_at:
            serves = serving is not None and serving.version == newest.version
            st.write(
                f"Version {newest.number} {'serves' if serves else 'does not serve'}: {plain(newest.verdict, 500)}"
            )


def _add(temple_id: str | None, who: Person) -> None:
    st.header("Add labelled pictures" if temple_id is None else f"Add labelled pictures to {plain(temple_id)}")
    turn = st.session_state.get(_ADDINGS, 0)  # what was added is cleared, what was refused stays
    with st.form(f"temple_add_{turn}"):
        label = "Name of the temple" if temple_id is None else "Or the name of a new temple"
        name = st.text_input(label, max_chars=100).strip() or temple_id or ""
        left, right = st.columns(2)
        category = left.text_input("Category", max_chars=100).strip()
        split = right.selectbox("For", list(TempleSplit), help="Test pictures are frozen: no model is trained on them.")
        files = st.file_uploader("Pictures", ["jpg", "jpeg", "png", "webp", "bmp", "tif"], accept_multiple_files=True)
        asked = st.form_submit_button("Add", icon=":material/add_photo_alternate:")
    if not asked or not require(Scope.WRITE, who):
        return
    wanted = {"Enter the name of the temple.": name, "Enter a category.": category, "Choose pictures first.": files}
    if missing := [what for what, given in wanted.items() if not given]:
        st.warning(" ".join(missing), icon=":material/info:")
        return
    try:
        labelled = [LabelledFile(file.name, check_category(category), file.getvalue) for file in files]
        name = check_temple_id(name)
        with st.spinner("Looking at the pictures …"):
            report = add_files(
                engine(), store(), validator(), name, TempleSplit(split), labelled, origin=TempleImageOrigin.IMPORT
            )
    except TempleNameError as error:
        st.error(plain(error, 500))
        return
    if not report.added:
        _tell(report)
        return
    st.session_state[_ADDED], st.session_state[_ADDINGS] = (name, report), turn + 1
    st.rerun()  # what stands above does not know of them


def _tell(report: AddReport) -> None:
    if report.added:
        st.success(f"{counted(report.added, 'picture')} added, {report.known:,} known already.")
    else:
        st.info(f"No picture was added, {report.known:,} known already.", icon=":material/info:")
    for refused in report.refused[:20]:
        st.warning(f"{plain(refused.name)}: {plain(_in_words(refused.why), 500)}")


def _in_words(why: str) -> str:
    """Why a file was refused; its reason code, if it has one, as words."""
    code, _, advice = why.partition(": ")
    return f"{spoken(code)}. {advice}" if code in list(Reason) else why
