"""``imgpipe poll``, in processes of its own."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

IMGPIPE = str(Path(sys.executable).with_name("imgpipe"))


@pytest.fixture
def imgpipe(tmp_path):
    def call(*arguments, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("IMGPIPE_", "MYSQL_"))}
        return subprocess.run(
            [IMGPIPE, *map(str, arguments)],
            cwd=tmp_path,
            env={**clean, "COLUMNS": "120", **environment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return call


def test_a_poll_takes_over_rows_of_another_table_and_says_how_many_wait(imgpipe, tmp_path):
    imgpipe("db", "upgrade")
    nothing = imgpipe("poll")
    assert (nothing.returncode, "No source is configured" in nothing.stderr) == (1, True)
    foreign = sqlite3.connect(tmp_path / "shop.db")
    foreign.execute("CREATE TABLE shelf (id INTEGER PRIMARY KEY, file TEXT)")
    foreign.executemany("INSERT INTO shelf (file) VALUES (?)", [("a.jpg",), ("b.jpg",), ("bad\nname",)])
    foreign.commit()
    source = {
        "IMGPIPE_SQL_SOURCE_URL": f"sqlite:///{tmp_path}/shop.db",
        "IMGPIPE_SQL_SOURCE_QUERY": "SELECT id AS image_id, file AS image FROM shelf WHERE id > :after_id",
    }
    first = json.loads(imgpipe("poll", "--json", **source).stdout)
    assert (first["taken_over"], first["waiting"], first["sources"]["sql"]["rejected"]) == (2, 2, 1)
    again = imgpipe("poll", "--all", **source)
    assert again.returncode == 3, "a row was refused"
    second = again.stdout
    assert "sql: 0 rows taken over, 2 known, 1 refused." in second
    assert "2 images wait" in second
    wrong = imgpipe("poll", **{**source, "IMGPIPE_SQL_SOURCE_QUERY": "SELECT id, file FROM shelf"})
    assert wrong.returncode == 1
    assert "gives no column image_id and no image. It gives id, file" in wrong.stderr.replace("\n", "")
    zone = imgpipe("poll", **source, IMGPIPE_SQL_SOURCE_TIME_ZONE="Mars/Olympus")
    assert "sql_source_time_zone: Value error, it is not a time zone" in zone.stderr


def test_a_poll_says_how_many_answers_were_refused_and_one_of_everything_tells_them_anew(imgpipe, tmp_path):
    imgpipe("db", "upgrade")
    shop = sqlite3.connect(tmp_path / "shop.db")
    catalogue = sqlite3.connect(tmp_path / ".imgpipe" / "catalogue.db")
    shop.execute(
        "CREATE TABLE shelf (id INTEGER PRIMARY KEY, file TEXT, state TEXT, wide INT DEFAULT 0, "
        "CHECK (wide = 1 OR state <> 'failed'))"
    )
    shop.executemany("INSERT INTO shelf (file) VALUES (?)", [("a.jpg",), ("b.jpg",)])
    shop.commit()
    source = {
        "IMGPIPE_SQL_SOURCE_URL": f"sqlite:///{tmp_path}/shop.db",
        "IMGPIPE_SQL_SOURCE_QUERY": "SELECT id AS image_id, file AS image FROM shelf",
        "IMGPIPE_SQL_SOURCE_UPDATE": "UPDATE shelf SET state = :status WHERE id = :image_id",
    }
    assert imgpipe("poll", **source).returncode == 0
    catalogue.execute("UPDATE product_images SET status = 'failed', reason = 'timeout'")
    catalogue.commit()
    first = imgpipe("poll", **source)
    assert (first.returncode, first.stdout.splitlines()[-1]) == (3, "2 answers refused: imgpipe alerts list")
    listed = imgpipe("alerts", "list", COLUMNS="300").stdout
    assert "The SQL source refuses answers: CHECK constraint failed" in listed
    assert imgpipe("poll", **source).returncode == 0, "they are not tried again by themselves"
    again = imgpipe("poll", "--all", "--json", **source)
    answers = json.loads(again.stdout)
    assert (again.returncode, answers["told"], answers["answers_refused"]) == (3, 0, 2)
    shop.execute("UPDATE shelf SET wide = 1")
    shop.commit()
    mended = imgpipe("poll", "--all", "--json", **source)
    answers = json.loads(mended.stdout)
    assert (mended.returncode, answers["told"], answers["answers_refused"]) == (0, 2, 0)
    assert shop.execute("SELECT state FROM shelf").fetchall() == [("failed",), ("failed",)]
