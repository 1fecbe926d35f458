"""What a newcomer sees after `make ui`: batches flow, a backfill works, the pages show pictures and numbers."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.native


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


class Ui:
    """The running `make ui`, asked through Dagster's GraphQL."""

    def __init__(self, home):
        self.port, self.api_port, self.dashboard_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self.home = home
        self.log = (home.parent / "ui.log").open("wb")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "imgpipe_dagster.demo.ui", "--port", str(self.port)),
                *("--api-port", str(self.api_port), "--dashboard-port", str(self.dashboard_port)),
                *("--images", "24", "--interval", "0.2"),
            ],
            env={**os.environ, "IMGPIPE_HOME": str(home)},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def ask(self, query, **variables):
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]

    def wait_for(self, question, seconds=180):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the UI has ended"
            try:
                if answer := question():
                    return answer
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(1)
        raise AssertionError(f"not within {seconds} s; see {self.log.name}")

    def partitions_done(self):
        runs = self.ask("{runsOrError(filter:{statuses:[SUCCESS]}){... on Runs{results{tags{key value}}}}}")
        tags = [{tag["key"]: tag["value"] for tag in run["tags"]} for run in runs["runsOrError"]["results"]]
        return sorted({t["dagster/partition"] for t in tags if "dagster/partition" in t})

    def rows(self, query, *values):
        with sqlite3.connect(self.home / "demo" / "catalogue.db", timeout=30) as connection:
            return connection.execute(query, values).fetchall()

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        finally:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.log.close()


@pytest.fixture(scope="module")
def ui(tmp_path_factory):
    running = Ui(tmp_path_factory.mktemp("ui") / "home")
    try:
        running.wait_for(lambda: len(running.partitions_done()) >= 2)
        yield running
    finally:
        running.stop()


def test_new_rows_flow_through_batches_without_a_hand(ui):
    (done,) = ui.rows("SELECT COUNT(*) FROM image_batches WHERE state IN ('analysed', 'enhanced')")[0]
    assert done >= 2
    lost = ui.rows(
        "SELECT b.batch_key FROM image_batches b WHERE b.state IN ('analysed', 'enhanced') AND b.image_count <> "
        "(SELECT COUNT(*) FROM image_predictions p WHERE p.batch_key = b.batch_key)"
    )
    assert lost == []


def test_no_process_of_the_demo_works_where_a_users_env_file_may_be(ui):
    # Those of Dagster: the renderer's helper, Python's resource tracker, reads no settings.
    [dagster] = [child for child in psutil.Process(ui.process.pid).children() if "dev" in child.cmdline()]
    folders = {dagster.cwd()}
    for process in dagster.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
            folders.add(process.cwd())
    assert folders == {str(ui.home / "demo")}


def test_detections_of_many_partitions_are_backfilled_as_from_the_ui(ui):
    keys = ui.partitions_done()[:2]
    marks = ", ".join("?" * len(keys))
    before = ui.rows(
        f"SELECT detection_id, x1, confidence FROM detections WHERE batch_key IN ({marks}) ORDER BY 1", *keys
    )
    launched = ui.ask(
        "mutation($p: LaunchBackfillParams!) {launchPartitionBackfill(backfillParams: $p)"
        " {... on LaunchBackfillSuccess {backfillId} ... on PythonError {message}}}",
        p={"assetSelection": [{"path": ["detections"]}], "partitionNames": keys},
    )["launchPartitionBackfill"]
    assert "backfillId" in launched, launched

    def finished():
        status = ui.ask(
            "query($b: String!) {partitionBackfillOrError(backfillId: $b) {... on PartitionBackfill {status}}}",
            b=launched["backfillId"],
        )["partitionBackfillOrError"]["status"]
        return status if status not in ("REQUESTED", "CANCELING", "FAILING") else None

    assert ui.wait_for(finished) == "COMPLETED_SUCCESS"
    after = ui.rows(
        f"SELECT detection_id, x1, confidence FROM detections WHERE batch_key IN ({marks}) ORDER BY 1", *keys
    )
    assert len(before) > 0
    assert after == before


def test_the_pages_show_the_graph_the_partitions_and_the_pictures(ui, browser):
    key = ui.partitions_done()[0]
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{ui.url}/asset-groups")
    expect(page.get_by_text("analysis").first).to_be_visible()
    expect(page.get_by_text("ingest").first).to_be_visible()
    page.goto(f"{ui.url}/assets/detections?view=partitions&partition={key}")
    expect(page.get_by_text("objects_by_class").first).to_be_visible()
    page.get_by_text("Show Markdown").first.click()
    picture = page.locator("img[alt='Annotated images']")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 200
    page.goto(f"{ui.url}/assets/image_predictions")
    expect(page.get_by_text("Freshness policy").first).to_be_visible()
    page.close()


def test_three_addresses_are_printed_and_answer(ui):
    printed = (ui.home.parent / "ui.log").read_text()
    addresses = {
        "Dagster": f"http://127.0.0.1:{ui.port}/",
        "API": f"http://127.0.0.1:{ui.api_port}/docs",
        "Dashboard": f"http://127.0.0.1:{ui.dashboard_port}/",
    }
    for name, address in addresses.items():
        assert f"{name}:{' ' * (10 - len(name))}{address}" in printed
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.status == 200


def test_a_second_demo_is_refused_while_one_runs(ui):
    result = subprocess.run(
        [sys.executable, "-m", "imgpipe_dagster.demo.ui"],
        env={**os.environ, "IMGPIPE_HOME": str(ui.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "stop it first" in " ".join(result.stdout.split())
