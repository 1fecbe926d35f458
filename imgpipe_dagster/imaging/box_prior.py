"""What a detector's boxes say before any solving: which of them hold the product, where in them, in which colours."""

from collections.abc import Sequence

import cv2
import numpy as np

Box = Sequence[float]

SLACK = 0.06
"""By so much of its side a product may reach beyond its box."""

_SUBJECT_SHARE = 0.4
_HOLDER_SHARE = 0.1
_LEAST_OUTSIDE = 0.04  # of the picture, so that there is something to learn the background's colours from
_CUT_OFF = 0.3
_AT_BORDER = 0.02
_BINS = 24
_RARE = 1e-3


def subjects(boxes: Sequence[Box], width: int, height: int) -> list[tuple[float, float, float, float]]:
    """The boxes of products, cut to the picture; bystanders and surroundings are left out.

    Boxes much smaller than the largest are bystanders. The first box is the one that the detector is surest of: a
    much larger one that holds most of it is what the product stands on, or who holds it.

    Args:
        boxes: Corners (x1, y1, x2, y2) in pixels, the surest first.
        width: Of the picture.
        height: Of the picture.
    """
    inside = []
    for x1, y1, x2, y2 in boxes:
        box = (max(0.0, float(x1)), max(0.0, float(y1)), min(float(width), x2), min(float(height), y2))
        if box[2] - box[0] >= 4 and box[3] - box[1] >= 4:
            inside.append(box)
    if not inside:
        return []
    first = inside[0]
    inside = [box for box in inside if not _holds(box, first)]
    largest = max(map(_area, inside))
    return [box for box in inside if _area(box) >= _SUBJECT_SHARE * largest]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _holds(box: Box, first: Box) -> bool:
    """Whether a box is the surroundings of the first: much larger, and holds most of it."""
    shared = max(0.0, min(box[2], first[2]) - max(box[0], first[0])) * max(
        0.0, min(box[3], first[3]) - max(box[1], first[1])
    )
    return shared > 0.75 * _area(first) and _HOLDER_SHARE < _area(first) / _area(box) < 0.5


def reachable(boxes: Sequence[Box], width: int, height: int) -> np.ndarray:
    """Where product may be: in the boxes and a little beyond, less where nothing would be left outside.

    Returns:
        bool, (height, width).
    """
    for slack in (SLACK, SLACK / 3):
        inside = _within(boxes, width, height, slack)
        if (~inside).mean() > _LEAST_OUTSIDE:
            return inside
    return _within(boxes, width, height, 0)


def _within(boxes: Sequence[Box], width: int, height: int, slack: float) -> np.ndarray:
    inside = np.zeros((height, width), bool)
    for box in boxes:
        u, v = place(box, width, height)
        inside |= np.maximum(u, v) <= 1 + 2 * slack
    return inside


def place(box: Box, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each pixel from the box's middle across and down: 1 at the box's sides. Shapes (height, width)."""
    x1, y1, x2, y2 = box
    y, x = np.mgrid[0:height, 0:width] + 0.5
    return np.abs(2 * x - x1 - x2) / (x2 - x1), np.abs(2 * y - y1 - y2) / (y2 - y1)


def product_evidence(lab: np.ndarray, boxes: Sequence[Box], inside: np.ndarray) -> np.ndarray:
    """How much speaks for product, by colour and place.

    What has colours that are as common outside the boxes is rather background that a box holds too; the more so the
    nearer it is to a corner of the box.

    Args:
        lab: uint8 CIELAB, (height, width, 3).
        boxes: Corners (x1, y1, x2, y2) in its pixels.
        inside: ``reachable``.

    Returns:
        Logarithm of the odds, (height, width); below 0 is rather background.
    """
    height, width = inside.shape
    near_middle, by_place = np.zeros((height, width)), np.full((height, width), -np.inf)
    for box in boxes:
        u, v = place(_continued(box, width, height), width, height)
        near_middle = np.maximum(near_middle, np.exp(-1.5 * (u**2 + v**2)))
        by_place = np.maximum(by_place, 3 - 4 * (u**4 + v**4) ** 0.25)
    levels = (lab.astype(np.int32) * _BINS) // 256
    colour = ((levels[..., 0] * _BINS + levels[..., 1]) * _BINS + levels[..., 2]).ravel()
    within = _histogram(colour, near_middle * inside)
    outside = _histogram(colour, (~inside).astype(float))
    by_colour = np.log((within + _RARE) / (outside + _RARE))[colour].reshape(height, width)
    return by_colour + 0.5 * by_place


def _continued(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """A box that ends at the picture's border, as if the product went on beyond."""
    x1, y1, x2, y2 = box
    wide, high = x2 - x1, y2 - y1
    return (
        x1 - _CUT_OFF * wide if x1 < _AT_BORDER * wide else x1,
        y1 - _CUT_OFF * high if y1 < _AT_BORDER * high else y1,
        x2 + _CUT_OFF * wide if x2 > width - _AT_BORDER * wide else x2,
        y2 + _CUT_OFF * high if y2 > height - _AT_BORDER * high else y2,
    )


def _histogram(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Shares of the colours, smoothed, as many as ``_BINS`` to the third."""
    counts = np.bincount(colour, weight.ravel(), _BINS**3).reshape(_BINS, _BINS * _BINS)
    for _ in range(3):  # one axis at a time, each in its turn the first
        counts = cv2.GaussianBlur(counts, (1, 7), 0, sigmaY=1, borderType=cv2.BORDER_CONSTANT)
        counts = np.ascontiguousarray(counts.reshape(_BINS, _BINS, _BINS).transpose(1, 2, 0)).reshape(_BINS, -1)
    return counts.ravel() / max(counts.sum(), 1e-9)
