"""The two logs of the older system: what happened with every probability, and errors with their tracebacks. Rotated."""

import datetime as dt
import fcntl
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATUS_LOG, ERROR_LOG = "log.txt", "error_log.txt"
_MAX_BYTES = 5 * 2**20
_KEPT = 3


class TempleLogs:
    """Appends to the two files of a folder. Commands, runs and servers may write at once: they take turns by a lock.

    Args:
        folder: Made when something is written.
        max_bytes: A file that is larger is put aside as ``log.txt.1``, and so on, before the next entry.
        kept: How many of those are kept.
    """

    def __init__(self, folder: Path, *, max_bytes: int = _MAX_BYTES, kept: int = _KEPT) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._kept = kept

    def status(self, *messages: str) -> None:
        """Note what happened, a line for each message."""
        self._append(STATUS_LOG, [_line(message) for message in messages])

    @contextmanager
    def noting_errors(self, what: str) -> Iterator[None]:
        """Note what goes wrong in the block, with its traceback, and a line of it in the status log."""
        try:
            yield
        except Exception as error:
            self._append(ERROR_LOG, [_line(what), *traceback.format_exception(error)])
            self.status(f"{what}: {type(error).__name__}: {error}")
            raise

    def _append(self, name: str, lines: list[str]) -> None:
        with self._locked():
            path = self._folder / name
            if path.exists() and path.stat().st_size > self._max_bytes:
                for number in range(self._kept - 1, 0, -1):
                    older = path.with_name(f"{name}.{number}")
                    if older.exists():
                        older.replace(path.with_name(f"{name}.{number + 1}"))
                path.replace(path.with_name(f"{name}.1"))
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _line(message: str) -> str:
    """One line: a file's name must not make a second one."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return f"{now} {message!s}".replace("\n", "\\n").replace("\r", "\\r") + "\n"
