"""The server that plays the CDN."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

from imgpipe_dagster.demo.cdn import DemoCdn, iter_new_rows
from imgpipe_dagster.demo.images import demo_files


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def status_of(url: str) -> int:
    try:
        get(url)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def test_every_name_of_the_demo_is_served_byte_for_byte(tmp_path):
    names = [file.name for file in demo_files(120)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"%d" % number)
    with DemoCdn(tmp_path) as cdn:
        assert [get(cdn.url_for(name)) for name in names] == [b"%d" % number for number in range(120)]


def test_a_file_that_is_not_there_is_404(tmp_path):
    (tmp_path / "folder").mkdir()
    with DemoCdn(tmp_path) as cdn:
        assert status_of(cdn.url_for("missing.jpg")) == 404
        assert status_of(cdn.url_for("folder")) == 404


def test_a_file_added_later_is_served(tmp_path):
    with DemoCdn(tmp_path) as cdn:
        (tmp_path / "new.jpg").write_bytes(b"new")
        assert get(cdn.url_for("new.jpg")) == b"new"


@pytest.mark.parametrize("path", ["..%2Fsecret.txt", "%2E%2E/secret.txt", "link.txt"])
def test_nothing_outside_the_folder_is_served(path, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "cdn"
    folder.mkdir()
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    with DemoCdn(folder) as cdn:
        assert status_of(f"{cdn.base_url}/{path}") == 404


def test_a_delay_holds_every_answer_but_not_the_others(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    with DemoCdn(tmp_path, delay_s=0.3) as cdn, ThreadPoolExecutor(10) as pool:
        started = time.monotonic()
        answers = list(pool.map(get, [cdn.url_for("a.jpg")] * 10))
        elapsed = time.monotonic() - started
    assert answers == [b"a"] * 10
    assert 0.3 <= elapsed < 2.5


def test_the_server_is_gone_after_its_block(tmp_path):
    with DemoCdn(tmp_path) as cdn:
        url = cdn.url_for("a.jpg")
    with pytest.raises(urllib.error.URLError, match="refused"):
        get(url)


def test_a_port_that_is_taken_is_an_error(tmp_path):
    with DemoCdn(tmp_path) as cdn, pytest.raises(OSError, match="in use"), DemoCdn(tmp_path, cdn.port):
        pass


def test_new_rows_come_for_ever_under_urls_that_never_came_before(tmp_path):
    files = list(demo_files(10))[:3]
    for file in files:
        (tmp_path / file.name).write_text(file.name)
    waits: list[float] = []
    with DemoCdn(tmp_path) as cdn:
        rows = list(islice(iter_new_rows(cdn, files, 1.5, waits.append), 7))
        served = [get(url).decode() for url, file in rows if file.name in {path.name for path in tmp_path.iterdir()}]
        time.sleep(0.1)
        later, _ = next(iter_new_rows(cdn, files, 0))
    assert len({url for url, _ in rows}) == 7
    assert later not in {url for url, _ in rows}, "the catalogue knows those of an earlier start"
    assert [file for _, file in rows] == [*files, *files, files[0]]
    assert served == [file.name for _, file in rows]
    assert waits == [1.5] * 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_a_folder_until_it_is_told_to_stop(number, tmp_path):
    (tmp_path / "a b.jpg").write_bytes(b"picture")
    command = [sys.executable, "-m", "imgpipe_dagster.demo.cdn", str(tmp_path), "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as run:
        assert run.stderr is not None
        address, _, folder = run.stderr.readline().strip().partition(" serves ")
        assert Path(folder) == tmp_path.resolve()
        assert get(f"{address}/a%20b.jpg") == b"picture"
        run.send_signal(number)
        assert run.wait(timeout=20) == 0


def test_the_command_refuses_a_folder_that_is_not_there(tmp_path):
    command = [sys.executable, "-m", "imgpipe_dagster.demo.cdn", str(tmp_path / "none")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 2
    assert "there is no folder" in answer.stderr
