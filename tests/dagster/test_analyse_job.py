"""The analyse job on real files from a real server: rows, statuses, reports, metadata, checks."""

import json

import dagster as dg
import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.batches import retry_images
from imgpipe_dagster.catalogue.tables import Alert, BatchState, ImageBatch, ProductImage
from imgpipe_dagster.resources.table_io_manager import TableIOManager
from imgpipe_dagster.store.local import LocalStore


@pytest.fixture
def batch(pipeline, make_jpeg):
    pipeline.write("bright.jpg", make_jpeg(1))
    pipeline.write("dark.jpg", make_jpeg(2, shade=5))
    pipeline.write("page.jpg", b"<!doctype html><title>Not here</title>")
    pipeline.write("cut.jpg", make_jpeg(3)[:400])
    pipeline.add_files("bright.jpg", "dark.jpg", "page.jpg", "cut.jpg", "nowhere.jpg")
    pipeline.add(None, "file:///etc/passwd")
    return pipeline.claim()


def test_every_image_ends_with_an_answer(pipeline, batch):
    assert pipeline.run(batch).success
    answers = pipeline.rows("image_predictions", "image_id", "status", "reason", "object_count", "top_class")
    assert answers == [
        (1, "predicted", None, 1, "bottle"),
        (2, "predicted", None, 0, None),
        (3, "rejected", "not_an_image", 0, None),
        (4, "rejected", "truncated", 0, None),
        (5, "rejected", "http_not_found", 0, None),
        (6, "rejected", "url_missing", 0, None),
        (7, "rejected", "url_scheme_not_allowed", 0, None),
    ]
    assert pipeline.rows("product_images", "id", "status", "reason") == [
        (1, "completed", None),
        (2, "completed", None),
        (3, "failed", "not_an_image"),
        (4, "failed", "truncated"),
        (5, "failed", "http_not_found"),
        (6, "failed", "url_missing"),
        (7, "failed", "url_scheme_not_allowed"),
    ]
    assert pipeline.rows("image_batches", "state", "attempt") == [(BatchState.ENHANCED, 1)], "nothing of it has a SKU"


def test_boxes_are_in_pixels_of_the_image_and_name_their_model(pipeline, batch):
    pipeline.run(batch)
    rows = pipeline.rows("detections", "image_id", "detection_id", "x1", "y1", "x2", "y2", "model_version")
    assert rows == [(1, f"{batch.key}:1:0000", 16, 12, 32, 24, "stub-one")]
    looked_at = pipeline.rows("detected_images", "image_id", "object_count", "model_version")
    assert looked_at == [(1, 1, "stub-one"), (2, 0, "stub-one")], "an image without objects has a version too"


def test_every_valid_image_is_classified_and_every_bottle_in_it(pipeline, batch):
    pipeline.run(batch)
    columns = ("classification_id", "image_id", "detection_id", "classifier", "class_name", "model_version")
    assert pipeline.rows("classifications", *columns) == [
        (f"{batch.key}:1:bottle_status", 1, None, "bottle_status", "closed", "stub-one"),
        (f"{batch.key}:1:bottle_status:0000", 1, f"{batch.key}:1:0000", "bottle_status", "opened", "stub-one"),
        (f"{batch.key}:2:bottle_status", 2, None, "bottle_status", "background", "stub-one"),
    ]
    answers = pipeline.rows(
        "image_predictions", "image_id", "bottle_status", "bottle_confidence", "classifier_version", "temple_category"
    )
    assert answers[:3] == [
        (1, "closed", pytest.approx(0.8), "stub-one", None),
        (2, "background", pytest.approx(0.9), "stub-one", None),
        (3, None, None, None, None),
    ]
    probabilities = json.loads(pipeline.rows("classifications", "probabilities", "image_id")[0][0])
    assert probabilities == {"background": 0.1, "closed": 0.8, "opened": 0.1}
    report = json.loads((pipeline.settings.home / "store" / "metadata" / "1.json").read_text())
    assert report["classifier_version"] == "stub-one"
    assert [(c["object"], c["class_name"], c["confidence"]) for c in report["classifications"]] == [
        (None, "closed", 0.8),
        (0, "opened", 0.7),
    ]
    refused = json.loads((pipeline.settings.home / "store" / "metadata" / "5.json").read_text())
    assert (refused["classifications"], refused["classifier_version"]) == ([], None)


def test_without_classes_to_crop_only_whole_images_are_classified(pipeline, batch):
    pipeline.settings.bottle_crop_classes = []
    pipeline.run(batch)
    assert pipeline.rows("classifications", "image_id", "detection_id") == [(1, None), (2, None)]


def test_classifications_alone_can_be_made_again_by_another_model(pipeline, batch):
    pipeline.run(batch)
    before = pipeline.rows("classifications", "*")
    assert pipeline.run(batch, selection=[dg.AssetKey("classifications")]).success
    assert pipeline.rows("classifications", "*") == before
    assert pipeline.run(batch, weights="two", selection=[dg.AssetKey("classifications")]).success
    assert {version for _, version in pipeline.rows("classifications", "image_id", "model_version")} == {"stub-two"}
    assert len(pipeline.rows("classifications", "*")) == len(before)
    assert pipeline.rows("detections", "image_id", "model_version") == [(1, "stub-one")]


def test_bytes_lie_under_their_hash_and_reports_under_the_image_id(pipeline, batch, make_jpeg):
    pipeline.run(batch)
    _, key, sha256 = pipeline.rows("raw_images", "image_id", "object_key", "sha256")[0]
    assert key == f"images/{sha256[:2]}/{sha256}.jpg"
    store = pipeline.settings.home / "store"
    assert (store / key).read_bytes() == make_jpeg(1)
    report = json.loads((store / "metadata" / "1.json").read_text())
    assert report["objects_by_class"] == {"bottle": 1}
    assert report["objects"][0]["box"] == {"x1": 16.0, "y1": 12.0, "x2": 32.0, "y2": 24.0}
    refused = json.loads((store / "metadata" / "5.json").read_text())
    assert (refused["status"], refused["reason"]) == ("rejected", "http_not_found")
    assert "no such file" in refused["advice"]


def test_a_second_run_changes_no_count_and_no_first_created_at(pipeline, batch):
    tables = ["raw_images", "validated_images", "detections", "classifications", "image_predictions"]
    tables += ["metadata_reports", "published_predictions"]
    pipeline.run(batch)
    counts = {table: pipeline.count(table) for table in tables}
    created = pipeline.rows("image_predictions", "image_id", "created_at")
    updated = pipeline.rows("image_predictions", "image_id", "updated_at")
    pipeline.run(batch)
    assert {table: pipeline.count(table) for table in tables} == counts
    assert pipeline.rows("image_predictions", "image_id", "created_at") == created
    assert all(
        new > old
        for new, old in zip(pipeline.rows("image_predictions", "image_id", "updated_at"), updated, strict=True)
    )


def test_an_image_that_comes_again_keeps_its_first_created_at_in_the_new_batch(pipeline, batch, make_jpeg):
    pipeline.run(batch)
    created = dict(map(tuple, pipeline.rows("image_predictions", "image_id", "created_at")))[5]
    pipeline.write("nowhere.jpg", make_jpeg(9))
    assert retry_images(pipeline.engine, reason="http_not_found") == 1
    again = pipeline.claim()
    pipeline.run(again)
    rows = pipeline.rows("current_image_predictions", "image_id", "status", "created_at", "batch_key")
    assert (5, "predicted", created, again.key) in rows
    assert len(rows) == 7, "the superseded row of the old batch does not count"
    assert pipeline.count("image_predictions") == 8


@pytest.mark.parametrize("asset", ["detections", "detected_images"])
def test_detections_alone_can_be_made_again_and_never_disagree_about_their_model(pipeline, batch, asset):
    pipeline.run(batch)
    assert pipeline.run(batch, weights="two", selection=[dg.AssetKey(asset)]).success
    assert pipeline.rows("detections", "image_id", "model_version") == [(1, "stub-two")]
    assert pipeline.rows("detected_images", "image_id", "model_version") == [(1, "stub-two"), (2, "stub-two")]
    predicted = pipeline.rows("image_predictions", "image_id", "detector_version")[:2]
    assert predicted == [(1, "stub-one"), (2, "stub-one")], "predictions wait for their own backfill"


def test_metadata_tells_the_story_with_a_small_picture(pipeline, batch):
    result = pipeline.run(batch)
    found = {
        m.asset_key.to_user_string(): m.step_materialization_data.materialization.metadata
        for m in result.get_asset_materialization_events()
    }
    assert found["raw_images"]["dagster/partition_row_count"].value == 7
    assert found["raw_images"]["rejected_by_reason"].value == {
        "http_not_found": 1,
        "url_missing": 1,
        "url_scheme_not_allowed": 1,
    }
    assert found["detections"]["objects_by_class"].value == {"bottle": 1}
    assert found["detections"]["model_version"].value == "stub-one"
    sheet = found["detections"]["contact_sheet"].value
    assert sheet.startswith("![Annotated images](data:image/jpeg;base64,")
    assert len(sheet) < 30_000
    assert found["classifications"]["images_by_class"].value == {"background": 1, "closed": 1}
    assert found["classifications"]["crops_by_class"].value == {"opened": 1}
    assert found["classifications"]["contact_sheet"].value.startswith("![Classified images](data:image/jpeg;base64,")
    assert found["image_predictions"]["predicted"].value == 2
    assert found["image_predictions"]["bottle_status"].value == {"background": 1, "closed": 1}
    assert found["published_predictions"]["failed"].value == 5


def test_checks_state_the_invariants(pipeline, batch):
    evaluations = {e.check_name: e.passed for e in pipeline.run(batch).get_asset_check_evaluations()}
    assert evaluations == {
        "every_claimed_image_was_asked_for": True,
        "images_decodable": True,  # two of the four downloads are pictures: half is enough
        "boxes_inside_the_image": True,
        "every_valid_image_was_looked_at": True,
        "every_valid_image_was_classified": True,
        "every_champion_could_be_used": True,
        "every_image_has_an_answer": True,
    }


def test_a_failed_check_writes_its_alert(pipeline, make_jpeg):
    pipeline.write("a.jpg", b"<html>")
    pipeline.write("b.jpg", b"<html>")
    pipeline.add_files("a.jpg", "b.jpg")
    batch = pipeline.claim()
    result = pipeline.run(batch)
    assert result.success, "a source that sends rubbish is not a failure of the run"
    assert [e.passed for e in result.get_asset_check_evaluations() if e.check_name == "images_decodable"] == [False]
    with pipeline.engine.connect() as connection:
        (alert,) = connection.execute(sa.select(Alert.kind, Alert.subject)).all()
    assert alert.kind == "check_failed"
    assert batch.key in alert.subject


def test_an_image_that_waits_for_a_new_batch_is_not_published_by_the_old_one(pipeline, batch):
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ProductImage).where(ProductImage.id == 1).values(status="pending"))
    pipeline.run(batch)
    assert pipeline.rows("product_images", "id", "status")[0] == (1, "pending")


def test_a_failed_batch_that_is_run_again_by_hand_is_mended(pipeline, batch):
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ImageBatch).values(state="failed", reason="It crashed."))
        connection.execute(sa.update(ProductImage).values(status="failed", reason="batch_failed"))
    pipeline.run(batch)
    assert pipeline.rows("image_batches", "state", "reason") == [("enhanced", None)]
    assert pipeline.rows("product_images", "id", "status")[0] == (1, "completed")


def test_a_partition_without_images_is_an_empty_success(pipeline):
    pipeline.instance.add_dynamic_partitions("image_batches", ["20260101-000001"])
    job = pipeline.defs().resolve_job_def("analyse")
    assert job.execute_in_process(instance=pipeline.instance, partition_key="20260101-000001").success
    assert pipeline.count("image_predictions") == 0


PREDICT = [dg.AssetKey(name) for name in ("image_predictions", "metadata_reports", "published_predictions")]


def test_a_partition_that_is_deleted_while_it_runs_fails_the_attempt_and_the_next_answers_everything(
    pipeline, batch, monkeypatch
):
    store_frame = TableIOManager.handle_output

    def delete_first(self, context, frame):
        pipeline.instance.delete_dynamic_partition("image_batches", batch.key)
        store_frame(self, context, frame)

    monkeypatch.setattr(TableIOManager, "handle_output", delete_first)
    assert not pipeline.run(batch, raise_on_error=False).success
    assert pipeline.rows("image_batches", "state", "attempt") == [(BatchState.CLAIMED, 1)]
    monkeypatch.undo()
    pipeline.instance.add_dynamic_partitions("image_batches", [batch.key])  # every request of an attempt does
    assert pipeline.run(batch).success
    assert pipeline.count("current_image_predictions") == 7
    assert pipeline.rows("image_batches", "state", "attempt") == [(BatchState.ENHANCED, 1)]


def test_publishing_without_answers_leaves_the_batch_open(pipeline, batch):
    result = pipeline.run(batch, selection=PREDICT[2:], raise_on_error=False)
    assert not result.success
    assert pipeline.rows("image_batches", "state", "attempt") == [("claimed", 1)]
    assert {row[1] for row in pipeline.rows("product_images", "id", "status")} == {"processing"}


def test_an_old_batch_can_be_detected_again_after_one_of_its_images_has_moved(pipeline, batch, make_jpeg):
    pipeline.run(batch)
    pipeline.write("nowhere.jpg", make_jpeg(9))
    retry_images(pipeline.engine, reason="http_not_found")
    pipeline.run(pipeline.claim())
    report = pipeline.settings.home / "store" / "metadata" / "5.json"
    newest = report.read_bytes()
    assert json.loads(newest)["status"] == "predicted"
    assert pipeline.run(batch, weights="two", selection=[dg.AssetKey("detections"), *PREDICT]).success
    assert report.read_bytes() == newest, "the report of the newer batch stays"
    assert len(pipeline.rows("current_image_predictions", "image_id", "status")) == 7


def test_an_image_that_is_in_the_store_already_is_read_there_and_its_report_keeps_its_name(pipeline, make_jpeg):
    store = LocalStore(pipeline.settings.home / "store")
    store.put("images/frame_000007.jpg", make_jpeg(1))
    row = {"image_url": "store:images/frame_000007.jpg", "report_name": "frame_000007"}
    with pipeline.engine.begin() as connection:
        connection.execute(sa.insert(ProductImage).values(row))
    pipeline.run(pipeline.claim())
    assert pipeline.rows("image_predictions", "status", "object_count") == [("predicted", 1)]
    assert pipeline.rows("metadata_reports", "image_id", "object_key") == [(1, "metadata/frame_000007.json")]
    report = json.loads(store.get("metadata/frame_000007.json"))
    assert (report["image_id"], report["image_path"]) == (1, "images/frame_000007.jpg")
    assert [found.key for found in store.list("images/")] == ["images/frame_000007.jpg"], "no second copy"
