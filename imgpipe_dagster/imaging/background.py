"""Where the product is: a soft mask of it, and whether to trust that mask.

A plain backdrop is modelled in ``backdrop.py``, edges are refined in ``matting.py``, and what is put behind the product
is decided in ``enhance.py``.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from imgpipe_dagster.imaging.backdrop import plain_backdrop_mask
from imgpipe_dagster.imaging.box_prior import Box, place, product_evidence, reachable, subjects
from imgpipe_dagster.imaging.matting import refine
from imgpipe_dagster.imaging.outline import open_share, share_along_limit, without_leaks

# Solved at three sizes: one solution alone jumps with small changes of the picture, their vote does not. One of them
# begins with all of a box as product, for products whose colours are around them too.
_SOLVE_SIDES = (200, 256, 320)
_UNPREJUDICED_SIDE = 200
_GRABCUT_ITERATIONS = 1
_SURROUNDINGS = 0.5
_CORE, _LARGE_CORE = 0.3, 0.55
_LOOSE_BOX = 0.1
_BOX_AGREEMENT = 0.6
_VOTE_AGREEMENT = 0.9
_MOST_OPEN = 0.12
_MOST_CUT_OFF = 0.1
_MOST_OF_A_SIDE = 0.9  # of the picture
# Without boxes a cluttered border says little: only masks on which a narrow and a wide frame agree were mostly right.
_FRAMES = ((0.03, 0.0), (0.1, 0.2), (0.18, 0.3))
_FRAME_AGREEMENT = 0.9

LEAST_SHARE = 0.01
"""Of the picture: a mask that covers less has found nothing."""


class BackgroundMethod(StrEnum):
    """How the product is found."""

    GRABCUT = "grabcut"
    REMBG = "rembg"
    KEEP = "keep"


class MaskFault(StrEnum):
    """Why a mask is not to be trusted; the value is the reason that a reviewer sees."""

    NEARLY_EMPTY = "mask_nearly_empty"
    NEARLY_FULL = "mask_nearly_full"
    TORN = "mask_torn"
    UNSTABLE = "mask_unstable"
    OPEN = "mask_open"
    CUT_OFF = "mask_cut_off"
    INCOMPLETE = "mask_incomplete"


class MethodUnavailableError(RuntimeError):
    """A background method needs a package or a file that is not there."""


@dataclass(frozen=True)
class Cutout:
    """What was found.

    Attributes:
        alpha: uint8 of shape (height, width); 255 is product, 0 background, soft along the edge.
        fault: None for a plausible mask.
        method: The method that made the mask.
    """

    alpha: np.ndarray
    fault: MaskFault | None
    method: BackgroundMethod

    @property
    def plausible(self) -> bool:
        """Whether the background may be replaced by this mask."""
        return self.fault is None


def available_methods() -> tuple[BackgroundMethod, ...]:
    """The methods that can be used here: ``rembg`` is an extra."""
    missing = {BackgroundMethod.REMBG} if importlib.util.find_spec("rembg") is None else set()
    return tuple(method for method in BackgroundMethod if method not in missing)


def remove_background(
    image: np.ndarray,
    method: BackgroundMethod = BackgroundMethod.GRABCUT,
    boxes: Sequence[Box] = (),
    *,
    rembg_model: str = "u2netp",
) -> Cutout:
    """Find the product's soft mask. The same picture, boxes and method give the same mask.

    ``grabcut`` (Rother, Kolmogorov, Blake: GrabCut, SIGGRAPH 2004) takes the boxes as its prior: what lies outside is
    background. Without boxes it is the border that tells: what departs from a plain one is the product; any other
    only says that its own colours are background. The mask is solved at reduced size and refined at full size.

    Args:
        image: uint8 BGR, (height, width, 3).
        method: The way to find the product; ``keep`` takes the whole picture as the product.
        boxes: The detector's boxes (x1, y1, x2, y2) in pixels of this picture, the surest first. Boxes much smaller
            than the largest are taken for bystanders, and one that holds the first for what that stands on.
        rembg_model: For ``rembg``: a name of its models, or the path of an ONNX file.

    Raises:
        MethodUnavailableError: ``rembg`` is not installed, or its model's file is not there.
    """
    height, width = image.shape[:2]
    match method:
        case BackgroundMethod.KEEP:
            return Cutout(np.full((height, width), 255, np.uint8), None, method)
        case BackgroundMethod.REMBG:
            alpha = _rembg_alpha(image, rembg_model)
            return Cutout(alpha, _fault(alpha > 127), method)
        case BackgroundMethod.GRABCUT:
            if min(height, width) < 8:
                return Cutout(np.full((height, width), 255, np.uint8), MaskFault.NEARLY_FULL, method)
            bright = _brightened(image)
            if np.ptp(bright.reshape(-1, 3), axis=0).max() < 4:  # of one colour: there is nothing to find in it
                return Cutout(np.zeros((height, width), np.uint8), MaskFault.NEARLY_EMPTY, method)
            votes, fault = _solve(bright, subjects(boxes, width, height))
            return Cutout(refine(bright, votes), fault, method)


def _brightened(image: np.ndarray) -> np.ndarray:
    """A dark picture with usual lightness: colours that differ by a few levels cannot be told apart."""
    highlight = float(np.quantile(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA), 0.98))
    return image if highlight > 110 else cv2.convertScaleAbs(image, alpha=min(220 / max(highlight, 1.0), 12.0))


def _solve(image: np.ndarray, boxes: list[tuple[float, float, float, float]]) -> tuple[np.ndarray, MaskFault | None]:
    """The share of solutions that call a pixel product, (height, width) in 0…1, and what is wrong with it."""
    height, width = image.shape[:2]
    product, sure = plain_backdrop_mask(image)
    if product is not None:
        if boxes:
            product &= reachable(boxes, width, height)
        if sure and (not boxes or _gap(product, boxes) < _LOOSE_BOX):
            return product.astype(np.float32), _fault(product)
        if not boxes and (found := _bounds(product)):
            # The product is of the backdrop's own colour, at least in part.
            return _solve_in_boxes(image, found, colours_tell=False)
    if boxes:
        return _solve_in_boxes(image, boxes, colours_tell=True)
    solutions = [
        _grabcut_in_frame(image, (width * edge, height * edge, width * (1 - edge), height * (1 - edge)), core)
        for edge, core in _FRAMES
    ]
    votes = _vote(solutions, (width, height))
    return votes, _fault(votes > 0.5) or (None if _agreement(solutions) > _FRAME_AGREEMENT else MaskFault.UNSTABLE)


def _bounds(mask: np.ndarray) -> list[tuple[float, float, float, float]]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [(float(columns[0]), float(rows[0]), columns[-1] + 1.0, rows[-1] + 1.0)] if rows.size else []


def _solve_in_boxes(
    image: np.ndarray, boxes: list[tuple[float, float, float, float]], *, colours_tell: bool
) -> tuple[np.ndarray, MaskFault | None]:
    """As ``_solve``; ``colours_tell`` whether what is outside the boxes tells background from product by colour."""
    height, width = image.shape[:2]
    corners = np.array(boxes)
    x1, y1 = corners[:, :2].min(0)
    x2, y2 = corners[:, 2:].max(0)
    around = _SURROUNDINGS * max(x2 - x1, y2 - y1)
    left, top = int(max(0, x1 - around)), int(max(0, y1 - around))
    crop = image[top : int(min(height, y2 + around)), left : int(min(width, x2 + around))]
    local = [(a - left, b - top, c - left, d - top) for a, b, c, d in boxes]
    size = (crop.shape[1], crop.shape[0])

    def solve(core: float) -> list[np.ndarray]:
        return [
            _grabcut_in_boxes(crop, local, side, core, colours_tell=colours_tell and side != _UNPREJUDICED_SIDE)
            for side in _SOLVE_SIDES
        ]

    solutions = solve(_CORE)
    votes = _vote(solutions, size)
    if _gap(votes > 0.5, local) > _LOOSE_BOX:
        # A detector's box is tight (Lempitsky et al.: Image Segmentation with a Bounding Box Prior, ICCV 2009). A mask
        # that leaves a side of it empty is a part of the product, so more of the middle is taken for granted.
        solutions = solve(_LARGE_CORE)
        votes = _vote(solutions, size)
    majority = _majority(solutions, votes)
    cut_off = share_along_limit(votes > 0.5, reachable(local, *size))
    if colours_tell:
        votes = _without_leaks(crop, votes, local)
    whole = np.zeros((height, width), np.float32)
    whole[top : top + size[1], left : left + size[0]] = votes
    mask = votes > 0.5
    share = mask.sum() / sum((c - a) * (d - b) for a, b, c, d in boxes)
    if share < 0.15:
        return whole, MaskFault.NEARLY_EMPTY
    # One solution of three may be an outlier; where a second one differs too, their vote is a matter of luck.
    if _agreement(solutions) < _BOX_AGREEMENT or majority < _VOTE_AGREEMENT:
        return whole, MaskFault.UNSTABLE
    if colours_tell and open_share(crop, mask) > _MOST_OPEN:
        return whole, MaskFault.OPEN
    if colours_tell and cut_off > _MOST_CUT_OFF:
        return whole, MaskFault.CUT_OFF
    if _gap(mask, local) > _LOOSE_BOX:
        return whole, MaskFault.INCOMPLETE
    return whole, _fault(whole > 0.5)


def _without_leaks(image: np.ndarray, votes: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """The votes without background that flows in from outside, if what stays still fills the boxes."""
    mask = votes > 0.5
    rest = without_leaks(image, mask)
    if _gap(rest, boxes) > _gap(mask, boxes) + 0.05:
        return votes
    return np.where(rest | ~mask, votes, np.float32(0))


def _grabcut_in_boxes(
    image: np.ndarray, boxes: Sequence[Box], side: int, core: float, *, colours_tell: bool
) -> np.ndarray:
    """One solution with the image's longer side shrunk to ``side``: uint8 0 or 255 at that size."""
    small, factor = _shrunk(image, side)
    height, width = small.shape[:2]
    scaled = (np.array(boxes) * factor).tolist()
    inside = reachable(scaled, width, height)
    if inside.all():
        return np.full((height, width), 255, np.uint8)
    product = inside
    if colours_tell:
        product = inside & (product_evidence(small, scaled, inside) > 0)
    labels = np.where(inside, np.where(product, cv2.GC_PR_FGD, cv2.GC_PR_BGD), cv2.GC_BGD).astype(np.uint8)
    for box in scaled:
        u, v = place(box, width, height)
        labels[u**4 + v**4 < core**4] = cv2.GC_FGD
    return _grabcut(small, labels, _GRABCUT_ITERATIONS)


def _grabcut_in_frame(image: np.ndarray, frame: Box, core: float) -> np.ndarray:
    """One solution where nothing is known but that the product does not reach beyond a frame; as above."""
    small, factor = _shrunk(image, 256)
    u, v = place([corner * factor for corner in frame], small.shape[1], small.shape[0])
    labels = np.where(np.maximum(u, v) <= 1, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    labels[u**4 + v**4 < core**4] = cv2.GC_FGD
    return _grabcut(small, labels, 3)


def _shrunk(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """The image in CIELAB with its longer side shrunk to ``side``, and the factor."""
    factor = min(1.0, side / max(image.shape[:2]))
    size = [max(2, round(length * factor)) for length in image.shape[1::-1]]
    return cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2LAB), factor


def _grabcut(lab: np.ndarray, labels: np.ndarray, iterations: int) -> np.ndarray:
    if not (labels & cv2.GC_FGD).any():  # a box between two pixels
        return np.zeros(labels.shape, np.uint8)
    if not (labels == cv2.GC_BGD).any():
        return np.full(labels.shape, 255, np.uint8)
    cv2.setRNGSeed(0)  # grabCut's k-means draws from OpenCV's generator
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(lab, labels, (0, 0, 0, 0), *models, iterations, cv2.GC_INIT_WITH_MASK)
    return _tidy(((labels & 1) * 255).astype(np.uint8))


def _vote(solutions: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    layers = [cv2.resize(solution, size, interpolation=cv2.INTER_LINEAR).astype(np.float32) for solution in solutions]
    return np.mean(layers, axis=0) / np.float32(255)


def _tidy(mask: np.ndarray) -> np.ndarray:
    """Without specks and without small holes; uint8 0 or 255."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count > 2:
        areas = stats[:, cv2.CC_STAT_AREA].copy()
        areas[0] = 0
        mask = np.where((areas >= 0.1 * areas.max())[parts], np.uint8(255), np.uint8(0))
    _, holes, stats, _ = cv2.connectedComponentsWithStats(cv2.bitwise_not(mask), connectivity=4)
    height, width = mask.shape
    left, top, wide, high, area = stats.T
    enclosed = (left > 0) & (top > 0) & (left + wide < width) & (top + high < height)
    filled = enclosed & (area < 0.05 * np.count_nonzero(mask))
    filled[0] = False
    return np.where(filled[holes], np.uint8(255), mask)


def _fault(mask: np.ndarray) -> MaskFault | None:
    share = float(mask.mean())
    if share < LEAST_SHARE:
        return MaskFault.NEARLY_EMPTY
    if share > 0.97:
        return MaskFault.NEARLY_FULL
    if max(side.mean() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) > _MOST_OF_A_SIDE:
        return MaskFault.CUT_OFF  # a table rather than a product
    factor = min(1.0, 256 / max(mask.shape))
    size = [max(1, round(length * factor)) for length in mask.shape[::-1]]
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    reach = max(3, round(0.06 * float(small.sum()) ** 0.5)) | 1
    core = cv2.morphologyEx(small, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    ragged = core.sum() < 0.75 * small.sum()
    crumbs = cv2.connectedComponents(small, connectivity=8)[0] - 1 > 8
    return MaskFault.TORN if ragged or crumbs else None


def _agreement(solutions: list[np.ndarray]) -> float:
    """What all solutions call product, as a share of what any of them does."""
    size = solutions[0].shape[::-1]
    masks = [cv2.resize(solution, size, interpolation=cv2.INTER_NEAREST) > 127 for solution in solutions]
    return float(np.logical_and.reduce(masks).sum() / max(1, np.logical_or.reduce(masks).sum()))


def _majority(solutions: list[np.ndarray], votes: np.ndarray) -> float:
    """How well all solutions but the most deviant one agree with their vote: intersection over union, the least."""
    size = solutions[-1].shape[::-1]
    vote = cv2.resize(votes, size, interpolation=cv2.INTER_AREA) > 0.5
    masks = [cv2.resize(solution, size, interpolation=cv2.INTER_LINEAR) > 127 for solution in solutions]
    return float(sorted((mask & vote).sum() / max(1, (mask | vote).sum()) for mask in masks)[1])


def _gap(mask: np.ndarray, boxes: Sequence[Box]) -> float:
    """The widest empty strip between the mask and a side of the boxes' hull, as a share of the hull's side."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 1.0
    corners = np.array(boxes)
    (x1, y1), (x2, y2) = corners[:, :2].min(0), corners[:, 2:].max(0)
    across = max(columns[0] - x1, x2 - columns[-1] - 1) / (x2 - x1)
    down = max(rows[0] - y1, y2 - rows[-1] - 1) / (y2 - y1)
    return float(max(across, down))


def _rembg_alpha(image: np.ndarray, model: str) -> np.ndarray:
    try:
        rembg = importlib.import_module("rembg")
    except ImportError as error:
        raise MethodUnavailableError(
            "The background method rembg needs its package: pip install 'imgpipe-dagster[rembg]'"
        ) from error
    session = _rembg_session(model)
    mask = rembg.remove(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), session=session, only_mask=True)
    return np.asarray(mask, np.uint8)


@lru_cache(maxsize=2)
def _rembg_session(model: str) -> object:
    """A loaded model; the name is never left to the library, whose own default is not free for commercial use."""
    rembg = importlib.import_module("rembg")
    if not model.endswith(".onnx"):
        return rembg.new_session(model)
    if not Path(model).is_file():
        raise MethodUnavailableError(f"There is no rembg model file {model}")
    custom = importlib.import_module("rembg.sessions.u2net_custom").U2netCustomSession

    class LocalModel(custom):
        """A file of the operator's choice; the library takes only those of its own folder."""

        @classmethod
        def download_models(cls, *_: object, **__: object) -> str:
            return model

    options = importlib.import_module("onnxruntime").SessionOptions()
    return LocalModel("u2net_custom", options, model_path=model)
