"""Whole runs in real processes: killed, interrupted, doubled, cut off from database and store, fed with odd rows."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import cv2
import pandas as pd
import pytest

from imgpipe_dagster.backfills import backfill_assets
from imgpipe_dagster.catalogue.batches import BatchLimits, claim_batch, get_batch
from imgpipe_dagster.catalogue.frames import load_batch, replace_batch
from imgpipe_dagster.catalogue.images import images_of_batch
from imgpipe_dagster.catalogue.jobs import create_enhance_job, get_job
from imgpipe_dagster.catalogue.tables import Claimant
from imgpipe_dagster.demo.products import render_product
from imgpipe_dagster.store import LocalStore, S3Store

OUTAGE_S = 10


@pytest.fixture
def catalogue_of(scenes, cdn):
    """Fills an installation with rows of good images, each file different: `catalogue_of(installation, 12)`."""

    def fill(installation, count):
        for number in range(count):
            cdn.files[f"{number}.jpg"] = scenes[number % len(scenes)] + bytes([number])  # bytes behind a JPEG are legal
        installation.add(*(cdn.url(f"{number}.jpg") for number in range(count)))

    return fill


@pytest.fixture
def store_disk(tmp_path):
    """Mounts a disk on the folder `store`: `store_disk("mount", ...)`."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "store"
    folder.mkdir()
    yield lambda *command: subprocess.run([*command, folder], check=True)
    subprocess.run(["umount", "-l", folder], check=True)


def odd_rows(cdn, scenes):
    """URLs with the reason that each must end with, and the files behind them; None is a success."""
    cdn.files.update(
        {
            "good.jpg": scenes[0],
            "flaky.jpg": scenes[1],
            "page.jpg": b"<!DOCTYPE html><html><body>Not here</body></html>",
            "empty.jpg": b"",
            "truncated.jpg": scenes[2][: len(scenes[2]) * 6 // 10],
        }
    )
    cdn.unavailable["flaky.jpg"] = 3
    cdn.redirects["inside.jpg"] = "http://169.254.169.254/latest/meta-data/"
    return [
        (None, "url_missing"),
        ("  ", "url_missing"),
        ("a photo.jpg", "url_invalid"),
        ("file:///etc/passwd", "url_scheme_not_allowed"),
        ("http://2130706433/a.jpg", "address_not_allowed"),
        (cdn.url("inside.jpg"), "address_not_allowed"),
        (cdn.url("good.jpg"), None),
        (cdn.url("good.jpg"), None),
        (cdn.url("missing.jpg"), "http_not_found"),
        (cdn.url("flaky.jpg"), None),
        (cdn.url("page.jpg"), "not_an_image"),
        (cdn.url("empty.jpg"), "empty_file"),
        (cdn.url("truncated.jpg"), "truncated"),
    ]


def add_products(installation, cdn, count, *, side):
    """Rows of one SKU, each with a product photo of its own, square."""
    for number in range(count):
        picture = render_product(number, width=side, height=side).image
        cdn.files[f"{number}.jpg"] = cv2.imencode(".jpg", picture)[1].tobytes()
        installation.add(cdn.url(f"{number}.jpg"))
    with installation.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE product_images SET sku_id = 'SKU-1'")


def states(installation):
    return installation.query("SELECT state, attempt FROM image_batches ORDER BY id")


def statuses(installation):
    return dict(installation.query("SELECT status, COUNT(*) FROM product_images GROUP BY status"))


def test_a_run_that_is_killed_in_mid_batch_loses_and_doubles_nothing(install, database_url, cdn, catalogue_of):
    installation = install(database_url)
    catalogue_of(installation, 12)
    cdn.hold_after(6)  # the second batch of four has two of its files
    victim = installation.start("run", "--once", IMGPIPE_BATCH_SIZE="4")
    cdn.wait_until_asked(8)
    victim.send_signal(signal.SIGKILL)
    installation.finish(victim)
    assert states(installation) == [("enhanced", 1), ("claimed", 1)]
    assert statuses(installation) == {"completed": 4, "processing": 4, "pending": 4}

    cdn.release()
    successor = installation.run("run", "--once", IMGPIPE_BATCH_SIZE="4", IMGPIPE_HEARTBEAT_LIMIT_S="0.1")
    assert successor.returncode == 0, successor.stderr
    assert states(installation) == [("enhanced", 1), ("enhanced", 2), ("enhanced", 1)]
    installation.assert_all_answered_once(12)


def test_an_enhancement_that_is_killed_in_mid_batch_loses_and_doubles_nothing(install, database_url, cdn):
    installation = install(database_url)
    add_products(installation, cdn, 6, side=600)
    victim = installation.start("run", "--once", IMGPIPE_ENHANCEMENT_WORKERS="1")
    enhanced = installation.home / "store" / "enhanced"
    deadline = time.monotonic() + 120
    while not list(enhanced.rglob("*.jpg")):
        assert victim.poll() is None, installation.finish(victim).stderr
        assert time.monotonic() < deadline
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    installation.finish(victim)
    assert states(installation) == [("analysed", 1)]
    assert installation.query("SELECT COUNT(*) FROM enhanced_images") == [(0,)]
    assert statuses(installation) == {"completed": 6}, "the answers are there"

    successor = installation.run("run", "--once", "--json", IMGPIPE_HEARTBEAT_LIMIT_S="0.1")
    assert successor.returncode == 0, successor.stderr
    assert states(installation) == [("enhanced", 2)]
    summary = json.loads(successor.stdout)
    assert (summary["enhanced"], summary["auto_approved"] + summary["needs_review"]) == (6, 6)
    ids = [(number,) for number in range(1, 7)]
    for table in ("enhanced_images", "published_enhancements"):
        assert installation.query(f"SELECT image_id FROM {table} ORDER BY image_id") == ids, table
    assert installation.query("SELECT COUNT(*) FROM image_metrics") == [(12,)]
    keys = installation.query("SELECT object_key FROM enhanced_images")
    assert {str(path.relative_to(installation.home / "store")) for path in enhanced.rglob("*.jpg")} == {
        k for (k,) in keys
    }
    assert installation.query("SELECT COUNT(*) FROM product_images WHERE qc_status = 'pending'") == [(0,)]


def test_a_run_that_may_still_live_is_left_alone(install, tmp_path, cdn, catalogue_of):
    installation = install(f"sqlite:///{tmp_path}/catalogue.db")
    catalogue_of(installation, 3)
    cdn.hold_after(1)
    first = installation.start("run", "--once")
    cdn.wait_until_asked(3)
    second = installation.run("run", "--once", "--json")
    assert (second.returncode, json.loads(second.stdout)["batches"]) == (0, 0)
    assert states(installation) == [("claimed", 1)]
    cdn.release()
    assert installation.finish(first).returncode == 0
    installation.assert_all_answered_once(3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_images_of_an_interrupted_run_wait_again(install, tmp_path, cdn, catalogue_of, number):
    installation = install(f"sqlite:///{tmp_path}/catalogue.db")
    catalogue_of(installation, 5)
    cdn.hold_after(2)
    interrupted = installation.start("run", "--once", IMGPIPE_BATCH_SIZE="4")
    cdn.wait_until_asked(4)
    interrupted.send_signal(number)
    ended = installation.finish(interrupted)  # although the CDN never answers
    assert ended.returncode == 130, ended.stderr
    assert "the images of batch" in ended.stderr
    assert "wait again" in ended.stderr
    assert statuses(installation) == {"pending": 5}

    cdn.release()
    again = installation.run("run", "--once", IMGPIPE_BATCH_SIZE="4")
    assert again.returncode == 0, again.stderr
    installation.assert_all_answered_once(5)


def test_a_backfill_beside_the_first_run_of_its_batch_writes_the_same_rows(install, mariadb_url, cdn, catalogue_of):
    installation = install(mariadb_url)
    catalogue_of(installation, 6)
    cdn.hold_after(0)
    first = installation.start("run", "--once")
    cdn.wait_until_asked(6)
    ((batch,),) = installation.query("SELECT batch_key FROM image_batches")
    backfill = installation.start(
        *("asset", "materialize", "-m", "imgpipe_dagster.definitions"),
        *("--select", ",".join(backfill_assets("raw_images")), "--partition", batch),
        program="dagster",
        DAGSTER_HOME=str(installation.home / "dagster"),
    )
    cdn.wait_until_asked(12)  # both have begun the same downloads
    cdn.release()
    for process in (first, backfill):
        ended = installation.finish(process)
        assert ended.returncode == 0, ended.stderr
    assert states(installation) == [("enhanced", 1)]
    installation.assert_all_answered_once(6)


def test_runs_that_write_a_batch_at_the_same_time_leave_its_rows_once(install, database_url):
    engine = install(database_url).engine
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO product_images (image_url) VALUES ('http://cdn/a.jpg')")
    answers = pd.DataFrame({"image_id": [1], "status": "rejected", "reason": "truncated", "object_count": 0})
    start = Barrier(4)

    def write(batch):
        start.wait(timeout=30)
        replace_batch(engine, "image_predictions", batch.key, answers)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            batch = claim_batch(engine, BatchLimits(max_wait_s=0), Claimant.CLI)
            assert [run.result() for run in [pool.submit(write, batch) for _ in range(4)]] == [None] * 4
            assert len(load_batch(engine, "image_predictions", batch.key)) == 1
            with engine.begin() as connection:
                connection.exec_driver_sql("UPDATE product_images SET status = 'pending'")
    with engine.connect() as connection:
        times = connection.exec_driver_sql("SELECT COUNT(*), COUNT(DISTINCT created_at) FROM image_predictions").one()
    assert times == (20, 1)


def test_a_run_outlives_ten_seconds_without_the_database(install, mariadb, mariadb_url, cdn, catalogue_of):
    installation = install(mariadb_url)
    catalogue_of(installation, 8)
    cdn.hold_after(2)
    run = installation.start("run", "--once", "--json", IMGPIPE_BATCH_SIZE="4")
    cdn.wait_until_asked(4)
    mariadb.kill()
    cdn.release()
    time.sleep(OUTAGE_S)
    mariadb.start()
    ended = installation.finish(run)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["completed"] == 8
    installation.assert_all_answered_once(8)


def test_an_error_of_the_database_is_told_in_one_line(install, tmp_path, cdn, catalogue_of):
    installation = install(f"sqlite:///{tmp_path}/catalogue.db")
    catalogue_of(installation, 2)
    with installation.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE raw_images RENAME COLUMN detail TO details")
    ended = installation.run("run", "--once", "--json", IMGPIPE_MAX_ATTEMPTS="1")
    assert ended.returncode == 3
    told = "OperationalError: (sqlite3.OperationalError) table raw_images has no column named detail"
    assert list(json.loads(ended.stdout)["errors"].values()) == [told]
    assert installation.query("SELECT reason FROM image_batches") == [(told,)]


def test_what_a_run_reads_waits_for_a_database_that_is_away(install, mariadb, mariadb_url):
    engine = install(mariadb_url).engine
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO product_images (image_url) VALUES ('http://cdn/a.jpg')")
    batch = claim_batch(engine, BatchLimits(max_wait_s=0), Claimant.CLI)
    mariadb.kill()
    with ThreadPoolExecutor() as pool:
        reads = [
            pool.submit(images_of_batch, engine, batch.key),
            pool.submit(get_batch, engine, batch.key),
            pool.submit(load_batch, engine, "raw_images", batch.key),
        ]
        time.sleep(1)
        assert not any(read.done() for read in reads)
        mariadb.start()
        images, found, rows = (read.result() for read in reads)
    assert images["image_url"].tolist() == ["http://cdn/a.jpg"]
    assert (found.key, found.image_count, len(rows)) == (batch.key, 1, 0)


SPOILT = {
    "size=64k": ("is full: free some space", "size=64m"),
    "ro,size=64m": ("is read-only: mount it writable or choose another folder", "rw"),
}


@pytest.mark.parametrize("options", SPOILT)
def test_a_store_that_is_full_or_read_only_fails_the_batch_until_it_is_mended(
    install, tmp_path, store_disk, cdn, catalogue_of, options
):
    message, mended = SPOILT[options]
    installation = install(f"sqlite:///{tmp_path}/catalogue.db")
    catalogue_of(installation, 6)
    store_disk("mount", "-t", "tmpfs", "-o", options, "tmpfs")
    installation.environment["IMGPIPE_STORE_URL"] = (tmp_path / "store").as_uri()
    ended = installation.run("run", "--once", "--json")
    assert ended.returncode == 3
    assert f"The store folder {tmp_path}/store {message}" in ended.stderr
    assert "Traceback" not in ended.stderr
    summary = json.loads(ended.stdout)
    ((batch, reason),) = installation.query("SELECT batch_key, reason FROM image_batches")
    assert (summary["failed"], summary["rejected_by_reason"]) == (6, {"batch_failed": 6})
    assert message in summary["errors"][batch]
    assert message in reason
    assert states(installation) == [("failed", 3)]
    assert installation.query("SELECT DISTINCT status, reason FROM product_images") == [("failed", "batch_failed")]
    ((kind, subject, body),) = installation.query("SELECT kind, subject, body FROM alerts")
    assert (kind, subject) == ("batch_failed", f"Batch {batch} failed after 3 attempts")
    assert message in body
    assert f"imgpipe retry --batch {batch}" in body

    store_disk("mount", "-o", f"remount,{mended}")
    assert installation.run("retry", "--batch", batch).stdout == "6 images will be processed again.\n"
    again = installation.run("run", "--once")
    assert again.returncode == 0, again.stderr
    assert states(installation) == [("failed", 3), ("enhanced", 1)]
    installation.assert_all_answered_once(6)


def test_every_odd_row_ends_with_its_reason_and_the_counts_agree(install, tmp_path, cdn, scenes):
    installation = install(f"sqlite:///{tmp_path}/catalogue.db")
    wanted = odd_rows(cdn, scenes)
    installation.add(*(url for url, _ in wanted))
    ended = installation.run("run", "--once", "--json")
    assert ended.returncode == 3, ended.stderr

    reasons = [reason for _, reason in wanted]
    statuses = ["failed" if reason else "completed" for reason in reasons]
    assert installation.query("SELECT status, reason FROM product_images ORDER BY id") == [
        *zip(statuses, reasons, strict=True)
    ]
    predictions = ["rejected" if reason else "predicted" for reason in reasons]
    assert installation.query("SELECT status, reason FROM image_predictions ORDER BY image_id") == [
        *zip(predictions, reasons, strict=True)
    ]
    attempts = dict(installation.query("SELECT image_url, fetch_attempts FROM raw_images"))
    assert attempts[cdn.url("flaky.jpg")] == 4
    assert attempts["file:///etc/passwd"] == 0
    twice = installation.query(f"SELECT object_key FROM raw_images WHERE image_url = '{cdn.url('good.jpg')}'")
    assert len(twice) == 2
    assert len(set(twice)) == 1

    summary = json.loads(ended.stdout)
    assert (summary["images"], summary["completed"], summary["failed"]) == (13, 3, 10)
    assert summary["rejected_by_reason"] == Counter(filter(None, reasons))
    by_class = dict(installation.query("SELECT class_name, COUNT(*) FROM detections GROUP BY class_name"))
    assert summary["objects_by_class"] == by_class
    assert summary["objects"] == sum(by_class.values()) > 0
    shown = json.loads(installation.run("status", "--json").stdout)
    assert shown["images"] == {"completed": 3, "failed": 10}
    assert shown["failed_by_reason"] == summary["rejected_by_reason"]


def test_mariadb_and_s3_give_the_same_answers_as_sqlite_and_a_folder(
    install, tmp_path, mariadb_url, s3_server, s3_client, s3_bucket, cdn, scenes
):
    small = install(f"sqlite:///{tmp_path}/catalogue.db", "small")
    large = install(mariadb_url, "large")
    large.environment.update(
        IMGPIPE_STORE_URL=f"s3://{s3_bucket}/pictures",
        IMGPIPE_S3_ENDPOINT_URL=s3_server.endpoint_url,
        IMGPIPE_S3_REGION="us-east-1",
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
    )
    stores = [LocalStore(small.home / "store"), S3Store(s3_client, s3_bucket, "pictures")]
    answers = []
    for installation, store in zip((small, large), stores, strict=True):
        installation.add(*(url for url, _ in odd_rows(cdn, scenes)))
        ended = installation.run("run", "--once")
        assert ended.returncode == 3, ended.stderr
        answers.append([*map(installation.query, SAME_EVERYWHERE), reports_of(installation, store)])
    assert answers[0] == answers[1]
    assert all(answers[0])


SAME_EVERYWHERE = [
    "SELECT id, image_url, status, reason FROM product_images ORDER BY id",
    "SELECT image_id, object_key, sha256, byte_size, reason, detail FROM raw_images ORDER BY image_id",
    "SELECT image_id, object_key, image_format, width, height, reason, detail FROM validated_images ORDER BY image_id",
    "SELECT image_id, status, reason, object_count, top_class, top_confidence, detector_version"
    " FROM image_predictions ORDER BY image_id",
    "SELECT image_id, class_id, class_name, confidence, x1, y1, x2, y2, model_version"
    " FROM detections ORDER BY detection_id",
]


def reports_of(installation, store):
    """The JSON reports that the rows point at, without what is another in every run."""
    reports = []
    for (key,) in installation.query("SELECT object_key FROM metadata_reports ORDER BY image_id"):
        report = json.loads(store.get(key))
        del report["batch_key"], report["predicted_at"]
        reports.append(report)
    return reports


def test_what_clients_asked_for_is_done_without_a_daemon_too(install, database_url, cdn):
    installation = install(database_url)
    add_products(installation, cdn, 3, side=300)
    size = {"IMGPIPE_BATCH_SIZE": "2"}  # so that the job needs two batches
    assert installation.run("run", "--once", **size).returncode == 0
    job = create_enhance_job(installation.engine, sku_id="SKU-1", parameters={}, config={"mode": "sharpen"})
    done = installation.run("run", "--once", **size)
    assert done.returncode == 0, done.stderr
    found = get_job(installation.engine, job.job_id)
    assert (found.status, found.processed_images, found.failed_images) == ("completed", 3, 0)
    assert installation.query("SELECT mode, COUNT(*) FROM enhanced_images GROUP BY mode ORDER BY mode") == [
        ("auto", 3),
        ("sharpen", 3),
    ]
    assert "Nothing waits" in installation.run("run", "--once").stdout
