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
