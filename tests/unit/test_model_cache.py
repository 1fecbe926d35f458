"""What goes from the folder of exported and compiled models, and what stays."""

import datetime as dt
import os

from imgpipe_dagster.models.cache import tidy

NOW = dt.datetime.now(dt.UTC)
DAY = 86400


def test_what_nobody_uses_goes_and_what_was_read_lately_stays(tmp_path):
    compiled = tmp_path / "compiled"
    compiled.mkdir()
    for name, read_days, written_days in (("old", 100, 100), ("read", 1, 100), ("new", 100, 1)):
        path = compiled / f"{name}.blob"
        path.write_bytes(b"model")
        os.utime(path, (NOW.timestamp() - read_days * DAY, NOW.timestamp() - written_days * DAY))
    for name, days in (("training-dead", 5), ("training-live", 1), ("openvino", 999)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
        for path in (folder / "file", folder):
            os.utime(path, (NOW.timestamp() - days * DAY, NOW.timestamp() - days * DAY))

    def tidied(dry_run):
        limits = {"unused_since": NOW - dt.timedelta(days=90), "left_since": NOW - dt.timedelta(days=3)}
        return tidy(tmp_path, **limits, dry_run=dry_run)

    before = set(tmp_path.rglob("*"))
    assert tidied(dry_run=True) == 2
    assert set(tmp_path.rglob("*")) == before
    assert tidied(dry_run=False) == 2
    gone = {path.relative_to(tmp_path).as_posix() for path in before - set(tmp_path.rglob("*"))}
    assert gone == {"compiled/old.blob", "training-dead", "training-dead/file"}
    assert tidied(dry_run=False) == 0


def test_a_folder_that_is_not_there_is_tidy(tmp_path):
    assert tidy(tmp_path / "models", unused_since=NOW, left_since=NOW, dry_run=False) == 0
