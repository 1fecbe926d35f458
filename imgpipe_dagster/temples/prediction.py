"""What a temple's model says of files, as the older system told and logged it."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.imaging.validate import Validator
from imgpipe_dagster.models.temple_classifier import TempleAnswer, TempleClassifier
from imgpipe_dagster.store.keys import safe_name
from imgpipe_dagster.temples.logs import TempleLogs

ANOMALIES = "anomalies"
"""The folder of pictures without a category, or of an unknown scene, when files are sorted."""

_LOGGED_TOGETHER = 200


@dataclass(frozen=True)
class FileToClassify:
    """A file whose category is to be found. ``read`` gives its bytes."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class FileAnswer:
    """What became of one file: an answer, or why there is none. ``number`` is its place among the files, from 0."""

    number: int
    file: str
    answer: TempleAnswer | None
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """As the line of JSON that commands print."""
        if self.answer is None:
            return {"file": self.file, "error": self.error}
        return {
            "file": self.file,
            "image_class": self.answer.image_class,
            "class_confidence": self.answer.class_confidence,
            "probabilities": self.answer.probabilities,
            "anomaly": self.answer.anomaly,
            "calibrated_confidence": self.answer.calibrated_confidence,
            "scene_distance": self.answer.scene_distance,
        }


def predict_files(
    classifier: TempleClassifier,
    validator: Validator,
    files: Iterable[FileToClassify],
    logs: TempleLogs,
    temple_id: str,
) -> Iterator[FileAnswer]:
    """Classify files of unknown origin, streaming; all in the same model, in batches. Every probability is logged.

    A file that cannot be read or decoded gets an error and stops nothing.

    Args:
        classifier: The model: :func:`registry.load_classifier` has it.
        validator: Looks at each file in a child process before it is decoded here.
        files: The files.
        logs: Where probabilities are noted.
        temple_id: For the log.

    Yields:
        One for each file, in no promised order.
    """
    failed: list[FileAnswer] = []

    def trusted() -> Iterator[tuple[tuple[int, str], bytes]]:
        held: dict[tuple[int, str], bytes] = {}
        for key, verdict in validator.validate_all(_read(files, held, failed)):
            data = held.pop(key)
            if verdict.reason is None:
                yield key, data
            else:
                failed.append(FileAnswer(*key, None, f"{verdict.reason}: {verdict.reason.advice}"))

    lines: list[str] = []
    for key, found in classifier.classify_files(trusted()):
        if isinstance(found, DecodeError):
            answered = FileAnswer(*key, None, str(found))
        else:
            answered = FileAnswer(*key, found, None)
        lines.append(_line(temple_id, answered))
        if len(lines) >= _LOGGED_TOGETHER:
            logs.status(*lines)
            lines = []
        yield answered
    lines += [_line(temple_id, answered) for answered in failed]
    if lines:
        logs.status(*lines)
    yield from failed


def make_sorting_folder(folder: Path) -> None:
    """Make the folder that files will be sorted into, and see that files can be made in it.

    Raises:
        OSError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def sort_into(folder: Path, answered: FileAnswer) -> Path:
    """Copy a file into the folder of its category below ``folder``; a taken name gets a number. Where it is now.

    Raises:
        ValueError: There is no answer to sort by.
        OSError: It cannot be read or written.
    """
    if answered.answer is None:
        raise ValueError(f"{answered.file} has no answer to be sorted by")
    source = Path(answered.file)
    data = source.read_bytes()
    target = folder / (ANOMALIES if answered.answer.anomaly else safe_name(answered.answer.image_class))
    target.mkdir(parents=True, exist_ok=True)
    number, name = 1, source.name
    while True:
        path = target / name
        try:
            _write_new(path, data)
        except FileExistsError:
            if path.is_file() and path.read_bytes() == data:
                return path
            number += 1
            name = f"{source.stem}-{number}{source.suffix}"
        else:
            return path


def _write_new(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
        except OSError as error:  # such as a full disk: half a picture would be taken for one
            path.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from error


def _read(
    files: Iterable[FileToClassify], held: dict[tuple[int, str], bytes], failed: list[FileAnswer]
) -> Iterator[tuple[tuple[int, str], bytes]]:
    for number, file in enumerate(files):
        try:
            data = file.read()
        except OSError as error:
            failed.append(FileAnswer(number, file.name, None, f"It cannot be read: {error.strerror}."))
            continue
        held[number, file.name] = data
        yield (number, file.name), data


def _line(temple_id: str, answered: FileAnswer) -> str:
    if answered.answer is None:
        return f"{temple_id}: {answered.file}: {answered.error}"
    told = ", ".join(f"{label} {value:.6f}" for label, value in answered.answer.probabilities.items())
    flag = " (anomaly)" if answered.answer.anomaly else ""
    return f"{temple_id}: {answered.file}: {answered.answer.image_class}{flag}; {told}"
