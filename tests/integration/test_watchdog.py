"""The watchdog as a process of its own: beside a real daemon that stops, and where no Dagster runs."""

import contextlib
import json
import mailbox
import os
import signal
import sqlite3
import time

import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.tables import ImagePrediction, Option
from imgpipe_dagster.catalogue.types import utc_in

HEARTBEAT_LIMIT_S = 36  # Dagster's daemons beat every 30 seconds


@pytest.fixture
def installation(install, tmp_path):
    installation = install(f"sqlite:///{tmp_path}/catalogue.db")
    installation.environment.update(
        IMGPIPE_SMTP_URL=f"maildir://{tmp_path}/mails",
        IMGPIPE_WATCHDOG_INTERVAL_S="1",
        IMGPIPE_WATCHDOG_HEARTBEAT_LIMIT_S=str(HEARTBEAT_LIMIT_S),
        IMGPIPE_DISK_LOW_GIB="0",
    )
    with installation.engine.begin() as connection:
        row = {"option_group": "error_alert", "option_key": "email", "option_value": "a@x.example"}
        connection.execute(sa.insert(Option).values(**row, option_meta="p@x.example"))
    return installation


@pytest.fixture
def subjects(tmp_path):
    return lambda: [str(mail["Subject"]) for mail in mailbox.Maildir(tmp_path / "mails")]


def wait_for(condition, limit_s):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def stop_idle(daemon, databases):
    """Stop a daemon while it writes nowhere: with a lock of SQLite's it would keep all others from writing."""

    def is_locked(database):
        with contextlib.closing(sqlite3.connect(database, timeout=2, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            connection.execute("ROLLBACK")
            return False

    for _ in range(20):
        os.killpg(daemon.process.pid, signal.SIGSTOP)
        time.sleep(0.05)
        if not any(is_locked(database) for database in databases):
            return
        os.killpg(daemon.process.pid, signal.SIGCONT)
        time.sleep(0.3)
    pytest.fail("the daemon writes all the time")


def predicted(installation, seconds_ago):
    with installation.engine.begin() as connection:
        connection.execute(sa.delete(ImagePrediction))
        connection.execute(
            sa.insert(ImagePrediction).values(
                batch_key="b", image_id=1, status="predicted", object_count=0, created_at=utc_in(-seconds_ago)
            )
        )


def test_a_stopped_daemon_is_reported_in_time_and_so_is_its_return(installation, subjects, start_daemon, tmp_path):
    assert installation.run("db", "upgrade").returncode == 0
    daemon = start_daemon(installation)
    watchdog = installation.start("watchdog")
    stop_idle(daemon, [tmp_path / "catalogue.db", *(installation.home / "dagster").rglob("*.db")])
    stopped = time.monotonic()
    wait_for(lambda: any("daemon has been silent" in subject for subject in subjects()), HEARTBEAT_LIMIT_S + 60)
    assert time.monotonic() - stopped > 1, "a heartbeat of a moment ago is no silence"
    os.killpg(daemon.process.pid, signal.SIGCONT)
    wait_for(lambda: "[imgpipe] Dagster's daemon beats again" in subjects(), 90)
    watchdog.send_signal(signal.SIGTERM)
    assert installation.finish(watchdog).returncode == 0
    assert len([subject for subject in subjects() if "daemon" in subject]) == 2


def test_without_dagster_stale_predictions_and_their_recovery_are_mailed_once(installation, subjects):
    predicted(installation, 9999)
    first = installation.run("watchdog", "--once", "--json")
    again = installation.run("watchdog", "--once", "--json")
    assert (first.returncode, again.returncode) == (1, 1), first.stderr
    found = json.loads(first.stdout)
    assert (found["ok"], found["mails_sent"], len(found["wrong"])) == (False, 1, 1)
    assert json.loads(again.stdout)["written"] == []
    predicted(installation, 1)
    assert installation.run("watchdog", "--once").stdout == "All is well.\n"
    assert sorted(subject[:30] for subject in subjects()) == [
        "[imgpipe] Predictions are fresh again"[:30],
        "[imgpipe] Predictions are stale: the"[:30],
    ]


def test_a_dagster_that_cannot_be_read_is_mailed_and_keeps_nothing_else_from_being_watched(installation, subjects):
    predicted(installation, 9999)
    assert installation.run("db", "upgrade").returncode == 0
    runs = installation.home / "dagster" / "history" / "runs.db"
    runs.parent.mkdir(parents=True)
    runs.write_bytes(b"this is no database" * 1000)
    found = json.loads(installation.run("watchdog", "--once", "--json").stdout)
    assert "Dagster's storage cannot be read" in found["wrong"]
    assert len(found["wrong"]) == len(found["written"]) == found["mails_sent"] == 2
    nowhere, unparsed, foreign = (installation.home / name for name in ("nowhere", "unparsed", "foreign"))
    for home, text in ((unparsed, "storage: ["), (foreign, "run_storage: {module: no.such, class: Runs, config: {}}")):
        home.mkdir()
        (home / "dagster.yaml").write_text(text)
    for home in (nowhere, unparsed, foreign):
        ended = installation.run("watchdog", "--once", "--json", DAGSTER_HOME=str(home))
        assert json.loads(ended.stdout)["written"] == [], "it is told once"
    runs.unlink()
    again = json.loads(installation.run("watchdog", "--once", "--json").stdout)
    assert again["written"] == ["Dagster's storage can be read again"]
    ended = installation.run("forget", "1", "--yes", DAGSTER_HOME=str(nowhere))
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    assert "DAGSTER_HOME is" in ended.stderr


def test_a_catalogue_that_is_away_is_one_clear_line_and_a_failure(installation):
    ended = installation.run("watchdog", "--once", IMGPIPE_DATABASE_URL="mysql+pymysql://u:canary@127.0.0.1:1/x")
    assert ended.returncode == 1
    assert "The catalogue cannot be used" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "canary" not in ended.stderr
