"""Claims on both databases, with writers that commit late and claimants that race."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import batches, schema
from imgpipe_dagster.catalogue.engine import connect, transact
from imgpipe_dagster.catalogue.images import count_batches_by_state, images_of_batch
from imgpipe_dagster.catalogue.pulse import describe_backlog, take_pulse
from imgpipe_dagster.catalogue.tables import Alert, BatchState, Claimant, ImageBatch, ProductImage
from imgpipe_dagster.catalogue.types import utc_in

NOW = batches.BatchLimits(size=10, max_size=50, max_wait_s=0)


@pytest.fixture
def engine(database_url):
    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


def insert(engine, count):
    rows = [{"image_url": f"http://cdn/{n}.jpg"} for n in range(count)]
    transact(engine, lambda connection: connection.execute(sa.insert(ProductImage), rows))


def statuses(engine):
    with engine.connect() as connection:
        return dict(
            connection.execute(sa.select(ProductImage.status, sa.func.count()).group_by(ProductImage.status)).all()
        )


def test_a_plain_insert_of_a_url_is_a_new_image(engine):
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO product_images (image_url) VALUES ('http://cdn/a.jpg')")
    batch = batches.claim_batch(engine, NOW, Claimant.SENSOR)
    assert batch.image_count == 1
    assert batch.state is BatchState.CLAIMED
    with engine.connect() as connection:
        row = connection.execute(sa.select(ProductImage)).one()
    assert (row.status, row.qc_status, row.image_type, row.batch_key) == ("processing", "pending", "primary", batch.key)
    assert row.created_at is not None


def test_few_rows_wait_until_their_time_is_up(engine):
    insert(engine, 3)
    assert batches.claim_batch(engine, batches.BatchLimits(size=10, max_wait_s=60), Claimant.SENSOR) is None
    assert batches.claim_batch(engine, batches.BatchLimits(size=3, max_wait_s=60), Claimant.SENSOR).image_count == 3


def test_rows_that_commit_late_are_claimed_once_each_by_racing_claimants(engine):
    writers, rows_each = 8, 60
    done = threading.Event()

    def write(seed):
        rng = random.Random(seed)
        for _ in range(rows_each // 5):
            with engine.connect().execution_options(imgpipe_writes=True) as connection, connection.begin():
                connection.execute(sa.insert(ProductImage), [{"image_url": f"http://cdn/{seed}.jpg"} for _ in range(5)])
                time.sleep(rng.uniform(0, 0.02))  # ids are given out now, visible later: others overtake

    def claim():
        while True:
            ended = done.is_set()
            if batches.claim_batch(engine, NOW, Claimant.SENSOR) is None:
                if ended:
                    return
                time.sleep(0.005)

    with ThreadPoolExecutor(writers + 2) as pool:
        claimants = [pool.submit(claim) for _ in range(2)]
        try:
            for writer in [pool.submit(write, seed) for seed in range(writers)]:
                writer.result()
        finally:
            done.set()
        for claimant in claimants:
            claimant.result()
    assert statuses(engine) == {"processing": writers * rows_each}
    with engine.connect() as connection:
        claimed = connection.scalar(sa.select(sa.func.sum(ImageBatch.image_count)))
        counted = connection.execute(
            sa.select(ImageBatch.batch_key, ImageBatch.image_count, sa.func.count(ProductImage.id))
            .join(ProductImage, ProductImage.batch_key == ImageBatch.batch_key)
            .group_by(ImageBatch.batch_key, ImageBatch.image_count)
        ).all()
    assert claimed == writers * rows_each, "a row claimed twice would be counted in two batches"
    assert all(count == joined for _, count, joined in counted)


@pytest.mark.parametrize("updated_at", ["2099-01-01 00:00:00", "1999-01-01 00:00:00"])
def test_a_strange_time_at_the_head_of_the_queue_blocks_nothing(engine, updated_at):
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO product_images (image_url, updated_at) VALUES ('a', '{updated_at}')")
    insert(engine, 2)
    assert batches.claim_batch(engine, NOW, Claimant.SENSOR).image_count == 3


def test_an_image_that_was_put_back_hides_no_longer_wait(engine):
    """Its id is lower than that of the image that has waited longest."""
    insert(engine, 3)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE product_images SET updated_at = '1999-01-01 00:00:00' WHERE id = 2")
    a_year = 365 * 24 * 3600
    assert batches.waiting_images(engine) == 3
    assert batches.longest_wait_s(engine) > 20 * a_year
    assert take_pulse(engine).waiting_s > 20 * a_year
    assert describe_backlog(engine)["oldest that waits"].startswith("image 2, since 1999-01-01 00:00 UTC")
    patient = batches.BatchLimits(size=10, max_wait_s=60)
    assert batches.claim_batch(engine, patient, Claimant.SENSOR).image_count == 3
    assert batches.longest_wait_s(engine) is take_pulse(engine).waiting_s is None


def test_an_attempt_is_begun_by_one_of_two(engine):
    insert(engine, 1)
    batch = batches.claim_batch(engine, NOW, Claimant.SENSOR)
    assert [batches.begin_attempt(engine, batch), batches.begin_attempt(engine, batch)] == [True, False]
    assert batches.get_batch(engine, batch.key).attempt == 2


def test_a_batch_that_is_given_up_fails_its_images_and_writes_one_alert(engine):
    insert(engine, 2)
    batch = batches.claim_batch(engine, NOW, Claimant.SENSOR)
    assert batches.fail_batch(engine, batch, "The disk is full.")
    assert not batches.fail_batch(engine, batch, "The disk is full.")
    with engine.connect() as connection:
        reasons = connection.scalars(sa.select(ProductImage.reason)).all()
        alerts = connection.execute(sa.select(Alert.kind, Alert.body)).all()
    assert reasons == ["batch_failed"] * 2
    assert [alert.kind for alert in alerts] == ["batch_failed"]
    assert "The disk is full." in alerts[0].body
    assert batches.open_batches(engine) == []


def test_a_retry_in_small_batches_forms_them_at_once(engine):
    insert(engine, 7)
    batch = batches.claim_batch(engine, NOW, Claimant.SENSOR)
    batches.fail_batch(engine, batch, "It crashed.")
    assert batches.retry_images(engine, batch_key=batch.key, batch_size=3) == 7
    assert [b.image_count for b in batches.open_batches(engine)] == [3, 3, 1]
    assert statuses(engine) == {"processing": 7}


def test_a_retry_by_reason_leaves_other_failures_alone(engine):
    insert(engine, 3)
    with engine.begin() as connection:
        for image_id, reason in ((1, "timeout"), (2, "truncated")):
            connection.execute(
                sa.update(ProductImage).where(ProductImage.id == image_id).values(status="failed", reason=reason)
            )
    assert batches.retry_images(engine, reason="timeout") == 1
    assert statuses(engine) == {"pending": 2, "failed": 1}


def test_a_held_batch_is_left_alone_until_it_is_retried(engine):
    insert(engine, 2)
    batch = batches.claim_batch(engine, NOW, Claimant.SENSOR)
    assert batches.hold_batch(engine, batch, "Its run was canceled.")
    assert batches.open_batches(engine) == []
    assert batches.retry_images(engine) == 2
    assert statuses(engine) == {"pending": 2}
    assert batches.get_batch(engine, batch.key).state is BatchState.FAILED


def test_a_batch_under_way_is_not_retried(engine):
    insert(engine, 1)
    batch = batches.claim_batch(engine, NOW, Claimant.SENSOR)
    with pytest.raises(batches.BatchBusyError, match=batch.key):
        batches.retry_images(engine, batch_key=batch.key)
    with pytest.raises(KeyError):
        batches.retry_images(engine, batch_key="nothing")


def test_an_interrupted_batch_gives_its_images_back(engine):
    insert(engine, 2)
    batch = batches.claim_batch(engine, NOW, Claimant.CLI)
    assert batches.release_batch(engine, batch)
    assert statuses(engine) == {"pending": 2}
    assert count_batches_by_state(engine) == {"interrupted": 1}, "nothing has failed"
    assert batches.claim_batch(engine, NOW, Claimant.CLI).key != batch.key


def test_a_transaction_outlives_an_outage_of_the_database(mariadb, mariadb_url):
    engine = connect(make_url(mariadb_url))
    schema.upgrade(engine)
    insert(engine, 1)
    mariadb.kill()
    with ThreadPoolExecutor(1) as pool:
        claim = pool.submit(batches.claim_batch, engine, NOW, Claimant.SENSOR)
        time.sleep(2)
        assert not claim.done()
        mariadb.start()
        assert claim.result(timeout=60).image_count == 1
    engine.dispose()


def test_only_the_images_that_wait_are_claimed_from_among_others(engine):
    insert(engine, 30)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM product_images WHERE id IN (4, 5, 11)")
        connection.exec_driver_sql("UPDATE product_images SET status = 'failed', reason = 'x' WHERE id IN (2, 9, 16)")
    batch = batches.claim_batch(engine, batches.BatchLimits(size=12, max_wait_s=0), Claimant.SENSOR)
    with engine.connect() as connection:
        claimed = connection.scalars(sa.select(ProductImage.id).where(ProductImage.batch_key == batch.key)).all()
        failed = connection.execute(sa.select(ProductImage.id).where(ProductImage.reason == "x")).scalars().all()
    assert sorted(claimed) == [1, 3, 6, 7, 8, 10, 12, 13, 14, 15, 17, 18]
    assert sorted(failed) == [2, 9, 16]
    assert statuses(engine) == {"processing": 12, "failed": 3, "pending": 12}


def test_a_batch_with_a_gap_after_every_image_is_claimed_whole(engine):
    insert(engine, 2400)
    with engine.begin() as connection:
        connection.execute(sa.update(ProductImage).where(ProductImage.id % 2 == 0).values(status="failed"))
    assert batches.claim_batch(engine, batches.BatchLimits(1200, 1200, 0), Claimant.SENSOR).image_count == 1200
    assert statuses(engine) == {"processing": 1200, "failed": 1200}


def test_so_many_that_wait_are_counted_and_no_more(engine):
    insert(engine, 12)
    assert batches.waiting_images(engine) == batches.waiting_images(engine, at_most=12) == 12
    assert batches.waiting_images(engine, at_most=11) == 11
    with engine.begin() as connection:
        connection.execute(sa.update(ProductImage).where(ProductImage.id.in_([2, 3, 5])).values(status="completed"))
    assert batches.waiting_images(engine, at_most=12) == batches.waiting_images(engine, at_most=10) == 9
    assert batches.waiting_images(engine, at_most=5) == 5


def test_images_from_before_the_clock_was_set_back_do_not_wait_until_it_has_caught_up(engine):
    insert(engine, 1)
    with engine.begin() as connection:
        connection.execute(sa.update(ProductImage).values(updated_at=utc_in(3600)))
    assert batches.claim_batch(engine, batches.BatchLimits(size=10, max_wait_s=60), Claimant.SENSOR).image_count == 1


def test_a_time_that_sqlite_cannot_read_and_text_that_is_not_utf8_block_nothing(tmp_path):
    engine = connect(make_url(f"sqlite:///{tmp_path}/catalogue.db"))
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO product_images (image_url, updated_at) VALUES (CAST(X'68E9' AS TEXT), 'yesterday')"
        )
    batch = batches.claim_batch(engine, batches.BatchLimits(size=10, max_wait_s=60), Claimant.SENSOR)
    assert list(images_of_batch(engine, batch.key)["image_url"]) == ["h\ufffd"]
    engine.dispose()
