"""A folder as a store, with real faults: killed writers, full and read-only disks, other processes."""

import contextlib
import os
import resource
import subprocess
import sys
import time

import pytest

from imgpipe_dagster.store import LocalStore, StoreError

OLD, NEW = b"o" * 6_000_000, b"n" * 9_000_000

WRITER = f"""
import sys
from pathlib import Path
from imgpipe_dagster.store import LocalStore
store = LocalStore(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    store.put("models/weights.bin", b"o" * {len(OLD)})
    store.put("models/weights.bin", b"n" * {len(NEW)})
"""


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_writer_that_is_killed_leaves_a_whole_object(tmp_path):
    reader = LocalStore(tmp_path)
    for delay in (0.003, 0.011, 0.017, 0.023, 0.031, 0.041):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        with writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.05 + delay)
            writer.kill()
        if reader.exists("models/weights.bin"):
            assert reader.get("models/weights.bin") in (OLD, NEW)
        assert {info.key for info in reader.list()} <= {"models/weights.bin"}
    reader.put("models/weights.bin", b"the next writer is not in the way of the dead ones")
    assert reader.get("models/weights.bin").startswith(b"the next writer")


def test_a_full_disk_is_reported_and_what_was_there_stays(small_disk):
    store = LocalStore(small_disk)
    store.put("metadata/1.json", b"kept" * 1000)
    with pytest.raises(StoreError, match=r"disk is full: free some space \(key 'images/aa/big.jpg'\)"):
        store.put("images/aa/big.jpg", b"x" * 2_000_000)
    with pytest.raises(StoreError, match="is full"):
        store.put("metadata/1.json", b"y" * 2_000_000)
    assert [(info.key, info.size) for info in store.list()] == [("metadata/1.json", 4000)]
    store.put("images/aa/small.jpg", b"z" * 500_000)  # the failed files hold no space


def test_a_read_only_disk_is_reported_and_still_read(small_disk):
    LocalStore(small_disk).put("metadata/1.json", b"{}")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    store = LocalStore(small_disk)
    with pytest.raises(StoreError, match="disk is read-only: mount it writable or choose another folder"):
        store.put("metadata/2.json", b"{}")
    with pytest.raises(StoreError, match="is read-only"):
        store.delete("metadata/1.json")
    assert store.get("metadata/1.json") == b"{}"


def test_a_folder_of_another_user_is_reported(tmp_path):
    folder = tmp_path / "store"
    LocalStore(folder).put("metadata/1.json", b"{}")
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:  # nothing is forbidden to root
            for path in (tmp_path, *tmp_path.parents[:-1]):
                stack.callback(path.chmod, path.stat().st_mode)
                path.chmod(0o755)
            stack.callback(os.seteuid, 0)
            os.seteuid(65534)
        else:
            folder.chmod(0o555)
            (folder / ".incoming").chmod(0o555)
            stack.callback(folder.chmod, 0o755)
        with pytest.raises(StoreError, match="may not be used by this user: correct the permissions"):
            LocalStore(folder).put("images/aa/1.jpg", b"1")


def test_a_file_size_limit_is_reported(tmp_path):
    store = LocalStore(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StoreError, match="may not hold a file this large"):
            store.put("images/aa/big.jpg", b"x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(store.list()) == []
    assert list((tmp_path / ".incoming").iterdir()) == []
