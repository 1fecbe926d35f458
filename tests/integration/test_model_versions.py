"""Which batches and which rows are meant by a stretch of the past and by an older model, on both databases."""

import datetime as dt

import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.model_versions import (
    OldRows,
    Scope,
    answered_batches,
    old_bottle_statuses,
    old_detections,
    old_enhancements,
)
from imgpipe_dagster.catalogue.tables import (
    BOTTLE_STATUS,
    Classification,
    DetectedImage,
    EnhancedImage,
    EnhancementConfigRow,
    ImageBatch,
    ProductImage,
)
from imgpipe_dagster.imaging.modes import EnhancementConfig
from imgpipe_dagster.imaging.versions import enhancement_version


@pytest.fixture
def engine(empty_engine):
    return empty_engine


def add_batch(engine, key, images, *, state="enhanced", day=10, version="new"):
    """A batch of images, each an id with its columns; the detector of ``version`` has looked at them."""
    with engine.begin() as connection:
        row = {
            "batch_key": key,
            "state": state,
            "image_count": 1,
            "created_at": dt.datetime.fromisoformat(f"2026-11-{day}T12:00"),
        }
        connection.execute(sa.insert(ImageBatch).values(row))
        for image_id, columns in images.items():
            row = {"id": image_id, "batch_key": key, "status": "completed", **columns}
            connection.execute(sa.insert(ProductImage).values(row))
            row = {"batch_key": key, "image_id": image_id, "object_count": 0, "model_version": version}
            connection.execute(sa.insert(DetectedImage).values(row))


@pytest.mark.parametrize(
    ("scope", "meant"),
    [
        (Scope(), ["a", "b", "c"]),
        (Scope(since=dt.date(2026, 11, 11)), ["b", "c"]),
        (Scope(until=dt.date(2026, 11, 11)), ["a", "b"]),
        (Scope(since=dt.date(2026, 11, 11), until=dt.date(2026, 11, 11)), ["b"]),
        (Scope(sku="S1"), ["a", "c"]),
        (Scope(temple="T"), ["b"]),
        (Scope(sku="S1", temple="T"), []),
    ],
    ids=["all", "since", "until", "one day", "sku", "temple", "both"],
)
def test_days_skus_and_temples_mean_the_batches_that_hold_them(engine, scope, meant):
    add_batch(engine, "a", {1: {"sku_id": "S1"}, 2: {"sku_id": "S2"}}, day=10)
    add_batch(engine, "b", {3: {"temple_id": "T"}}, day=11)
    add_batch(engine, "c", {4: {"sku_id": "S1"}}, day=12, state="enhancement_failed")
    for state in ("claimed", "failed", "held"):
        add_batch(engine, state, {})
    assert answered_batches(engine, scope) == meant


def test_a_stretch_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match="after the last"):
        Scope(since=dt.date(2026, 11, 12), until=dt.date(2026, 11, 11))


def test_rows_of_another_version_are_old_where_they_still_count(engine):
    add_batch(engine, "a", {1: {}, 2: {"sku_id": "S"}}, version="old")
    add_batch(engine, "b", {3: {}}, version="new")
    with engine.begin() as connection:  # the third was in the first batch before
        row = {"batch_key": "a", "image_id": 3, "object_count": 0, "model_version": "old"}
        connection.execute(sa.insert(DetectedImage).values(row))
    assert old_detections(engine, "new", Scope()) == [OldRows("a", "old", 2)]
    assert old_detections(engine, "new", Scope(sku="S")) == [OldRows("a", "old", 1)]
    assert old_detections(engine, "old", Scope()) == [OldRows("b", "new", 1)]


def test_images_with_a_bottle_status_of_another_version_are_old_once(engine):
    add_batch(engine, "a", {1: {}, 2: {}})
    with engine.begin() as connection:
        for number, (image_id, version) in enumerate([(1, "old"), (1, "old"), (2, "new")]):
            row = {"classification_id": f"a:{number}", "batch_key": "a", "image_id": image_id, "class_name": "opened"}
            values = row | {"classifier": BOTTLE_STATUS, "model_version": version}
            connection.execute(sa.insert(Classification).values(values))
    assert old_bottle_statuses(engine, "new", Scope()) == [OldRows("a", "old", 1)]


def test_a_picture_is_old_where_it_would_be_enhanced_otherwise_today(engine):
    defaults = EnhancementConfig()
    today = enhancement_version(defaults)
    add_batch(engine, "a", {i: {"sku_id": f"S{i}"} for i in (1, 2, 3)})
    with engine.begin() as connection:
        for image_id, version in ((1, today), (2, "enhance-0-0"), (3, today)):
            row = {"batch_key": "a", "image_id": image_id, "mode": "auto", "model_version": version}
            connection.execute(sa.insert(EnhancedImage).values(row))
    assert list(old_enhancements(engine, defaults, Scope())) == [OldRows("a", "enhance-0-0", 1)]
    assert list(old_enhancements(engine, defaults, Scope(sku="S1"))) == []
    with engine.begin() as connection:
        connection.execute(sa.insert(EnhancementConfigRow).values(sku_id="S3", config={"target_kb": 50}))
    found = list(old_enhancements(engine, defaults, Scope()))
    assert found == [OldRows("a", "enhance-0-0", 1), OldRows("a", today, 1)]
