"""The promises of a folder as a store that need no faulty disk to be seen."""

import errno
import os
import time
from pathlib import Path

import pytest

from imgpipe_dagster.store import InvalidKeyError, LocalStore, StoreError


@pytest.fixture
def disk_calls(tmp_path, monkeypatch):
    """What reaches the disk, in order: names below the test's folder."""
    calls = []
    fsync, rename = os.fsync, os.replace

    def name(path):
        relative = Path(path).relative_to(tmp_path)
        return "file in .incoming" if relative.parent.name == ".incoming" else str(relative)

    def recorded_fsync(descriptor):
        calls.append(f"sync {name(Path(f'/proc/self/fd/{descriptor}').readlink())}")
        fsync(descriptor)

    def recorded_rename(source, target):
        calls.append(f"rename {name(source)} to {name(target)}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_rename)
    return calls


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_put_returns(tmp_path, disk_calls):
    store = LocalStore(tmp_path)
    store.put("images/aa/0.jpg", b"0")
    disk_calls.clear()
    store.put("images/aa/1.jpg", b"1")
    assert disk_calls == ["sync file in .incoming", "rename file in .incoming to images/aa/1.jpg", "sync images/aa"]


def test_new_folders_reach_the_disk_up_to_the_first_that_was_there(tmp_path, disk_calls):
    LocalStore(tmp_path / "new" / "store").put("images/aa/1.jpg", b"1")
    assert disk_calls[:4] == ["sync new/store/images", "sync new/store", "sync new", "sync ."]


def test_a_kept_object_is_durable_too_though_another_writer_made_it(tmp_path, disk_calls):
    LocalStore(tmp_path).put("images/aa/1.jpg", b"1")
    disk_calls.clear()
    LocalStore(tmp_path).put("images/aa/1.jpg", b"1", immutable=True)
    assert disk_calls == ["sync images", "sync .", "sync images/aa"]


def test_a_disk_that_fails_while_syncing_leaves_the_old_object_and_no_rubbish(tmp_path, monkeypatch):
    store = LocalStore(tmp_path)
    store.put("metadata/1.json", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="is full: free some space"):
        store.put("metadata/1.json", b"new")
    assert store.get("metadata/1.json") == b"old"
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_leftovers_of_dead_writers_are_removed_after_a_day_and_younger_files_stay(tmp_path):
    LocalStore(tmp_path).put("a/1", b"1")
    leftover, living = tmp_path / ".incoming" / "dead", tmp_path / ".incoming" / "living"
    for path in (leftover, living):
        path.write_bytes(b"half")
    os.utime(leftover, (0, time.time() - 25 * 3600))
    LocalStore(tmp_path).put("a/2", b"2")
    assert not leftover.exists()
    assert living.exists()


def test_a_store_that_was_deleted_meanwhile_is_made_again(tmp_path):
    store = LocalStore(tmp_path / "store")
    store.put("a/1", b"1")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    store.put("a/1", b"2")
    assert store.get("a/1") == b"2"


@pytest.mark.parametrize("key", ["link/secret", "link.txt", "images/deep/secret"])
def test_symbolic_links_lead_nowhere(tmp_path, key):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "store"
    (root / "images").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    (root / "images" / "deep").symlink_to(outside)
    (root / "link.txt").symlink_to(outside / "secret")
    (root / "loop").symlink_to(root / "loop")
    store = LocalStore(root)
    for call in (lambda: store.get(key), lambda: store.put(key, b"overwritten"), lambda: store.delete(key)):
        with pytest.raises(InvalidKeyError, match="symbolic link"):
            call()
    assert list(store.list()) == []
    assert (outside / "secret").read_bytes() == b"secret"


def test_the_root_itself_may_be_a_symbolic_link(tmp_path):
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "big-disk")
    LocalStore(tmp_path / "store").put("a/1", b"1")
    assert (tmp_path / "big-disk" / "a" / "1").read_bytes() == b"1"


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    store = LocalStore(tmp_path)
    store.put("images", b"1")
    with pytest.raises(StoreError, match=r"has a file where the key needs a folder.*'images/aa/1.jpg'"):
        store.put("images/aa/1.jpg", b"1")


def test_a_folder_in_the_way_of_a_file_is_named(tmp_path):
    store = LocalStore(tmp_path)
    store.put("images/aa/1.jpg", b"1")
    with pytest.raises(StoreError, match="has a folder where the key needs a file"):
        store.put("images", b"1")


def test_foreign_files_whose_names_are_no_keys_are_not_listed(tmp_path):
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    (tmp_path / "back\\slash").write_bytes(b"")
    Path(os.fsdecode(bytes(tmp_path) + b"/latin-\xe9")).write_bytes(b"")
    assert [info.key for info in store.list()] == ["a"]


def test_people_get_a_url_that_opens(tmp_path):
    store = LocalStore(tmp_path / "my store")
    assert store.open_url("annotated/1 é.jpg") == f"file://{tmp_path}/my%20store/annotated/1%20%C3%A9.jpg"
