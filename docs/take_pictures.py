"""Takes the pictures of the UI for the documents, after `make demo`: ``.venv/bin/python docs/take_pictures.py``."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from imgpipe_dagster.demo.home import demo_home, enter_demo

DOCS = Path(__file__).parent
PORT, DASHBOARD_PORT = 3117, 3118
URL, DASHBOARD_URL = f"http://127.0.0.1:{PORT}", f"http://127.0.0.1:{DASHBOARD_PORT}"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def main() -> None:
    """Start Dagster's webserver and the dashboard over the demo's runs, walk through them, stop them."""
    home = demo_home()
    shutil.copyfile(home / "before_after.jpg", DOCS / "images" / "before-after.jpg")
    enter_demo(home, batch_size=40, batch_max_wait_s=0)
    os.environ["IMGPIPE_DAGSTER_URL"] = URL
    with (
        server("dagster-webserver", "-w", "workspace.yaml", "-p", str(PORT), answers=f"{URL}/server_info"),
        server("imgpipe", "dashboard", "--port", str(DASHBOARD_PORT), answers=f"{DASHBOARD_URL}/_stcore/health"),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        picture_of_the_graph(browser.new_page(viewport={"width": 6400, "height": 2200}))
        picture_of_a_sheet(browser.new_page(viewport={"width": 1400, "height": 760}))
        picture_of_a_model(browser.new_page(viewport={"width": 1400, "height": 900}))
        pictures_of_the_dashboard(
            browser.new_page(viewport={"width": 1200, "height": 900}), min((home / "images").rglob("shelf_????.jpg"))
        )
        browser.close()
    shutil.copy(home / "temples.jpg", DOCS / "images" / "temples.jpg")


@contextmanager
def server(program: str, *arguments: str, answers: str) -> Iterator[None]:
    """A server while the block runs, once it answers."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    process = subprocess.Popen(command, cwd=DOCS.parent, start_new_session=True)  # noqa: S603 - ours
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(answers, timeout=5).close()  # noqa: S310 - our own server
                break
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        else:
            raise TimeoutError(f"{answers} does not answer")
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def picture_of_the_graph(page: Page) -> None:
    """The asset graph with its groups unfolded."""
    page.goto(f"{URL}/asset-groups", timeout=120_000)
    page.wait_for_timeout(8_000)
    for group in ("analysis", "ingest"):
        box = page.locator("foreignObject", has_text=group).first.bounding_box()
        if box is None:
            raise RuntimeError(f"the group {group} is not shown")
        page.mouse.click(box["x"] + box["width"] - 26, box["y"] + 22)
        page.wait_for_timeout(4_000)
    page.mouse.move(2300, 1450)
    page.wait_for_timeout(1_000)
    boxes = [b for b in (node.bounding_box() for node in page.locator("foreignObject").all()) if b]
    left, top = min(b["x"] for b in boxes) - 20, min(b["y"] for b in boxes) - 20
    right, bottom = (max(b[at] + b[size] for b in boxes) + 20 for at, size in (("x", "width"), ("y", "height")))
    page.screenshot(
        path=DOCS / "images" / "asset-graph.png",
        clip={"x": left, "y": top, "width": right - left, "height": bottom - top},
    )


def picture_of_a_sheet(page: Page) -> None:
    """The contact sheet of one batch, as the asset's page shows it."""
    page.goto(f"{URL}/assets/detections?view=partitions", timeout=120_000)
    page.wait_for_timeout(5_000)
    page.get_by_text("-000002").first.click()
    page.wait_for_timeout(4_000)
    page.get_by_text("Show Markdown").first.click()
    page.wait_for_timeout(2_000)
    page.screenshot(path=DOCS / "images" / "contact-sheet.png")


def picture_of_a_model(page: Page) -> None:
    """The learning curve of one temple's model, as the asset's page shows it."""
    page.goto(f"{URL}/assets/temple_models?view=partitions&partition=lakeside", timeout=120_000)
    page.get_by_role("tab", name="Partitions").wait_for(timeout=120_000)  # the definitions are loaded, and it has some
    row = page.locator("tr", has_text="learning_curve").first
    row.get_by_text("Show Markdown").click(timeout=120_000)
    page.wait_for_timeout(2_000)
    if page.get_by_text("External Asset").count():
        raise RuntimeError("Dagster's UI shows the asset without the project's definitions")
    page.screenshot(path=DOCS / "images" / "temple-model.png")


def pictures_of_the_dashboard(page: Page, picture: Path) -> None:
    """The dashboard's pages as a visitor sees them first; an image with many boxes, a picture that was enhanced.

    Args:
        page: A page of the browser.
        picture: What is tried.
    """

    def show(path: str) -> None:
        page.goto(f"{DASHBOARD_URL}/{path}", timeout=120_000)
        settle(page)

    def take(name: str) -> None:
        page.mouse.move(600, 5)
        page.wait_for_timeout(1_000)
        page.screenshot(path=DOCS / "images" / f"dashboard-{name}.jpg", type="jpeg", quality=80)

    for name, path in (
        ("overview", ""),
        ("images", "images"),
        ("image", "image?id=3"),
        ("enhancement", "enhancement"),
        ("temples", "temples"),
        ("review", "review"),
    ):
        show(path)
        take(name)
    for keys in ("a", "2x", "a"):  # decisions, of which the figures tell
        for key in keys:
            page.keyboard.press(key)
            page.wait_for_timeout(500)
            settle(page)
    show("review_figures")
    take("review-figures")
    show("try")
    page.locator("input[type=file]").set_input_files(picture)
    page.get_by_role("heading", name="Enhanced").wait_for(timeout=300_000)
    settle(page)
    take("try")


def settle(page: Page) -> None:
    """Wait until the page's script has ended and all that it shows is loaded."""
    page.wait_for_selector("h1")
    page.wait_for_function(
        """() => document.querySelector("[data-testid=stApp]").dataset.testScriptState === "notRunning"
          && !document.querySelector("[data-testid=stSkeleton], [data-testid=stSpinner]")
          && [...document.images].every((image) => image.complete)""",
        timeout=120_000,
    )
    page.wait_for_timeout(2_000)  # charts grow into their places


if __name__ == "__main__":
    main()
