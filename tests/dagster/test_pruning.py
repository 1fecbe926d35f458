"""Retention over catalogue, Dagster and store together: what counts stays, the rest goes, one image goes altogether."""

import datetime as dt
import os
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from imgpipe_dagster import pruning
from imgpipe_dagster.build import build_resources
from imgpipe_dagster.catalogue.request_log import NewRequest, note_requests
from imgpipe_dagster.catalogue.tables import BATCH_TABLES, ImageBatch, ProductImage
from imgpipe_dagster.pruning import ORPHAN_AGE, Age, forget, prune

SOON = Age(days=1e-9)
ORPHAN = f"images/ab/{'ab' * 32}.jpg"
KEPT = ["images/frame_000007.jpg", "models/x.onnx", "training/T/train/a/1.jpg"]


@pytest.fixture
def answered(pipeline, tmp_path, make_jpeg):
    """Two images, the first of them answered again in a batch of its own; Dagster's storage is in files."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster"), {"telemetry": {"enabled": False}}) as instance:
        pipeline = replace(pipeline, instance=instance)
        for seed, name in enumerate(("a.jpg", "b.jpg")):
            pipeline.write(name, make_jpeg(seed))
            pipeline.add_files(name)
        old = pipeline.claim()
        pipeline.run(old)
        with pipeline.engine.begin() as connection:
            connection.execute(sa.update(ProductImage).where(ProductImage.id == 1).values(status="pending"))
        new = pipeline.claim()
        pipeline.run(new)
        yield pipeline, old.key, new.key


def columns_of(table):
    return table.batch_key, table.image_id


def rows_of(pipeline):
    """Which batches have rows of which images, in each table."""
    with pipeline.engine.connect() as connection:
        return {
            table.__tablename__: sorted(set(connection.execute(sa.select(*columns_of(table))).all()))
            for table in BATCH_TABLES
        }


def store_of(pipeline):
    return build_resources(pipeline.settings)["image_store"].store


def keys_in(pipeline):
    return {info.key for info in store_of(pipeline).list()}


def prune_now(pipeline, age, *, dry_run=False):
    models = pipeline.settings.home / "models"
    return prune(pipeline.engine, store_of(pipeline), pipeline.instance, models, age, dry_run=dry_run)


def set_state(pipeline, batch_key, state):
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ImageBatch).where(ImageBatch.batch_key == batch_key).values(state=state))


def put_old(pipeline, *keys):
    long_ago = (dt.datetime.now(dt.UTC) - ORPHAN_AGE).timestamp() - 60
    for key in keys:
        store_of(pipeline).put(key, b"bytes")
        os.utime(pipeline.settings.home / "store" / key, (long_ago, long_ago))


def files_of_runs(pipeline):
    root = Path(pipeline.instance.root_directory)
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and path.parent.name == "runs" and not path.name.startswith("index")
    ]


def test_what_was_superseded_goes_and_what_counts_or_is_young_or_open_stays(answered):
    pipeline, old, new = answered
    put_old(pipeline, ORPHAN, *KEPT)
    everything = rows_of(pipeline)
    assert {(old, 1), (old, 2), (new, 1)} <= set(everything["raw_images"])
    before = keys_in(pipeline)
    would = prune_now(pipeline, SOON, dry_run=True)
    assert (rows_of(pipeline), keys_in(pipeline)) == (everything, before), "a dry run changes nothing"
    young = prune_now(pipeline, Age(days=1))
    assert (young.rows, young.partitions, young.runs, young.orphans) == (0, 0, 0, 1)
    assert rows_of(pipeline) == everything
    assert keys_in(pipeline) == before - {ORPHAN}
    set_state(pipeline, old, "analysed")
    assert prune_now(pipeline, SOON, dry_run=True).rows == 0
    set_state(pipeline, old, "enhanced")
    assert len(pipeline.instance.get_dynamic_partitions("image_batches")) == 2

    done = prune_now(pipeline, SOON)
    assert replace(done, orphans=1, orphan_bytes=5) == would
    assert (done.partitions, done.runs, done.orphans, done.missing) == (2, 2, 0, 0)
    assert rows_of(pipeline) == {table: [row for row in rows if row != (old, 1)] for table, rows in everything.items()}
    assert keys_in(pipeline) == before - {ORPHAN}
    assert not pipeline.instance.get_dynamic_partitions("image_batches")
    assert not pipeline.instance.get_runs()
    assert not files_of_runs(pipeline)
    again = prune_now(pipeline, SOON)
    assert (again.rows, again.partitions, again.runs, again.orphans) == (0, 0, 0, 0)


def test_a_lost_object_is_told_and_a_forgotten_image_is_nowhere(answered):
    pipeline, old, new = answered
    with pipeline.engine.connect() as connection:
        key = connection.scalar(sa.text("SELECT object_key FROM current_raw_images WHERE image_id = 1"))
    store_of(pipeline).delete(key)
    report = prune_now(pipeline, Age(days=1))
    assert (report.missing, report.missing_sample) == (1, [f"image 1: {key}"])
    assert (new, 1) in rows_of(pipeline)["raw_images"]

    put_old(pipeline, "annotated/1.jpg", "enhanced/1/older.jpg", "annotated/11.jpg", "enhanced/11/x.jpg")
    others = {
        key for key in keys_in(pipeline) if not key.startswith(("annotated/1.", "enhanced/1/", "metadata/1.json"))
    }
    traces = forget(pipeline.engine, store_of(pipeline), pipeline.instance, 1)
    assert (traces.batch_keys, traces.shared_keys) == ((old, new), ())
    assert keys_in(pipeline) == others
    assert {image for rows in rows_of(pipeline).values() for _, image in rows} == {2}
    assert not pipeline.instance.get_runs(), "thumbnails were there"
    with pytest.raises(KeyError):
        forget(pipeline.engine, store_of(pipeline), pipeline.instance, 1)


def test_no_partition_goes_that_a_run_or_a_backfill_works_on(answered):
    pipeline, old, new = answered

    def listed():
        return set(pipeline.instance.get_dynamic_partitions("image_batches"))

    backfill = PartitionBackfill("b", BulkActionStatus.REQUESTED, from_failure=False, tags={}, backfill_timestamp=0.0)
    pipeline.instance.add_backfill(backfill)
    assert prune_now(pipeline, SOON).partitions == 0
    assert listed() == {old, new}
    of_backfill = dg.DagsterRun(job_name="j", status=dg.DagsterRunStatus.SUCCESS, tags={"dagster/backfill": "b"})
    pipeline.instance.add_run(of_backfill)
    assert prune_now(pipeline, SOON).runs == 0, "how far the backfill is, is counted by its runs"
    pipeline.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    tags = {"dagster/partition": old}
    pipeline.instance.add_run(dg.DagsterRun(job_name="j", status=dg.DagsterRunStatus.STARTED, tags=tags))
    assert prune_now(pipeline, SOON).partitions == 1
    assert listed() == {old}
    assert pipeline.instance.get_run_by_id(of_backfill.run_id) is None


def test_where_everything_is_kept_addresses_are_forgotten_all_the_same(answered):
    pipeline, *_ = answered
    note_requests(pipeline.engine, [NewRequest("i", None, None, "198.51.100.7", {}, None, None)])
    put_old(pipeline, ORPHAN)
    before = rows_of(pipeline), keys_in(pipeline)
    report = prune_now(pipeline, Age(None, address_days=1e-9))
    assert (report.addresses, pipeline.rows("requests", "ip_address", "image_id")) == (1, [(None, "i")])
    assert (rows_of(pipeline), keys_in(pipeline)) == before
    assert pipeline.instance.get_runs()


def test_keeping_nothing_is_refused():
    with pytest.raises(ValueError, match="everything"):
        Age(days=0)


@pytest.mark.parametrize("spared", [set(), {"b"}])
def test_runs_go_page_by_page_around_those_that_stay(tmp_path, monkeypatch, spared):
    monkeypatch.setattr(pruning, "_RUNS", 2)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for number in range(9):
            tags = {"dagster/backfill": "b"} if number in (3, 4, 8) else {}
            instance.add_run(dg.DagsterRun(job_name="j", status=dg.DagsterRunStatus.SUCCESS, tags=tags))
        gone = 9 - 3 * len(spared)
        assert pruning._remove_runs(instance, dg.RunsFilter(), spared=spared, dry_run=True) == gone
        assert instance.get_runs_count() == 9
        assert pruning._remove_runs(instance, dg.RunsFilter(), spared=spared, dry_run=False) == gone
        assert instance.get_runs_count() == 9 - gone
