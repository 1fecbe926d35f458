"""The command line as people call it: in this process, because starting one costs more than most commands do, and in
one of its own where that matters."""

import contextlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from imgpipe_dagster import cli

COMMANDS = [
    *(["db", "upgrade"], ["db", "sql"], ["db", "adopt"], ["import", "csv"], ["import", "json"], ["import", "sample"]),
    *(["run"], ["status"], ["retry"], ["poll"], ["kafka", "consume"], ["doctor"], ["models", "download"], ["demo"]),
    ["models", "train-bottle"],
    *(["enhance"], ["score"], ["stale"], ["backfill"], ["prune"], ["forget"], ["ingest"]),
    *(["enhancement-config", name] for name in ("set", "unset", "show")),
    *(["qc", name] for name in ("list", "claim", "release", "approve", "reject", "undo", "reasons", "stats", "export")),
    *(["serve"], ["dashboard"], ["keys", "create"], ["keys", "list"], ["keys", "revoke"]),
    ["watchdog"],
    *(["temple", n] for n in ("add", "label", "list", "train", "promote", "rollback", "predict", "import-model")),
    *(["alerts", name] for name in ("list", "test", "deliver", "mute")),
]


def environment_of(changes):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("IMGPIPE_", "MYSQL_", "DAGSTER_"))}
    return {**clean, "COLUMNS": "120", **changes}


@pytest.fixture
def imgpipe(tmp_path, monkeypatch):
    """Calls a command in this process, in an empty folder; what it changes in the environment is undone."""

    def call(*arguments, **environment):
        out, err = io.StringIO(), io.StringIO()
        hangup = signal.getsignal(signal.SIGHUP)
        with (
            mock.patch.dict(os.environ, environment_of(environment), clear=True),
            mock.patch.object(sys, "argv", ["imgpipe", *arguments]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            cli.main()
        signal.signal(signal.SIGHUP, hangup)
        return subprocess.CompletedProcess(arguments, ended.value.code or 0, out.getvalue(), err.getvalue())

    monkeypatch.chdir(tmp_path)
    return call


@pytest.fixture
def imgpipe_process(tmp_path):
    """Calls a command in a process of its own."""

    def call(*arguments, **environment):
        return subprocess.run(
            [str(Path(sys.executable).with_name("imgpipe")), *arguments],
            cwd=tmp_path,
            env=environment_of(environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(imgpipe, command):
    result = imgpipe(*command, "--help")
    assert result.returncode == 0
    assert f"imgpipe {' '.join(command)}" in " ".join(result.stdout.replace("│", " ").split())
    assert "Example:" in result.stdout


def test_the_commands_are_these(imgpipe):
    listed = imgpipe("--help").stdout
    assert all(
        name in listed
        for name in ("db", "import", "run", "status", "retry", "doctor", "models", "demo", "enhance", "score", "qc")
    )


def test_a_new_installation_takes_an_import_twice_and_adds_it_once(imgpipe_process, tmp_path):
    assert "now at revision" in imgpipe_process("db", "upgrade").stdout
    assert "already at revision" in imgpipe_process("db", "upgrade").stdout
    assert imgpipe_process("import", "sample", "--output", "my.csv").returncode == 0
    first = json.loads(imgpipe_process("import", "csv", "my.csv", "--json").stdout)
    second = json.loads(imgpipe_process("import", "csv", "my.csv", "--json").stdout)
    assert (first["inserted"], second["inserted"], second["known"]) == (first["read"], 0, first["read"])
    found = json.loads(imgpipe_process("status", "--json").stdout)
    assert found["images"] == {"pending": first["read"]}
    assert found["last_prediction_age_s"] is None
    assert (tmp_path / ".imgpipe").is_dir()


@pytest.mark.parametrize("age", ["0d", "-5d", "90", "abc", "99999999999999d"])
def test_prune_refuses_an_age_that_is_none(imgpipe, age):
    refused = imgpipe("prune", "--older-than", age, "--dry-run")
    assert refused.returncode == 2
    assert "Invalid value" in refused.stderr


def test_bad_rows_are_named_by_line_and_the_good_ones_kept(imgpipe, tmp_path):
    (tmp_path / "x.csv").write_text(
        "image_url,sku_id\nhttps://cdn.example.com/a.jpg,S1\n,S2\nhttps://cdn.example.com/b.jpg,S3\n"
    )
    imgpipe("db", "upgrade")
    result = imgpipe("import", "csv", "x.csv")
    assert result.returncode == 3
    assert "2 new" in result.stdout
    assert "line 3" in result.stdout


def test_a_catalogue_that_is_not_there_is_one_clear_line(imgpipe_process):
    result = imgpipe_process("status")
    assert result.returncode == 1
    assert "imgpipe db upgrade" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_setting_that_makes_no_sense_is_one_clear_line_without_its_value(imgpipe_process):
    result = imgpipe_process("status", IMGPIPE_BATCH_SIZE="canary")
    assert result.returncode == 1
    assert "batch_size" in result.stderr
    assert "canary" not in result.stderr + result.stdout


def test_an_unknown_reason_is_refused_with_the_list(imgpipe):
    imgpipe("db", "upgrade")
    result = imgpipe("retry", "--reason", "bad_mood")
    assert result.returncode == 2
    assert "truncated" in result.stderr


def test_a_run_with_nothing_to_do_is_a_success(imgpipe_process):
    imgpipe_process("db", "upgrade")
    result = imgpipe_process("run", "--once", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["batches"] == 0


def test_the_doctor_says_what_to_do(imgpipe):
    before = {f["what"]: f for f in json.loads(imgpipe("doctor", "--json").stdout)}
    assert before["Catalogue"]["advice"] == "imgpipe db upgrade"
    imgpipe("db", "upgrade")
    result = imgpipe("doctor", "--json")
    assert [f["what"] for f in json.loads(result.stdout) if not f["ok"]] == []
    assert result.returncode == 0
    missing = json.loads(imgpipe("doctor", "--json", IMGPIPE_DETECTOR_WEIGHTS="/nowhere/best.pt").stdout)
    assert [f["what"] for f in missing if not f["ok"]] == ["Detector"]


def test_the_doctor_makes_no_catalogue(imgpipe, tmp_path):
    found = json.loads(imgpipe("doctor", "--json", IMGPIPE_SQL_SOURCE_QUERY="SELECT image_id, image FROM x").stdout)
    assert [f["what"] for f in found if not f["ok"]] == ["Catalogue"]
    assert not {"Alerts", "SQL source"} & {f["what"] for f in found}, "they need the catalogue"
    assert not (tmp_path / ".imgpipe" / "catalogue.db").exists()


def test_the_doctor_looks_at_each_configured_source(imgpipe, tmp_path):
    imgpipe("db", "upgrade")
    sqlite3.connect(tmp_path / "shop.db").close()
    query = {"IMGPIPE_SQL_SOURCE_QUERY": "SELECT image_id, image FROM x"}
    kafka = {"IMGPIPE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "IMGPIPE_KAFKA_TOPIC": "t"}

    def sources(**environment):
        found = json.loads(imgpipe("doctor", "--json", **environment).stdout)
        return {f["what"]: f for f in found if "source" in f["what"]}

    assert sources() == {}
    assert sources(**query)["SQL source"]["ok"]
    assert sources(**query, IMGPIPE_SQL_SOURCE_URL=f"sqlite:///{tmp_path}/shop.db")["SQL source"]["ok"]
    away = sources(**query, **kafka, IMGPIPE_SQL_SOURCE_URL=f"sqlite:///{tmp_path}/no.db")
    assert [found["ok"] for found in away.values()] == [False, False]
    assert "no.db" in away["SQL source"]["found"]
    assert "IMGPIPE_SQL_SOURCE_URL" in away["SQL source"]["advice"]
    assert "No Kafka broker answers at 127.0.0.1:1" in away["Kafka source"]["found"]
    assert not (tmp_path / "no.db").exists()
    wrong = sources(IMGPIPE_SQL_SOURCE_QUERY="SELECT :canary")["SQL source"]
    assert (wrong["ok"], "canary" in wrong["found"]) == (False, True)


def test_the_printed_schema_is_what_the_older_system_had_in_a_script(imgpipe):
    printed = imgpipe("db", "sql", "--dialect", "mysql").stdout
    tables = ("product_groups", "skus", "product_images", "image_metrics", "processing_jobs", "enhancement_configs")
    assert all(f"CREATE TABLE {name} (" in printed for name in (*tables, "qc_review_logs", "options"))


@pytest.mark.parametrize("url", ["mysql+pymysql://me:can@ary@db/x", "mysql+pymysql://me:canary@db:port/x", "canary"])
def test_a_database_url_that_cannot_be_read_is_told_without_showing_it(imgpipe, url):
    result = imgpipe("status", IMGPIPE_DATABASE_URL=url)
    assert result.returncode == 1
    assert "database_url" in result.stderr
    assert "Traceback" not in result.stderr
    assert not any(part in result.stderr + result.stdout for part in ("canary", "ary@"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMGPIPE_STORE_URL", "/data/store"),
        ("IMGPIPE_CDN_BASE_URL", "cdn.example.com"),
        ("IMGPIPE_FETCH_ALLOW_NETWORKS", "10.0.0.0/8"),
        ("IMGPIPE_FETCH_ALLOW_NETWORKS", '["10.0.0.1/8"]'),
        ("IMGPIPE_DATABASE_URL", "mysql+pymysql://host/db?user=me&password=canary"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_claimed(imgpipe, name, value):
    imgpipe("db", "upgrade")
    result = imgpipe("run", "--once", **{name: value})
    assert result.returncode == 1
    assert name.removeprefix("IMGPIPE_").lower() in result.stderr
    assert "Traceback" not in result.stderr
    assert "canary" not in result.stderr


def test_an_empty_setting_is_no_setting(imgpipe):
    assert imgpipe("db", "upgrade", IMGPIPE_DATABASE_URL="", IMGPIPE_DETECTOR_SHA256="").returncode == 0


def test_an_upgrade_makes_dagsters_home_too(imgpipe, tmp_path):
    assert "DAGSTER_HOME" in imgpipe("db", "upgrade").stdout
    assert (tmp_path / ".imgpipe" / "dagster" / "dagster.yaml").exists()


def test_missing_weights_stop_a_run_before_anything_is_claimed(imgpipe):
    imgpipe("db", "upgrade")
    imgpipe("import", "sample", "--output", "my.csv")
    imgpipe("import", "csv", "my.csv")
    result = imgpipe("run", "--once", IMGPIPE_DETECTOR_WEIGHTS="/nowhere/best.pt")
    assert (result.returncode, "/nowhere/best.pt" in result.stderr) == (1, True)
    assert set(json.loads(imgpipe("status", "--json").stdout)["images"]) == {"pending"}


def test_settings_are_read_from_the_env_file_of_the_working_directory(imgpipe, tmp_path):
    (tmp_path / ".env").write_text("IMGPIPE_HOME=elsewhere\n")
    imgpipe("db", "upgrade")
    assert (tmp_path / "elsewhere" / "catalogue.db").exists()


def test_a_key_is_shown_once_and_its_name_is_used_once(imgpipe):
    imgpipe("db", "upgrade")
    made = json.loads(imgpipe("keys", "create", "shop", "--scope", "write", "--scope", "read", "--json").stdout)
    assert (made["name"], made["scopes"], made["key"].startswith("imgpipe_")) == ("shop", ["read", "write"], True)
    again = imgpipe("keys", "create", "shop", "--scope", "read")
    assert (again.returncode, "another name" in again.stderr) == (1, True)
    assert imgpipe("keys", "create", "x", "--scope", "everything").returncode == 2
    assert imgpipe("keys", "revoke", "shop").returncode == 0
    assert imgpipe("keys", "revoke", "shop").returncode == 1
    listed = imgpipe("keys", "list", "--json").stdout
    assert [(key["name"], key["active"]) for key in json.loads(listed)] == [("shop", False)]
    assert made["key"] not in listed


def test_muted_test_alerts_are_told_instead_of_written(imgpipe):
    assert imgpipe("db", "upgrade").returncode == 0
    assert imgpipe("alerts", "mute", "test").returncode == 0
    told = imgpipe("alerts", "test")
    assert (told.returncode, "imgpipe alerts mute test --for 0" in told.stderr) == (1, True)
    assert "No alerts." in imgpipe("alerts", "list").stdout


def test_a_dry_adoption_leaves_the_file_as_it_is_and_makes_none(imgpipe, tmp_path):
    older = tmp_path / "older.db"
    with sqlite3.connect(older) as database:
        database.execute("CREATE TABLE options (id INTEGER PRIMARY KEY, option_group TEXT, option_key TEXT)")
        database.execute("CREATE TABLE image_predictions (id INTEGER PRIMARY KEY, image TEXT)")
    before = older.read_bytes()
    place = {"IMGPIPE_DATABASE_URL": f"sqlite:///{older}"}
    assert "Would be copied" in imgpipe("db", "adopt", "--dry-run", **place).stdout
    assert older.read_bytes() == before
    missing = imgpipe("db", "adopt", "--dry-run", IMGPIPE_DATABASE_URL=f"sqlite:///{tmp_path}/missing.db")
    assert missing.returncode == 1
    assert not (tmp_path / "missing.db").exists()
    for refused in (["db", "upgrade"], ["status"], ["doctor"]):
        result = imgpipe(*refused, **place)
        told = " ".join((result.stderr + result.stdout).split())
        assert (result.returncode, "imgpipe db adopt --dry-run" in told) == (1, True)
    assert imgpipe("db", "adopt", **place).returncode == 0
    assert "nothing is left to do" in imgpipe("db", "adopt", "--dry-run", **place).stdout
