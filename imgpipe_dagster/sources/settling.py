"""Which files of a watched folder are whole: those that nobody writes any more. The class decides, `watch` looks."""

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

RESCAN_S = 30.0
"""A folder is looked through so often: events get lost, and network file systems have none."""


class Size(NamedTuple):
    """What tells whether a file has changed."""

    size: int
    modified_ns: int


@dataclass
class _Candidate:
    size: Size
    since: float
    is_open: bool
    was_closed: bool


class Settling:
    """Files that were noticed and are not whole yet, or not known to be.

    Args:
        settle_s: A file that nobody is known to write is whole when it has not changed for so long.
        open_limit_s: The same for one that somebody has opened and not closed.
    """

    def __init__(self, settle_s: float = 2.0, open_limit_s: float = 60.0) -> None:
        self._settle_s = settle_s
        self._open_limit_s = open_limit_s
        self._waiting: dict[Path, _Candidate] = {}
        self._given: dict[Path, Size] = {}

    def notice(self, path: Path, size: Size | None, now: float) -> None:
        """A file is there, or has changed; ``None`` if it is not there any more."""
        if size is None:
            self._waiting.pop(path, None)
            self._given.pop(path, None)
            return
        known = self._waiting.get(path)
        if known is None:
            if self._given.get(path) != size:
                self._waiting[path] = _Candidate(size, now, is_open=False, was_closed=False)
        elif known.size != size:
            known.size, known.since, known.was_closed = size, now, False

    def opened(self, path: Path) -> None:
        """Somebody is writing the file."""
        if path in self._waiting:
            self._waiting[path].is_open = True

    def closed(self, path: Path) -> None:
        """Whoever wrote the file has closed it, or has moved it here whole."""
        if path in self._waiting:
            self._waiting[path].is_open = False
            self._waiting[path].was_closed = True

    def waiting(self) -> list[Path]:
        """The files that are not whole yet."""
        return list(self._waiting)

    def due(self, now: float) -> list[Path]:
        """The files that are whole now, by name; each is given once until it changes."""
        whole = sorted(path for path, candidate in self._waiting.items() if self._is_whole(candidate, now))
        for path in whole:
            self._given[path] = self._waiting.pop(path).size
        return whole

    def postpone(self, path: Path) -> None:
        """Give a file again when it has not changed for the longer time: it did not look whole."""
        size = self._given.pop(path, None)
        if size is not None:
            self._waiting[path] = _Candidate(size, time.monotonic(), is_open=True, was_closed=False)

    def _is_whole(self, candidate: _Candidate, now: float) -> bool:
        if candidate.was_closed:
            return True
        return now - candidate.since >= (self._open_limit_s if candidate.is_open else self._settle_s)


def watch(
    folder: Path,
    scan: Callable[[], Iterable[Path]],
    counts: Callable[[Path], bool],
    is_stopped: Callable[[], bool],
    settling: Settling,
) -> Iterator[list[Path]]:
    """Files of a folder as they become whole, a list at a time, until ``is_stopped``.

    Args:
        folder: Watched with everything below it.
        scan: Lists the files that count.
        counts: Whether a file is one of them.
        is_stopped: Asked about every half second.
        settling: Decides.
    """
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    events: queue.SimpleQueue[tuple[str, Path]] = queue.SimpleQueue()

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if not event.is_directory:
                place = event.dest_path if event.event_type == "moved" else event.src_path
                events.put((event.event_type, Path(str(place))))

    observer = Observer()
    observer.schedule(Handler(), str(folder), recursive=True)
    observer.start()
    try:
        scanned = float("-inf")
        while not is_stopped():
            happened = [(kind, path) for kind, path in _drain(events, 0.5) if counts(path)]
            now = time.monotonic()
            for path in (path for _, path in happened):
                settling.notice(path, size_of(path), now)
            for kind, path in happened:
                match kind:
                    case "modified":  # not "created": a file that is moved in from elsewhere is told so too
                        settling.opened(path)
                    case "closed" | "moved":
                        settling.closed(path)
            if now - scanned >= RESCAN_S:
                scanned = now
                for path in scan():
                    settling.notice(path, size_of(path), now)
            for path in settling.waiting():
                settling.notice(path, size_of(path), now)
            if whole := settling.due(now):
                yield whole
    finally:
        observer.stop()
        observer.join()


def size_of(path: Path) -> Size | None:
    """What tells whether a file has changed; None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return Size(stat.st_size, stat.st_mtime_ns)


def _drain(events: "queue.SimpleQueue[tuple[str, Path]]", wait_s: float) -> list[tuple[str, Path]]:
    happened: list[tuple[str, Path]] = []
    try:
        happened.append(events.get(timeout=wait_s))
        while len(happened) < 10_000:
            happened.append(events.get_nowait())
    except queue.Empty:
        pass
    return happened
