"""The enhance job on rendered products: rows, files, verdicts, metadata, checks; and what a second run leaves alone."""

import hashlib
import io
import json
import logging
import sys

import cv2
import dagster as dg
import numpy as np
import pytest
import sqlalchemy as sa

from imgpipe_dagster.assets import enhancement
from imgpipe_dagster.catalogue.tables import EnhancementConfigRow, ProductImage, Sku
from imgpipe_dagster.demo.products import Backdrop, Defect, degrade, render_product
from imgpipe_dagster.logs import JsonFormatter

SIDE = 400


def product(seed, *, backdrop=Backdrop.PLAIN, defect=None):
    image = render_product(seed, width=SIDE, height=SIDE, backdrop=backdrop).image
    image = degrade(image, defect) if defect else image
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


@pytest.fixture
def batch(pipeline, make_jpeg):
    """One clean product, one severely blurred, one before clutter, one broken file, and one picture without a SKU."""
    pipeline.settings.target_min_dimension = 600
    pipeline.settings.audit_share = 0
    pipeline.write("clean.jpg", product(13))
    pipeline.write("blurred.jpg", product(5, defect=Defect.BLURRED))
    pipeline.write("cluttered.jpg", product(7, backdrop=Backdrop.CLUTTERED))
    pipeline.write("cut.jpg", make_jpeg(3)[:400])
    pipeline.write("shelf.jpg", make_jpeg(4))
    pipeline.add_files("clean.jpg", "blurred.jpg", "cluttered.jpg", "cut.jpg", sku_id="SKU-1", product_group_id="pens")
    pipeline.add_files("shelf.jpg")
    with pipeline.engine.begin() as connection:
        connection.execute(sa.insert(Sku), [{"sku_id": "SKU-1", "product_group_id": "pens", "value": 10}])
    batch = pipeline.claim()
    pipeline.run(batch)
    return batch


def enhance(pipeline, batch, **options):
    return pipeline.run(batch, job="enhance", **options)


def of_raw_image(pipeline, image_id, batch):
    """SHA-256 and object key of what a batch has fetched for an image."""
    rows = pipeline.rows("raw_images", "image_id", "batch_key", "sha256", "object_key")
    return next(
        (sha256, key) for number, batch_key, sha256, key in rows if (number, batch_key) == (image_id, batch.key)
    )


def publish_again(pipeline, batch):
    return enhance(pipeline, batch, selection=[dg.AssetKey("published_enhancements")])


def review(pipeline, image_id, **columns):
    """What a reviewer's decision leaves in the image's row."""
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ProductImage).where(ProductImage.id == image_id).values(**columns))


def configure(pipeline, **config):
    with pipeline.engine.begin() as connection:
        connection.execute(sa.delete(EnhancementConfigRow))
        connection.execute(sa.insert(EnhancementConfigRow), [{"sku_id": "SKU-1", "config": config}])


def of_image(pipeline, image_id, *columns):
    (row,) = (row[1:] for row in pipeline.rows("product_images", "id", *columns) if row[0] == image_id)
    return row


def metadata_of(result):
    return {
        event.asset_key.to_user_string(): event.step_materialization_data.materialization.metadata
        for event in result.get_asset_materialization_events()
    }


def test_products_are_enhanced_judged_and_published(pipeline, batch):
    assert pipeline.rows("image_batches", "state", "attempt") == [("analysed", 1)]
    assert enhance(pipeline, batch).success
    assert pipeline.rows("image_batches", "state", "attempt") == [("enhanced", 1)]

    rows = pipeline.rows("enhanced_images", "image_id", "width", "height", "mode", "background_replaced", "reason")
    assert [row[0] for row in rows] == [1, 2, 3], "those with a SKU and an answer"
    assert [max(row[1:3]) for row in rows] == [600, 600, 600]
    assert {row[3:] for row in rows} >= {("auto", 1, None)}

    statuses = pipeline.rows("product_images", "id", "status", "qc_status", "enhanced_image_url IS NOT NULL")
    assert statuses == [
        (1, "completed", "auto_approved", 1),
        (2, "completed", "needs_review", 0),
        (3, "completed", "needs_review", 0),
        (4, "failed", "pending", 0),
        (5, "completed", "pending", 0),
    ]
    verdicts = pipeline.rows("published_enhancements", "image_id", "review_reasons", "enhanced_image_url IS NOT NULL")
    assert [json.loads(reasons) for _, reasons, _ in verdicts] == [
        [],
        ["source_blurry", "low_score"],
        ["mask_unstable"],
    ]
    assert [url for _, _, url in verdicts] == [1, 0, 0]


def test_a_file_is_in_the_store_under_its_image_and_the_row_has_its_hash(pipeline, batch):
    enhance(pipeline, batch)
    store = pipeline.settings.home / "store"
    for image_id, key, sha256, size, width, height in pipeline.rows(
        "enhanced_images", "image_id", "object_key", "sha256", "byte_size", "width", "height"
    ):
        data = (store / key).read_bytes()
        assert key.startswith(f"enhanced/{image_id}/")
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (sha256, size)
        assert np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)).shape == (height, width, 3)
    url = dict(map(tuple, pipeline.rows("product_images", "id", "enhanced_image_url")))[1]
    key = dict(map(tuple, pipeline.rows("enhanced_images", "image_id", "object_key")))[1]
    assert url == (store / key).as_uri()


def test_each_enhanced_image_has_its_quality_before_and_after(pipeline, batch):
    enhance(pipeline, batch)
    rows = pipeline.rows("image_metrics", "image_id", "phase", "score", "components", "issues", "width", "height")
    assert [row[:2] for row in rows] == [(n, phase) for n in (1, 2, 3) for phase in ("after", "before")]
    after, before = rows[0], rows[1]
    assert after[2] > before[2]
    assert set(json.loads(before[3])) == {"sharpness", "exposure", "contrast", "noise", "resolution", "compression"}
    assert (before[5:], after[5:]) == ((SIDE, SIDE), (600, 600))
    assert "blurry" in json.loads(rows[3][4])


def test_the_metadata_tells_scores_speed_and_cost_with_a_small_picture(pipeline, batch):
    found = metadata_of(enhance(pipeline, batch))
    images, metrics, published = (found[n] for n in ("enhanced_images", "image_metrics", "published_enhancements"))
    assert (images["images"].value, images["enhanced"].value, images["failed_by_reason"].value) == (3, 3, {})
    assert images["mean_score_after"].value > images["mean_score_before"].value > 0
    seconds = images["seconds_per_1000"].value
    assert seconds == pytest.approx(1000 / images["images_per_second"].value, rel=0.1)
    assert images["cost_per_1000"].value == pytest.approx(seconds / 3600 * 0.1, rel=0.02)
    sheet = images["before_after"].value
    assert sheet.startswith("![Before and after](data:image/jpeg;base64,")
    assert len(sheet) < 30_000
    histogram = metrics["score_histogram"].value.records
    assert [sum(int(r.data[phase]) for r in histogram) for phase in ("before", "after")] == [3, 3]
    assert (published["auto_approved"].value, published["needs_review"].value) == (1, 2)
    assert published["review_reasons"].value == {"low_score": 1, "mask_unstable": 1, "source_blurry": 1}
    assert published["dagster/partition_row_count"].value == 3


def test_the_same_bytes_and_settings_give_the_same_files_whatever_the_number_of_threads(pipeline, batch):
    pipeline.settings.enhancement_workers = 1
    enhance(pipeline, batch)
    first = pipeline.rows("enhanced_images", "image_id", "sha256", "model_version")
    pipeline.settings.enhancement_workers = 3
    enhance(pipeline, batch)
    assert pipeline.rows("enhanced_images", "image_id", "sha256", "model_version") == first
    assert pipeline.count("image_metrics") == 6
    assert len(list((pipeline.settings.home / "store" / "enhanced").rglob("*.jpg"))) == 3
    assert pipeline.rows("image_batches", "state", "attempt") == [("enhanced", 1)]


def test_other_settings_give_another_version_and_another_file_beside_the_old_one(pipeline, batch):
    enhance(pipeline, batch)
    before = pipeline.rows("enhanced_images", "image_id", "object_key", "model_version")
    configure(pipeline, mode="optimize", target_kb=20)
    enhance(pipeline, batch)
    after = pipeline.rows("enhanced_images", "image_id", "object_key", "model_version")
    for (_, old_key, old_version), (_, new_key, new_version) in zip(before, after, strict=True):
        assert old_key != new_key
        assert old_version.rsplit("-", 1)[0] == new_version.rsplit("-", 1)[0], "the code is the same"
        assert old_version != new_version
        assert all((pipeline.settings.home / "store" / key).exists() for key in (old_key, new_key))
    assert {row[1] for row in pipeline.rows("enhanced_images", "image_id", "mode")} == {"optimize"}


def test_what_goes_wrong_with_one_image_is_a_reason_in_its_row(pipeline, batch):
    store = pipeline.settings.home / "store"
    key = dict(map(tuple, pipeline.rows("validated_images", "image_id", "object_key")))[1]
    (store / key).unlink()
    review(pipeline, 2, enhancement_mode="magic")
    assert enhance(pipeline, batch).success
    rows = pipeline.rows("enhanced_images", "image_id", "reason", "detail", "object_key")
    assert [row[1] for row in rows] == ["original_missing", "config_invalid", None]
    assert "auto, full, sharpen" in rows[1][2]
    assert rows[0][3] is rows[1][3] is None
    assert of_image(pipeline, 1, "status", "qc_status", "enhanced_image_url") == ("completed", "needs_review", None)
    reasons = dict(map(tuple, pipeline.rows("published_enhancements", "image_id", "review_reasons")))
    assert (json.loads(reasons[1]), json.loads(reasons[2])) == (["original_missing"], ["config_invalid"])
    assert {row[0] for row in pipeline.rows("image_metrics", "image_id", "phase")} == {3}


def test_a_method_that_is_not_installed_is_a_reason_too(pipeline, batch, monkeypatch):
    monkeypatch.setitem(sys.modules, "rembg", None)
    configure(pipeline, mode="full", method="rembg")
    assert enhance(pipeline, batch).success
    assert {row[1] for row in pipeline.rows("enhanced_images", "image_id", "reason")} == {"method_unavailable"}


@pytest.mark.parametrize("decision", ["approved", "rejected"])
def test_a_persons_decision_stands_for_the_file_it_was_made_on(pipeline, batch, decision):
    enhance(pipeline, batch)
    url = "file:///shown/to/the/reviewer.jpg" if decision == "approved" else None
    review(pipeline, 2, qc_status=decision, enhanced_image_url=url)
    enhance(pipeline, batch)
    assert of_image(pipeline, 2, "qc_status", "enhanced_image_url") == (decision, url)
    publish_again(pipeline, batch)
    assert of_image(pipeline, 2, "qc_status", "enhanced_image_url") == (decision, url)

    configure(pipeline, mode="optimize")
    enhance(pipeline, batch)
    assert of_image(pipeline, 2, "qc_status", "enhanced_image_url") == ("needs_review", None), "another file"


def test_who_reviews_a_file_goes_on_until_there_is_another(pipeline, batch):
    enhance(pipeline, batch)
    review(pipeline, 2, qc_claimed_by="ann")
    enhance(pipeline, batch)
    assert of_image(pipeline, 2, "qc_claimed_by") == ("ann",)
    configure(pipeline, mode="optimize")
    enhance(pipeline, batch)
    assert of_image(pipeline, 2, "qc_claimed_by") == (None,)


def test_an_image_that_waits_for_its_rework_is_left_alone_by_its_old_batch(pipeline, batch):
    enhance(pipeline, batch)
    review(pipeline, 1, status="pending", qc_status="pending", enhanced_image_url=None)
    publish_again(pipeline, batch)
    assert of_image(pipeline, 1, "status", "qc_status", "enhanced_image_url") == ("pending", "pending", None)


def test_a_reworked_image_is_enhanced_in_its_new_batch_with_its_new_settings(pipeline, batch):
    enhance(pipeline, batch)
    review(pipeline, 2, status="pending", qc_status="pending", rework_config={"steps": ["sharpen"], "sharpen": 1.5})
    again = pipeline.claim()
    pipeline.run(again)
    enhance(pipeline, again)
    rows = pipeline.rows("current_enhanced_images", "image_id", "batch_key", "steps", "config")
    (mine,) = (row for row in rows if row[0] == 2)
    assert mine[1] == again.key
    assert [step["step"] for step in json.loads(mine[2])] == ["sharpen"]
    assert json.loads(mine[3])["sharpen"] == 1.5
    assert of_image(pipeline, 2, "status", "qc_status") == ("completed", "needs_review")


@pytest.mark.parametrize("stored", [True, False])
def test_a_rework_is_of_the_picture_that_was_rejected_as_long_as_the_store_has_it(pipeline, batch, stored):
    enhance(pipeline, batch)
    seen, key = of_raw_image(pipeline, 2, batch)
    review(pipeline, 2, status="pending", qc_status="pending", rework_count=1, rework_config={"sharpen": 1.5})
    if stored:
        (pipeline.cdn.folder / "blurred.jpg").unlink()
    else:
        (pipeline.settings.home / "store" / key).unlink()
        pipeline.write("blurred.jpg", product(6))
    again = pipeline.claim()
    pipeline.run(again)
    assert (of_raw_image(pipeline, 2, again)[0] == seen) is stored
    enhance(pipeline, again)
    assert of_image(pipeline, 2, "status", "qc_status") == ("completed", "needs_review")


def test_a_valuable_product_is_always_reviewed_and_comes_first(pipeline, batch):
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(Sku).values(value=5000))
    enhance(pipeline, batch)
    reasons = dict(map(tuple, pipeline.rows("published_enhancements", "image_id", "review_reasons")))
    assert json.loads(reasons[1]) == ["high_value"]
    assert of_image(pipeline, 1, "qc_status", "enhanced_image_url") == ("needs_review", None)
    assert of_image(pipeline, 1, "qc_priority")[0] > 1.5


def test_an_audited_picture_waits_for_a_person(pipeline, batch):
    pipeline.settings.audit_share = 1
    enhance(pipeline, batch)
    assert of_image(pipeline, 1, "qc_status", "enhanced_image_url") == ("needs_review", None)
    assert pipeline.rows("published_enhancements", "image_id", "audited") == [(1, 1), (2, 0), (3, 0)]


def checks_of(result):
    return {e.check_name: e for e in result.get_asset_check_evaluations()}


def test_checks_state_what_the_pictures_promise(pipeline, batch):
    assert {name: check.passed for name, check in checks_of(enhance(pipeline, batch)).items()} == {
        "background_is_pure_white": True,
        "size_within_target_kb": True,
        "dimensions_are_standard": True,
        "score_not_worse": True,
    }


def test_a_promise_that_is_not_kept_is_told_with_a_sample_and_fails_no_run(pipeline, batch):
    configure(pipeline, target_kb=1)
    result = enhance(pipeline, batch)
    assert result.success
    check = checks_of(result)["size_within_target_kb"]
    assert not check.passed
    assert check.metadata["failures"].value == 3
    assert [row.data["image_id"] for row in check.metadata["sample"].value.records] == ["1", "2", "3"]
    assert "target_kb" in check.metadata["how to recover"].value
    assert of_image(pipeline, 1, "qc_status") == ("needs_review",)
    assert [row[0] for row in pipeline.rows("alerts", "kind", "id")].count("check_failed") >= 1


@pytest.mark.parametrize("asset", ["enhanced_images", "image_metrics"])
def test_whoever_asks_for_files_or_scores_gets_both(pipeline, batch, asset):
    assert enhance(pipeline, batch, selection=[dg.AssetKey(asset)]).success
    assert (pipeline.count("enhanced_images"), pipeline.count("image_metrics")) == (3, 6)
    assert pipeline.rows("image_batches", "state", "attempt") == [("analysed", 1)], "nothing is published"


def test_publishing_without_pictures_leaves_the_batch_open(pipeline, batch):
    result = enhance(pipeline, batch, selection=[dg.AssetKey("published_enhancements")], raise_on_error=False)
    assert not result.success
    assert pipeline.rows("image_batches", "state", "attempt") == [("analysed", 1)]


def test_a_batch_is_not_enhanced_where_the_settings_say_so(pipeline, make_jpeg):
    pipeline.settings.enhance = False
    pipeline.write("a.jpg", make_jpeg(1))
    pipeline.add_files("a.jpg", sku_id="SKU-1")
    pipeline.run(pipeline.claim())
    assert pipeline.rows("image_batches", "state", "enhanced_at") == [("enhanced", None)]


def test_a_fault_in_one_picture_is_a_reason_and_its_line_in_the_log_names_image_and_batch(pipeline, batch, monkeypatch):
    real = enhancement.enhance

    def fail_once(*arguments, **options):
        monkeypatch.setattr(enhancement, "enhance", real)
        raise RuntimeError("odd")

    pipeline.settings.enhancement_workers = 1
    monkeypatch.setattr(enhancement, "enhance", fail_once)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    enhancement.log.addHandler(handler)
    try:
        enhance(pipeline, batch)
    finally:
        enhancement.log.removeHandler(handler)
    ((image, reason),) = [row for row in pipeline.rows("enhanced_images", "image_id", "reason") if row.reason]
    assert reason == "enhancement_error"
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["image"], line["batch"]) == (image, batch.key)
    assert "RuntimeError: odd" in line["error"]
