"""The demo's files: rendered pictures in many formats, and the bad files that a real CDN also serves. No server here.

The set is a pure function of its size; the expected answer to each file is part of it.
"""

import io
import multiprocessing
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
from numpy.typing import NDArray
from PIL import Image

from imgpipe_dagster.demo.render import render_scene
from imgpipe_dagster.reasons import Reason

DEMO_SEED = 4_000_000
BOMB_SIDE = 16384

_TEMPLES = ("riverside", "old-town", "airport")
_SIZES = ((1280, 960), (1280, 960), (1280, 960), (960, 1280), (1600, 1200), (1280, 720), (800, 600))
_ODD_NAMES = (
    "aisle 3 left.jpg",
    "🍾 new year offer.jpg",
    "discount 50% off.jpg",
    "100%25 juice.jpg",
    "shelf #7.jpg",
    "which brand?.jpg",
    "salt & vinegar+lime=new;v2.jpg",
    "étagère à gauche.jpg",
)


class Kind(StrEnum):
    """How a demo file is made."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    BMP = "bmp"
    TIFF = "tiff"
    ANIMATED_GIF = "animated_gif"
    ROTATED_BY_EXIF = "rotated_by_exif"
    CMYK = "cmyk"
    GRAY = "gray"
    TRUNCATED_JPEG = "truncated_jpeg"
    TRUNCATED_PNG = "truncated_png"
    HTML = "html"
    EMPTY = "empty"
    MISSING = "missing"
    PIXEL_BOMB = "pixel_bomb"


_REASONS = {
    Kind.TRUNCATED_JPEG: Reason.TRUNCATED,
    Kind.TRUNCATED_PNG: Reason.TRUNCATED,
    Kind.HTML: Reason.NOT_AN_IMAGE,
    Kind.EMPTY: Reason.EMPTY_FILE,
    Kind.MISSING: Reason.HTTP_NOT_FOUND,
    Kind.PIXEL_BOMB: Reason.TOO_MANY_PIXELS,
}
_EXTENSIONS = {
    Kind.PNG: "png",
    Kind.WEBP: "webp",
    Kind.BMP: "bmp",
    Kind.TIFF: "tif",
    Kind.ANIMATED_GIF: "gif",
    Kind.TRUNCATED_PNG: "png",
    Kind.PIXEL_BOMB: "png",
}
_BAD = (
    Kind.TRUNCATED_JPEG,
    Kind.HTML,
    Kind.MISSING,
    Kind.PIXEL_BOMB,
    Kind.EMPTY,
    Kind.TRUNCATED_PNG,
    Kind.TRUNCATED_JPEG,
)
_UNUSUAL = (Kind.ROTATED_BY_EXIF, Kind.ANIMATED_GIF, Kind.CMYK, Kind.GRAY, Kind.PNG, Kind.WEBP, Kind.BMP, Kind.TIFF)
_HTML_PAGE = b"""<!DOCTYPE html>
<html><head><title>Not here</title></head><body><h1>This picture has moved</h1><p>Please sign in.</p></body></html>
"""


@dataclass(frozen=True)
class DemoFile:
    """One file of the demo and the catalogue's columns for it.

    Attributes:
        name: The file's name in the folder and, percent-encoded, in its URL.
        kind: How it is made.
        seed: The scene in it; two files of one seed, kind and size have the same bytes.
        width: Of the upright picture that a good file shows, in pixels.
        height: The same, in pixels.
        sku: The article's number; None for a shelf, which shows many articles: it is not enhanced.
        product_group: The article's group.
        temple_id: The site that the picture comes from.
    """

    name: str
    kind: Kind
    seed: int
    width: int
    height: int
    sku: str | None
    product_group: str
    temple_id: str

    @property
    def expected_reason(self) -> Reason | None:
        """Why the pipeline must reject this file; None if it must be predicted."""
        return _REASONS.get(self.kind)

    def read(self) -> bytes | None:
        """Make the file's bytes; None if the CDN has no such file. Takes up to half a second."""
        return _make(self)


def demo_files(count: int = 120) -> Iterator[DemoFile]:
    """The demo's files in the order of their rows.

    Args:
        count: How many, at least 10. Seven are bad and one is a copy, whatever the count; the others are good: ordinary
            JPEGs, and (as far as the count allows) one of each unusual format and of each awkward name.

    Yields:
        Descriptions; nothing is rendered yet.

    Raises:
        ValueError: If the count is below 10.
    """
    if count < 10:
        raise ValueError(f"the demo has at least 10 files, not {count}")
    bad_places = {int((number + 0.5) * (count - 1) / len(_BAD)): kind for number, kind in enumerate(_BAD)}
    good = 0
    first: DemoFile | None = None
    for place in range(count):
        if place in bad_places:
            yield _describe(place, bad_places[place])
        elif first and place == count - 1:
            yield replace(_describe(place, first.kind), seed=first.seed, width=first.width, height=first.height)
        else:
            file = _describe_good(place, good)
            first = first or file
            good += 1
            yield file


def write_demo_images(
    folder: Path, count: int = 120, progress: Callable[[DemoFile], object] | None = None
) -> list[DemoFile]:
    """Render the demo's files into a folder, on all cores; those already there are left as they are.

    Args:
        folder: Made if need be. Give each count a folder of its own: a name may stand for another picture in it.
        count: As in ``demo_files``.
        progress: Called in this process for each file as it is done, present and missing ones included.

    Returns:
        The files in the order of their rows.
    """
    files = list(demo_files(count))
    for file in files:
        if progress and file.kind is Kind.MISSING:
            progress(file)
    write_files(folder, [file for file in files if file.kind is not Kind.MISSING], progress)
    return files


class _File(Protocol):
    """A file that can be made."""

    @property
    def name(self) -> str: ...

    def read(self) -> bytes | None: ...


F = TypeVar("F", bound=_File)


def write_files(folder: Path, files: Sequence[F], progress: Callable[[F], object] | None = None) -> None:
    """Make files in a folder, on all cores; those already there are left as they are.

    Args:
        folder: Made if need be.
        files: What to make.
        progress: Called in this process for each file as it is done, present ones included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [file for file in files if not (folder / file.name).exists()]
    for file in files:
        if progress and file not in waiting:
            progress(file)
    # Spawned, because this may be called from a process with threads.
    workers = min(os.cpu_count() or 1, 8)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        tasks = {pool.submit(_write, folder, file): file for file in waiting}
        for task in as_completed(tasks):
            task.result()
            if progress:
                progress(tasks[task])


def _write(folder: Path, file: _File) -> None:
    cv2.setNumThreads(1)
    data = file.read()
    if data is None:
        return
    # A demo that is stopped half-way must not leave half a file that the next one takes for good.
    partial = folder / f".{os.getpid()}.partial"
    partial.write_bytes(data)
    partial.replace(folder / file.name)


def _describe(place: int, kind: Kind, name: str | None = None, size: tuple[int, int] = (1280, 960)) -> DemoFile:
    width, height = size
    fault = f"-{kind.replace('_', '-')}" if kind in _REASONS else ""
    return DemoFile(
        name=name or f"shelf_{place:04d}{fault}.{_EXTENSIONS.get(kind, 'jpg')}",
        kind=kind,
        seed=DEMO_SEED + place,
        width=width,
        height=height,
        sku=None,
        product_group=("drinks", "sauces", "canned food")[place % 3],
        temple_id=_TEMPLES[place % len(_TEMPLES)],
    )


def _describe_good(place: int, number: int) -> DemoFile:
    """The ``number``-th good file: unusual formats and awkward names come early, so that small demos have some too."""
    if number % 2 == 1 and number // 2 < len(_ODD_NAMES):
        return _describe(place, Kind.JPEG, _ODD_NAMES[number // 2])
    if number and number % 2 == 0 and number // 2 <= len(_UNUSUAL):
        return _describe(place, _UNUSUAL[number // 2 - 1], size=(800, 600))
    return _describe(place, Kind.JPEG, size=_SIZES[number % len(_SIZES)])


def _make(file: DemoFile) -> bytes | None:
    match file.kind:
        case Kind.MISSING:
            return None
        case Kind.EMPTY:
            return b""
        case Kind.HTML:
            return _HTML_PAGE
        case Kind.PIXEL_BOMB:
            return pixel_bomb()
    scene = render_scene(file.seed, file.width, file.height).image
    match file.kind:
        case Kind.JPEG:
            return _encode(scene, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])
        case Kind.TRUNCATED_JPEG:
            whole = _encode(scene, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])
            return whole[: len(whole) * 6 // 10]
        case Kind.TRUNCATED_PNG:
            whole = _encode(scene, ".png")
            return whole[: len(whole) // 2]
        case Kind.GRAY:
            return _encode(cv2.cvtColor(scene, cv2.COLOR_BGR2GRAY), ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])
        case Kind.WEBP:
            return _encode(scene, ".webp", [cv2.IMWRITE_WEBP_QUALITY, 90])
        case Kind.PNG | Kind.BMP | Kind.TIFF:
            return _encode(scene, f".{_EXTENSIONS[file.kind]}")
        case Kind.CMYK:
            return _save(_pillow(scene).convert("CMYK"), "JPEG", quality=92)
        case Kind.ROTATED_BY_EXIF:
            orientation = Image.Exif()
            orientation[0x0112] = 6
            # Orientation 6: the viewer turns the stored picture clockwise.
            return _save(
                _pillow(cv2.rotate(scene, cv2.ROTATE_90_COUNTERCLOCKWISE)), "JPEG", quality=92, exif=orientation
            )
        case Kind.ANIMATED_GIF:
            return _animate(_pillow(scene))


def _encode(image: NDArray[Any], extension: str, options: list[int] | None = None) -> bytes:
    return cv2.imencode(extension, image, options or [])[1].tobytes()


def _pillow(image: NDArray[Any]) -> Image.Image:
    return Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _save(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def _animate(picture: Image.Image) -> bytes:
    """Three frames: the picture, and two ever darker ones."""
    frames = [picture, *(picture.point(lambda value, gain=gain: int(value * gain)) for gain in (0.8, 0.6))]
    return _save(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=400, loop=0)


def pixel_bomb(side: int = BOMB_SIDE) -> bytes:
    """A valid black 1-bit grey PNG of ``side`` x ``side`` pixels: 32 KB that decode to 768 MB as BGR at the default."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = bytes(1 + side // 8)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * side, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
