"""How a picture, or an object in it, is brought to a classifier's input size. Geometry and pixels only."""

import math

import cv2
import numpy as np
from PIL import Image

PADDING = 114  # the grey that Ultralytics letterboxes with
_REDUCING_GAP = 3
_MARGIN = 0.05  # of a box's longer side, kept around it


def cover(image: np.ndarray, canvas: np.ndarray) -> None:
    """Scale a picture so that it covers the canvas, and keep its middle: Ultralytics' preprocessing for classifiers.

    That is torchvision's ``Resize`` (bilinear, antialiased, by Pillow) of the shorter side and ``CenterCrop``; a canvas
    that is not square is filled by the whole picture, stretched. What the crop leaves out is not scaled. A picture many
    times larger is halved, thirded, … by exact averages first, as Pillow's ``reducing_gap=3`` does: pixels then differ
    by 4 of 255 at most (0.3 on average) and cost half.

    Args:
        image: uint8 (height, width, 3).
        canvas: uint8 (height, width, 3) of the model's input size; overwritten.
    """
    source, size = image.shape[:2], canvas.shape[:2]
    scaled = _scaled_size(source, size)
    step_y, step_x = source[0] / scaled[0], source[1] / scaled[1]
    top, left = (round((whole - part) / 2) for whole, part in zip(scaled, size, strict=True))
    factor = max(int(min(step_y, step_x) / _REDUCING_GAP), 1)
    rows, y = _window(source[0], top * step_y, (top + size[0]) * step_y, reach=step_y, factor=factor)
    columns, x = _window(source[1], left * step_x, (left + size[1]) * step_x, reach=step_x, factor=factor)
    canvas[:] = _resize(_reduce(image[rows, columns], factor), size, (x[0], y[0], x[1], y[1]))


def fit(image: np.ndarray, box: np.ndarray, canvas: np.ndarray) -> None:
    """Scale an object so that the whole of its box, with a little around it, fits on the canvas, and grey the rest.

    ``cover`` would cut both ends off a tall bottle; here the model sees all of it.

    Args:
        image: uint8 (height, width, 3).
        box: Left, top, right, bottom in pixels of the picture.
        canvas: uint8 (height, width, 3) of the model's input size; overwritten.

    Raises:
        ValueError: The box lies outside of the picture.
    """
    x1, y1, x2, y2 = (float(edge) for edge in box)
    margin = _MARGIN * max(x2 - x1, y2 - y1)
    left, top = max(math.floor(x1 - margin), 0), max(math.floor(y1 - margin), 0)
    right, bottom = min(math.ceil(x2 + margin), image.shape[1]), min(math.ceil(y2 + margin), image.shape[0])
    if left >= right or top >= bottom:
        raise ValueError(f"the box {(x1, y1, x2, y2)} lies outside of a picture of {image.shape[1::-1]} pixels")
    part = image[top:bottom, left:right]
    scale = min(canvas.shape[0] / part.shape[0], canvas.shape[1] / part.shape[1])
    height, width = max(round(part.shape[0] * scale), 1), max(round(part.shape[1] * scale), 1)
    part = _reduce(part, max(int(1 / scale / _REDUCING_GAP), 1))
    y, x = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
    canvas[:] = PADDING
    canvas[y : y + height, x : x + width] = _resize(part, (height, width), (0, 0, part.shape[1], part.shape[0]))


def _resize(image: np.ndarray, size: tuple[int, int], window: tuple[float, float, float, float]) -> Image.Image:
    """Pillow's antialiased bilinear scaling of a window (left, top, right, bottom) to a height and width."""
    # The edges can lie beyond the picture by a rounding error, which Pillow refuses.
    left, top, right, bottom = window
    window = (left, top, min(right, image.shape[1]), min(bottom, image.shape[0]))
    return Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR, box=window)


def _scaled_size(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after torchvision's ``Resize``: with one length it scales the shorter side to it."""
    if size[0] != size[1]:
        return size
    (height, width), side = source, size[0]
    return (int(side * height / width), side) if width <= height else (side, int(side * width / height))


def _window(length: int, start: float, end: float, *, reach: float, factor: int) -> tuple[slice, tuple[float, float]]:
    """The pixels of one axis that matter for ``start`` to ``end``, and where those two lie among them, once reduced."""
    first = max(int(start - reach) // factor * factor, 0)
    last = min(-(-math.ceil(end + reach) // factor) * factor, length)
    return slice(first, last), ((start - first) / factor, (end - first) / factor)


def _reduce(image: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of ``factor`` times ``factor`` pixels; blocks that lack pixels repeat their last ones."""
    if factor == 1:
        return np.ascontiguousarray(image)
    bottom, right = -image.shape[0] % factor, -image.shape[1] % factor
    if bottom or right:
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (image.shape[1] // factor, image.shape[0] // factor), interpolation=cv2.INTER_AREA)
