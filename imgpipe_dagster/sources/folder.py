"""Files of a folder as images in the store, numbered in sequence. Which files are whole, ``settling.py`` decides."""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.imports import ImportRow, import_rows
from imgpipe_dagster.catalogue.ingested_files import announced_files, note_announced, number_files, renumber_file
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.imaging.frames import to_frame
from imgpipe_dagster.imaging.threads import one_thread_a_picture
from imgpipe_dagster.sources.base import Announce, Frame
from imgpipe_dagster.store.base import ImageStore, ObjectNotFoundError
from imgpipe_dagster.store.keys import FRAME_PREFIX, frame_key, frame_number, report_name, stored_image_url

log = logging.getLogger(__name__)

SOURCE = "folder"
CHUNK_FILES = 16
"""Files under way at once: all are in memory, and each step of theirs is one transaction."""


class Outcome(StrEnum):
    """What became of a file."""

    NEW = "new"
    KNOWN = "known"  # the same content is in the store already
    REJECTED = "rejected"
    FRESH = "fresh"  # it cannot be used, but has just changed: somebody may still write it
    GONE = "gone"  # somebody else took it away


@dataclass(frozen=True)
class FileReport:
    """What became of one file.

    Attributes:
        path: Where it was.
        outcome: What became of it.
        key: Its key in the store, if it is new there.
        reason: The reason code, if it was rejected.
        detail: For people.
    """

    path: Path
    outcome: Outcome
    key: str | None = None
    reason: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class FolderConfig:
    """What is done with files.

    Attributes:
        max_side: Pixels of the longer side in the store.
        moved_to: Where files go that are in the store; None leaves them.
        rejected: Where files go that cannot be used; None leaves them.
        patience_s: A file that cannot be used is not rejected before it is so old.
        sku_id: The product that all of them show.
        temple_id: The site that all of them come from.
    """

    max_side: int = 1920
    moved_to: Path | None = None
    rejected: Path | None = None
    patience_s: float = 0
    sku_id: str | None = None
    temple_id: str | None = None


def announce_rows(engine: Engine) -> Announce:
    """Announces images as rows of the catalogue."""

    def announce(frames: Sequence[Frame]) -> None:
        import_rows(
            engine,
            [
                ImportRow(
                    stored_image_url(frame.key),
                    source=SOURCE,
                    source_ref=frame.sha256,
                    report_name=report_name(frame.key),
                    sku_id=frame.sku_id,
                    temple_id=frame.temple_id,
                )
                for frame in frames
            ],
        )

    return announce


class FolderSource:
    """Brings files into the store and announces them.

    A content that is in the store and announced is passed over. A number belongs to a content from before its bytes are
    in the store, so whoever dies at any moment, the next run goes on with the same number. Any number of processes may
    run at once.

    Args:
        catalogue: Where numbers are given out.
        store: Where images go; it is listed once, for the highest number in it.
        read: Reads a file that can be trusted; raises DecodeError for others.
        announce: Tells of images in the store.
        config: What else is done with files.
    """

    def __init__(
        self,
        catalogue: Engine,
        store: ImageStore,
        read: Callable[[Path], bytes],
        announce: Announce,
        config: FolderConfig | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._read = read
        self._announce = announce
        self._config = config or FolderConfig()
        numbers = (frame_number(found.key) for found in store.list(FRAME_PREFIX))
        self._highest = max((number for number in numbers if number is not None), default=0)

    def take(self, files: Iterable[Path]) -> Iterator[FileReport]:
        """Bring files in, in their order; a report for each.

        Raises:
            StoreError: The store cannot be used; what was reported is in it.
            SourceError: The images cannot be announced.
            sqlalchemy.exc.DBAPIError: The catalogue is away.
        """
        source = iter(files)
        with one_thread_a_picture(), ThreadPoolExecutor(4, thread_name_prefix="ingest") as threads:
            while chunk := list(islice(source, CHUNK_FILES)):
                yield from self._take_chunk(threads, chunk)

    def _take_chunk(self, threads: ThreadPoolExecutor, chunk: list[Path]) -> list[FileReport]:
        digests = dict(zip(chunk, threads.map(_digest, chunk), strict=True))
        there = announced_files(self._catalogue, {digest for digest in digests.values() if digest})
        new = [path for path in chunk if digests[path] is not None and digests[path] not in there]
        prepared = dict(zip(new, threads.map(self._prepare, new), strict=True))
        # Of files with the same content the first one counts.
        frames: dict[str, tuple[Path, bytes]] = {}
        for path, found in prepared.items():
            if not isinstance(found, FileReport):
                frames.setdefault(found[0], (path, found[1]))
        keys = self._store_all(threads, frames)
        return [self._finish(path, digests[path], prepared.get(path), frames, keys) for path in chunk]

    def _prepare(self, path: Path) -> "tuple[str, bytes] | FileReport":
        """A file's digest and the bytes for the store, or why there are none."""
        try:
            data = self._read(path)
            return hashlib.sha256(data).hexdigest(), to_frame(data, self._config.max_side)
        except DecodeError as error:
            age_s = _age_s(path)
            if age_s is None:
                return FileReport(path, Outcome.GONE)
            outcome = Outcome.FRESH if 0 <= age_s < self._config.patience_s else Outcome.REJECTED
            return FileReport(path, outcome, reason=error.reason, detail=error.detail)

    def _store_all(self, threads: ThreadPoolExecutor, frames: dict[str, tuple[Path, bytes]]) -> dict[str, str]:
        """Put images into the store under their numbers and announce them: the key of each digest."""
        if not frames:
            return {}
        named = [(digest, path.name.encode("utf-8", "replace").decode()) for digest, (path, _) in frames.items()]
        numbers = number_files(self._catalogue, named, self._highest)
        items = [(digest, numbers[digest], data) for digest, (_, data) in frames.items()]
        keys = dict(zip(frames, threads.map(lambda item: self._put(*item), items), strict=True))
        sku_id, temple_id = self._config.sku_id, self._config.temple_id
        self._announce([Frame(digest, key, sku_id, temple_id) for digest, key in keys.items()])
        note_announced(self._catalogue, list(keys))
        return keys

    def _put(self, digest: str, number: int, data: bytes) -> str:
        """Put an image under its number, or under a higher one where somebody else's object has taken that."""
        while True:
            key = frame_key(number)
            try:
                if self._store.get(key) == data:
                    return key  # a run that was killed had come so far
            except ObjectNotFoundError:
                self._store.put(key, data, content_type="image/jpeg")
                return key
            log.warning("%s is taken in the store by another image: the next number is used", key)
            number = renumber_file(self._catalogue, digest, number)

    def _finish(
        self,
        path: Path,
        digest: str | None,
        prepared: "tuple[str, bytes] | FileReport | None",
        frames: dict[str, tuple[Path, bytes]],
        keys: dict[str, str],
    ) -> FileReport:
        match prepared:
            case FileReport():
                if prepared.outcome is Outcome.REJECTED:
                    _move(path, self._config.rejected)
                return prepared
            case (content, _) if frames[content][0] == path:
                report = FileReport(path, Outcome.NEW, keys[content])
            case _ if digest is None:
                return FileReport(path, Outcome.GONE)
            case _:
                report = FileReport(path, Outcome.KNOWN)
        _move(path, self._config.moved_to)
        return report


def _digest(path: Path) -> str | None:
    """Hexadecimal SHA-256 of a file's content; None if it is not there any more."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError:
        return ""  # reading it again will say why


def _age_s(path: Path) -> float | None:
    """How long ago a file changed; None if it is not there any more."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return None


def _move(path: Path, folder: Path | None) -> None:
    """Move a file, without overwriting one of the same name; one that somebody else moved is left alone."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / path.name
    number = 2
    while place.exists():
        place = folder / f"{path.stem}.{number}{path.suffix}"
        number += 1
    try:
        shutil.move(path, place)
    except FileNotFoundError:
        log.info("%s was moved by somebody else", path)
