"""What the UI shows, as a snapshot: names are promises to whoever operates the pipeline."""

import subprocess
import sys
from typing import Any

import dagster as dg
import pytest
import yaml

from imgpipe_dagster.build import build_defs, shown_url
from imgpipe_dagster.instance import PROJECT_DIR
from imgpipe_dagster.settings import DATABASE_URL_VARIABLE, Settings, export_secrets

HEAVY = ["torch", "ultralytics", "tensorflow", "keras", "openvino", "nncf", "onnx", "boto3", "streamlit"]
PURE = [
    *("reasons", "imaging.decode", "imaging.draw", "imaging.enhance", "imaging.promises", "imaging.validate"),
    *("imaging.verdict", "models.classifier", "models.detector", "models.weights"),
    *("models.temple_training", "models.temple_legacy"),
]


@pytest.fixture
def defs(tmp_path):
    return build_defs(Settings(home=tmp_path))


def test_assets_and_their_groups(defs):
    groups = {spec.key.to_user_string(): spec.group_name for spec in defs.resolve_all_asset_specs()}
    assert groups == {
        "raw_images": "ingest",
        "validated_images": "ingest",
        "detected_images": "analysis",
        "detections": "analysis",
        "classifications": "analysis",
        "image_predictions": "analysis",
        "metadata_reports": "analysis",
        "published_predictions": "analysis",
        "enhanced_images": "enhancement",
        "image_metrics": "enhancement",
        "published_enhancements": "enhancement",
        "temple_training_sets": "temple_models",
        "temple_models": "temple_models",
    }


def test_a_code_server_can_load_them(defs):
    dg.Definitions.validate_loadable(defs)
    defs.get_repository_def().load_all_definitions()


def test_checks(defs):
    graph = defs.resolve_asset_graph()
    assert sorted(f"{key.asset_key.to_user_string()}.{key.name}" for key in graph.asset_check_keys) == [
        "classifications.every_champion_could_be_used",
        "classifications.every_valid_image_was_classified",
        "classifications.made_by_todays_model",
        "detected_images.every_valid_image_was_looked_at",
        "detections.boxes_inside_the_image",
        "detections.made_by_todays_model",
        "enhanced_images.background_is_pure_white",
        "enhanced_images.dimensions_are_standard",
        "enhanced_images.size_within_target_kb",
        "image_metrics.score_not_worse",
        "image_predictions.every_image_has_an_answer",
        "image_predictions.every_source_is_fresh",
        "image_predictions.every_temple_is_fresh",
        "raw_images.every_claimed_image_was_asked_for",
        "temple_models.champion_is_as_registered",
        "temple_models.champion_is_better_than_guessing",
        "temple_models.false_alarms_are_rare",
        "temple_training_sets.no_test_picture_is_trained_on",
        "temple_training_sets.two_categories_have_pictures",
        "validated_images.images_decodable",
    ]


def test_sensors_and_which_of_them_run_from_the_start(defs, tmp_path):
    on = {sensor.name: sensor.default_status.value for sensor in defs.sensors}
    own = ["alerts_sensor", "feeds_sensor", "jobs_sensor", "new_images_sensor", "run_failures_sensor"]
    own += ["temple_training_sensor", "training_jobs_sensor"]
    assert on == dict.fromkeys(own, "RUNNING") | {"sql_source_sensor": "STOPPED", "kafka_source_sensor": "STOPPED"}
    sources = {"sql_source_query": "SELECT 1", "kafka_bootstrap_servers": "localhost", "kafka_topic": "images"}
    configured = build_defs(Settings.model_validate({"home": tmp_path, **sources}))
    assert {sensor.default_status.value for sensor in configured.sensors or ()} == {"RUNNING"}


@pytest.mark.parametrize("days", [90, 0])
def test_the_daily_schedules_are_on_also_where_only_addresses_go(tmp_path, days):
    schedules: Any = build_defs(Settings(home=tmp_path, retention_days=days)).schedules
    assert {(schedule.name, schedule.job_name, schedule.default_status.value) for schedule in schedules} == {
        ("daily_prune", "prune", "RUNNING"),
        ("daily_model_check", "check_models", "RUNNING"),
    }


def test_every_asset_has_a_description_kinds_an_owner_and_its_partitions(defs):
    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.kinds, spec.key
        assert spec.owners, spec.key
        assert spec.partitions_def.name == ("temples" if spec.group_name == "temple_models" else "image_batches")


def test_any_freshness_limit_leaves_definitions_that_load(tmp_path):
    for minutes in (0.5, 1, 1.5, 30, 600):
        assert build_defs(Settings(home=tmp_path, freshness_minutes=minutes))
    with pytest.raises(ValueError, match="freshness_warn_minutes must be less than freshness_minutes"):
        Settings(home=tmp_path, freshness_minutes=30, freshness_warn_minutes=30)


def test_freshness_is_watched_on_predictions(tmp_path):
    defs = build_defs(Settings(home=tmp_path, freshness_minutes=60, freshness_warn_minutes=30))
    policies = {
        s.key.to_user_string(): s.freshness_policy for s in defs.resolve_all_asset_specs() if s.freshness_policy
    }
    assert list(policies) == ["image_predictions"]
    policy: Any = policies["image_predictions"]
    assert policy.fail_window.to_timedelta().total_seconds() == 3600


@pytest.mark.parametrize("name", ["analyse", "enhance", "training"])
def test_the_jobs_are_never_retried_by_dagster_itself(defs, name):
    job = defs.resolve_job_def(name)
    assert job.tags["dagster/max_retries"] == "0"
    assert job.executor_def is dg.in_process_executor


@pytest.mark.parametrize("name", ["enhance", "training"])
def test_enhancement_and_training_give_way_to_predictions_and_never_take_all_slots(defs, name):
    tags = defs.resolve_job_def(name).tags
    assert int(tags["dagster/priority"]) < 0
    runs = yaml.safe_load((PROJECT_DIR / "dagster.yaml").read_text())["concurrency"]["runs"]
    limits = {(limit["key"], limit.get("value")): limit["limit"] for limit in runs["tag_concurrency_limits"]}
    assert "imgpipe/job" in tags
    assert limits["imgpipe/job", None] < runs["max_concurrent_runs"], "one limit for all, whatever the tag's value"
    assert limits["dagster/backfill", None] < runs["max_concurrent_runs"], "nor does the past"


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_loading_the_definitions_imports_no_heavy_library():
    code = (
        "import sys; from imgpipe_dagster.build import build_defs; from imgpipe_dagster.settings import Settings;"
        f"build_defs(Settings()); print([m for m in {HEAVY} if m in sys.modules])"
    )
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stderr


def test_the_command_line_starts_without_what_only_some_commands_need():
    late = ("dagster", "pandas", "numpy", "cv2", "aiohttp", "alembic", *HEAVY)
    result = run_python(f"import sys; import imgpipe_dagster.cli; print([m for m in {late} if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("module", PURE)
def test_the_pure_core_runs_without_dagster_sql_or_settings(module):
    code = (
        "import sys\n"
        "for name in ('dagster', 'sqlalchemy', 'pydantic_settings', 'imgpipe_dagster.settings'):\n"
        "    sys.modules[name] = None\n"
        f"import imgpipe_dagster.{module}"
    )
    assert run_python(code).returncode == 0, run_python(code).stderr


def test_a_password_reaches_the_resource_only_through_the_environment(tmp_path, monkeypatch):
    url = "mysql+pymysql://user:canary@localhost/imgpipe"
    monkeypatch.delenv("IMGPIPE_DATABASE_URL", raising=False)
    settings = Settings.model_validate({"home": tmp_path, "database_url": url})
    with pytest.raises(ValueError, match="environment"):
        shown_url(settings.catalogue_url, DATABASE_URL_VARIABLE)
    monkeypatch.setenv("IMGPIPE_DATABASE_URL", "something else")
    export_secrets(settings)
    assert shown_url(settings.catalogue_url, DATABASE_URL_VARIABLE) == dg.EnvVar("IMGPIPE_DATABASE_URL")


def test_the_mysql_variables_of_the_older_systems_name_a_catalogue(monkeypatch):
    for name, value in (("HOST", "db"), ("USER", "me"), ("PASSWORD", "p@ss"), ("DATABASE", "shop")):
        monkeypatch.setenv(f"MYSQL_{name}", value)
    url = Settings().catalogue_url
    assert (url.host, url.username, url.password, url.database, url.port) == ("db", "me", "p@ss", "shop", 3306)


def test_passwords_of_sources_reach_their_resources_only_through_the_environment(tmp_path, monkeypatch):
    names = ("IMGPIPE_SQL_SOURCE_URL", "IMGPIPE_KAFKA_SASL_PASSWORD", "IMGPIPE_KAFKA_SSL_KEY_PASSWORD")
    for name in names:
        monkeypatch.setenv(name, "")
    settings = Settings.model_validate(
        {
            "home": tmp_path,
            "sql_source_query": "SELECT 1",
            "sql_source_url": "mysql://me:canary@db/shop",
            "kafka_sasl_password": "canary",
            "kafka_ssl_key_password": "canary",
        }
    )
    export_secrets(settings)
    resources = build_defs(settings).resources or {}
    shown = [resources["sql_source"].url, resources["kafka_source"].sasl_password]
    assert [*shown, resources["kafka_source"].ssl_key_password] == [dg.EnvVar(name) for name in names]
    assert "canary" not in repr(resources["sql_source"]) + repr(resources["kafka_source"])
