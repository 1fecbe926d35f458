"""Labelled pictures in a folder of class folders: read, checked, split the same way each time. No training, no SQL."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.streams import map_unordered

_THREADS = 4
_MIN_CLASSES = 2
_MIN_PICTURES = 3  # of a class: one for each split


class DatasetError(ValueError):
    """A folder cannot be learned from; the message says why and what would do."""


class Split(StrEnum):
    """What a picture is used for."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True)
class LabelledPicture:
    """One picture of a data set.

    Attributes:
        path: Relative to the data set's folder.
        class_name: The name of the folder that it is in.
        sha256: Of its bytes.
        split: What it is used for.
    """

    path: Path
    class_name: str
    sha256: str
    split: Split


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class LabelledFolder:
    """A data set: pictures with their classes and splits, and what was left out.

    Attributes:
        folder: Its root.
        classes: In alphabetical order, which is that of the class numbers.
        pictures: Sorted by path.
        skipped: Sorted by path.
    """

    folder: Path
    classes: tuple[str, ...]
    pictures: tuple[LabelledPicture, ...]
    skipped: tuple[Skipped, ...]

    @property
    def fingerprint(self) -> str:
        """A digest of contents, classes and splits; file names do not matter."""
        lines = sorted(f"{picture.sha256} {picture.class_name} {picture.split}" for picture in self.pictures)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many pictures each class has in each split."""
        counted = Counter((picture.class_name, picture.split) for picture in self.pictures)
        return {name: {split.value: counted[name, split] for split in Split} for name in self.classes}


def read_labelled_folder(
    folder: Path, *, read: Callable[[Path], bytes], val_share: float, test_share: float
) -> LabelledFolder:
    """Read a folder with one folder of pictures for each class, and split each class alike.

    The split hangs on the pictures' contents alone: renamed or moved files, another machine or another order change
    nothing, and equal pictures never part.

    Args:
        folder: The root; folders in class folders are read too, hidden files and folders are not.
        read: Gives the bytes of a file that holds a picture, else raises ``DecodeError``; called in a few threads.
        val_share: Part of each class for choosing the best epoch, at least one picture.
        test_share: Part of each class for the final figures, at least one picture.

    Raises:
        DatasetError: There are no two classes, or a class has too few pictures that can be read.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < _MIN_CLASSES:
        found = f"only {names[0]!r}" if names else "none"
        raise DatasetError(f"{folder} needs a folder of pictures for each class, at least two; there is {found}.")
    if set(names) <= {"train", "val", "valid", "test"}:
        raise DatasetError(
            f"{folder} is split already; give a folder whose folders are the classes: the split is made."
        )
    digests: dict[Path, tuple[str, str]] = {}
    skipped: list[Skipped] = []
    files = [(name, path) for name in names for path in _files(folder / name)]
    for (name, path), digest in map_unordered(lambda file: (file, _digest(read, file[1])), files, threads=_THREADS):
        if isinstance(digest, DecodeError):
            skipped.append(Skipped(path.relative_to(folder), str(digest)))
        else:
            digests[path.relative_to(folder)] = (name, digest)
    classes_of: dict[str, set[str]] = {}
    for name, digest in digests.values():
        classes_of.setdefault(digest, set()).add(name)
    kept = {path: found for path, found in digests.items() if len(classes_of[found[1]]) == 1}
    for path, (_, digest) in digests.items():
        if path not in kept:
            skipped.append(Skipped(path, f"the same picture is in {' and '.join(sorted(classes_of[digest]))}"))
    splits: dict[str, Split] = {}
    for name in names:
        own = sorted({digest for kind, digest in kept.values() if kind == name})
        if len(own) < _MIN_PICTURES:
            raise DatasetError(
                f"The class {name} has {len(own)} different pictures that can be read; it needs {_MIN_PICTURES}, "
                f"better 100 and more."
            )
        splits.update(zip(own, _splits(len(own), val_share, test_share), strict=True))
    pictures = [LabelledPicture(path, name, digest, splits[digest]) for path, (name, digest) in kept.items()]
    return LabelledFolder(
        folder,
        tuple(names),
        tuple(sorted(pictures, key=lambda picture: picture.path)),
        tuple(sorted(skipped, key=lambda file: file.path)),
    )


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _digest(read: Callable[[Path], bytes], path: Path) -> str | DecodeError:
    try:
        return hashlib.sha256(read(path)).hexdigest()
    except DecodeError as error:
        return error


def _splits(count: int, val_share: float, test_share: float) -> list[Split]:
    """The splits of ``count`` pictures in the order of their digests, which is as good as chance."""
    validating, testing = max(round(count * val_share), 1), max(round(count * test_share), 1)
    while validating + testing >= count:  # shares that leave nothing to learn from
        validating, testing = max(validating - 1, 1), max(testing - 1, 1)
    return [Split.VAL] * validating + [Split.TEST] * testing + [Split.TRAIN] * (count - validating - testing)
