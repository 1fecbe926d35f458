"""Labelled pictures on their way into a temple: looked at, stored, indexed; and back out as what a network sees."""

import errno
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import ProductImage, TempleImageOrigin, TempleSplit, ValidatedImage
from imgpipe_dagster.catalogue.temple_images import (
    COMMON,
    Fate,
    NewPicture,
    TempleNameError,
    TemplePicture,
    add_pictures,
    check_category,
    check_temple_id,
    fates,
)
from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.formats import DecodeError, sniff
from imgpipe_dagster.imaging.validate import Validator
from imgpipe_dagster.models.temple_input import InputFormat, LabelledPictures, fit
from imgpipe_dagster.store.base import ImageStore, ObjectNotFoundError
from imgpipe_dagster.store.keys import training_key
from imgpipe_dagster.streams import chunks, map_unordered

_CHUNK = 64  # pictures that are looked at, stored and indexed together
_THREADS = 4


class LabelError(ValueError):
    """An image of the catalogue cannot become a training picture; the message says why."""


@dataclass(frozen=True)
class LabelledFile:
    """A file whose category is known. ``read`` gives its bytes."""

    name: str
    category: str
    read: Callable[[], bytes]
    image_id: int | None = None


@dataclass(frozen=True)
class Refused:
    """A file that was not added, and why."""

    name: str
    why: str


@dataclass
class AddReport:
    """What became of files that were to be added."""

    added: int = 0
    known: int = 0
    refused: list[Refused] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Files that were looked at."""
        return self.added + self.known + len(self.refused)


def read_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file, unless it is too large to be a picture.

    Raises:
        OSError: It is, or it cannot be read.
    """
    if path.stat().st_size > max_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return path.read_bytes()


def find_labelled_files(folder: Path, *, max_bytes: int) -> tuple[list[LabelledFile], list[Refused]]:
    """The files in a folder of folders: a folder for each category. Hidden ones are passed over.

    Args:
        folder: The folder.
        max_bytes: Larger files will be refused when they are read.

    Returns:
        The files by category and name, and what lies about besides: files without a category, categories without files,
        folders whose name cannot be a category.

    Raises:
        OSError: The folder cannot be read.
    """
    files: list[LabelledFile] = []
    strays: list[Refused] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            strays.append(Refused(entry.name, "It lies in no category's folder."))
            continue
        try:
            category = check_category(entry.name)
        except TempleNameError as error:
            strays.append(Refused(f"{entry.name}/", str(error)))
            continue
        inside = [path for path in sorted(entry.rglob("*")) if path.is_file() and not path.name.startswith(".")]
        if not inside:
            strays.append(Refused(f"{entry.name}/", "The category is empty."))
        for path in inside:
            name = f"{entry.name}/{path.relative_to(entry)}"
            files.append(LabelledFile(name, category, functools.partial(read_file, path, max_bytes)))
    return files, strays


def add_files(
    engine: Engine,
    store: ImageStore,
    validator: Validator,
    temple_id: str,
    split: TempleSplit,
    files: Sequence[LabelledFile],
    *,
    origin: TempleImageOrigin,
    on_file: Callable[[], object] = lambda: None,
) -> AddReport:
    """Add labelled files to a temple. Bytes are durable before their rows are there.

    A file that is no picture, or whose content would stand in training and test at once, is refused and reported; the
    others are added. The same files again change nothing.

    Args:
        engine: The catalogue.
        store: Where the bytes go.
        validator: Looks at each file in a child process.
        temple_id: Which temple.
        split: For training or for testing.
        files: What to add.
        origin: Where they come from.
        on_file: Called after each file.

    Raises:
        TempleNameError: The temple's id or a category cannot be taken, or test pictures are to be common to all.
    """
    temple_id = check_temple_id(temple_id)
    files = [replace(file, category=check_category(file.category)) for file in files]
    if temple_id == COMMON and split is TempleSplit.TEST:
        raise TempleNameError(f"{COMMON!r} joins the training of every temple; test pictures belong to one temple.")
    report = AddReport()
    for some in chunks(files, _CHUNK):
        _add_some(engine, store, validator, temple_id, split, some, origin, report)
        for _ in some:
            on_file()
    return report


def label_image(
    engine: Engine, store: ImageStore, validator: Validator, image_id: int, category: str
) -> tuple[str, AddReport]:
    """Add an image of the catalogue to its temple's training pictures, under a category that a person gave it.

    It never becomes a test picture: those are frozen, so that models stay comparable.

    Returns:
        The temple, and what became of the image.

    Raises:
        LabelError: There is no such image, it has no temple, or no bytes of it are there.
        TempleNameError: The category's name cannot be taken.
    """
    category = check_category(category)
    query = (
        sa.select(ProductImage.temple_id, ValidatedImage.object_key)
        .outerjoin(
            ValidatedImage,
            sa.and_(ValidatedImage.image_id == ProductImage.id, ValidatedImage.batch_key == ProductImage.batch_key),
        )
        .where(ProductImage.id == image_id)
    )
    row = transact(engine, lambda connection: connection.execute(query).first(), writes=False)
    if row is None:
        raise LabelError(f"There is no image {image_id}.")
    temple_id, key = row
    if temple_id is None:
        raise LabelError(f"Image {image_id} belongs to no temple: its temple_id is empty.")
    if key is None:
        raise LabelError(f"Image {image_id} has no picture in the store: it waits, or it was rejected.")
    file = LabelledFile(f"image {image_id}", category, lambda: store.get(key), image_id)
    report = add_files(engine, store, validator, temple_id, TempleSplit.TRAIN, [file], origin=TempleImageOrigin.REVIEW)
    return temple_id, report


@dataclass(frozen=True)
class LoadedPictures:
    """Pictures as a network sees them, and those that could not be read."""

    pictures: LabelledPictures
    unreadable: tuple[Refused, ...]


def load_first(store: ImageStore, pictures: Sequence[TemplePicture]) -> np.ndarray | None:
    """The first picture that can be read, whole; None if none can."""
    for picture in pictures:
        loaded = _decode(store, picture)
        if isinstance(loaded, np.ndarray):
            return loaded
    return None


def load_pictures(
    store: ImageStore,
    pictures: Sequence[TemplePicture],
    forms: Sequence[InputFormat],
    *,
    on_picture: Callable[[], object] = lambda: None,
) -> list[LoadedPictures]:
    """Read and decode pictures and bring them to formats, one result for each format.

    A picture that is missing, changed in the store or unreadable is left out and reported. Only small ones are kept.

    Args:
        store: Where the bytes are.
        pictures: Which.
        forms: To which formats.
        on_picture: Called after each picture.
    """

    def read(picture: TemplePicture) -> tuple[int, list[np.ndarray] | str]:
        decoded = _decode(store, picture)
        return picture.id, decoded if isinstance(decoded, str) else [fit(decoded, form) for form in forms]

    found: dict[int, list[np.ndarray] | str] = {}
    for picture_id, fitted in map_unordered(read, pictures, threads=_THREADS):
        found[picture_id] = fitted
        on_picture()
    good = [picture for picture in pictures if not isinstance(found[picture.id], str)]
    bad = tuple(Refused(p.object_key, why) for p in pictures if isinstance(why := found[p.id], str))
    loaded = []
    for number, form in enumerate(forms):
        stack = np.zeros((len(good), *form.shape), np.uint8)
        for place, picture in enumerate(good):
            stack[place] = found[picture.id][number]
        labelled = LabelledPictures(tuple(p.id for p in good), tuple(p.category for p in good), stack)
        loaded.append(LoadedPictures(labelled, bad))
    return loaded


def _decode(store: ImageStore, picture: TemplePicture) -> np.ndarray | str:
    """A picture's pixels, or why there are none."""
    try:
        data = store.get(picture.object_key)
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            return "Its bytes in the store have changed."
        return decode_bgr(data)
    except ObjectNotFoundError:
        return "It is not in the store."
    except DecodeError as error:
        return str(error)


def _add_some(
    engine: Engine,
    store: ImageStore,
    validator: Validator,
    temple_id: str,
    split: TempleSplit,
    files: Sequence[LabelledFile],
    origin: TempleImageOrigin,
    report: AddReport,
) -> None:
    contents: dict[str, tuple[LabelledFile, bytes]] = {}
    for file in files:
        try:
            data = file.read()
        except OSError as error:
            report.refused.append(Refused(file.name, f"It cannot be read: {error.strerror}."))
            continue
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in contents:
            contents[sha256] = file, data
        elif contents[sha256][0].category == file.category:
            report.known += 1
        else:
            report.refused.append(Refused(file.name, f"It is the same picture as {contents[sha256][0].name}."))
    before = fates(engine, temple_id, split, ((s, f.category) for s, (f, _) in contents.items()))
    new = {sha256: contents[sha256] for sha256, fate in before.items() if fate is None}
    pictures: list[NewPicture] = []
    for sha256, verdict in validator.validate_all((s, data) for s, (_, data) in new.items()):
        file, data = new[sha256]
        if verdict.reason is not None:
            report.refused.append(Refused(file.name, f"{verdict.reason}: {verdict.reason.advice}"))
            continue
        extension = found.extension if (found := sniff(data)) else "bin"
        key = training_key(temple_id, split.value, file.category, f"{sha256}.{extension}")
        pictures.append(NewPicture(sha256, file.category, key, len(data), file.image_id))
    for _ in map_unordered(
        lambda p: store.put(p.object_key, new[p.sha256][1], immutable=True), pictures, threads=_THREADS
    ):
        pass
    after = add_pictures(engine, temple_id, split, pictures, origin)
    for sha256, fate in _decided(before, after):
        file, _ = contents[sha256]
        match fate:
            case Fate.ADDED:
                report.added += 1
            case Fate.KNOWN:
                report.known += 1
            case Fate.OTHER_CATEGORY:
                report.refused.append(Refused(file.name, "It is there already, in another category."))
            case Fate.IN_TEST:
                report.refused.append(Refused(file.name, "It is a test picture: training must not see it."))
            case Fate.IN_TRAINING:
                report.refused.append(Refused(file.name, "It is a training picture: a test with it would lie."))


def _decided(before: dict[str, Fate | None], after: dict[str, Fate]) -> Iterable[tuple[str, Fate]]:
    yield from ((sha256, fate) for sha256, fate in before.items() if fate is not None)
    yield from after.items()
