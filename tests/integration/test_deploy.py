"""The files of `deploy/`: the compose file has the Compose specification's shape, and fits the project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import sqlalchemy as sa
import yaml

from imgpipe_dagster.instance import PROJECT_DIR
from imgpipe_dagster.settings import Settings

DEPLOY = PROJECT_DIR / "deploy"

TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
COMMAND = {"anyOf": [TEXT, TEXTS]}
DURATION = {"type": "string", "pattern": r"^(\d+(us|ms|s|m|h))+$"}
CONDITION = {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "anyOf": [{"required": ["image"]}, {"required": ["build"]}],
    "properties": {
        "image": TEXT,
        "build": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"context": TEXT, "dockerfile": TEXT, "args": {"type": "object"}, "target": TEXT},
        },
        "command": COMMAND,
        "entrypoint": COMMAND,
        "restart": {"type": "string", "pattern": "^(no|always|unless-stopped|on-failure(:[0-9]+)?)$"},
        "init": {"type": "boolean"},
        "read_only": {"type": "boolean"},
        "tmpfs": TEXTS,
        "cap_drop": TEXTS,
        "security_opt": TEXTS,
        "ports": {"type": "array", "items": {"type": "string", "pattern": r"^(.+:)?\S+:\d+$"}},
        "volumes": {"type": "array", "items": {"type": "string", "pattern": r"^[\w./-]+:/[\w./-]*(:ro)?$"}},
        "environment": {"type": "object", "additionalProperties": TEXT},
        "stop_grace_period": DURATION,
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["condition"],
                "additionalProperties": False,
                "properties": {"condition": CONDITION},
            },
        },
        "healthcheck": {
            "type": "object",
            "additionalProperties": False,
            "required": ["test"],
            "properties": {
                "test": {"type": "array", "items": TEXT, "contains": {"enum": ["CMD", "CMD-SHELL"]}},
                "interval": DURATION,
                "timeout": DURATION,
                "start_period": DURATION,
                "retries": {"type": "integer"},
            },
        },
    },
}
COMPOSE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["services"],
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {"type": "object", "additionalProperties": SERVICE},
        "volumes": {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
    },
}


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def test_the_compose_file_has_the_specifications_shape_and_every_service(compose):
    jsonschema.validate(compose, COMPOSE)
    services = compose["services"]
    assert set(services) == {
        *("prepare", "api", "dashboard", "webserver", "daemon", "watchdog"),
        *("mariadb", "s3", "kafka", "redis"),
    }
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            other = services[needed]
            if how["condition"] == "service_healthy":
                assert "healthcheck" in other, (name, needed)
            if how["condition"] == "service_completed_successfully":
                assert other["restart"] == "no", (name, needed)
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in compose["volumes"], name
        assert ":latest" not in service["image"] or "build" in service, name


def test_no_secret_is_written_down_and_each_variable_is_in_the_example(compose):
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    for key, value in re.findall(r"^\s+(\w*(?:PASSWORD|SECRET_ACCESS_KEY)):\s*(.+)$", text, re.MULTILINE):
        assert key == "MARIADB_RANDOM_ROOT_PASSWORD" or re.search(r"\$\{\w+:\?", value), key
    used = set(re.findall(r"\$\{(\w+)", text))
    example = (DEPLOY / "env.example").read_text(encoding="utf-8")
    assert used == set(re.findall(r"^#?(\w+)=", example, re.MULTILINE))


def test_commands_and_settings_of_the_compose_file_exist(compose):
    known = {f"IMGPIPE_{name.upper()}" for name in Settings.model_fields}
    for service in compose["services"].values():
        for name in service.get("environment", {}):
            assert name in known or not name.startswith("IMGPIPE_"), name
        command = service.get("command", [])
        if command[:1] == ["imgpipe"]:
            done = subprocess.run(
                [str(Path(sys.executable).with_name("imgpipe")), command[1], "--help"],
                capture_output=True, text=True, timeout=120, check=True,
            )  # fmt: skip
            assert all(option in done.stdout for option in command if option.startswith("--")), command


def test_every_file_that_the_image_copies_is_there():
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    assert any(line.startswith("USER ") and line != "USER root" for line in lines)
    for line in lines:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (PROJECT_DIR / source).exists(), source


def test_preparing_makes_bucket_schema_and_dagsters_home_and_may_be_done_again(s3_server, s3_client, tmp_path):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("IMGPIPE_", "MYSQL_", "AWS_"))},
        "IMGPIPE_HOME": str(tmp_path),
        "IMGPIPE_STORE_URL": "s3://prepared/images",
        "IMGPIPE_S3_ENDPOINT_URL": s3_server.endpoint_url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for _ in range(2):
        command = [sys.executable, str(DEPLOY / "prepare.py")]
        subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=120, check=True)
    assert "prepared" in [bucket["Name"] for bucket in s3_client.list_buckets()["Buckets"]]
    engine = sa.create_engine(f"sqlite:///{tmp_path}/catalogue.db")
    assert "product_images" in sa.inspect(engine).get_table_names()
    engine.dispose()
    assert (tmp_path / "dagster" / "dagster.yaml").is_file()
