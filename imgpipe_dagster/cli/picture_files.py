"""Files on this machine as the commands take them: which there are, whether they can be trusted, where results go."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.imaging.threads import one_thread_a_picture
from imgpipe_dagster.imaging.validate import ValidationLimits, Validator
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.streams import map_unordered, processors

R = TypeVar("R")


class TrustedFiles:
    """Reads files and lets child processes examine them. A context manager; may be shared by threads."""

    def __init__(self, settings: Settings) -> None:
        self._max_bytes = settings.fetch_max_bytes
        limits = ValidationLimits(
            max_pixels=settings.max_pixels, timeout_s=settings.decode_timeout_s, memory_mb=settings.decode_memory_mb
        )
        self._validator = Validator(limits, workers=processors())

    def __enter__(self) -> "TrustedFiles":
        self._validator.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._validator.__exit__(*exception)

    def read(self, path: Path) -> bytes:
        """The bytes of a picture that can be decoded.

        Raises:
            DecodeError: There is no such picture there; it says why.
        """
        try:
            size = path.stat().st_size
            if size > self._max_bytes:
                raise DecodeError(Reason.TOO_MANY_BYTES, f"{size} bytes")
            data = path.read_bytes()
        except OSError as error:
            raise DecodeError(Reason.UNREADABLE, error.strerror or str(error)) from error
        verdict = self._validator.validate(data)
        if verdict.reason is not None:
            raise DecodeError(verdict.reason, verdict.detail)
        return data


def printable(path: Path) -> str:
    """The path as text; what is no text in its name is shown by a mark."""
    return os.fsencode(path).decode("utf-8", "replace")


def files_below(place: Path, *, without: Path | None = None) -> list[Path]:
    """A file itself; of a folder, every file in it and below, by name. Hidden ones are left out.

    Args:
        place: A file or a folder.
        without: A folder whose files are left out, such as the one for results.
    """
    if not place.is_dir():
        return [place]
    found: list[Path] = []
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not (without is not None and _same(Path(folder, name), without))
        )
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    # Neither pipes nor sockets; a link that leads nowhere is a bad file.
    return [path for path in found if path.is_file() or not path.exists()]


def result_paths(files: Sequence[Path], place: Path, folder: Path, extension: str) -> dict[Path, Path]:
    """Where the result of each file goes: under the same relative path, with the new extension.

    Of files that differ in their extension only (``a.jpg``, ``a.png``), each keeps its own before the new one.

    Raises:
        FileExistsError: A result would overwrite one of the files.
    """
    root = place if place.is_dir() else place.parent
    plain = {path: folder / path.relative_to(root).with_suffix(f".{extension}") for path in files}
    wanted = Counter(plain.values())
    results: dict[Path, Path] = {}
    taken: set[Path] = set()
    for path, result in plain.items():
        chosen = result if wanted[result] == 1 else result.with_name(f"{path.name}.{extension}")
        number = 2
        while chosen in taken:
            chosen = result.with_name(f"{path.name}.{number}.{extension}")
            number += 1
        taken.add(chosen)
        results[path] = chosen
    sources = {_identity(path) for path in files if path.exists()}
    for result in results.values():
        if result.exists() and _identity(result) in sources:
            raise FileExistsError(f"{result} is one of the files to read: choose another place for the results.")
    return results


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".imgpipe-{os.getpid()}-{threading.get_ident()}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def work_in_order(work: Callable[[Path], R], files: Iterable[Path]) -> Iterator[R]:
    """Do the work on each file, on all cores, and give the results in the order of the files."""
    ready: dict[int, R] = {}
    following = 0
    with one_thread_a_picture():
        for number, result in map_unordered(
            lambda item: (item[0], work(item[1])), enumerate(files), threads=processors()
        ):
            ready[number] = result
            while following in ready:
                yield ready.pop(following)
                following += 1


def _same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino
