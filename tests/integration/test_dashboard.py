"""The dashboard's pages without a browser: what they say, whatever the catalogue and the store hold."""

import contextlib
import datetime as dt
import re
import shutil
import sqlite3

import pytest
import sqlalchemy as sa
import streamlit as st
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from streamlit.testing.v1 import AppTest

from imgpipe_dagster.alerts.freshness import Freshness
from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect, transact
from imgpipe_dagster.catalogue.jobs import end_training, following_training
from imgpipe_dagster.catalogue.pulse import Pulse
from imgpipe_dagster.catalogue.qc import ReviewLimits, approve
from imgpipe_dagster.catalogue.tables import (
    Alert,
    EnhancementConfigRow,
    FeedFreshness,
    ImageBatch,
    ProcessingJob,
    ProductImage,
    QcReviewLog,
    Sku,
    TempleChampion,
    TempleImage,
)
from imgpipe_dagster.dashboard import review, services
from imgpipe_dagster.dashboard.launch import has_login, streamlit_command, written_secrets
from imgpipe_dagster.dashboard.overview import freshness
from imgpipe_dagster.dashboard.people import logged_in
from imgpipe_dagster.dashboard.review import _decide
from imgpipe_dagster.dashboard.temples import NEW_CATEGORY
from imgpipe_dagster.dashboard.words import age, plain
from imgpipe_dagster.models.temple_training import Stage
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.store.local import LocalStore

PAGE = """
from imgpipe_dagster.dashboard import {name}
from imgpipe_dagster.dashboard.telling import told
from imgpipe_dagster.dashboard.people import Person
with told():
    {name}.show(Person({who!r}, frozenset({scopes!r})))
"""
OIDC = {
    "oidc_issuer": "https://issuer.example/",
    "oidc_audience": "imgpipe",
    "dashboard_oidc_client_secret": 'se"cret',
    "oidc_grants": {"ann@example.com": ["read", "review"]},
}


def show(name, *, who="ann", scopes=("read", "write", "review", "train"), **query):
    """The page, run once."""
    page = AppTest.from_string(PAGE.format(name=name, who=who, scopes=scopes), default_timeout=60)
    for key, value in query.items():
        page.query_params[key] = str(value)
    return page.run()


@contextlib.contextmanager
def changing(home):
    """A connection to the catalogue of an installation, for what others do to it."""
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def words(page):
    """All that the page says."""
    kinds = ("title", "header", "markdown", "caption", "text", "info", "warning", "error", "metric", "button")
    return "\n".join(
        f"{getattr(e, 'label', '')} {getattr(e, 'body', '')} {e.value}" for kind in kinds for e in getattr(page, kind)
    )


def markup(page):
    """What a browser would take for more than text, where texts are read as Markdown."""
    assert not any(e.proto.allow_html for e in page.markdown)
    said = words(page)
    for text in page.text:  # shown as it is
        said = said.replace(text.value, "")
    return re.search(r"(?<!\\)(<img|!\[|\]\(|:red|\$)", said)


def sound(page):
    """The page, which has not broken."""
    assert [e.value for e in page.exception] == []
    return page


def click(page, label):
    return sound(next(button for button in page.button if button.label == label).click().run())


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    """Nobody has to look at a picture before deciding."""
    monkeypatch.setattr(review, "SEEN_S", 0)


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory):
    """An installation without images, to be copied."""
    folder = tmp_path_factory.mktemp("empty")
    engine = connect(make_url(f"sqlite:///{folder}/catalogue.db"))
    schema.upgrade(engine)
    engine.dispose()
    return folder


@pytest.fixture(scope="module")
def full_home(tmp_path_factory, empty_home, fill_catalogue, photo):
    """An installation with thirty images, to be copied."""
    folder = tmp_path_factory.mktemp("full") / "home"
    shutil.copytree(empty_home, folder)
    engine = connect(make_url(f"sqlite:///{folder}/catalogue.db"))
    fill_catalogue(engine, LocalStore(folder / "store"), lambda _kind, _number: photo)
    engine.dispose()
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch, empty_home):
    """An installation without images."""
    yield from enter(empty_home, tmp_path, monkeypatch)


@pytest.fixture
def images(tmp_path, monkeypatch, full_home):
    """An installation with thirty images."""
    yield from enter(full_home, tmp_path, monkeypatch)


def enter(template, folder, monkeypatch):
    shutil.copytree(template, folder / "home")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("IMGPIPE_HOME", str(folder / "home"))
    forget()
    yield folder / "home"
    forget()


def forget():
    st.cache_resource.clear()
    st.cache_data.clear()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("overview", "imgpipe import csv"),
        ("images", "imgpipe import csv"),
        ("image", "Enter the number"),
        ("enhancement", "imgpipe run --once"),
        ("review", "Nothing waits for a review"),
        ("review_figures", "The page Review shows what waits"),
        ("temples", "There is no temple yet"),
        ("try_it", "Choose a picture"),
    ],
)
def test_an_empty_page_says_what_to_do(home, name, advice):
    assert advice in words(sound(show(name)))


READERS = ["overview", "images", "image", "enhancement", "review", "review_figures", "temples"]


@pytest.mark.parametrize("name", ["overview", "review"])  # all pages open it in one way
def test_a_database_that_is_down_is_one_sentence(home, name, monkeypatch):
    monkeypatch.setenv("IMGPIPE_DATABASE_URL", "mysql+pymysql://imgpipe:secret@127.0.0.1:1/imgpipe")
    forget()
    page = sound(show(name, id=1))
    assert all(e.value.startswith("The catalogue cannot be reached") for e in page.error)
    assert "secret" not in words(page)
    assert "Traceback" not in words(page)


def test_a_catalogue_that_goes_away_under_an_open_page_is_told_and_comes_back(images):
    pages = [sound(show(name, id=25)) for name in READERS]
    (images / "catalogue.db").rename(images / "elsewhere.db")
    st.cache_data.clear()
    for page in pages:
        assert "catalogue" in sound(page.run()).error[0].value
        assert page.button[-1].label == "Try again"
    (images / "elsewhere.db").rename(images / "catalogue.db")
    for page in pages:
        assert not sound(page.button[-1].click().run()).error


def test_a_page_waits_for_a_busy_catalogue_for_seconds_only(images, monkeypatch):
    monkeypatch.setattr(services, "_WAIT_S", 0.0)
    forget()
    tried = []

    def busy(_connection):
        tried.append(1)
        raise OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked"))

    with pytest.raises(OperationalError):
        transact(services.engine(), busy)
    assert tried == [1]


def test_a_catalogue_without_a_schema_says_which_command_helps(home, monkeypatch):
    monkeypatch.setenv("IMGPIPE_DATABASE_URL", f"sqlite:///{home}/other.db")
    forget()
    page = sound(show("overview"))
    assert "imgpipe db upgrade" in page.error[0].value


@pytest.mark.parametrize("name", [*READERS, "try_it"])
def test_who_may_not_read_sees_nothing(images, name):
    page = sound(show(name, scopes=(), id=1))
    assert re.search("may not (read|review)", page.info[0].value)
    assert len(page.info) == len(page.title) == 1
    assert not page.caption
    assert not page.metric


def test_the_overview_counts_what_came_out(images):
    page = sound(show("overview"))
    assert "30 images had their first answer, 0 were rejected" in words(page)
    assert any("fresh" in e.value for e in page.markdown)


def test_the_overview_leads_to_dagster_and_tells_of_one_source(images, monkeypatch):
    monkeypatch.setenv("IMGPIPE_DAGSTER_URL", "https://dagster.example/")
    with changing(images) as connection:
        connection.execute(sa.update(ProductImage).where(ProductImage.id < 4).values(source="feed"))
        connection.execute(sa.insert(ProductImage), [{"image_url": "https://cdn.example/waits.jpg"}])
        feed = {"kind": "source", "feed": "feed", "last_prediction_at": dt.datetime(2026, 1, 1)}  # noqa: DTZ001 - UTC, as the columns are
        connection.execute(sa.insert(FeedFreshness).values(feed))
        alert = {"kind": "batch_failed", "subject": "It has failed", "body": "Three times.", "run_id": "run 1"}
        connection.execute(sa.insert(Alert).values(alert))
    forget()
    page = sound(show("overview"))
    tables = {next(iter(frame.value)): frame.value for frame in page.dataframe}
    assert list(tables["batch"]["in Dagster"]) == ["https://dagster.example/runs?q[0]=tag%3Adagster%2Fpartition%3Db"]
    assert list(tables["when"]["in Dagster"]) == ["https://dagster.example/runs/run%201"]
    assert list(tables["when"]["what"]) == ["It has failed"]
    assert "Three times." in words(page)
    assert page.metric[1].value == "1"
    sound(page.selectbox(key="overview_source").set_value("feed").run())
    assert "3 images had their first answer" in words(page)
    sound(page.segmented_control(key="overview_range").set_value("30 days").run())
    assert "Images per day" in [header.value for header in page.header]


def test_pages_of_images_follow_each_other_and_lead_back(images):
    page = sound(show("images"))
    assert "SKU\\-30" in words(page)
    assert [button.disabled for button in page.button] == [True, False]
    sound(page.button[1].click().run())
    assert "Page 2" in words(page)
    assert "SKU\\-3" in words(page)
    assert [button.disabled for button in page.button] == [False, True]
    sound(page.button[0].click().run())
    assert "Page 1" in words(page)


def test_another_filter_begins_at_its_first_page(images):
    page = sound(show("images"))
    sound(page.button[1].click().run())
    sound(page.text_input(key="images_sku").set_value("SKU-7").run())
    assert "Page 1" in words(page)
    assert [e.value for e in page.caption if "SKU" in e.value] != []
    sound(page.text_input(key="images_class").set_value("nothing").run())
    assert "No image fits" in page.info[0].value


def test_images_are_found_by_what_is_known_of_them(images):
    with changing(images) as connection:
        known = {
            "status": "failed",
            "reason": "truncated",
            "temple_id": "hill",
            "created_at": dt.datetime(2020, 5, 1, 9),  # noqa: DTZ001 - UTC, as the columns are
        }
        connection.execute(sa.update(ProductImage).where(ProductImage.id == 9).values(known))
    filters = {
        "images_status": (lambda page: page.selectbox(key="images_status"), "failed"),
        "images_reason": (lambda page: page.selectbox(key="images_reason"), "truncated"),
        "images_temple": (lambda page: page.text_input(key="images_temple"), "hill"),
        "images_days": (lambda page: page.date_input(key="images_days"), (dt.date(2020, 5, 1), dt.date(2020, 5, 1))),
    }
    for name, (widget, value) in filters.items():
        page = sound(show("images"))
        sound(widget(page).set_value(value).run())
        assert [found.value.count("SKU") for found in page.caption] == [1], name
        assert "SKU\\-9" in page.caption[0].value


def test_a_selection_of_images_stands_in_the_address_and_nonsense_there_is_ignored(images):
    page = sound(show("images"))
    everything = [e.value for e in page.caption]
    sound(page.selectbox(key="images_status").set_value("failed").run())
    sound(page.slider(key="images_confidence").set_value((0.0, 0.9)).run())
    sound(page.toggle(key="images_newest").set_value(False).run())
    assert page.query_params == {"status": "failed", "confidence": "0.0-0.9", "newest": "no"}
    again = sound(show("images", status="failed", confidence="0.0-0.9", newest="no"))
    assert [e.value for e in again.caption] == [e.value for e in page.caption] != everything
    sound(show("images", days="2026-11-29,9999-12-31"))
    wrong = {"status": "<b>", "confidence": "7-x", "days": "1,2,3", "newest": "perhaps", "id": "3"}
    page = sound(show("images", **wrong))
    assert [e.value for e in page.caption] == everything
    assert page.query_params == {}


def test_images_are_found_by_the_confidence_of_a_class(images):
    page = sound(show("images"))
    page.text_input(key="images_class").set_value("can")
    sound(page.slider(key="images_confidence").set_value((0.5, 1.0)).run())
    assert "No image fits" in page.info[0].value
    sound(page.slider(key="images_confidence").set_value((0.3, 0.5)).run())
    assert not page.info


def test_text_of_unknown_origin_is_markup_on_no_page(images, hostile):
    with changing(images) as connection:
        mine, short = ProductImage.id == 30, hostile[:100]
        connection.execute(
            sa.update(ProductImage).where(mine).values(sku_id=short, product_group_id=short, reason=short)
        )
        connection.execute(sa.insert(Sku).values(sku_id=short))
        connection.execute(sa.update(ImageBatch).values(reason=short))
        connection.execute(sa.update(TempleImage).values(category=short))
        connection.execute(sa.update(TempleChampion).values(why=hostile, version="1"))
        connection.execute(sa.insert(Alert).values(kind="batch_failed", subject=hostile, body=hostile))
        job = {"job_id": "1", "kind": "train", "status": "failed", "error": hostile}
        connection.execute(sa.insert(ProcessingJob).values({**job, "parameters": {"temple_id": "lakeside"}}))
    for name in READERS:
        page = sound(show(name, who=hostile[:100], id=30))
        if name != "review_figures":  # which says nobody's text but in tables
            assert "onerror" in words(page) + str([frame.value.to_dict() for frame in page.dataframe])
        assert markup(page) is None, name


def test_names_of_files_are_never_markup(images):
    grid = sound(show("images"))
    grid = sound(grid.button[1].click().run())
    one = sound(show("image", id=1))
    for page in (grid, one):
        assert "onerror" in words(page)
        assert markup(page) is None


def test_a_file_that_vanished_from_the_store_is_told(images):
    grid = sound(show("images"))
    sound(grid.button[1].click().run())
    assert "no longer in the store" in words(grid)
    one = sound(show("image", id=2))
    assert "The picture cannot be shown" in words(one)
    assert "The report cannot be shown" in words(one)


def test_boxes_are_switched_by_class_and_confidence(images):
    page = sound(show("image", id=5))
    assert page.expander[0].label == "2 objects"
    sound(page.slider(key="image_confidence").set_value((0.5, 1.0)).run())
    assert page.expander[0].label == "1 object"
    assert list(page.dataframe[0].value["class"]) == ["SKU-5"]
    sound(page.slider(key="image_confidence").set_value((0.0, 0.3)).run())
    assert not page.expander


def test_boxes_of_a_class_are_switched_off(images):
    page = sound(show("image", id=5))
    sound(page.button_group(key="image_classes").set_value(["can"]).run())
    assert list(page.dataframe[0].value["class"]) == ["can"]


def test_an_image_tells_what_classifiers_called_it_and_its_objects(images):
    [frame] = [frame.value for frame in sound(show("image", id=5)).dataframe if "by" in frame.value]
    assert list(frame["what"]) == ["object 2", "the picture"]
    assert set(frame["class"]) == {"opened"}


def press(page, key):
    """Press a key of the review page."""
    return sound(button_of(page, key).click().run())


def button_of(page, key):
    return next(button for button in page.button if re.fullmatch(rf"review_key_{key}(_\d+_\d+)?", button.key or ""))


def category_counts(page):
    """How many training pictures of each category the page of temples counts."""
    (frame,) = (frame.value for frame in page.dataframe if "category" in frame.value)
    return dict(zip(frame["category"], frame["train"], strict=True))


def progress(page):
    """What the bars of progress say."""
    return " ".join(bar.proto.text for bar in page.get("progress"))


def looked_at(page):
    """The image that a reviewer has before them."""
    return page.session_state["review_desk"].current.image_id


def rows(home, query):
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    with engine.connect() as connection:
        found = connection.execute(query).all()
    engine.dispose()
    return [tuple(row) for row in found]


def logs(home):
    log = QcReviewLog
    return rows(home, sa.select(log.image_id, log.reviewer_id, log.status, log.reason, log.notes).order_by(log.id))


def claims(home):
    claimed = ProductImage.qc_claimed_by.is_not(None)
    return set(rows(home, sa.select(ProductImage.id, ProductImage.qc_claimed_by).where(claimed)))


def test_pictures_are_approved_rejected_and_passed_over_by_their_keys(images, hostile):
    page = sound(show("review"))
    assert looked_at(page) == 30
    page.text_input(key="review_notes").set_value(hostile)
    press(page, "A")
    assert looked_at(page) == 29
    assert page.text_input(key="review_notes").value == ""
    press(page, "2")
    press(page, "X")
    assert looked_at(page) == 28
    press(page, "N")
    assert looked_at(page) == 27
    assert logs(images) == [(30, "ann", "approved", None, hostile), (29, "ann", "pending", "too_dark", None)]
    assert "has decided on 2 pictures" in words(page)
    assert claims(images) == {(27, "ann"), (26, "ann"), (25, "ann")}


def test_a_decision_is_undone_and_its_picture_is_there_again(images):
    page = sound(show("review"))
    page.text_input(key="review_notes").set_value("a fine bottle")
    press(page, "A")
    press(page, "U")
    assert looked_at(page) == 30
    assert page.text_input(key="review_notes").value == "a fine bottle"
    assert [row[2] for row in logs(images)] == ["approved", "needs_review"]
    press(page, "A")
    assert looked_at(page) == 29
    page.session_state["review_desk"].decided_at -= 11
    assert "review_key_U" not in [button.key for button in sound(page.run()).button]


def test_two_reviewers_never_have_the_same_picture(images):
    ann, ben = sound(show("review")), sound(show("review", who="ben"))
    seen = {"ann": [], "ben": []}
    for _ in range(3):
        for name, page in (("ann", ann), ("ben", ben)):
            seen[name].append(looked_at(page))
            press(page, "A")
    assert set(seen["ann"]) & set(seen["ben"]) == set()
    assert len(logs(images)) == 6
    assert len({row[0] for row in logs(images)}) == 6


def test_who_is_late_is_told_and_goes_on(images):
    page = sound(show("review"))
    engine = connect(make_url(f"sqlite:///{images}/catalogue.db"))
    with engine.begin() as connection:  # the claim ran out, and another reviewer was there
        connection.execute(sa.update(ProductImage).where(ProductImage.id == 30).values(qc_claimed_by=None))
    approve(engine, 30, reviewer="ben", url_of=str, limits=ReviewLimits())
    engine.dispose()
    press(page, "A")
    assert "approved by ben" in page.warning[0].value
    assert looked_at(page) == 29


def test_a_rejection_without_a_reason_says_what_is_missing(images):
    page = sound(show("review"))
    press(page, "X")
    assert "choose what is wrong" in page.warning[0].value
    assert (looked_at(page), logs(images)) == (30, [])


def test_a_decision_on_a_catalogue_that_went_away_is_told_and_can_be_repeated(images):
    page = sound(show("review"))
    page.text_input(key="review_notes").set_value("seen")
    (images / "catalogue.db").rename(images / "elsewhere.db")
    press(page, "A")
    assert "catalogue" in page.error[0].value
    assert [button.label for button in page.button].count("Try again") == 1
    (images / "elsewhere.db").rename(images / "catalogue.db")
    sound(page.button[-1].click().run())
    press(page, "A")
    assert logs(images) == [(30, "ann", "approved", None, "seen")]


def test_a_key_that_is_pressed_twice_decides_on_one_picture(images):
    page = sound(show("review"))
    item = page.session_state["review_desk"].current
    press(page, "A")
    desk = page.session_state["review_desk"]
    _decide(desk, item, lambda: pytest.fail("decided twice"))
    assert desk.current.image_id == 29


def test_a_key_that_comes_before_a_picture_could_be_seen_decides_nothing(images, monkeypatch):
    monkeypatch.setattr(review, "SEEN_S", 60)
    page = sound(show("review"))
    press(page, "A")
    press(page, "E")
    press(page, "X")
    assert (looked_at(page), logs(images)) == (30, [])


def test_who_is_interrupted_after_a_decision_has_gone_on(images, monkeypatch):
    page = sound(show("review"))
    with monkeypatch.context() as patch:  # as Streamlit ends a callback where the session's state is touched
        patch.setattr(review, "_clear", lambda *_: (_ for _ in ()).throw(KeyError("interrupted")))
        button_of(page, "A").click().run()
    page = sound(page.run())
    assert (looked_at(page), [row[0] for row in logs(images)]) == (29, [30])
    assert not page.warning


def test_a_message_about_somebody_is_no_markup(images, hostile):
    page = sound(show("review"))
    engine = connect(make_url(f"sqlite:///{images}/catalogue.db"))
    with engine.begin() as connection:
        connection.execute(sa.update(ProductImage).where(ProductImage.id == 30).values(qc_claimed_by=None))
    approve(engine, 30, reviewer=f"![x](http://evil.example) {hostile}"[:100], url_of=str, limits=ReviewLimits())
    engine.dispose()
    press(page, "A")
    assert "approved by" in page.warning[0].value
    assert not markup(page)


def test_a_zoomed_picture_says_so_and_how_to_leave(images):
    page = sound(show("review"))
    press(page, "Z")
    assert "Z shows it whole again" in words(page)
    press(page, "Z")
    assert "Z shows it whole again" not in words(page)


def test_the_end_of_the_queue_leads_back_to_what_was_passed_over(images):
    page = sound(show("review"))
    for _ in range(10):
        press(page, "N")
    assert "some were passed over" in page.info[0].value
    sound(page.button[0].click().run())
    assert looked_at(page) == 30


def test_the_next_pictures_are_sent_before_they_are_asked_for(images):
    page = sound(show("review"))
    assert [item.image_id for item in page.session_state["review_desk"].ahead] == [29, 28]
    assert claims(images) == {(30, "ann"), (29, "ann"), (28, "ann")}
    assert len(page.image) == 3


def test_a_picture_that_vanished_can_still_be_rejected(images):
    (images / "store" / "enhanced" / "30" / "a.jpg").unlink()
    page = sound(show("review"))
    assert "The picture cannot be shown" in page.error[0].value
    assert "cannot be approved unseen" in page.error[0].value
    assert button_of(page, "A").disabled
    press(page, "E")
    press(page, "X")
    assert logs(images) == [(30, "ann", "rejected", "unusable", None)]


def test_a_picture_that_vanishes_while_it_is_looked_at_is_not_approved(images):
    page = sound(show("review"))
    (images / "store" / "enhanced" / "30" / "a.jpg").unlink()
    press(page, "A")
    assert "its file has gone from the store" in page.warning[0].value
    assert (looked_at(page), logs(images)) == (30, [])


def test_review_says_which_image_it_is_and_why_it_waits(images):
    with changing(images) as connection:
        connection.execute(sa.update(ProductImage).where(ProductImage.id == 30).values(sku_id="<b>*1*"))
    said = [text.value for text in sound(show("review")).markdown]
    assert rf"**Image 30**, SKU {plain('<b>*1*')}, waits because of: low score" in said


def test_review_figures_say_who_decided_and_why(images):
    page = sound(show("review"))
    press(page, "A")
    press(page, "2")
    press(page, "X")
    figures = sound(show("review_figures"))
    assert figures.metric[0].value == "2"
    assert any("too dark" in str(frame.value) for frame in figures.dataframe)


def test_settings_of_a_product_are_previewed_saved_and_taken_away(images):
    page = sound(show("enhancement", id=25))
    assert "min_fill" in str([frame.value for frame in page.dataframe])
    next(slider for slider in page.slider if slider.label == "Light").set_value(1.5)
    sound(page.button[0].click().run())
    assert [metric.label for metric in page.metric].count("Score after") == 2
    assert rows(images, sa.select(EnhancementConfigRow.config)) == []
    sound(page.button[1].click().run())
    assert rows(images, sa.select(EnhancementConfigRow.sku_id, EnhancementConfigRow.config)) == [
        ("SKU-25", {"light": 1.5})
    ]
    sound(page.button[2].click().run())
    assert rows(images, sa.select(EnhancementConfigRow.config)) == []


def test_what_was_typed_for_one_product_does_not_stay_for_the_next(images):
    page = sound(show("enhancement", id=25))
    page.text_input(key="enhancement_background_SKU-25_0").set_value("#00ff00")
    sound(page.selectbox(key="enhancement_image").set_value(26).run())
    assert page.text_input(key="enhancement_background_SKU-26_0").value == "#FFFFFF"
    assert page.query_params["id"] == "26", "the address names what is shown"
    click(page, "Save")
    assert rows(images, sa.select(EnhancementConfigRow.sku_id, EnhancementConfigRow.config)) in ([], [("SKU-26", {})])


def test_when_a_products_own_settings_are_gone_the_form_shows_what_counts_now(images):
    def background(page):
        return next(field for field in page.text_input if field.label == "Background")

    page = sound(show("enhancement", id=25))
    background(page).set_value("transparent")
    page = click(page, "Save")
    assert rows(images, sa.select(EnhancementConfigRow.config)) == [({"background": "transparent"},)]
    page = click(page, "Use the group's settings again")
    assert background(page).value == "#FFFFFF"
    assert "Its own settings are gone." in [told.value for told in page.success]
    assert rows(images, sa.select(EnhancementConfigRow.config)) == []


def test_a_setting_that_is_no_good_is_told(images):
    page = sound(show("enhancement", id=25))
    page.text_input[1].set_value("<b>pink</b>")
    sound(page.button[1].click().run())
    assert "Unknown colour" in page.error[0].value or "pink" in page.error[0].value
    assert rows(images, sa.select(EnhancementConfigRow.config)) == []


def test_a_temple_shows_its_champion_its_versions_and_its_mistakes(images):
    page = sound(show("temples"))
    told = words(page)
    assert "v1 serves since" in told
    assert "the first model" in told
    assert "right 0\\.91" in told
    frames = str([frame.value.to_dict() for frame in page.dataframe])
    assert "No category (Anomaly)" in frames


def test_a_wrong_label_of_a_test_picture_is_corrected_and_is_still_for_no_training(images):
    page = sound(show("temples"))
    assert page.selectbox(key="mistake_1_left").options == ["left", "right", NEW_CATEGORY]
    sound(page.selectbox(key="mistake_1_left").set_value("right").run())
    sound(page.button(key="mistake_1_save").click().run())
    assert rows(images, sa.select(TempleImage.split, TempleImage.category).where(TempleImage.id == 1)) == [
        ("test", "right")
    ]
    assert [e.value for e in page.success] == [
        "Corrected. No model is trained on a test picture; the next one and the one that serves are measured by it."
    ]
    assert "people had said left" in words(sound(page.run()))
    assert "Correct the label" not in [button.label for button in page.button], "it is corrected"
    sound(page.selectbox(key="mistake_1_right").set_value(NEW_CATEGORY).run())
    sound(page.text_input(key="mistake_1_new").set_value("../x").run())
    sound(page.button(key="mistake_1_save").click().run())
    assert "path" in page.error[0].value
    assert rows(images, sa.select(TempleImage.category).where(TempleImage.id == 1)) == [("right",)]


def test_labels_of_training_pictures_are_looked_through_and_corrected(images):
    page = sound(show("temples"))
    page.session_state["temple_look"] = True
    sound(page.run())
    sound(page.selectbox(key="temple_category").set_value("left").run())
    assert [box.key for box in page.selectbox if box.label == "People said"][1:3] == [
        "picture_14_left",
        "picture_13_left",
    ]
    click(page, "Next")
    sound(page.selectbox(key="picture_2_left").set_value(NEW_CATEGORY).run())
    assert not [button for button in page.button if button.key == "picture_2_save"], "it has no name yet"
    before = category_counts(page)
    sound(page.text_input(key="picture_2_new").set_value("middle").run())
    sound(page.button(key="picture_2_save").click().run())
    assert [e.value for e in page.success] == ["Corrected: the next training uses it."]
    assert rows(images, sa.select(TempleImage.category).where(TempleImage.id == 2)) == [("middle",)]
    assert category_counts(page) == {**before, "left": before["left"] - 1, "middle": 1}


def test_a_training_is_a_job_that_is_asked_for_once_and_watched_to_its_end(images):
    page = sound(show("temples"))
    ask = next(button for button in page.button if button.label == "Ask for a training")
    sound(ask.click().run())
    job = ProcessingJob
    assert rows(images, sa.select(job.kind, job.status)) == [("train", "pending")]
    ((job_id, asked),) = rows(images, sa.select(job.job_id, job.parameters))
    assert asked["forceful"], "there is a model already: without this no other would be trained"
    assert "has not begun" in progress(page)
    assert "Ask for a training" not in [button.label for button in page.button]
    engine = connect(make_url(f"sqlite:///{images}/catalogue.db"))
    with following_training(engine, job_id) as note_stage:
        note_stage(Stage.TRAINING_DATA)
        note_stage(Stage.TESTING_DATA)
        assert "the test pictures are read" in progress(sound(page.run()))
        end_training(engine, job_id, error="<b>two</b> categories are the least")
    engine.dispose()
    sound(page.run())
    assert "made no model: \\<b\\>two" in page.error[0].value
    assert "Ask for a training" in [button.label for button in page.button]


def test_an_address_on_a_private_network_is_not_fetched(home):
    page = sound(show("try_it"))
    sound(page.text_input(key="try_url").set_value("http://127.0.0.1:1/a.jpg").run())
    assert "The picture cannot be had" in page.error[0].value


def test_an_image_that_is_not_there_is_told(images):
    assert "There is no image 999" in words(sound(show("image", id="999")))
    for no_number in ("0", "9" * 17, "\u0661"):
        assert "Enter the number" in words(sound(show("image", id=no_number)))


@pytest.mark.parametrize(
    ("last_s", "waits_s", "colour"),
    [(60, None, "green"), (2000, None, "orange"), (4000, None, "red"), (None, None, "gray"), (None, 4000, "red")],
)
def test_freshness_has_the_colour_of_the_policy(last_s, waits_s, colour):
    pulse = Pulse(last_s, waits_s, None, mail_due=False, conditions={})
    assert freshness(pulse, Settings())[0] == colour
    assert len(Freshness) == 3


def test_text_keeps_its_words_and_loses_its_markup():
    assert plain("a\n<b>*x*") == "a \\<b\\>\\*x\\*"
    assert plain("x" * 300) == "x" * 199 + "…"
    assert plain("a\u202eb") == "a b"
    assert ":material/delete" not in plain(":material/delete:").replace("\\", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "never"), (0.4, "0 s"), (119, "119 s"), (130, "2 min"), (7200, "2 h"), (2e5, "2 d")]
)
def test_ages_are_in_one_unit(seconds, text):
    assert age(seconds) == text


def test_a_login_may_what_its_verified_address_is_granted():
    settings = Settings(**OIDC)
    claims = {"sub": "1", "email": "ann@example.com", "email_verified": True}
    ann = logged_in(claims, settings)
    assert (ann.name, ann.scopes) == ("ann@example.com", {"read", "review"})
    unverified = logged_in({**claims, "email_verified": False}, settings)
    assert (unverified.name, unverified.scopes) == ("1@issuer.example", frozenset())


def test_the_login_reads_its_secrets_from_a_private_file_that_is_gone_afterwards():
    import tomllib

    settings = Settings(**OIDC)
    assert has_login(settings)
    with written_secrets(settings, 8501) as file:
        assert file is not None
        assert file.parent.stat().st_mode & 0o077 == 0
        found = tomllib.loads(file.read_text())["auth"]
        command = streamlit_command(settings, host="127.0.0.1", port=8501, secrets_file=file)
    assert not file.exists()
    assert found["client_secret"] == 'se"cret'
    assert found["server_metadata_url"] == "https://issuer.example/.well-known/openid-configuration"
    assert found["redirect_uri"] == "http://localhost:8501/oauth2callback"
    assert len(found["cookie_secret"]) > 30
    assert not any("se" in part and "cret" in part and "secrets" not in part for part in command)


def test_without_a_login_there_is_no_file_and_only_known_names_are_answered():
    with written_secrets(Settings(), 8501) as file:
        assert file is None
    command = streamlit_command(Settings(), host="127.0.0.1", port=8501, secrets_file=None)
    assert {flag for flag in command if "allowedHosts" in flag} == {
        "--server.allowedHosts=localhost",
        "--server.allowedHosts=127.0.0.1",
    }
    assert {"--client.showErrorDetails=none", "--client.showErrorLinks=false"} <= set(command)
    assert "--browser.gatherUsageStats=false" in command


def test_a_file_that_is_no_picture_is_refused_where_it_is_seen(home):
    page = sound(show("try_it"))
    sound(page.file_uploader(key="try_upload").set_value(("page.jpg", b"<html>", "image/jpeg")).run())
    (status,) = page.status
    assert (status.state, status.proto.expanded) == ("error", True)
    assert "HTML" in page.error[0].value or "image" in page.error[0].value
    services.validator().__exit__(None, None, None)  # its children would be there in the tests after this one
