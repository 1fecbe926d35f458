"""Pictures for people: boxes on an image, thumbnails, contact sheets. Nothing here is measured or stored as data."""

import base64
import bisect
import colorsys
import functools
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_SHEET_BACKGROUND = (238, 238, 238)
_SHEET_INK = (40, 40, 40)
_TILE_WIDTHS = range(40, 321, 8)
_READABLE_TILE_WIDTH = 112
_QUALITIES = (80, 60, 40)

Colour = tuple[int, int, int]
Caption = str | Sequence[tuple[str, Colour | None]]
"""One line of text in any script, or pieces of one, each on a background of its own (BGR) or on that of the sheet."""


def draw_boxes(
    image: np.ndarray,
    boxes: npt.ArrayLike,
    class_ids: Sequence[int] | np.ndarray,
    names: Mapping[int, str] | None,
    confidences: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw detections on a copy of an image.

    Lines and letters grow with the image. Every line has a dark rim, so that it shows on any background, and a class
    has the same colour in every picture.

    Args:
        image: uint8 BGR array of shape (height, width, 3).
        boxes: Shape (n, 4): x1, y1, x2, y2 in pixels.
        class_ids: n class numbers.
        names: Names by class number, in any script; a class without a name shows its number. None: lines only.
        confidences: n numbers from 0 to 1 that are written behind the names, if given.

    Returns:
        uint8 BGR array of the same shape.
    """
    drawn = image.copy()
    line = max(2, round(max(image.shape[:2]) * 0.004))
    letters = max(10, round(max(image.shape[:2]) * 0.02))
    corners = np.rint(np.asarray(boxes, float).reshape(-1, 4)).astype(int).tolist()
    for (x1, y1, x2, y2), class_id in zip(corners, class_ids, strict=True):
        cv2.rectangle(drawn, (x1, y1), (x2, y2), _BLACK, line + 2)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), class_colour(int(class_id)), line)
    if names is None:
        return drawn
    # Labels last, so that no line crosses them.
    for index, ((x1, y1, _, _), class_id) in enumerate(zip(corners, class_ids, strict=True)):
        label = str(names.get(int(class_id), class_id))
        if confidences is not None:
            label += f" {confidences[index]:.2f}"
        colour = class_colour(int(class_id))
        patch = _text(f" {label} ", letters, _ink_on(colour), colour)
        above = y1 - patch.shape[0]
        x = max(0, min(x1, image.shape[1] - patch.shape[1]))
        _paste(drawn, patch, x, above if above >= 0 else max(0, y1))
    return drawn


def annotated_tile(
    image: np.ndarray,
    boxes: npt.ArrayLike,
    class_ids: Sequence[int] | np.ndarray,
    *,
    label: str,
    width: int,
    height: int,
) -> tuple[np.ndarray, Caption]:
    """A picture for a contact sheet: small, with lines around its objects; under it how many there are of each class.

    Names would hide the small picture: the sheet's legend has them.

    Args:
        image: uint8 BGR array of shape (height, width, 3).
        boxes: Shape (n, 4): x1, y1, x2, y2 in pixels of the image.
        class_ids: n class numbers.
        label: What the picture is called.
        width: Largest width of the tile in pixels.
        height: Largest height of the tile in pixels.
    """
    tile = thumbnail(image, width, height)
    scale = tile.shape[1] / image.shape[1]  # drawn on the small picture, lines stay visible
    ids, counts = np.unique(np.asarray(class_ids, int), return_counts=True)
    caption = [
        (f"{label} ", None),
        *((f" {n} ", class_colour(i)) for i, n in zip(ids.tolist(), counts.tolist(), strict=True)),
    ]
    return draw_boxes(tile, np.asarray(boxes, float).reshape(-1, 4) * scale, class_ids, None), caption


def class_legend(names: Mapping[int, str]) -> Caption:
    """The names of classes, each on its colour."""
    return [(f" {name} ", class_colour(class_id)) for class_id, name in sorted(names.items())]


def class_colour(class_id: int) -> Colour:
    """The colour of a class, as BGR: neighbouring numbers get hues far apart (multiples of the golden ratio)."""
    red, green, blue = colorsys.hsv_to_rgb((0.33 + class_id * 0.618034) % 1, 0.85, 1.0)
    return round(blue * 255), round(green * 255), round(red * 255)


def thumbnail(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Shrink an image to fit into ``width`` by ``height`` with its proportions; a smaller one is copied.

    Args:
        image: uint8 array of shape (height, width, 3).
        width: Largest width of the result in pixels.
        height: Largest height of the result in pixels.

    Returns:
        uint8 array of its own memory: the large image can be freed.
    """
    scale = min(width / image.shape[1], height / image.shape[0])
    if scale >= 1:
        return image.copy()
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def contact_sheet(
    tiles: Sequence[tuple[np.ndarray, Caption]],
    *,
    legend: Caption = "",
    columns: int | None = None,
    max_bytes: int | None = 20_000,
) -> bytes:
    """Lay pictures with captions out on one JPEG.

    Under a limit on bytes, the tiles are as large as they can be at the best of a few qualities that leaves them
    readable. The usual sheet of 20 tiles takes about 0.1 s.

    Args:
        tiles: Pairs of a uint8 BGR array of shape (height, width, 3) and a caption. Captions that are too long are
            cut.
        legend: A line above all tiles, cut as well.
        columns: Tiles in a row. Default: as many as make the sheet about as many tiles high as wide.
        max_bytes: Largest size of the file; None for the full size of 320 pixels per tile.

    Returns:
        A JPEG file.

    Raises:
        ValueError: If there are no tiles, or too many for the limit.
    """
    if not tiles:
        raise ValueError("A contact sheet needs at least one tile.")
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    if max_bytes is None:
        return _encode(_lay_out(tiles, columns, _TILE_WIDTHS[-1], legend), 85)

    @functools.cache
    def sheet(quality: int, tile_width: int) -> bytes:
        return _encode(_lay_out(tiles, columns, tile_width, legend), quality)

    for quality in _QUALITIES:
        fitting = bisect.bisect_right(_TILE_WIDTHS, max_bytes, key=lambda width: len(sheet(quality, width)))
        if fitting and (_TILE_WIDTHS[fitting - 1] >= _READABLE_TILE_WIDTH or quality == _QUALITIES[-1]):
            return sheet(quality, _TILE_WIDTHS[fitting - 1])
    raise ValueError(f"{len(tiles)} tiles do not fit into {max_bytes} bytes.")


def to_data_uri(picture: bytes, kind: str = "jpeg") -> str:
    """A JPEG file, or one of another kind, as a ``data:`` address, for Markdown: ``![caption](data:…)``."""
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()


def _lay_out(tiles: Sequence[tuple[np.ndarray, Caption]], columns: int, tile_width: int, legend: Caption) -> np.ndarray:
    tile_height = tile_width * 3 // 4
    letters = max(11, tile_width // 13)
    gap = max(2, tile_width // 40)
    cell_width, cell_height = tile_width + gap, tile_height + letters * 3 // 2 + gap
    rows = math.ceil(len(tiles) / columns)
    top = letters * 3 // 2 + gap if legend else 0
    sheet = np.full((top + rows * cell_height + gap, columns * cell_width + gap, 3), _SHEET_BACKGROUND, np.uint8)
    _paste(sheet, _line(legend, letters), gap, gap)
    for index, (image, caption) in enumerate(tiles):
        row, column = divmod(index, columns)
        x, y = gap + column * cell_width, top + gap + row * cell_height
        small = thumbnail(image, tile_width, tile_height)
        _paste(sheet, small, x + (tile_width - small.shape[1]) // 2, y + (tile_height - small.shape[0]) // 2)
        _paste(sheet, _line(caption, letters)[:, :tile_width], x, y + tile_height)
    return sheet


def _encode(image: np.ndarray, quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    _, data = cv2.imencode(".jpg", image, options)
    return data.tobytes()


def _paste(image: np.ndarray, patch: np.ndarray, x: int, y: int) -> None:
    """Copy a patch into an image in place; what is outside is cut off."""
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + patch.shape[1], image.shape[1]), min(y + patch.shape[0], image.shape[0])
    if left < right and top < bottom:
        image[top:bottom, left:right] = patch[top - y : bottom - y, left - x : right - x]


def _line(caption: Caption, size: int) -> np.ndarray:
    """A caption as a BGR patch."""
    pieces = [(caption, None)] if isinstance(caption, str) else caption
    patches = [
        _text(text, size, _SHEET_INK, _SHEET_BACKGROUND)
        if colour is None
        else _text(text, size, _ink_on(colour), colour)
        for text, colour in pieces
    ]
    space = np.full((size * 3 // 2, max(1, size // 6), 3), _SHEET_BACKGROUND, np.uint8)
    return np.hstack([part for patch in patches for part in (patch, space)] or [space])


def _ink_on(background: Colour) -> Colour:
    blue, green, red = background
    luma = 0.114 * blue + 0.587 * green + 0.299 * red  # ITU-R BT.601
    return _BLACK if luma > 110 else _WHITE


@functools.lru_cache(maxsize=256)
def _text(text: str, size: int, ink: Colour, background: Colour) -> np.ndarray:
    """One line of text as a BGR patch, in Pillow's own font (cv2.putText knows ASCII only)."""
    line = "".join(character if character.isprintable() else " " for character in text)
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (max(1, math.ceil(font.getlength(line))), size * 3 // 2), background)
    ImageDraw.Draw(image).text((0, image.height // 2), line, fill=ink, font=font, anchor="lm")
    return np.asarray(image)  # the colours went in as BGR, so they come out as BGR
