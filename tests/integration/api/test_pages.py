"""The pages that the API serves, in a browser: they run under their own policy, show the answer, and are accessible."""

import shutil

import cv2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from imgpipe_dagster.demo.render import render_scene

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def url(tmp_path_factory, empty_catalogue, exported_models, weights, start_server):
    home = tmp_path_factory.mktemp("pages")
    shutil.copy(empty_catalogue, home / "catalogue.db")
    (home / "models").symlink_to(exported_models)
    server = start_server(
        home,
        IMGPIPE_BOTTLE_WEIGHTS=str(weights),
        IMGPIPE_BOTTLE_CROP_CLASSES='["can", "bottle", "carton"]',
        IMGPIPE_SOURCE_URL="https://example.com/source",
    )
    yield server.url
    server.close()


@pytest.fixture
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.complaints = []
        page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        yield page
        browser.close()


def accessible(page) -> bool:
    found = Axe().run(page).response["violations"]
    assert not found, [(item["id"], item["nodes"][0]["html"]) for item in found]
    return True


def test_an_uploaded_picture_is_shown_with_its_answer_and_its_boxes(page, url):
    scene = cv2.imencode(".jpg", render_scene(1, 640, 480).image)[1].tobytes()
    page.goto(url)
    assert accessible(page)
    page.set_input_files("#file", {"name": "shelf.jpg", "mimeType": "image/jpeg", "buffer": scene})
    page.click("#send")
    expect(page.locator("#answer")).to_contain_text("%", timeout=60_000)
    expect(page.locator("#objects tbody tr").first).to_be_visible()
    assert page.evaluate("[picture.width, picture.height]") == [640, 480]
    green = """() => { const pen = document.getElementById("picture").getContext("2d");
        const data = pen.getImageData(0, 0, 640, 480).data; let found = 0;
        for (let i = 0; i < data.length; i += 4) found += data[i] === 11 && data[i + 1] === 110 && data[i + 2] === 79;
        return found; }"""
    assert page.evaluate(green) > 100  # the frames' own colour
    assert accessible(page)
    page.set_input_files("#file", {"name": "page.jpg", "mimeType": "image/jpeg", "buffer": b"<html>"})
    page.click("#send")
    expect(page.locator("#answer.bad")).to_contain_text("Incorrect file format", timeout=30_000)
    # The browser itself notes the refusal of the request; nothing else may be wrong.
    assert ["400 (Bad Request)" in text for text in page.complaints] == [True], page.complaints


def test_the_page_about_the_api_shows_every_path_with_examples(page, url):
    page.goto(f"{url}/docs")
    block = page.locator("details", has_text="/api/v1/enhance/url")
    expect(block).to_have_count(1, timeout=30_000)
    block.locator("summary").click()
    expect(block.locator("pre").first).to_contain_text('"target_size_kb": 500')
    assert page.locator("details").count() > 20
    assert page.locator("footer a").get_attribute("href") == "https://example.com/source"
    assert accessible(page)
    assert page.complaints == []
