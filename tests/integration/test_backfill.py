"""What an older model made is found and made anew by a real backfill, which can be resumed."""

import json
import time

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus

from imgpipe_dagster import backfills
from imgpipe_dagster.backfills import BACKFILL_TAG, all_assets, backfill_assets
from imgpipe_dagster.cli.backfills import _resume


@pytest.mark.parametrize(
    ("asset", "includes", "leaves"),
    [
        ("detections", {"detected_images", "image_predictions", "published_predictions"}, {"raw_images"}),
        ("detected_images", {"detections", "published_predictions"}, {"enhanced_images"}),
        ("published_predictions", {"published_predictions"}, {"image_predictions", "published_enhancements"}),
        ("enhanced_images", {"image_metrics", "published_enhancements"}, {"detections"}),
    ],
)
def test_what_follows_in_the_same_job_is_made_anew_too(asset, includes, leaves):
    assets = set(backfill_assets(asset))
    assert includes | {asset} <= assets
    assert not leaves & assets


def test_an_asset_that_no_job_has_is_refused():
    assert "detections" in all_assets()
    with pytest.raises(KeyError):
        backfill_assets("product_images")


def test_to_resume_a_backfill_that_has_left_nothing_undone_is_no_failure(monkeypatch, capsys):
    said = "Cannot re-execute from failure an asset backfill that has no missing materializations."
    monkeypatch.setattr(backfills, "has_ended", lambda *_: True)
    monkeypatch.setattr(backfills, "_ask", lambda _query: {"__typename": "PythonError", "message": said})
    _resume(None, None, "abc", True)
    assert "Backfill abc has left nothing undone." in capsys.readouterr().out


def test_a_backfill_that_was_canceled_goes_on_and_makes_what_is_stale_anew(
    install, tmp_path, cdn, scenes, start_daemon
):
    installation = install(f"sqlite:///{tmp_path}/catalogue.db")
    for number in range(2):
        cdn.files[f"{number}.jpg"] = scenes[number]
        installation.add(cdn.url(f"{number}.jpg"))
    assert installation.run("run", "--once").returncode == 0
    versions = installation.query("SELECT DISTINCT model_version FROM detected_images")
    first_answers = installation.query("SELECT image_id, created_at FROM image_predictions ORDER BY image_id")
    installation.environment["IMGPIPE_DETECTOR_CONFIDENCE"] = "0.4"
    (found,) = json.loads(installation.run("stale", "--json").stdout)
    assert (found["asset"], found["images"], found["batches"]) == ("detections", 2, 1)
    assert [(found["model_version"],)] == versions

    submitted = installation.run("backfill", "--asset", "detections", "--stale", "--no-wait")
    assert submitted.returncode == 0, submitted.stderr
    assert "published_predictions" in submitted.stdout
    assert "daemon does not run" in submitted.stderr
    canceled = submitted.stdout.split()[-1]
    with dg.DagsterInstance.from_config(str(installation.home / "dagster")) as instance:
        backfill = instance.get_backfill(canceled)
        assert int(backfill.tags["dagster/priority"]) < 0
        instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))

    watching = installation.start("backfill", "--asset", "detections", "--stale")
    assert watching.stdout.readline().startswith("1 batch, ")
    submitted = watching.stdout.readline().split()[-1]
    watching.stderr.readline()  # that the daemon does not run: it watches from now on
    time.sleep(1)
    watching.terminate()
    stopped = installation.finish(watching)
    assert stopped.returncode == 130, stopped.stderr
    assert f"It goes on without this bar: imgpipe backfill --resume {submitted}" in stopped.stderr
    with dg.DagsterInstance.from_config(str(installation.home / "dagster")) as instance:
        instance.update_backfill(instance.get_backfill(submitted).with_status(BulkActionStatus.CANCELED))

    start_daemon(installation)
    resumed = installation.run("backfill", "--resume", canceled)
    assert resumed.returncode == 0, resumed.stderr
    assert "1 of 1 batches were made anew" in resumed.stdout
    assert versions[0] not in installation.query("SELECT DISTINCT model_version FROM detected_images")
    assert installation.query("SELECT image_id, created_at FROM image_predictions ORDER BY image_id") == first_answers
    assert installation.query("SELECT state, attempt FROM image_batches") == [("enhanced", 1)]
    with dg.DagsterInstance.from_config(str(installation.home / "dagster")) as instance:
        (run,) = instance.get_runs(dg.RunsFilter(tags={BACKFILL_TAG: resumed.stdout.split()[1]}))
        assert (run.tags["dagster/priority"], run.tags["dagster/max_retries"]) == ("-10", "0")
        evaluations = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        checks = {event.dagster_event.asset_check_evaluation_data.check_name for event in evaluations}
        assert "every_image_has_an_answer" in checks
        assert "made_by_todays_model" not in checks, "a question to the whole catalogue is not asked by each batch"
