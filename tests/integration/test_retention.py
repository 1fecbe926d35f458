"""Retention on both databases: what is superseded goes, what counts stays, and no object goes that a row points at."""

import datetime as dt
import os

import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.forgetting import ImageBusyError, find_images, forget_image
from imgpipe_dagster.catalogue.references import FILES, KEYS, URLS, references, stream_keys
from imgpipe_dagster.catalogue.retention import (
    old_batches,
    remove_empty_batches,
    remove_old_alerts,
    remove_old_jobs,
    remove_old_requests,
    remove_superseded,
)
from imgpipe_dagster.catalogue.tables import (
    Alert,
    Base,
    ClassifyRequest,
    ImageBatch,
    ImagePrediction,
    ProcessingJob,
    ProcessingJobImage,
    ProductImage,
    RawImage,
    RequestClassification,
    Sku,
)
from imgpipe_dagster.catalogue.types import utc_in
from imgpipe_dagster.store import LocalStore, S3Store
from imgpipe_dagster.store.sweeping import KeySet, is_ours, missing, old_results, orphans

DAY = 86400.0
NOT_OBJECTS = {"raw_images.image_url", "requests.image_id"}  # where the bytes came from


@pytest.fixture
def engine(empty_engine):
    return empty_engine


def add_batch(engine, key, state="enhanced", days=100):
    updated = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(days=days)
    with engine.begin() as connection:
        row = {"batch_key": key, "state": state, "image_count": 1, "updated_at": updated}
        connection.execute(sa.insert(ImageBatch).values(row))


def add_image(engine, image_id, batch_key, sku=None):
    with engine.begin() as connection:
        row = {
            "id": image_id,
            "batch_key": batch_key,
            "status": "completed",
            "sku_id": sku,
            "image_url": f"u{image_id}",
        }
        connection.execute(sa.insert(ProductImage).values(row))


def add_rows(engine, batch_key, image_id, object_key=None):
    raw = {"fetch_attempts": 1, "fetch_seconds": 0.0, "object_key": object_key}
    with engine.begin() as connection:
        own = {"batch_key": batch_key, "image_id": image_id}
        connection.execute(sa.insert(RawImage).values(**own, **raw))
        connection.execute(sa.insert(ImagePrediction).values(**own, status="predicted", object_count=0))


def answered_in(engine, image_id):
    with engine.connect() as connection:
        query = sa.select(ImagePrediction.batch_key).where(ImagePrediction.image_id == image_id)
        return sorted(connection.scalars(query))


def test_rows_of_an_image_that_was_answered_again_go_and_those_that_count_stay(engine):
    add_batch(engine, "old")
    add_batch(engine, "new", days=1)
    add_image(engine, 1, "new")
    add_image(engine, 2, "old")
    for batch, image in (("old", 1), ("new", 1), ("old", 2)):
        add_rows(engine, batch, image)
    assert old_batches(engine, 90 * DAY) == ["old"]
    assert remove_superseded(engine, ["old"], dry_run=True) == 2
    assert answered_in(engine, 1) == ["new", "old"], "a dry run changes nothing"
    assert remove_superseded(engine, ["old"], dry_run=False) == 2
    assert (answered_in(engine, 1), answered_in(engine, 2)) == (["new"], ["old"])


@pytest.mark.parametrize("state", ["claimed", "failed", "held"])
def test_an_older_answer_stays_until_there_is_a_newer_one(engine, state):
    add_batch(engine, "old")
    add_batch(engine, "new", state, days=1)
    add_image(engine, 1, "new")
    add_rows(engine, "old", 1)
    assert remove_superseded(engine, ["old"], dry_run=False) == 0
    assert answered_in(engine, 1) == ["old"]


@pytest.mark.parametrize("state", ["claimed", "analysed"])
def test_a_batch_that_still_needs_a_job_is_never_old(engine, state):
    add_batch(engine, "old", state)
    assert old_batches(engine, 90 * DAY) == []
    assert remove_empty_batches(engine, ["old"], dry_run=False) == []


def test_a_batch_that_nothing_belongs_to_any_more_goes(engine):
    for key in ("empty", "with an image", "with a row"):
        add_batch(engine, key)
    add_image(engine, 1, "with an image")
    add_rows(engine, "with a row", 1)
    assert remove_empty_batches(engine, ["empty", "with an image", "with a row"], dry_run=False) == ["empty"]


def test_an_alert_that_waits_is_never_too_old(engine):
    old = "2020-01-01 00:00:00.000000"
    with engine.begin() as connection:
        for state in ("sent", "muted", "waiting"):
            row = {"kind": "test", "subject": "s", "body": "b", "state": state, "created_at": sa.text(f"'{old}'")}
            connection.execute(sa.insert(Alert).values(row))
    assert remove_old_alerts(engine, 90 * DAY, dry_run=False) == 2
    with engine.connect() as connection:
        assert connection.scalars(sa.select(Alert.state)).all() == ["waiting"]


def add_request(engine, number, days, key=None):
    own = {"request_id": f"r{number}", "image_id": f"i{number}", "object_key": key}
    with engine.begin() as connection:
        connection.execute(sa.insert(ClassifyRequest).values(**own, timestamp=utc_in(-days * DAY)))
        answer = {"classification_id": f"c{number}", "request_id": f"r{number}"}
        connection.execute(sa.insert(RequestClassification).values(**answer, class_name="closed", confidence_score=0.9))


def test_old_requests_go_with_their_answers_and_their_pictures_are_orphans_then(engine, any_store):
    old, young, on_its_way = (f"uploads/2026-01-01/{number:036d}.jpg" for number in range(3))
    for key in (old, young, on_its_way, "uploads/other/program.jpg"):
        any_store.put(key, b"bytes")
    add_request(engine, 1, 91, old)
    add_request(engine, 2, 89, young)
    assert remove_old_requests(engine, 90 * DAY, dry_run=True) == 1
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    assert [info.key for info in orphans(any_store, KeySet(references(engine)), later)] == [on_its_way]
    assert remove_old_requests(engine, 90 * DAY, dry_run=False) == 1
    with engine.connect() as connection:
        assert connection.scalars(sa.select(ClassifyRequest.request_id)).all() == ["r2"]
        assert connection.scalars(sa.select(RequestClassification.request_id)).all() == ["r2"]
    assert [info.key for info in orphans(any_store, KeySet(references(engine)), later)] == [old, on_its_way]
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=3)
    assert not list(orphans(any_store, KeySet(references(engine)), long_ago)), "a row of it may be on its way"


def test_results_for_callers_go_when_they_are_old(any_store):
    ours = f"results/{SHA}.jpg"
    for key in (ours, "results/report.csv", f"images/ab/{SHA}.jpg"):
        any_store.put(key, b"bytes")
    now = dt.datetime.now(dt.UTC)
    assert [info.key for info in old_results(any_store, now + dt.timedelta(hours=1))] == [ours]
    assert not list(old_results(any_store, now - dt.timedelta(hours=1)))


@pytest.mark.parametrize(
    ("status", "created", "completed", "of_an_image", "goes"),
    [
        ("completed", 100, 95, False, True),
        ("failed", 100, None, False, True),
        ("completed", 100, 80, False, False),
        ("completed", 100, 95, True, False),  # its settings are those of the image
        ("pending", 100, None, False, False),
        ("processing", 100, None, False, False),
    ],
)
def test_a_job_goes_when_it_has_long_been_over_and_no_image_needs_its_settings(
    engine, status, created, completed, of_an_image, goes
):
    with engine.begin() as connection:
        times = {"created_at": utc_in(-created * DAY)}
        if completed:
            times["completed_at"] = utc_in(-completed * DAY)
        connection.execute(sa.insert(ProcessingJob).values(job_id="j", status=status, **times))
        connection.execute(sa.insert(ProcessingJobImage).values(job_id="j", image_id=1))
        connection.execute(sa.insert(ProductImage).values(id=1, job_id="j" if of_an_image else None))
    assert remove_old_jobs(engine, 90 * DAY, dry_run=True) == goes
    assert remove_old_jobs(engine, 90 * DAY, dry_run=False) == goes
    with engine.connect() as connection:
        for table in (ProcessingJob, ProcessingJobImage):
            assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == (not goes)


def test_every_column_that_can_name_an_object_is_known_to_the_sweep():
    listed = {f"{column.class_.__tablename__}.{column.key}" for column in (*KEYS, *URLS, *FILES)}
    found = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if column.name.endswith(("object_key", "_url")) or column.name == "files"
    }
    assert found - NOT_OBJECTS == listed


SHA = "ab" * 32


@pytest.fixture(params=["folder", "s3"])
def any_store(request, tmp_path):
    if request.param == "folder":
        return LocalStore(tmp_path / "any")
    return S3Store(request.getfixturevalue("s3_client"), request.getfixturevalue("s3_bucket"), "any")


@pytest.fixture
def store(tmp_path):
    store = LocalStore(tmp_path / "store")
    for key in (
        f"images/ab/{SHA}.jpg",
        "images/frame_000001.jpg",
        "metadata/1.json",
        "enhanced/1/x.jpg",
        "models/m.h5",
    ):
        store.put(key, b"bytes")
        os.utime(tmp_path / "store" / key, (0, 0))
    return store


def swept(engine, store):
    limit = dt.datetime.now(dt.UTC) - dt.timedelta(days=3)
    found = orphans(store, KeySet(references(engine)), limit)
    return sorted(info.key for info in found if is_ours(info.key))


def test_no_object_is_an_orphan_that_a_row_points_at(engine, store):
    assert swept(engine, store) == ["enhanced/1/x.jpg", f"images/ab/{SHA}.jpg", "metadata/1.json"]
    add_batch(engine, "b")
    add_image(engine, 1, "b")
    add_rows(engine, "b", 1, f"images/ab/{SHA}.jpg")
    with engine.begin() as connection:
        url = store.open_url("enhanced/1/x.jpg")
        connection.execute(sa.update(ProductImage).values(enhanced_image_url=url))
    assert swept(engine, store) == ["metadata/1.json"]


def test_an_upload_whose_row_is_on_its_way_is_no_orphan_of_ours(engine, store, tmp_path):
    assert not is_ours("images/frame_000001.jpg")
    assert not is_ours("models/m.h5")
    store.put(f"images/ab/{SHA}.jpg", b"bytes", immutable=True)  # a run has just downloaded it again
    assert f"images/ab/{SHA}.jpg" not in swept(engine, store)


def test_rows_without_their_object_are_found(engine, store):
    add_batch(engine, "b")
    add_rows(engine, "b", 1, f"images/ab/{SHA}.jpg")
    add_rows(engine, "b", 2, "images/cd/gone.jpg")
    present = KeySet(info.key for info in store.list())
    assert list(missing(stream_keys(engine, RawImage.object_key), present)) == [(2, "images/cd/gone.jpg")]


def test_forgetting_takes_bytes_first_then_rows_and_leaves_what_others_share(engine, store):
    add_batch(engine, "b")
    for image in (1, 2):
        add_image(engine, image, "b", sku="S")
        add_rows(engine, "b", image, f"images/ab/{SHA}.jpg")
    with engine.begin() as connection:
        connection.execute(sa.insert(Sku).values(sku_id="S", image_count=2))
    assert find_images(engine, "u1") == find_images(engine, "1") == [1]

    def delete_own(traces):
        for key in traces.own_keys:
            store.delete(key)

    def fail(_traces):
        raise OSError("the disk is read-only")

    with pytest.raises(OSError, match="read-only"):
        forget_image(engine, 1, fail)
    assert answered_in(engine, 1) == ["b"], "rows still name what is left"
    traces = forget_image(engine, 1, delete_own)
    assert (traces.own_keys, traces.shared_keys) == ((), (f"images/ab/{SHA}.jpg",))
    assert (answered_in(engine, 1), answered_in(engine, 2)) == ([], ["b"])
    last = forget_image(engine, 2, delete_own)
    assert last.own_keys == (f"images/ab/{SHA}.jpg",)
    assert not store.exists(f"images/ab/{SHA}.jpg")
    with engine.connect() as connection:
        assert connection.scalar(sa.select(Sku.image_count)) == 0
        assert connection.scalar(sa.select(sa.func.count(ProductImage.id))) == 0


def test_an_image_in_work_is_not_forgotten(engine):
    add_batch(engine, "b", "claimed")
    add_image(engine, 1, "b")
    with pytest.raises(ImageBusyError, match="batch b"):
        forget_image(engine, 1, lambda _traces: None)
    with pytest.raises(KeyError):
        forget_image(engine, 9, lambda _traces: None)
