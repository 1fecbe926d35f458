"""The words of the dashboard's pages: nothing green that did nothing, no codes, no sums that are wrong."""

import re
import shutil

import cv2
import pytest
import sqlalchemy as sa
import streamlit as st
from sqlalchemy.engine import make_url
from streamlit.testing.v1 import AppTest

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import (
    Classification,
    ImageMetric,
    ImagePrediction,
    ProductImage,
    QcReviewLog,
    TempleImage,
    TempleModelVersion,
)
from imgpipe_dagster.dashboard import services
from imgpipe_dagster.dashboard.words import plain
from imgpipe_dagster.store.local import LocalStore

PAGE = """
from imgpipe_dagster.dashboard import {name}
from imgpipe_dagster.dashboard.people import Person
from imgpipe_dagster.dashboard.telling import told
with told():
    {name}.show(Person("ann", frozenset({{"read", "write", "review", "train"}})))
"""


@pytest.fixture(scope="module")
def full_home(tmp_path_factory, fill_catalogue, photo):
    """An installation with thirty images and a temple, to be copied."""
    folder = tmp_path_factory.mktemp("full")
    engine = connect(make_url(f"sqlite:///{folder}/catalogue.db"))
    schema.upgrade(engine)
    fill_catalogue(engine, LocalStore(folder / "store"), lambda _kind, _number: photo)
    engine.dispose()
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch, full_home):
    """An installation with thirty images and a temple."""
    folder = tmp_path / "home"
    shutil.copytree(full_home, folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMGPIPE_HOME", str(folder))
    forget()
    yield folder
    forget()


@pytest.fixture
def looks_at_files(home):
    """Ends the processes that look at files: they would be there in the tests after this one."""
    yield
    services.validator().__exit__(None, None, None)


@pytest.fixture
def jpeg(photo):
    """A picture as a browser uploads it."""
    return ("a.jpg", cv2.imencode(".jpg", photo)[1].tobytes(), "image/jpeg")


NO_PICTURE = ("bad.jpg", b"<html>", "image/jpeg")


def forget():
    st.cache_resource.clear()
    st.cache_data.clear()


def show(name, **query):
    """The page, run once."""
    page = AppTest.from_string(PAGE.format(name=name), default_timeout=60)
    for key, value in query.items():
        page.query_params[key] = str(value)
    return sound(page.run())


def sound(page):
    """The page, which has not broken."""
    assert [e.value for e in page.exception] == []
    return page


def words(page):
    """All that the page says outside of tables, as it is read."""
    kinds = ("header", "markdown", "caption", "text", "info", "warning", "error", "success")
    return "\n".join(e.value for kind in kinds for e in getattr(page, kind)).replace("\\", "")


def table(page, column):
    """The table that has a column."""
    return next(frame.value for frame in page.dataframe if column in frame.value)


def field(page, label):
    return next(text for text in page.text_input if text.label == label)


def add(page, files, **fields):
    """Fill in the form for labelled pictures and send it."""
    for label, value in fields.items():
        field(page, label.replace("_", " ")).set_value(value)
    page.file_uploader[0].set_value(files)
    return sound(next(button for button in page.button if button.label == "Add").click().run())


def change(home, *statements):
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)
    engine.dispose()


def rows(home, query):
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(query)]
    engine.dispose()
    return found


@pytest.mark.usefixtures("looks_at_files")
def test_a_second_temple_is_made_on_the_page_and_then_shown(home, jpeg):
    page = show("temples")
    assert "Add labelled pictures to lakeside" in words(page)
    add(page, [jpeg], Or_the_name_of_a_new_temple="hill-gate", Category=" open ")
    assert rows(home, sa.select(TempleImage.category).where(TempleImage.temple_id == "hill-gate")) == [("open",)]
    assert [e.value for e in page.success] == ["1 picture added, 0 known already."]
    assert page.selectbox(key="temple").value == "hill-gate"
    assert "Add labelled pictures to hill-gate" in words(page)
    assert field(page, "Category").value == ""


@pytest.mark.usefixtures("looks_at_files")
def test_pictures_that_are_all_refused_are_no_success_and_the_form_keeps_its_fields(home):
    page = add(show("temples"), [NO_PICTURE], Or_the_name_of_a_new_temple="hill-gate", Category="open")
    assert not page.success
    assert page.info[-1].value == "No picture was added, 0 known already."
    assert "bad.jpg: not an image. The content is not an image" in words(page)
    assert (field(page, "Or the name of a new temple").value, field(page, "Category").value) == ("hill-gate", "open")
    assert page.selectbox(key="temple").options == ["lakeside"]


def test_a_form_without_a_category_says_so(home, jpeg):
    assert add(show("temples"), [jpeg]).warning[-1].value == "Enter a category."
    change(home, sa.delete(TempleImage), sa.delete(TempleModelVersion))
    empty = add(show("temples"), [])
    assert empty.warning[-1].value == "Enter the name of the temple. Enter a category. Choose pictures first."


def test_a_name_that_is_refused_is_no_markup(home, jpeg):
    refused = add(show("temples"), [jpeg], Category="../:red[x] **y**").error[-1].value
    assert r"\:red\[x\] \*\*y\*\*" in refused
    page = show("temples")
    sound(page.selectbox(key="mistake_1_left").set_value(page.selectbox(key="mistake_1_left").options[-1]).run())
    sound(page.text_input(key="mistake_1_new").set_value("../**y**").run())
    assert r"\*\*y\*\*" in sound(page.button(key="mistake_1_save").click().run()).error[-1].value


def test_a_version_that_has_just_come_is_the_one_that_is_shown(home):
    page = show("temples")
    assert version(page).value == 1
    new = {column.name: column for column in TempleModelVersion.__table__.columns if column.name != "id"}
    new |= {"number": sa.literal(2), "version": sa.literal("v2"), "verdict": sa.literal("no worse")}
    change(home, sa.insert(TempleModelVersion).from_select(list(new), sa.select(*new.values())))
    assert version(sound(page.run())).value == 2
    sound(version(page).set_value(1).run())
    assert version(sound(page.run())).value == 1


def version(page):
    return next(box for box in page.selectbox if box.label == "Version")


@pytest.mark.usefixtures("looks_at_files")
def test_an_address_beside_an_uploaded_picture_is_told_to_wait(home):
    page = show("try_it")
    page.file_uploader(key="try_upload").set_value(NO_PICTURE)
    assert not sound(page.run()).info
    sound(page.text_input(key="try_url").set_value("https://cdn.example/a.jpg").run())
    assert page.info[0].value == "The uploaded picture is shown; remove it to try the address."


@pytest.mark.parametrize("typed", ["bottle", "<script>", "ftp://cdn.example/a.jpg", "https://", "http://[x"])
def test_what_is_no_address_is_answered_without_a_setting(home, typed):
    page = show("try_it")
    (error,) = sound(page.text_input(key="try_url").set_value(typed).run()).error
    assert "IMGPIPE" not in error.value
    assert error.value.startswith("Enter an address that begins with https://") != typed.startswith("http")


@pytest.mark.parametrize(
    "text", ["http://cdn:8080/a.jpg", "16:25:35", "2026-11-29T16:25:35-05:00", "a:b", "[::1]:80", "key: v: w"]
)
def test_what_is_no_icon_can_be_copied_as_it_stands(text):
    assert re.sub(r"\\(.)", r"\1", plain(text)) == text


@pytest.mark.parametrize(
    "text",
    [":smile:", ":SMILE:", "x:smile:y", ":a:b:", ":material/home:", ":+1:", ":-1:", ":100:", ":8ball:", ":red[x]"],
)
def test_icons_and_colours_are_not_made(text):
    read = re.sub(r"\\(.)", r"\1", plain(text))
    assert not re.search(r":\+1:|:-1:|:[\w-]*[a-z0][\w-]*:|:material[/_]", read, re.IGNORECASE)
    assert not re.search(r"(?<!\\):", plain(text)), "a colour begins with a colon that is not escaped"


def test_an_image_is_described_in_words(home):
    change(
        home,
        sa.update(ImagePrediction).values(temple_category="no_model", bottle_status="opened", bottle_confidence=0.8),
        sa.update(Classification)
        .where(Classification.detection_id.is_(None))
        .values(classifier="temple_category", class_name="no_model", confidence_score=None),
        sa.insert(QcReviewLog).values(
            image_id=25, reviewer_id="ann", previous_status="needs_review", status="pending", reason="too_dark"
        ),
    )
    page = show("image", id=25)
    said = words(page)
    assert "**review** needs review" in said
    assert "**category at the temple** no model" in said
    assert list(table(page, "by")["by"]) == ["bottle status", "temple category"]
    assert list(table(page, "by")["class"]) == ["opened", "no model"]
    assert list(table(page, "by")["confidence"]) == ["0.80", ""]
    assert list(table(page, "left")) == ["object", "class", "confidence", "left", "top", "right", "bottom"]
    assert "needs review → pending (too dark)" in list(table(page, "who or which batch")["what"])
    change(home, sa.update(ProductImage).where(ProductImage.id == 5).values(sku_id=None))
    assert "**review**" not in words(show("image", id=5))
    assert "**review** pending" in words(show("image", id=6))


def test_a_file_that_has_gone_is_no_button_and_no_path(home):
    page = show("image", id=2)
    assert [e.value for e in page.error] == [
        "The picture cannot be shown. The file is no longer in the store.",
        "The report cannot be shown. The file is no longer in the store.",
    ]
    assert [box.label for box in page.expander] == ["Details", "Details"]
    assert "images/2.jpg" in page.expander[0].text[0].value
    assert "The original cannot be downloaded. The file is no longer in the store." in words(page)
    assert [button.proto.label for button in page.get("download_button")] == []
    there = show("image", id=25)
    assert [button.proto.label for button in there.get("download_button")] == [
        "Download the report",
        "Download the original",
        "Download the enhanced picture",
    ]


def test_images_that_nobody_reviews_are_not_among_the_figures_of_review(home):
    change(
        home,
        sa.insert(QcReviewLog).values(
            image_id=30, reviewer_id="ann", previous_status="needs_review", status="approved", seconds=4
        ),
    )
    frame = table(show("review_figures"), "status")
    assert dict(zip(frame["status"], frame["pictures"], strict=True)) == {"needs review": 10}


def test_a_person_had_to_look_at_what_is_approved(home):
    assert "A person has to look because: low score" in words(show("image", id=25))
    change(home, sa.update(ProductImage).where(ProductImage.id == 25).values(qc_status="approved"))
    assert "A person had to look because: low score" in words(show("image", id=25))


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({"sku_id": None}, "only images that have a SKU are, after their answer."),
        ({"status": "failed", "reason": "truncated"}, "it was rejected (truncated)."),
        ({"status": "pending"}, "it waits for its answer and for enhancement."),
        ({"status": "pending", "rework_count": 1}, "it waits to be enhanced again."),
    ],
)
def test_an_image_says_why_it_was_not_enhanced(home, known, why):
    change(home, sa.update(ProductImage).where(ProductImage.id == 5).values(known))
    assert f"It was not enhanced: {why}" in words(show("image", id=5))


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [(3.6, 93.4, ("4", "93", "+89")), (95.4, 94.6, ("95", "95", "")), (80.2, 70.1, ("80", "70", "-10"))],
)
def test_scores_add_up(home, before, after, shown):
    metric = sa.update(ImageMetric).where(ImageMetric.image_id == 25)
    change(
        home,
        metric.where(ImageMetric.phase == "before").values(score=before),
        metric.where(ImageMetric.phase == "after").values(score=after),
    )
    first, second = show("image", id=25).metric
    assert (first.value, second.value, second.delta) == shown
