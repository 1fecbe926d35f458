"""Folders into the store, on SQLite and MariaDB, a local store and S3, with real processes where they matter."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.tables import IngestedFile, ProductImage
from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.imaging.frames import to_frame
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.sources.base import SourceError
from imgpipe_dagster.sources.folder import FolderConfig, FolderSource, Outcome, announce_rows
from imgpipe_dagster.store.local import LocalStore
from imgpipe_dagster.store.s3 import S3Store

PROGRAM = str(Path(sys.executable).with_name("imgpipe"))


def picture(seed, width=64, height=48, extension=".jpg"):
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(extension, cv2.blur(image, (5, 5)))[1].tobytes()


def read(path):
    data = path.read_bytes()
    decode_bgr(data)
    return data


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "new_pics"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def source(empty_engine, store):
    def make(announce=None, read=read, **config):
        return FolderSource(empty_engine, store, read, announce or announce_rows(empty_engine), FolderConfig(**config))

    return make


def frames(store):
    return [found.key for found in store.list("images/")]


def images(engine):
    columns = (ProductImage.image_url, ProductImage.source, ProductImage.report_name, ProductImage.status)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(ProductImage.image_url))]


def test_files_get_numbers_in_their_order_and_become_rows(source, store, folder, empty_engine):
    for number in range(40):
        (folder / f"{number:03d}.jpg").write_bytes(picture(number))
    reports = list(source().take(sorted(folder.iterdir())))
    assert [(r.path.name, r.outcome, r.key) for r in reports] == [
        (f"{n:03d}.jpg", Outcome.NEW, f"images/frame_{n + 1:06d}.jpg") for n in range(40)
    ]
    assert store.get("images/frame_000008.jpg") == picture(7), "a JPEG within the limit stays as it is"
    assert images(empty_engine)[7] == ("store:images/frame_000008.jpg", "folder", "frame_000008", "pending")
    again = Counter(report.outcome for report in source().take(sorted(folder.iterdir())))
    assert again == {Outcome.KNOWN: 40}
    assert len(frames(store)) == len(images(empty_engine)) == 40


def test_the_same_content_is_in_once_whatever_it_is_called(source, store, folder, empty_engine):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).write_bytes(picture(1))
    outcomes = [report.outcome for report in source().take(sorted(folder.iterdir()))]
    assert outcomes == [Outcome.NEW, Outcome.KNOWN, Outcome.KNOWN]
    assert (len(frames(store)), len(images(empty_engine))) == (1, 1)


def test_numbers_go_on_above_the_highest_in_the_store(source, store, folder):
    for key in ("images/frame_000041.jpg", "images/frame_000007.png", "images/frame_x.jpg", "images/other_99.jpg"):
        store.put(key, b"of somebody else")
    (folder / "a.jpg").write_bytes(picture(1))
    assert [report.key for report in source().take([folder / "a.jpg"])] == ["images/frame_000042.jpg"]


def test_a_number_that_somebody_else_takes_meanwhile_is_left_to_him(source, store, folder, empty_engine):
    made = source()
    store.put("images/frame_000001.jpg", b"of somebody else")
    (folder / "a.jpg").write_bytes(picture(1))
    assert [report.key for report in made.take([folder / "a.jpg"])] == ["images/frame_000002.jpg"]
    assert store.get("images/frame_000001.jpg") == b"of somebody else"
    (folder / "b.jpg").write_bytes(picture(2))
    assert [report.key for report in made.take([folder / "b.jpg"])] == ["images/frame_000003.jpg"]
    assert [row[0][-10:] for row in images(empty_engine)] == ["000002.jpg", "000003.jpg"]


def test_bad_files_are_told_with_a_reason_and_moved_where_they_are_wanted(source, store, folder, tmp_path):
    (folder / "good.jpg").write_bytes(picture(1))
    (folder / "page.jpg").write_bytes(b"<!doctype html>")
    (folder / "cut.jpg").write_bytes(picture(2, 640, 480)[:3000])
    (folder / "empty.jpg").touch()
    left = {r.path.name: r.reason for r in source().take(sorted(folder.iterdir())) if r.outcome is Outcome.REJECTED}
    assert left == {"page.jpg": "not_an_image", "cut.jpg": "truncated", "empty.jpg": "empty_file"}
    assert len(list(folder.iterdir())) == 4
    done, bad = tmp_path / "done", tmp_path / "bad"
    done.mkdir()
    (done / "good.jpg").write_bytes(b"an older one")
    list(source(moved_to=done, rejected=bad).take(sorted(folder.iterdir())))
    assert list(folder.iterdir()) == []
    assert sorted(path.name for path in bad.iterdir()) == sorted(left)
    assert (done / "good.jpg").read_bytes() == b"an older one"
    assert (done / "good.2.jpg").read_bytes() == picture(1)
    assert len(frames(store)) == 1


def test_a_file_that_has_just_changed_is_not_rejected_yet(source, folder, tmp_path):
    path = folder / "cut.jpg"
    path.write_bytes(picture(2, 640, 480)[:3000])
    made = source(patience_s=60, rejected=tmp_path / "bad")
    assert [report.outcome for report in made.take([path])] == [Outcome.FRESH]
    assert path.exists()
    os.utime(path, (time.time() - 61,) * 2)
    assert [report.outcome for report in made.take([path])] == [Outcome.REJECTED]
    assert not path.exists()


def test_a_file_that_goes_away_meanwhile_is_no_fault(source, folder):
    (folder / "a.jpg").write_bytes(picture(1))

    def lose(path):
        path.unlink(missing_ok=True)
        raise DecodeError(Reason.UNREADABLE, "gone")

    made = source(read=lose)
    assert [report.outcome for report in made.take([folder / "a.jpg", folder / "never.jpg"])] == [Outcome.GONE] * 2


def test_what_was_stored_and_not_announced_keeps_its_number(source, store, folder, empty_engine):
    (folder / "a.jpg").write_bytes(picture(1))

    def refuse(frames):
        raise SourceError("no broker")

    with pytest.raises(SourceError):
        list(source(refuse).take([folder / "a.jpg"]))
    assert frames(store) == ["images/frame_000001.jpg"]
    assert images(empty_engine) == []
    (folder / "0.jpg").write_bytes(picture(0))
    assert [r.key for r in source().take(sorted(folder.iterdir()))] == [f"images/frame_00000{n}.jpg" for n in (2, 1)]
    assert [row[2] for row in images(empty_engine)] == ["frame_000001", "frame_000002"]


def test_frames_go_to_s3_as_well(s3_client, s3_bucket, empty_engine, folder):
    store = S3Store(s3_client, s3_bucket, "shop")
    (folder / "a.png").write_bytes(picture(1, extension=".png"))
    made = FolderSource(empty_engine, store, read, announce_rows(empty_engine))
    assert [report.key for report in made.take([folder / "a.png"])] == ["images/frame_000001.jpg"]
    head = s3_client.head_object(Bucket=s3_bucket, Key="shop/images/frame_000001.jpg")
    assert head["ContentType"] == "image/jpeg"


INGEST = """
import sys
from pathlib import Path
from sqlalchemy.engine import make_url
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.sources.folder import FolderSource, announce_rows
from imgpipe_dagster.store.local import LocalStore
engine = connect(make_url(sys.argv[1]))
source = FolderSource(engine, LocalStore(Path(sys.argv[2])), Path.read_bytes, announce_rows(engine))
sys.stdin.readline()
for report in source.take(sorted(Path(sys.argv[3]).iterdir())):
    print(report.path.name, report.key, flush=True)
"""


def start(engine, store, folder):
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", INGEST, url, str(store.root), str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_that_ingest_at_once_share_no_number_and_lose_no_file(store, folder, tmp_path, empty_engine):
    """Two with a folder each, and one more over the first folder."""
    other = tmp_path / "other"
    other.mkdir()
    for number in range(60):
        (folder / f"{number:03d}.jpg").write_bytes(picture(number))
        (other / f"{number:03d}.jpg").write_bytes(picture(1000 + number))
    processes = [start(empty_engine, store, place) for place in (folder, other, folder)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert [len(text.splitlines()) for text in printed] == [60, 60, 60]
    contents = {hashlib.sha256(path.read_bytes()).hexdigest() for place in (folder, other) for path in place.iterdir()}
    stored = [hashlib.sha256(store.get(key)).hexdigest() for key in frames(store)]
    assert sorted(stored) == sorted(contents), "each content once, none overwritten"
    assert frames(store) == [f"images/frame_{number:06d}.jpg" for number in range(1, 121)]
    assert [row[0] for row in images(empty_engine)] == [f"store:{key}" for key in frames(store)]


def test_an_ingest_that_is_killed_goes_on_without_a_gap_or_a_double(store, folder, empty_engine, source):
    for number in range(100):
        (folder / f"{number:03d}.jpg").write_bytes(picture(number))
    process = start(empty_engine, store, folder)
    process.stdin.write("go\n")
    process.stdin.flush()
    process.stdout.readline()
    process.kill()
    process.communicate()
    list(source().take(sorted(folder.iterdir())))
    assert frames(store) == [f"images/frame_{number:06d}.jpg" for number in range(1, 101)]
    assert len(images(empty_engine)) == 100
    with empty_engine.connect() as connection:
        unannounced = sa.select(sa.func.count()).where(IngestedFile.announced_at.is_(None))
        assert connection.scalar(unannounced) == 0


def test_large_pictures_become_smaller_upright_and_jpeg():
    wide = to_frame(picture(1, 400, 100, ".png"), 200)
    assert decode_bgr(wide).shape == (50, 200, 3)
    small = picture(2, 40, 30, ".png")
    assert decode_bgr(to_frame(small, 200)).shape == (30, 40, 3)
    assert np.abs(decode_bgr(to_frame(small, 200)).astype(int) - decode_bgr(small)).mean() < 6


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path):
    foreign = ("IMGPIPE_", "MYSQL_", "DAGSTER_", "AWS_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}

    def start_command(*arguments, **settings):
        return subprocess.Popen(
            ["env", "--default-signal=INT", PROGRAM, *map(str, arguments)],
            cwd=tmp_path,
            env=clean | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert start_command("db", "upgrade").wait(timeout=120) == 0
    return start_command


def wait_until(condition, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_command_ingests_a_folder_and_tells_what_it_could_not_use(command, folder, tmp_path):
    (folder / "a.jpg").write_bytes(picture(1, 300, 200))
    (folder / "page.jpg").write_bytes(b"<!doctype html>")
    (folder / ".hidden.jpg").write_bytes(picture(2))
    (tmp_path / "secret.jpg").write_bytes(picture(3))
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    arguments = ("ingest", folder, "--max-side", "100", "--moved-to", folder / "done", "--temple", "T1", "--json")
    process = command(*arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "link.jpg: passed over, it leads out of the folder" in err
    found = json.loads(out)
    assert (found["new"], found["known"], found["rejected"]) == (1, 0, 1)
    assert (Path(found["bad"][0]["file"]).name, found["bad"][0]["reason"]) == ("page.jpg", "not_an_image")
    stored = LocalStore(tmp_path / ".imgpipe" / "store").get("images/frame_000001.jpg")
    assert decode_bgr(stored).shape == (67, 100, 3)
    assert sorted(path.name for path in folder.iterdir()) == [".hidden.jpg", "done", "link.jpg", "page.jpg"]
    again, _ = command(*arguments).communicate(timeout=120)
    assert (json.loads(again)["new"], json.loads(again)["rejected"]) == (0, 1), "done files are left out"


def test_the_command_watches_and_waits_for_files_that_are_still_written(command, folder, tmp_path):
    (folder / "first.jpg").write_bytes(picture(1))
    done = tmp_path / "done"
    process = command("ingest", folder, "--watch", "--moved-to", done, "--json")
    store = LocalStore(tmp_path / ".imgpipe" / "store")
    wait_until(lambda: frames(store) == ["images/frame_000001.jpg"])
    data = picture(2, 640, 480)
    with (folder / "slow.jpg").open("wb") as file:
        for start_at in range(0, len(data), len(data) // 6):
            file.write(data[start_at : start_at + len(data) // 6])
            file.flush()
            time.sleep(0.7)  # longer than it takes to settle, in all
    aside = tmp_path / "aside.jpg"
    aside.write_bytes(picture(3))
    aside.rename(folder / "moved.jpg")
    wait_until(lambda: len(frames(store)) == 3)
    wait_until(lambda: list(folder.iterdir()) == [])
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out) == {"new": 3, "known": 0, "rejected": 0, "bad": []}
    assert {hashlib.sha256(store.get(key)).hexdigest() for key in frames(store)} == {
        hashlib.sha256(picture(seed, *size)).hexdigest() for seed, size in ((1, ()), (2, (640, 480)), (3, ()))
    }
    assert len(list(done.iterdir())) == 3


def test_images_are_announced_on_kafka_and_consumed_with_their_names(command, folder, tmp_path):
    kafka = pytest.importorskip("confluent_kafka")
    host = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock"})
    (broker,) = host.list_topics(timeout=30).brokers.values()
    settings = {"IMGPIPE_KAFKA_BOOTSTRAP_SERVERS": f"{broker.host}:{broker.port}", "IMGPIPE_KAFKA_TOPIC": "images"}
    for seed in range(3):
        (folder / f"{seed}.jpg").write_bytes(picture(seed))
    process = command("ingest", folder, "--kafka", "--sku", "S1", "--json", **settings)
    out, err = process.communicate(timeout=120)
    assert json.loads(out)["new"] == 3, err
    out, err = command("poll", "--json", **settings).communicate(timeout=120)
    assert json.loads(out)["sources"]["kafka"]["inserted"] == 3, err
    engine = sa.create_engine(f"sqlite:///{tmp_path}/.imgpipe/catalogue.db")
    assert images(engine) == [
        (f"store:images/frame_00000{n}.jpg", "kafka", f"frame_00000{n}", "pending") for n in (1, 2, 3)
    ]
    engine.dispose()
