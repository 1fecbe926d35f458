"""The dashboard in a browser over a large catalogue, against an empty Streamlit page in the same browser and run.

For SQLite and for a MariaDB server of its own, it fills a catalogue as ``query_plans.py`` does, starts `imgpipe
dashboard` and Streamlit with an empty page, and measures in Chromium, by the browser's own clock:

- opening each page, the two servers taking turns: until its title is there (first paint), and until its script has
  ended and all charts and pictures are shown (whole). The first visit counts apart: it imports, and makes what is kept.
- changing a filter: from the click or the key to the new page, whole. The empty page's rerun is that of its switch.
- reviewing by keyboard: from the key to the next picture, and whether the browser had it before the key was pressed.

Last, it runs every page in this process and asks the database for the plan of each statement that it executes.

    python benchmarks/dashboard.py [--images 200000] [--rounds 3] [--items 100] [--databases sqlite mariadb]
"""

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
from _mariadb import mariadb
from playwright.sync_api import BrowserContext, Page, sync_playwright
from query_plans import Plan, Recorder, explain, fill
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.dashboard.launch import APP, streamlit_command
from imgpipe_dagster.demo.render import render_scene
from imgpipe_dagster.settings import Settings

PAINT_GOAL, CHANGE_GOAL = 3.0, 1.5
PICTURES = 40
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
EMPTY = Path(__file__).with_name("_empty_page.py")
PAGES = {
    "overview": "",
    "images": "images",
    "image": "image?id={image}",
    "enhancement": "enhancement",
    "review": "review",
    "review figures": "review_figures",
    "temples": "temples",
    "try it": "try",
}

# Looks at the page at every frame. It is whole once its script has ended and nothing is still to be loaded, and nothing
# has come from the server since for a tenth of a second: the time is that of the first such frame.
WATCH = """(() => {
  const seen = window.seen = { title: null, whole: null, begun: null, changed: null, message: 0 };
  window.WebSocket = class extends window.WebSocket {
    constructor(...all) {
      super(...all);
      this.addEventListener("message", () => { seen.message = performance.now(); });
    }
  };
  const whole = () => document.querySelector("[data-testid=stApp]")?.dataset.testScriptState === "notRunning"
    && !document.querySelector("[data-testid=stSkeleton], [data-testid=stSpinner]")
    && [...document.images].every((image) => image.complete);
  window.arm = () => Object.assign(seen, { begun: null, changed: null, armed: true });
  const begin = (event) => {
    if (!seen.armed || (event.type === "keydown" && event.key !== "Enter")) return;
    Object.assign(seen, { begun: performance.now(), armed: false });
  };
  for (const kind of ["click", "keydown"]) window.addEventListener(kind, begin, true);
  let since = null;
  const look = () => {
    const now = performance.now();
    if (seen.title === null && document.querySelector("h1")) seen.title = now;
    if (seen.title === null || !whole()) since = null;
    else if (since === null || seen.message > since) since = now;
    else if (now - since > 100) {
      seen.whole ??= since;
      if (seen.begun !== null && since > seen.begun && seen.message > seen.begun) seen.changed ??= since;
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})()"""

# One decision: from the key to the next picture, and whether the browser had that picture when the key was pressed.
DECIDE = """() => new Promise((resolve) => {
  const current = () => document.querySelector("[data-testid=stMain] [data-testid=stImage] img");
  const ahead = () => [...document.querySelectorAll(".st-key-review_ahead img")];
  const before = current().alt;
  window.addEventListener("keydown", () => {
    const begun = performance.now();
    const had = ahead().filter((image) => image.complete && image.naturalWidth > 0).map((image) => image.src);
    const look = () => {
      const shown = current();
      if (shown && shown.alt !== before && shown.complete && shown.naturalWidth > 0)
        resolve({ ms: performance.now() - begun, had: had.includes(shown.src) });
      else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  }, { once: true, capture: true });
  window.ready = true;
})"""


@dataclass
class Opened:
    """How long a page took to open, in ms, a value a visit: its title, and all of it."""

    title: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Reviewed:
    """One decision by keyboard."""

    ms: float
    had: bool


def prepare(url: str, home: Path, images: int) -> None:
    """A catalogue of so many images, with a picture in the store for each: few files, of which all keys are links."""
    engine = connect(make_url(url))
    schema.upgrade(engine)
    fill(engine, image_count=images, box_count=2 * images)
    engine.dispose()
    store = home / "store"
    (store / "metadata").mkdir(parents=True)
    for seed in range(PICTURES):
        _, jpeg = cv2.imencode(".jpg", render_scene(seed).image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        (store / f"picture{seed}.jpg").write_bytes(jpeg.tobytes())
    for number in range(1, images + 1):
        os.link(store / f"picture{number % PICTURES}.jpg", store / f"digest{number}")
    (store / "metadata" / f"digest{shown_image(images)}.json").write_text("{}")


def shown_image(images: int) -> int:
    """An image that was predicted and enhanced."""
    return images // 2 + 1


@contextmanager
def server(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """A Streamlit server while the block runs, once it answers."""
    port = next(part.rpartition("=")[2] for part in command if part.startswith("--server.port="))
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as process:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.1)
            yield
        finally:
            process.terminate()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def open_pages(context: BrowserContext, urls: dict[str, str], rounds: int) -> dict[str, Opened]:
    """Open each page in turn, one round more than asked for: the first is the first visit of all."""
    found = {name: Opened() for name in urls}
    for _ in range(rounds + 1):
        for name, url in urls.items():
            page = context.new_page()
            page.goto(url)
            page.wait_for_function("() => window.seen.whole !== null")
            sound(page)
            seen = page.evaluate("window.seen")
            found[name].title.append(seen["title"])
            found[name].whole.append(seen["whole"])
            page.close()
    return found


def sound(page: Page) -> None:
    """End where a page has broken: its time would tell nothing."""
    if page.get_by_test_id("stException").count():
        raise SystemExit(f"{page.url} has broken")


def change(page: Page, act: Callable[[], object]) -> float:
    """Milliseconds from the click or Enter of ``act`` to the changed page."""
    page.wait_for_function("() => window.seen.whole !== null")
    page.wait_for_timeout(300)
    page.evaluate("window.arm()")
    act()
    page.wait_for_function("() => window.seen.changed !== null")
    sound(page)
    seen = page.evaluate("window.seen")
    return seen["changed"] - seen["begun"]


def changes(context: BrowserContext, url: str, empty_url: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each change, by the page and what is changed."""
    found: dict[str, list[float]] = {}

    def note(name: str, page: Page, act: Callable[[], object]) -> None:
        found.setdefault(name, []).append(change(page, act))

    def choose(page: Page, label: str, option: str) -> Callable[[], object]:
        page.get_by_role("combobox", name=label).click()
        page.keyboard.type(option)  # of a thousand options, those in sight are there
        return page.get_by_role("option", name=option, exact=True).click

    def write(page: Page, label: str, text: str) -> Callable[[], object]:
        box = page.get_by_role("textbox", name=label, exact=True)
        box.fill(text)
        return lambda: box.press("Enter")

    page = context.new_page()
    page.goto(empty_url)
    for _ in range(4 * rounds):
        note("empty page: its switch", page, page.get_by_text("Again").click)
    page.goto(f"{url}/images")
    for number in range(rounds):
        note("images: order", page, page.get_by_text("Newest first").click)
        note("images: status", page, choose(page, "Status", ("completed", "failed")[number % 2]))
        note("images: SKU", page, write(page, "SKU", f"SKU{number + 1}"))
        note("images: SKU", page, write(page, "SKU", ""))
        note("images: class", page, write(page, "Class of an object", ("can", "gap", "bottle")[number % 3]))
        note("images: class", page, write(page, "Class of an object", ""))
        note("images: next page", page, page.get_by_role("button", name="Next").click)
    page.goto(f"{url}/")
    for length in ("1 hour", "7 days", "30 days"):
        note("overview: time", page, page.get_by_role("radio", name=length).click)
    page.goto(f"{url}/enhancement")
    for number in range(rounds):
        note("enhancement: SKU", page, write(page, "SKU", f"SKU{10 * number + 3}"))
    page.goto(f"{url}/review_figures")
    for length in ("7 days", "a year"):
        note("review figures: time", page, page.get_by_role("radio", name=length).click)
    page.goto(f"{url}/temples")
    for number in range(rounds):
        note("temples: temple", page, choose(page, "Temple", f"temple{100 + number}"))
    page.close()
    return found


def review(context: BrowserContext, url: str, items: int, pace_s: float) -> list[Reviewed]:
    """Approve so many pictures by key, each after it was looked at for so long."""
    page = context.new_page()
    page.goto(f"{url}/review")
    page.wait_for_function("() => window.seen.whole !== null")
    found = []
    for _ in range(items):
        page.wait_for_timeout(1000 * pace_s)
        page.evaluate(f"() => {{ window.decided = ({DECIDE})(); }}")
        page.keyboard.press("a")
        found.append(Reviewed(**page.evaluate("() => window.decided")))
    page.close()
    return found


def plans_of_pages(environment: dict[str, str], images: int) -> list[Plan]:
    """The plan of each statement that the pages execute, run in this process."""
    from streamlit.testing.v1 import AppTest

    os.environ.update(environment)
    os.chdir(environment["IMGPIPE_HOME"])
    from imgpipe_dagster.dashboard import services

    recorder = Recorder(services.engine())
    for name in (*PAGES, "images by class and confidence", "images by reason"):
        module = name.partition(" by ")[0].replace(" ", "_")
        page = AppTest.from_string(
            f"from imgpipe_dagster.dashboard import {module}\n"
            "from imgpipe_dagster.dashboard.people import Person\n"
            f"{module}.show(Person('ann', frozenset(('read', 'write', 'review', 'train'))))",
            default_timeout=120,
        )
        page.query_params["id"] = str(shown_image(images))
        if name.endswith("confidence"):
            page.session_state["images_class"], page.session_state["images_confidence"] = "can", (0.4, 0.6)
        elif name.endswith("reason"):
            page.session_state["images_reason"] = "truncated"
        with recorder.watch(f"page: {name}"):
            page.run()
        if page.exception:
            raise SystemExit(f"{name}: {page.exception[0].value}")
    return [explain(services.engine(), statement) for statement in recorder.statements]


def show_opened(found: dict[str, Opened]) -> None:
    base_title, base_whole = (statistics.median(getattr(found["empty page"], kind)[1:]) for kind in ("title", "whole"))
    print("| page | first visit, ms | first paint, ms | x empty | whole, ms | x empty |\n|---|---|---|---|---|---|")
    for name, opened in found.items():
        title, whole = statistics.median(opened.title[1:]), statistics.median(opened.whole[1:])
        mark = "" if whole / base_whole <= PAINT_GOAL else " **missed**"
        print(
            f"| {name} | {opened.whole[0]:.0f} | {title:.0f} | {title / base_title:.2f} | {whole:.0f} | "
            f"{whole / base_whole:.2f}{mark} |"
        )


def show_changes(found: dict[str, list[float]], first_paint_ms: float) -> None:
    rerun = statistics.median(found["empty page: its switch"])
    print(f"\n| change | ms | x empty page's rerun ({rerun:.0f} ms) | x its opening ({first_paint_ms:.0f} ms) |")
    print("|---|---|---|---|")
    for name, times in found.items():
        took = statistics.median(times)
        mark = "" if took / rerun <= CHANGE_GOAL else " **missed**"
        print(f"| {name} | {took:.0f} | {took / rerun:.2f}{mark} | {took / first_paint_ms:.2f} |")


def show_review(found: list[Reviewed]) -> None:
    times = sorted(item.ms for item in found)
    late = sum(not item.had for item in found)
    p95 = times[int(0.95 * (len(times) - 1))]
    print(
        f"\nReview: {len(found)} pictures by key, {late} of them were not there before the key was pressed. From the "
        f"key to the next picture: median {statistics.median(times):.0f} ms, p95 {p95:.0f} ms, longest "
        f"{times[-1]:.0f} ms."
    )


def show_plans(plans: list[Plan]) -> None:
    full = [plan for plan in plans if plan.full_scans]
    whole = ", ".join(sorted({plan.statement.call for plan in plans if plan.index_scans})) or "none"
    slowest = max(plans, key=lambda plan: plan.milliseconds)
    print(
        f"\n{len(plans)} statements, {len(full)} without an index; a whole index is read by {whole}. "
        f"The slowest takes {slowest.milliseconds:.0f} ms ({slowest.statement.call})."
    )
    for plan in full:
        print(f"- **FULL SCAN** {plan.statement.call}: {'; '.join(plan.steps)}")


def measure(kind: str, url: str, home: Path, options: argparse.Namespace) -> None:
    """All figures over one catalogue, printed."""
    begun = time.perf_counter()
    prepare(url, home, options.images)
    filled = time.perf_counter() - begun
    ours, empty = free_ports(2)
    own = {"IMGPIPE_HOME": str(home), "IMGPIPE_DATABASE_URL": url}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IMGPIPE_")} | own
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    plain = Settings(_env_file=None)  # pyright: ignore[reportCallIssue] - pydantic-settings takes it
    commands = [streamlit_command(plain, host="127.0.0.1", port=port, secrets_file=None) for port in (ours, empty)]
    commands[1] = [str(EMPTY) if part == str(APP) else part for part in commands[1]]
    with server(commands[0], environment), server(commands[1], environment), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(120_000)
        context.add_init_script(WATCH)
        dashboard, nothing = f"http://127.0.0.1:{ours}", f"http://127.0.0.1:{empty}"
        image = shown_image(options.images)
        urls = {name: f"{dashboard}/{path.format(image=image)}" for name, path in PAGES.items()}
        opened = open_pages(context, {"empty page": nothing, **urls}, options.rounds)
        changed = changes(context, dashboard, nothing, options.rounds)
        reviewed = review(context, dashboard, options.items, options.pace)
        browser.close()
    print(f"\n## {kind}, {options.images:,} images (filled in {filled:.0f} s), load {os.getloadavg()[0]:.1f}\n")
    show_opened(opened)
    show_changes(changed, statistics.median(opened["empty page"].whole[1:]))
    show_review(reviewed)
    show_plans(plans_of_pages(environment, options.images))
    print(f"\n{time.perf_counter() - begun:.0f} s in all", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=100, help="pictures that are reviewed")
    parser.add_argument("--pace", type=float, default=0.5, help="seconds that a reviewer looks at each")
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "mariadb"], default=["sqlite", "mariadb"])
    options = parser.parse_args()
    if len(options.databases) > 1:  # a process each: Streamlit keeps what its pages have opened until it ends
        given = [f"--{name}={getattr(options, name)}" for name in ("images", "rounds", "items", "pace")]
        for kind in options.databases:
            subprocess.run([sys.executable, __file__, *given, f"--databases={kind}"], check=True)
        return
    (kind,) = options.databases
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, median of {options.rounds} rounds")
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dashboard-")))
        url = stack.enter_context(mariadb("plans")) if kind == "mariadb" else f"sqlite:///{home}/catalogue.db"
        measure(kind, url, home, options)


if __name__ == "__main__":
    main()
