"""Jobs on both databases: whose images they are about, how they become batches, and what became of each image."""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.batches import get_batch
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.enhancement_configs import enhancement_requests
from imgpipe_dagster.catalogue.jobs import (
    JobKind,
    JobProgress,
    NothingToDoError,
    TooManyImagesError,
    create_enhance_job,
    get_job,
    job_progress,
    job_results,
    open_jobs,
    take_into_batch,
)
from imgpipe_dagster.catalogue.tables import (
    EnhancedImage,
    ImageBatch,
    ImageMetric,
    ProductImage,
    PublishedEnhancement,
    PublishedPrediction,
    Sku,
)
from imgpipe_dagster.imaging.modes import EnhancementConfig, Mode
from imgpipe_dagster.sensors.jobs import JobAction, decide_job, tick


@pytest.fixture
def engine(database_url):
    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    images = [
        {"id": n, "sku_id": "A" if n <= 6 else "B" if n <= 8 else None, "status": "completed"} for n in range(1, 11)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(ProductImage), images)
        connection.execute(sa.insert(Sku), [{"sku_id": sku, "product_group_id": "G"} for sku in ("A", "B")])
    yield engine
    engine.dispose()


def ask(engine, **options):
    return create_enhance_job(engine, parameters={}, config=options.pop("config", {}), **options)


def set_images(engine, *ids, **values):
    with engine.begin() as connection:
        connection.execute(sa.update(ProductImage).where(ProductImage.id.in_(ids)).values(**values))


def run_batch(engine, batch_key, *, failed=(), not_enhanced=(), state="enhanced"):
    """What the runs of a batch leave behind."""
    with engine.begin() as connection:
        mine = sa.select(ProductImage.id).where(ProductImage.batch_key == batch_key)
        for image_id in connection.scalars(mine).all():
            of = {"batch_key": batch_key, "image_id": image_id}
            status = "failed" if image_id in failed else "completed"
            reason = "truncated" if image_id in failed else None
            connection.execute(sa.insert(PublishedPrediction), [{**of, "status": status, "reason": reason}])
            values = {
                "status": status,
                "reason": reason,
                "qc_status": "auto_approved",
                "enhanced_image_url": "file:///e",
            }
            connection.execute(sa.update(ProductImage).where(ProductImage.id == image_id).values(**values))
            if image_id in failed or state != "enhanced":
                continue
            made = (
                {"object_key": None, "reason": "enhancement_error"} if image_id in not_enhanced else {"object_key": "k"}
            )
            connection.execute(sa.insert(EnhancedImage), [{**of, **made, "mode": "auto", "model_version": "e"}])
            verdict = {
                "qc_status": "auto_approved",
                "qc_priority": 0,
                "audited": False,
                "enhanced_image_url": "file:///e",
            }
            connection.execute(sa.insert(PublishedEnhancement), [{**of, **verdict}])
            size = {"width": 1, "height": 1, "byte_size": 1}
            connection.execute(sa.insert(ImageMetric), [{**of, **size, "phase": "after", "score": 80}])
        connection.execute(sa.update(ImageBatch).where(ImageBatch.batch_key == batch_key).values(state=state))


def test_a_job_is_about_the_images_that_fit_all_that_is_given_and_have_a_sku(engine):
    assert ask(engine, sku_id="A").total_images == 6
    assert ask(engine, product_group_id="G").total_images == 8
    assert ask(engine, image_ids=[1, 1, 7, 9, 12345]).total_images == 2
    assert ask(engine, sku_id="B", image_ids=[1, 7]).total_images == 1
    for nothing in ({"sku_id": "a"}, {"image_ids": [9]}, {"image_ids": []}, {}):
        with pytest.raises(NothingToDoError):
            ask(engine, **nothing)
    with pytest.raises(TooManyImagesError):
        ask(engine, sku_id="A", at_most=5)
    assert get_job(engine, "nothing") is None


def test_a_job_goes_through_batches_to_its_end(engine):
    job_id = ask(engine, sku_id="A").job_id
    assert [job.job_id for job in open_jobs(engine, JobKind.ENHANCE)] == [job_id]
    assert tick(engine, batch_size=4, max_open_batches=1) == (1, 0)
    assert tick(engine, batch_size=4, max_open_batches=1) == (0, 0)  # one batch is open
    first = job_results(engine, job_id)
    assert [result.status for result in first] == ["processing"] * 4 + ["pending"] * 2
    key = first[0].batch_key
    batch = get_batch(engine, key)
    assert (batch.state, batch.job, batch.image_count) == ("claimed", "analyse", 4)
    run_batch(engine, key, failed=[2], not_enhanced=[3])
    assert tick(engine, batch_size=4, max_open_batches=1) == (1, 0)
    job = get_job(engine, job_id)
    assert (job.status, job.processed_images, job.failed_images) == ("processing", 4, 2)
    run_batch(engine, job_results(engine, job_id, after=4)[0].batch_key)
    assert tick(engine, batch_size=4, max_open_batches=1) == (0, 1)
    job = get_job(engine, job_id)
    assert (job.status, job.processed_images, job.failed_images) == ("completed", 6, 2)
    assert job.started_at <= job.completed_at
    assert open_jobs(engine, JobKind.ENHANCE) == []
    results = job_results(engine, job_id)
    assert [(r.status.value, r.reason, r.qc_status, r.score) for r in results[:3]] == [
        ("completed", None, "auto_approved", 80),
        ("failed", "truncated", None, None),
        ("failed", "enhancement_error", "auto_approved", 80),
    ]
    assert [r.image_id for r in job_results(engine, job_id, after=2, at_most=2)] == [3, 4]


def test_an_image_that_somebody_works_on_is_waited_for(engine):
    set_images(engine, 1, status="processing", batch_key="other")
    job_id = ask(engine, sku_id="A").job_id
    assert take_into_batch(engine, job_id, at_most=100).image_count == 5
    assert job_progress(engine, job_id) == JobProgress(waiting=1, free=0, open=5, done=0, failed=0, batches=1)
    set_images(engine, 1, status="completed")
    assert take_into_batch(engine, job_id, at_most=100).image_count == 1
    assert take_into_batch(engine, job_id, at_most=100) is None


def test_a_job_whose_images_all_fail_has_failed(engine):
    job_id = ask(engine, sku_id="B").job_id
    tick(engine, batch_size=10, max_open_batches=1)
    run_batch(engine, job_results(engine, job_id)[0].batch_key, failed=[7, 8], state="failed")
    assert tick(engine, batch_size=10, max_open_batches=1) == (0, 1)
    job = get_job(engine, job_id)
    assert (job.status, job.failed_images) == ("failed", 2)
    assert job.error


def test_images_that_a_retry_moves_on_go_on_counting(engine):
    job_id = ask(engine, sku_id="B").job_id
    tick(engine, batch_size=10, max_open_batches=1)
    run_batch(engine, job_results(engine, job_id)[0].batch_key, state="failed")
    set_images(engine, 7, 8, status="pending", reason=None)  # as a retry does
    assert tick(engine, batch_size=10, max_open_batches=1) == (0, 0)
    with engine.begin() as connection:
        connection.execute(sa.insert(ImageBatch), [{"batch_key": "again", "image_count": 2}])
    set_images(engine, 7, 8, status="processing", batch_key="again")
    assert [result.batch_key for result in job_results(engine, job_id)] == ["again", "again"]
    run_batch(engine, "again")
    assert tick(engine, batch_size=10, max_open_batches=1) == (0, 1)
    assert get_job(engine, job_id).status == "completed"


def test_an_earlier_job_keeps_its_results_when_a_later_one_takes_its_images(engine):
    first = ask(engine, sku_id="B").job_id
    tick(engine, batch_size=10, max_open_batches=1)
    key = job_results(engine, first)[0].batch_key
    run_batch(engine, key)
    tick(engine, batch_size=10, max_open_batches=1)
    ask(engine, sku_id="B")
    tick(engine, batch_size=10, max_open_batches=1)
    assert {(r.status.value, r.batch_key) for r in job_results(engine, first)} == {("completed", key)}


def test_what_the_job_asks_for_lies_over_the_skus_settings_and_under_later_reworks(engine):
    set_images(engine, 7, 8, enhancement_mode="sharpen", rework_config={"light": 0.5}, rework_count=2)
    ask(engine, sku_id="B", config={"mode": "full", "background": "keep"})
    tick(engine, batch_size=10, max_open_batches=1)
    with engine.connect() as connection:
        key = connection.scalar(sa.select(ProductImage.batch_key).where(ProductImage.id == 7))
    config = enhancement_requests(engine, key)[0].config(EnhancementConfig())
    assert (config.mode, config.background, config.light) == (Mode.FULL, "keep", EnhancementConfig().light)
    set_images(engine, 7, rework_config={"mode": "denoise"})
    assert enhancement_requests(engine, key)[0].config(EnhancementConfig()).mode is Mode.DENOISE


@pytest.mark.parametrize(
    ("waiting", "free", "open_", "left", "action"),
    [
        (5, 5, 0, 1, JobAction.FORM_BATCH),
        (5, 1, 3, 1, JobAction.FORM_BATCH),
        (5, 5, 0, 0, JobAction.WAIT),
        (5, 0, 0, 1, JobAction.WAIT),
        (0, 0, 3, 1, JobAction.WAIT),
        (0, 0, 0, 0, JobAction.FINISH),
    ],
)
def test_what_to_do_about_a_job(waiting, free, open_, left, action):
    progress = JobProgress(waiting=waiting, free=free, open=open_, done=0, failed=0, batches=0)
    assert decide_job(progress, batches_left=left) is action
