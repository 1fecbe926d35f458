"""A folder as a store. Objects appear whole or not at all, and survive a power cut once `put` has returned."""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from imgpipe_dagster.store.base import InvalidKeyError, ObjectInfo, ObjectNotFoundError, StoreError
from imgpipe_dagster.store.keys import RESERVED_FOLDER, check_key, check_prefix, is_key

_LEFTOVER_AGE_S = 24 * 3600

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_ADVICE = {
    errno.ENOSPC: "is full: free some space",
    errno.EDQUOT: "is over its disk quota: free some space or raise the quota",
    errno.EFBIG: "may not hold a file this large: raise the file size limit",
    errno.EROFS: "is read-only: mount it writable or choose another folder",
    errno.EACCES: "may not be used by this user: correct the permissions",
    errno.EPERM: "may not be used by this user: correct the permissions",
    errno.ENOTDIR: "has a file where the key needs a folder: move that file away",
    errno.EISDIR: "has a folder where the key needs a file: move that folder away",
    errno.EXDEV: "spans several file systems: keep it on one",
    errno.EIO: "is on a failing disk: check the system's log",
}


class LocalStore:
    """Objects as files under one folder; the key is the path.

    A file is written in a folder of its own kind, forced to disk, renamed to its place, and its new folder forced to
    disk. Symbolic links below the root are refused, so no key leads out of it.

    Args:
        root: The folder; made on the first `put`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self._incoming = self.root / RESERVED_FOLDER
        self._durable_folders: set[Path] = set()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    def put(self, key: str, data: bytes, *, content_type: str | None = None, immutable: bool = False) -> None:
        """Store an object durably; see `ImageStore.put`."""
        del content_type  # a file has none
        with self._errors(key):
            path = self._path(key)
            self._make_folder(path.parent)
            if not (immutable and _renew(path, len(data))):
                self._write(path, data)
            # Also when the file was there: another writer may have renamed it and not yet got this far.
            _sync_folder(path.parent)

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        """Read an object; see `ImageStore.get`."""
        with self._errors(key, reading=True), self._path(key).open("rb") as file:
            return file.read(-1 if at_most is None else at_most)

    def head(self, key: str) -> ObjectInfo:
        """Size and age of an object; see `ImageStore.head`."""
        with self._errors(key, reading=True):
            path = self._path(key)
            if path.is_dir():
                raise IsADirectoryError
            return _info(key, path)

    def exists(self, key: str) -> bool:
        """Whether an object has this key."""
        try:
            self.head(key)
        except ObjectNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there counts as deleted."""
        with self._errors(key), contextlib.suppress(*_ABSENT):
            self._path(key).unlink()

    def delete_if_older(self, key: str, limit: datetime) -> bool:
        """Delete an object unless it was put after ``limit``; see `ImageStore.delete_if_older`."""
        with self._errors(key):
            path = self._path(key)
            self._incoming.mkdir(parents=True, exist_ok=True)
            aside = self._incoming / uuid.uuid4().hex
            try:
                path.rename(aside)  # whoever puts it from here on finds nothing, and writes it again
            except _ABSENT:
                return False
            if aside.stat().st_mtime <= limit.timestamp():
                aside.unlink()
                return True
            try:
                os.link(aside, path)  # it was renewed a moment ago: back with it, unless it was written again
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                aside.rename(path)
                return False
            aside.unlink()
            return False

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with ``prefix``; see `ImageStore.list`."""
        check_prefix(prefix)
        folder, slash, _ = prefix.rpartition("/")
        with self._errors(prefix):
            if folder:
                self._path(folder)
            yield from self._walk(folder + slash, prefix)

    def open_url(self, key: str) -> str:
        """The object's ``file://`` URL."""
        with self._errors(key):
            return self._path(key).as_uri()

    def _path(self, key: str) -> Path:
        check_key(key)
        path = self.root / key
        if any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(self.root)):
            raise InvalidKeyError(f"Store key {key!r} leads through a symbolic link in {self.root}.")
        return path

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and force the entries that lead to it to disk, whoever made them."""
        if folder in self._durable_folders and folder.is_dir():
            return
        anchor = next(path for path in (self.root, *self.root.parents) if path.is_dir())
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        folder.mkdir(parents=True, exist_ok=True)
        entry = folder
        while entry != anchor:
            entry = entry.parent
            _sync_folder(entry)
        self._durable_folders.add(folder)

    def _remove_leftovers(self) -> None:
        """Remove what killed writers left behind; young files may belong to a living one."""
        limit = time.time() - _LEFTOVER_AGE_S
        for path in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    path.unlink()

    def _write(self, path: Path, data: bytes) -> None:
        incoming = self._incoming / uuid.uuid4().hex
        try:
            with incoming.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            incoming.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                incoming.unlink()
            raise

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below a folder (``""`` or ending in ``/``), in the order of S3: ``a.b`` comes before ``a/b``."""
        try:
            with os.scandir(self.root / folder) as entries:
                names = [entry.name + "/" * entry.is_dir() for entry in entries if not entry.is_symlink()]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in sorted(names, key=os.fsencode):
            key = folder + name
            if not key.startswith(prefix):
                continue
            if name.endswith("/"):
                yield from self._walk(key, prefix)
            elif is_key(key):  # neither being written nor put here by others
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    yield _info(key, self.root / key)

    @contextlib.contextmanager
    def _errors(self, key: str, *, reading: bool = False) -> Iterator[None]:
        """Turn the system's errors into the store's."""
        try:
            yield
        except OSError as error:
            if reading and isinstance(error, _ABSENT):
                raise ObjectNotFoundError(f"There is no object {key!r} in the store folder {self.root}.") from error
            advice = _ADVICE.get(error.errno or 0, f"failed with: {error.strerror}")
            raise StoreError(f"The store folder {self.root} {advice} (key {key!r}).") from error


def _renew(path: Path, size: int) -> bool:
    """Make a file of that size count as new; False if it is not there, or has another size."""
    try:
        if not path.is_file() or path.stat().st_size != size:
            return False
        os.utime(path)
        # The system finds the file first and sets its time then: it may have been taken aside, as old, in between.
        return path.stat().st_size == size
    except FileNotFoundError:  # deleted meanwhile
        return False


def _info(key: str, path: Path) -> ObjectInfo:
    stat = path.stat()
    return ObjectInfo(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
