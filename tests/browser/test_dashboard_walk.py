"""Every page of the dashboard in a browser: it shows what there is, in light and dark, on a desk and on a telephone."""

import datetime as dt
import re
import urllib.parse
from functools import lru_cache

import pytest
import sqlalchemy as sa
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import Alert, ImageBatch, ImagePrediction, ProductImage, QcReviewLog
from imgpipe_dagster.dashboard.review import SEEN_S
from imgpipe_dagster.demo.halls import HALLS, Door, render_hall
from imgpipe_dagster.demo.products import render_product
from imgpipe_dagster.demo.render import render_scene
from imgpipe_dagster.store.local import LocalStore

pytestmark = pytest.mark.native

DESK, PHONE = {"width": 1280, "height": 2000}, {"width": 390, "height": 2000}  # high: the pictures show much at once
PAGES = {
    "overview": ("", "Overview"),
    "images": ("images", "Images"),
    "image": ("image?id=30", "Image 30"),
    "hostile": ("image?id=1", "Image 1"),
    "enhancement": ("enhancement", "Enhancement"),
    "review": ("review", "Review"),
    "review_figures": ("review_figures", "Review figures"),
    "temples": ("temples", "Temples"),
    "try": ("try", "Try it"),
}
STREAMLITS_OWN = {
    # The area that files are dropped on is a <section role="presentation"> that has a label; the button in it, which
    # does the same by keyboard, is as it should be. No option of st.file_uploader changes the section.
    "presentation-role-conflict": "[data-testid=stFileUploaderDropzone]",
}
"""What axe finds in Streamlit's own markup, out of our reach: by rule, the selector of what is excused from it."""

THRICE = """() => {
  const key = { key: "a", code: "KeyA", keyCode: 65, bubbles: true };
  for (let time = 0; time < 3; time++) {
    document.body.dispatchEvent(new KeyboardEvent("keydown", key));
    document.body.dispatchEvent(new KeyboardEvent("keyup", key));
  }
}"""

IDLE = """() => {
  const app = document.querySelector("[data-testid=stApp]");
  return app?.dataset.testScriptState === "notRunning" && app.dataset.testConnectionState === "CONNECTED"
    && !document.querySelector("[data-testid=stSkeleton], [data-testid=stSpinner]")
    && [...document.images].every((image) => image.complete);
}"""
TOO_WIDE = """() => ["html", "[data-testid=stMain]"].map((which) => document.querySelector(which))
  .filter((box) => box.scrollWidth > box.clientWidth).map((box) => `${box.scrollWidth} of ${box.clientWidth}`)"""

OFF_CENTRE = """frame => {
  const spare = frame.scrollWidth - frame.clientWidth;
  return spare > 0 ? Math.abs(frame.scrollLeft - spare / 2) : null;
}"""
"""By how many pixels the middle of a frame's picture is beside the middle of the frame; null where all of it shows."""


@lru_cache
def draw(kind, number):
    """Pictures as the demo has them."""
    match kind:
        case "original":
            return render_scene(number % 5, 640, 480).image
        case "enhanced":
            return render_product(number % 3, width=640, height=512).image
        case _:
            door = {"left": Door.OPEN, "right": Door.CLOSED}[kind]
            return render_hall(HALLS["lakeside"], door, number, 240, 135)


@pytest.fixture(scope="module")
def home(tmp_path_factory, fill_catalogue, exported_models):
    """An installation with images in every state."""
    folder = tmp_path_factory.mktemp("walk") / "home"
    folder.mkdir()
    (folder / "models").symlink_to(exported_models)
    engine = connect(make_url(f"sqlite:///{folder}/catalogue.db"))
    schema.upgrade(engine)
    fill_catalogue(engine, LocalStore(folder / "store"), draw)
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    with engine.begin() as connection:
        for number, reason in enumerate(("truncated", "http_not_found", "http_not_found", None, None), 31):
            known = {"id": number, "image_url": f"https://cdn.example/{number}.jpg", "temple_id": "lakeside"}
            state = {"status": "failed", "batch_key": "b", "reason": reason} if reason else {}
            connection.execute(sa.insert(ProductImage).values({**known, **state}))
            if reason:
                answer = {
                    "image_id": number,
                    "batch_key": "b",
                    "status": "rejected",
                    "reason": reason,
                    "object_count": 0,
                }
                connection.execute(sa.insert(ImagePrediction).values({**answer, "created_at": now}))
        batch = {"batch_key": "20261120-000007", "image_count": 500, "state": "failed", "attempt": 3}
        connection.execute(sa.insert(ImageBatch).values({**batch, "reason": "worker_lost"}))
        alert = {"kind": "batch_failed", "subject": "Batch 20261120-000007 has failed", "body": "It failed 3 times."}
        connection.execute(sa.insert(Alert).values({**alert, "run_id": "0" * 36}))
        for number, (who, status, reason) in enumerate(
            [("ben", "approved", None), ("ben", "pending", "too_dark"), ("cleo", "rejected", "unusable")] * 4
        ):
            decided = {"image_id": number + 1, "reviewer_id": who, "status": status, "reason": reason, "seconds": 4.5}
            time = {"created_at": now - dt.timedelta(days=1 + number % 5)}
            connection.execute(
                sa.insert(QcReviewLog).values({**decided, **time, "previous_status": "needs_review", "audited": True})
            )
    engine.dispose()
    return folder


@pytest.fixture(scope="module")
def dashboard(home, start_dashboard):
    return start_dashboard(
        home, IMGPIPE_DAGSTER_URL="http://127.0.0.1:3000", IMGPIPE_SOURCE_URL="https://example.com/source"
    )


@pytest.fixture
def visit(browser, dashboard):
    """Opens pages, each of a visitor of its own: `visit("review", name="ann")`; foreign servers are never asked."""
    contexts, asked, wrong = [], set(), []

    def go(path, *, name=None):
        context = browser.new_context(viewport=DESK)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.add(urllib.parse.urlsplit(request.url).hostname))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.goto(f"{dashboard.url}/{path}")
        settled(page)
        if name is not None:
            page.get_by_role("textbox", name="Your name").fill(name)
            page.keyboard.press("Enter")
            expect(page.get_by_role("button", name="Use another name")).to_be_visible()
            settled(page)
        return page

    yield go
    for context in contexts:
        context.close()
    assert asked <= {"localhost", None}
    assert wrong == []


def settled(page):
    page.wait_for_selector("h1")
    page.wait_for_timeout(300)  # a change of the page reaches the server first
    page.wait_for_function(IDLE)
    return page


def violations(page):
    """What axe finds that is in our reach, a line each."""
    excused = "([selector, excuse]) => document.querySelector(selector)?.matches(excuse) ?? false"
    return [
        f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}"
        for rule in Axe().run(page).response["violations"]
        for node in rule["nodes"]
        if rule["id"] not in STREAMLITS_OWN
        or not page.evaluate(excused, [node["target"][0], STREAMLITS_OWN[rule["id"]]])
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_readable_in_light_and_dark_on_a_desk_and_on_a_telephone(name, visit, tmp_path):
    path, title = PAGES[name]
    page = visit(path)
    expect(page.locator("h1")).to_have_text(title)
    assert page.get_by_test_id("stException").count() == 0
    found = []
    for colours in ("light", "dark"):
        page.emulate_media(color_scheme=colours, reduced_motion="reduce")
        for device, size in (("desk", DESK), ("phone", PHONE)):
            page.set_viewport_size(size)
            settled(page)
            assert page.evaluate(TOO_WIDE) == [], (colours, device)
            page.screenshot(path=tmp_path / f"{name}-{colours}-{device}.png")
            if (colours, device) != ("light", "phone"):
                found += [f"{colours} {device}: {line}" for line in violations(page)]
    assert not found, "\n".join(found)
    assert page.evaluate("[...document.images].filter((image) => !image.alt).length") == 0
    for chart in page.get_by_test_id("stVegaLiteChart").all():
        said = chart.evaluate("chart => chart.outerHTML")
        assert any(f'aria-label="{first}' in said for first in ("33 images", "Accuracy over", "Decisions on")), said


def looked_at(page):
    """The picture that a reviewer has before them."""
    return page.locator("[data-testid=stImage] img").first


def logs(home):
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    log = QcReviewLog
    columns = log.image_id, log.reviewer_id, log.status, log.reason, log.notes
    with engine.connect() as connection:
        found = connection.execute(sa.select(*columns).where(log.reviewer_id.in_(["ann", "dora"])).order_by(log.id))
        rows = [tuple(row) for row in found]
    engine.dispose()
    return rows


def test_pictures_are_decided_by_keyboard_and_two_people_never_have_the_same(visit, home, hostile, tmp_path):
    def press(key, *, shows):
        ann.wait_for_timeout(1000 * SEEN_S)  # nobody decides on what they have not seen
        ann.keyboard.press(key)
        expect(looked_at(ann)).to_have_attribute("alt", shows)
        settled(ann)

    ann = visit("review", name="ann")
    expect(looked_at(ann)).to_have_attribute("alt", "Image 30, enhanced")
    dora = visit("review", name="dora")
    expect(looked_at(dora)).to_have_attribute("alt", "Image 27, enhanced")  # 29 and 28 come next for ann
    press("o", shows="Image 30, original")
    press("o", shows="Image 30, enhanced")
    press("z", shows="Image 30, enhanced, every pixel")
    assert looked_at(ann).evaluate("image => image.clientWidth === image.naturalWidth")
    off_centre = ann.locator(".st-key-review_zoomed").evaluate(OFF_CENTRE)
    assert off_centre is not None, "the picture is larger than its frame"
    assert off_centre < 2
    ann.screenshot(path=tmp_path / "zoomed.png")
    press("z", shows="Image 30, enhanced")
    press("a", shows="Image 29, enhanced")
    press("u", shows="Image 30, enhanced")
    ann.get_by_role("textbox", name="Notes").press_sequentially("axn")
    ann.get_by_role("textbox", name="Notes").fill(hostile)
    ann.get_by_role("textbox", name="Notes").press("Tab")
    settled(ann)
    press("a", shows="Image 29, enhanced")
    ann.keyboard.press("x")
    expect(ann.get_by_text("choose what is wrong first")).to_be_visible()
    settled(ann)
    ann.keyboard.press("2")
    expect(ann.get_by_text("No reason is chosen.")).to_have_count(0)
    settled(ann)
    press("x", shows="Image 28, enhanced")
    press("n", shows="Image 24, enhanced")  # dora has the three between
    dora.reload()
    settled(dora)
    expect(dora.get_by_text("Today dora has decided")).to_be_visible()
    expect(looked_at(dora)).to_have_attribute("alt", "Image 28, enhanced")  # which ann has passed over
    dora.wait_for_timeout(1000 * SEEN_S)
    dora.evaluate(THRICE)  # nobody has seen what the second and the third would approve
    expect(looked_at(dora)).to_have_attribute("alt", "Image 27, enhanced")
    settled(dora)
    assert logs(home) == [
        (30, "ann", "approved", None, None),
        (30, "ann", "needs_review", None, None),
        (30, "ann", "approved", None, hostile),
        (29, "ann", "pending", "too_dark", None),
        (28, "dora", "approved", None, None),
    ]


def test_a_selection_of_images_outlasts_a_look_at_one(visit):
    page = visit("images?status=failed")
    selection = page.get_by_role("combobox", name="Status")
    expect(selection).to_have_value("failed")
    page.get_by_text("Newest first").click()
    settled(page)
    assert "newest=no" in page.url
    page.get_by_role("link", name=re.compile(r"Image \d+")).first.click()
    page.wait_for_url("**/image?id=*")
    settled(page)
    page.go_back()
    settled(page)
    expect(page.locator("h1")).to_have_text("Images")
    expect(selection).to_have_value("failed")
    assert "status=failed" in page.url
    assert "newest=no" in page.url


def upload(page, data, name="shelf.jpg"):
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "image/jpeg", "buffer": data})


def test_a_picture_is_tried_before_and_after_lie_under_a_slider_and_no_picture_is_told(visit, encode, tmp_path):
    page = visit("try")
    upload(page, encode(draw("original", 1), "JPEG"))
    expect(page.get_by_role("heading", name="Enhanced")).to_be_visible(timeout=120_000)
    settled(page)
    assert page.get_by_alt_text("The picture with").evaluate("image => image.naturalWidth") > 300
    assert page.get_by_role("progressbar").count() >= 3
    page.get_by_role("slider").fill("20")
    assert page.locator(".frame").evaluate("frame => frame.style.getPropertyValue('--cut')") == "20%"
    assert violations(page) == []
    page.screenshot(path=tmp_path / "tried.png", full_page=True)
    page.set_viewport_size(PHONE)
    settled(page)
    assert page.evaluate(TOO_WIDE) == []
    page.screenshot(path=tmp_path / "tried-phone.png")
    upload(page, b"<script>alert(1)</script>", name="<img src=x onerror=alert(1)>.jpg")
    expect(page.get_by_text("This file cannot be used.")).to_be_visible(timeout=60_000)


def test_files_of_an_image_are_downloaded(visit, home):
    page = visit("image?id=30")
    page.get_by_role("tab", name="Files").click()
    for label, key in (("Download the original", "images/30.jpg"), ("Download the enhanced", "enhanced/30/a.jpg")):
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        assert download.value.path().read_bytes() == (home / "store" / key).read_bytes()


def test_labelled_pictures_are_added_to_a_temple(visit, encode):
    page = visit("temples")
    page.get_by_role("textbox", name="Category").fill("left")
    upload(page, encode(draw("left", 99), "PNG"), "new.png")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("1 picture added, 0 known already.")).to_be_visible()
