"""Publishing on both databases: the batch's next job, verdicts in the images' rows, people's decisions beside them."""

import threading

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import batches, schema
from imgpipe_dagster.catalogue.engine import CatalogueError, connect
from imgpipe_dagster.catalogue.frames import load_batch
from imgpipe_dagster.catalogue.publishing import publish_batch, publish_enhancements
from imgpipe_dagster.catalogue.tables import BatchState, Claimant, ImageBatch, ProductImage

LIMITS = batches.BatchLimits(size=10, max_wait_s=0)


@pytest.fixture
def engine(database_url):
    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def batch(engine):
    """Two images with a SKU and one without, all completed."""
    with engine.begin() as connection:
        rows = [{"image_url": f"http://cdn/{n}.jpg", "sku_id": sku} for n, sku in enumerate(("A", "B", None))]
        connection.execute(sa.insert(ProductImage), rows)
    batch = batches.claim_batch(engine, LIMITS, Claimant.SENSOR)
    publish_batch(engine, "published_predictions", batch.key, answers())
    return batches.get_batch(engine, batch.key)


def answers():
    return pd.DataFrame({"image_id": [1, 2, 3], "status": "completed", "reason": None})


def verdicts(*rows):
    """Rows of ``(image_id, sha256, qc_status, url)``."""
    return pd.DataFrame(
        [
            {
                "image_id": image_id,
                "sha256": sha256,
                "qc_status": status,
                "qc_priority": 0.5,
                "score": 80.0,
                "review_reasons": [],
                "audited": False,
                "enhanced_image_url": url,
            }
            for image_id, sha256, status, url in rows
        ]
    )


BOTH = verdicts((1, "a" * 64, "auto_approved", "file:///a"), (2, "b" * 64, "needs_review", None))


def publish(engine, batch, frame=BOTH):
    return publish_enhancements(engine, "published_enhancements", batch.key, frame)


def images(engine):
    columns = ProductImage.id, ProductImage.qc_status, ProductImage.enhanced_image_url
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(ProductImage.id))]


def test_a_batch_with_a_sku_needs_enhancement_and_one_without_does_not(engine, batch):
    assert (batch.state, batch.attempt) == (BatchState.ANALYSED, 1)
    with engine.begin() as connection:
        connection.execute(sa.update(ImageBatch).values(state=BatchState.CLAIMED, attempt=2))
        connection.execute(sa.update(ProductImage).values(sku_id=None))
    publish_batch(engine, "published_predictions", batch.key, answers())
    assert batches.get_batch(engine, batch.key).state is BatchState.ENHANCED


def test_verdicts_go_into_the_images_and_close_the_batch(engine, batch):
    assert publish(engine, batch) == 2
    assert images(engine) == [(1, "auto_approved", "file:///a"), (2, "needs_review", None), (3, "pending", None)]
    assert batches.get_batch(engine, batch.key).state is BatchState.ENHANCED
    loaded = load_batch(engine, "published_enhancements", batch.key)
    assert loaded["audited"].tolist() == [False, False]
    assert loaded["review_reasons"].tolist() == [[], []]


def test_a_missing_verdict_changes_nothing(engine, batch):
    with pytest.raises(CatalogueError, match=r"1 images of batch .* have no verdict"):
        publish(engine, batch, BOTH.head(1))
    assert images(engine) == [(n, "pending", None) for n in (1, 2, 3)]
    assert len(load_batch(engine, "published_enhancements", batch.key)) == 0
    assert batches.get_batch(engine, batch.key).state is BatchState.ANALYSED


def test_a_decision_stands_for_its_file_only(engine, batch):
    publish(engine, batch)
    with engine.begin() as connection:
        decided = sa.update(ProductImage).where(ProductImage.id == 2)
        connection.execute(decided.values(qc_status="approved", enhanced_image_url="file:///b"))
    publish(engine, batch)
    assert images(engine)[1] == (2, "approved", "file:///b")
    publish(engine, batch, verdicts((1, "a" * 64, "auto_approved", "file:///a"), (2, "c" * 64, "needs_review", None)))
    assert images(engine)[1] == (2, "needs_review", None)


def test_a_reviewer_who_decides_while_a_batch_is_published_is_never_overwritten(engine, batch):
    publish(engine, batch)
    started = threading.Event()
    again = threading.Thread(target=lambda: (started.wait(30), publish(engine, batch)))
    again.start()
    with engine.connect().execution_options(imgpipe_writes=True) as connection, connection.begin():
        connection.execute(sa.update(ProductImage).where(ProductImage.id == 2).values(qc_status="rejected"))
        started.set()
        again.join(timeout=1)  # it waits for the row
        assert again.is_alive()
    again.join(timeout=60)
    assert images(engine)[1] == (2, "rejected", None)


def test_a_released_enhancement_waits_for_whoever_comes_first(engine, batch):
    assert batches.release_batch(engine, batch)
    again = batches.get_batch(engine, batch.key)
    assert (again.state, again.attempt) == (BatchState.ANALYSED, 2)
    assert again.heartbeat_age_s > 1e6
    assert not batches.release_batch(engine, batch), "it has moved on"


def test_a_held_or_failed_enhancement_is_closed_by_a_run_by_hand(engine, batch):
    assert batches.hold_batch(engine, batch, "Its run was canceled.")
    assert batches.get_batch(engine, batch.key).state is BatchState.ENHANCEMENT_HELD
    publish(engine, batch)
    assert batches.get_batch(engine, batch.key).state is BatchState.ENHANCED
