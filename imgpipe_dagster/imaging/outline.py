"""Where a mask's outline crosses no edge of the picture: there it holds background of which more lies outside."""

import cv2
import numpy as np

_SIDE = 256
_NO_EDGE = 4.0  # difference of the colours on both sides, in CIELAB
_REACH = 3
_OPEN_SHARE = 0.06
_ALONG = 2
_STEP = 1  # grey level: how far background that flows in may differ from its neighbour


def open_share(image: np.ndarray, mask: np.ndarray) -> float:
    """The share of a mask's outline on both sides of which the picture has one colour.

    Args:
        image: uint8 BGR, (height, width, 3).
        mask: bool, (height, width). The picture's own border is no outline.
    """
    small, covered = _shrunk(image, mask)
    opened, outline = _open_outline(small, covered)
    return float(opened.sum() / max(1, outline.sum()))


def share_along_limit(mask: np.ndarray, allowed: np.ndarray) -> float:
    """The share of a mask's outline that runs along the limit of where it was allowed to be.

    A silhouette touches that limit in places, and follows it only where what it is of goes on beyond.

    Args:
        mask: bool, (height, width).
        allowed: bool, (height, width). The picture's own border is no limit, and no outline.
    """
    small, inside = _small(mask), _small(allowed)
    outline = small - cv2.erode(small, np.ones((3, 3), np.uint8), borderValue=1)
    limit = cv2.dilate(1 - inside, np.ones((2 * _ALONG + 1, 2 * _ALONG + 1), np.uint8))
    return float(np.count_nonzero((outline > 0) & (limit > 0)) / max(1, np.count_nonzero(outline)))


def without_leaks(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask without the background that is one with what lies outside: it ends where the picture has an edge.

    Args:
        image: uint8 BGR, (height, width, 3).
        mask: bool, (height, width).

    Returns:
        bool, (height, width); the same mask where hardly any of its outline is open.
    """
    small, covered = _shrunk(image, mask)
    opened, outline = _open_outline(small, covered)
    if opened.sum() < _OPEN_SHARE * outline.sum():
        return mask
    height, width = covered.shape
    calm = cv2.cvtColor(cv2.bilateralFilter(small, 7, 20, 4), cv2.COLOR_BGR2LAB)
    closed = np.ones((height + 2, width + 2), np.uint8)
    closed[1:-1, 1:-1] = 1 - covered
    step = (_STEP, _STEP, _STEP)
    for y, x in np.argwhere(opened).tolist():
        if not closed[y + 1, x + 1]:
            cv2.floodFill(calm, closed, (x, y), 0, step, step, 4 | cv2.FLOODFILL_MASK_ONLY | (2 << 8))
    rest = (closed[1:-1, 1:-1] == 0).astype(np.uint8) * 255
    rest = cv2.morphologyEx(rest, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return mask & (cv2.resize(rest, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 127)


def _shrunk(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    covered = _small(mask)
    return cv2.resize(image, covered.shape[::-1], interpolation=cv2.INTER_AREA), covered


def _small(mask: np.ndarray) -> np.ndarray:
    """A mask at the size at which outlines are looked at: uint8 0 or 1."""
    factor = min(1.0, _SIDE / max(mask.shape))
    size = [max(2, round(length * factor)) for length in mask.shape[::-1]]
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA)


def _open_outline(image: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the outline without an edge, and all of the outline; bool, (height, width)."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _REACH + 1, 2 * _REACH + 1)).astype(np.float32)

    def mean(weight: np.ndarray) -> np.ndarray:
        weights = cv2.filter2D(weight, -1, disc, borderType=cv2.BORDER_CONSTANT)
        colours = cv2.filter2D(lab * weight[..., None], -1, disc, borderType=cv2.BORDER_CONSTANT)
        return colours / np.maximum(weights, 1e-6)[..., None]

    inside = covered.astype(np.float32)
    outline = (covered - cv2.erode(covered, np.ones((3, 3), np.uint8), borderValue=1)) > 0
    difference = np.sqrt(((mean(inside) - mean(1 - inside)) ** 2).sum(-1))
    return outline & (difference < _NO_EDGE), outline
