"""A product before a plain backdrop: the backdrop is modelled as a surface of slowly changing colour."""

from dataclasses import dataclass

import cv2
import numpy as np

_SIDE = 512
_MOST_SPREAD = 2.5
_LEAST_SIDE_SHARE = 0.8
_MOST_CHROMA = 45.0  # of studio paper; what fills the frame with a stronger colour is rather the product itself
_SHADOW_SLOPE = 2.5  # lightness per pixel; what rises faster is no soft shadow
_NEAR = 4  # pixels
_BLEED = 4  # pixels of the picture; its colours usually have half its resolution, and blocks of 16 of its pixels
_BLED_LIGHTNESS, _BLED_COLOUR = 2.0, 12.0  # in CIELAB
_HARD_SHARE = 0.5  # of where a shaded part meets the backdrop; shadows have 0.3 at most, sides nearly 1
_SOFT_SHARE = 0.1
_HARD_RISE = 0.3  # of the contrast in one pixel
_LEAST_SHADED = 0.005  # of the picture
_LEAST_RETURNED = 0.001
_CRUMB = 0.03  # of the largest part
_BODY_SHARE = 0.1  # of the largest part: what is smaller may be print itself
_LEAST_PRINT = 20  # pixels
_PRINT_SHARE = 0.02
_LEAST_OPENING, _LARGE_OPENING = 0.005, 0.4  # of the product
_VERY_COLOUR = 1.0  # in CIELAB
_PRINTED_SHARE = 0.01
_BOUNDED_SHARE = 0.9
_MOST_SHADED = 6.0  # times the part that has the backdrop's colour
_HARD_SLOPE = 1.0  # lightness per pixel; a cast shadow is softer, a product's edge or print harder


@dataclass(frozen=True)
class _Backdrop:
    surface: np.ndarray
    spread: float
    side_share: float

    @property
    def lightness(self) -> float:
        return float(self.surface[..., 0].mean())

    @property
    def chroma(self) -> float:
        return float(np.hypot(*self.surface[..., 1:].mean((0, 1))))


def plain_backdrop_mask(image: np.ndarray) -> tuple[np.ndarray | None, bool]:
    """Find the product before a plain backdrop, with or without a cast shadow.

    The backdrop is a quadratic surface in CIELAB through the border, fitted again without its outliers; it must fit
    three sides (a product may touch the fourth). Background is what the border is connected with through pixels of that
    colour, or of that colour in shadow.

    Args:
        image: uint8 BGR, (height, width, 3).

    Returns:
        The product's mask, bool (height, width), or None if the border is not plain; and whether it holds all
        that has edges. If not (white on white, say), the mask is the bounding box of what was found.
    """
    height, width = image.shape[:2]
    factor = min(1.0, _SIDE / max(height, width))
    size = [max(4, round(length * factor)) for length in (width, height)]
    lab = cv2.cvtColor(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255, cv2.COLOR_BGR2LAB
    )
    backdrop = _fit(lab)
    if backdrop.spread > _MOST_SPREAD or backdrop.side_share < _LEAST_SIDE_SHARE or backdrop.chroma > _MOST_CHROMA:
        return None, False
    tolerance = 3 * backdrop.spread + 1.5
    difference = lab - backdrop.surface
    distance = np.sqrt((difference**2).sum(-1))
    slope = _slope(lab, backdrop.spread)
    same = distance < tolerance
    same |= _bled(difference, same, slope, round(_BLEED * factor))
    shaded = _not_connected_with_border(same)
    shadow_coloured = _shadow_coloured(lab, backdrop.surface, tolerance)
    soft = shadow_coloured & (slope < _SHADOW_SLOPE)
    mask = _not_connected_with_border(same | soft)
    sides = _shaded_sides(shaded & ~mask, same, slope, lab[..., 0], _LEAST_SHADED)
    if sides.any():
        mask |= sides
        mask |= shaded & _not_connected_with_border(~mask)  # print on them
    mask = _with_printed_between(_with_thin_parts(mask, (distance > 6 * tolerance) & ~shadow_coloured), slope)
    # A grey product can itself pass for a shadow, and is then eaten; of a white one, only the print may be left.
    solidity = _solidity(mask)
    less_solid = solidity < _solidity(shaded) - 0.12
    eaten = (less_solid and not _fades(shaded & ~mask, mask, same, slope, lab[..., 0])) or (
        mask.any() and solidity < 0.8 and _hull_share(mask) < 0.5
    )
    sure = not eaten and _edges_are_inside(mask, np.where(soft, 0, slope))
    if sure:
        mask = _without_shadows(mask, same, shadow_coloured, slope, lab[..., 0])
        # Where two colours of the product meet, a line of the backdrop's colour may run into it.
        mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
        mask = _large_parts(mask & ~_see_through(difference, same, soft, slope, mask, backdrop), _CRUMB)
    else:
        mask = _bounding_box(mask | (slope > _HARD_SLOPE))
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR) > 0, sure


def _fit(lab: np.ndarray) -> _Backdrop:
    height, width = lab.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], -1)
    band = max(2, round(0.03 * max(height, width)))
    border = np.ones((height, width), bool)
    border[band:-band, band:-band] = False
    design, colours = terms[border], lab[border]
    fits = np.sqrt(((colours - np.median(colours, 0)) ** 2).sum(-1)) < 12
    weights, residual = np.zeros((6, 3)), np.full(len(colours), np.inf)
    for _ in range(3):
        if fits.sum() < 50:
            return _Backdrop(np.zeros_like(lab), np.inf, 0)
        weights = np.linalg.lstsq(design[fits], colours[fits], rcond=None)[0]
        residual = np.sqrt(((colours - design @ weights) ** 2).sum(-1))
        fits = residual < max(3.0, 3 * float(np.median(residual[fits])))
    fitting = np.zeros((height, width))
    fitting[border] = fits
    shares = sorted(side.mean() for side in (fitting[:band], fitting[-band:], fitting[:, :band], fitting[:, -band:]))
    return _Backdrop((terms @ weights).astype(np.float32), float(np.median(residual[fits])), float(shares[1]))


def _slope(lab: np.ndarray, spread: float) -> np.ndarray:
    """Lightness per pixel, less what the backdrop's own grain gives."""
    lightness = cv2.GaussianBlur(lab[..., 0], (0, 0), 0.8)
    right = cv2.Sobel(lightness, cv2.CV_32F, 1, 0, scale=0.25)
    down = cv2.Sobel(lightness, cv2.CV_32F, 0, 1, scale=0.25)
    return np.maximum(cv2.magnitude(right, down) - spread, 0).astype(np.float32)


def _bled(difference: np.ndarray, same: np.ndarray, slope: np.ndarray, reach: int) -> np.ndarray:
    """Backdrop beside an edge of the product, in whose colour JPEG has mixed the product's, but not in its lightness.

    Args:
        difference: From the backdrop in CIELAB, float32 (height, width, 3).
        same: What has the backdrop's colour.
        slope: Lightness per pixel.
        reach: How far from the backdrop, and from the edge, in pixels.
    """
    if reach < 1:
        return np.zeros_like(same)
    near_backdrop, near_edge = _grown(_joined_to_border(same), reach), _grown(slope > _SHADOW_SLOPE, reach)
    as_light = np.abs(difference[..., 0]) < _BLED_LIGHTNESS
    return near_backdrop & near_edge & as_light & (np.hypot(difference[..., 1], difference[..., 2]) < _BLED_COLOUR)


def _shadow_coloured(lab: np.ndarray, surface: np.ndarray, tolerance: float) -> np.ndarray:
    """Darker than the backdrop but of its hue; its chroma may fade with the light."""
    ratio = lab[..., 0] / np.maximum(surface[..., 0], 1)
    tint = surface[..., 1:]
    faded = (lab[..., 1:] * tint).sum(-1) / np.maximum((tint**2).sum(-1), 1e-6)
    faded = np.clip(faded, np.minimum(ratio, 1), 1)
    hue = np.sqrt(((lab[..., 1:] - faded[..., None] * tint) ** 2).sum(-1))
    return (ratio > 0.4) & (ratio < 1) & (hue < tolerance + 2)


def _shaded_sides(
    shade: np.ndarray, same: np.ndarray, slope: np.ndarray, lightness: np.ndarray, least: float
) -> np.ndarray:
    """Which parts of what has a shadow's colour are dark sides of the product.

    A cast shadow fades where the backdrop begins; a side ends there in a hard edge. Parts of less than the share
    ``least`` of the picture are none.
    """
    sides = np.zeros_like(shade)
    steepest = cv2.dilate(slope, np.ones((2 * _NEAR + 1, 2 * _NEAR + 1), np.uint8))
    calm = cv2.morphologyEx((shade & (slope < _HARD_SLOPE)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(calm, connectivity=4)
    for part in range(1, count):
        if stats[part, cv2.CC_STAT_AREA] < least * shade.size:
            continue
        own = parts == part
        around = _grown(own, _NEAR)
        beside = around & same
        if not beside.any():
            continue
        if (steepest[beside] > _hard_slope(lightness, beside, own)).mean() > _HARD_SHARE:
            sides |= around & shade
    return sides


def _fades(shade: np.ndarray, mask: np.ndarray, same: np.ndarray, slope: np.ndarray, lightness: np.ndarray) -> bool:
    """Whether what has a shadow's colour meets the backdrop softly all around, but where the product is near."""
    rim = _grown(shade, _NEAR) & same & ~_grown(mask, _NEAR)
    if not rim.any():
        return False
    hard = (slope > _hard_slope(lightness, rim, shade)) & ~_grown(mask, 1)
    return bool(_grown(hard, _NEAR)[rim].mean() < _SOFT_SHARE)


def _hard_slope(lightness: np.ndarray, beside: np.ndarray, part: np.ndarray) -> float:
    """From what slope on an edge between a part and what is beside it is a hard one."""
    contrast = abs(float(np.median(lightness[beside])) - float(np.median(lightness[part])))
    return min(_SHADOW_SLOPE, max(_HARD_SLOPE, _HARD_RISE * contrast))


def _with_thin_parts(mask: np.ndarray, certain: np.ndarray) -> np.ndarray:
    """The mask with what is certainly no backdrop and hangs on it, however thin: a bridge, a wire, a stalk."""
    _, parts = cv2.connectedComponents((mask | certain).astype(np.uint8), connectivity=8)
    return np.isin(parts, np.unique(parts[mask])) & (mask | certain)


def _with_printed_between(mask: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The mask with what lies between parts of it and bears print: a label of the backdrop's own colour."""
    for axis in (0, 1):  # each by itself: of things side by side, the labels are no way from one to the next
        body = _large_parts(mask, _BODY_SHARE)
        before = np.maximum.accumulate(body, axis)
        after = np.flip(np.maximum.accumulate(np.flip(body, axis), axis), axis)
        _, parts = cv2.connectedComponents((before & after & ~body).astype(np.uint8), connectivity=4)
        away = ~_grown(body, _NEAR)
        size = np.bincount(parts.ravel())
        found = np.bincount(parts.ravel(), (away & (slope > _SHADOW_SLOPE)).ravel(), size.size)
        printed = found > np.maximum(_LEAST_PRINT, _PRINT_SHARE * size)
        printed[0] = False
        mask = mask | np.isin(parts, np.flatnonzero(printed))
    return mask


def _without_shadows(
    mask: np.ndarray, same: np.ndarray, shadow_coloured: np.ndarray, slope: np.ndarray, lightness: np.ndarray
) -> np.ndarray:
    """The mask without the dark core of a cast shadow, which has hard edges where the product stands on it.

    Where that would cost more than a rim, or make the outline more ragged, the product itself is of such a grey.
    """
    lesser = mask & _not_connected_with_border(same | shadow_coloured)
    lesser |= _shaded_sides(mask & ~lesser, same, slope, lightness, _LEAST_RETURNED)
    lesser |= mask & ~_joined_to_border(~lesser)  # print on them
    little = np.count_nonzero(lesser) > 0.8 * np.count_nonzero(mask)
    chosen = lesser if little and _solidity(lesser) > _solidity(mask) - 0.01 else mask
    return _with_thin_parts(chosen, mask & ~same & ~shadow_coloured)


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    """The mask, bool, with all that is at most so many pixels away from it in both directions."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0


def _joined_to_border(passable: np.ndarray) -> np.ndarray:
    _, parts = cv2.connectedComponents(passable.astype(np.uint8), connectivity=4)
    rim = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    return np.isin(parts, rim[rim > 0])


def _not_connected_with_border(passable: np.ndarray) -> np.ndarray:
    rest = (~_joined_to_border(passable)).astype(np.uint8)
    opened = cv2.morphologyEx(rest, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
    return _large_parts(opened, _CRUMB)


def _large_parts(mask: np.ndarray, share: float) -> np.ndarray:
    """Those parts of a mask, bool, that have at least this share of the largest one's area."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    return np.isin(parts, np.flatnonzero(areas >= max(1, share * areas.max())))


def _solidity(mask: np.ndarray) -> float:
    """The mask's area over that of the convex hulls of its parts."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hulls = sum(cv2.contourArea(cv2.convexHull(contour)) for contour in contours)
    return sum(cv2.contourArea(contour) for contour in contours) / hulls if hulls else 0.0


def _hull_share(mask: np.ndarray) -> float:
    """The mask's area over that of the convex hull of all of it."""
    points = cv2.findNonZero(mask.astype(np.uint8))
    return np.count_nonzero(mask) / max(cv2.contourArea(cv2.convexHull(points)), 1.0) if mask.any() else 0.0


def _edges_are_inside(mask: np.ndarray, slope: np.ndarray) -> bool:
    hard = slope > _HARD_SLOPE
    return bool(np.count_nonzero(hard & ~_grown(mask, _NEAR)) <= 0.4 * np.count_nonzero(hard))


def _see_through(
    difference: np.ndarray, same: np.ndarray, soft: np.ndarray, slope: np.ndarray, mask: np.ndarray, behind: _Backdrop
) -> np.ndarray:
    """Openings such as a mug's handle. Before white they cannot be told from white print, and stay product.

    A part is taken for one if it is large, as a ring's opening is and hardly a label, or if it has the backdrop's very
    colour and nothing is printed on it. Soft shadows in it belong to it.
    """
    if behind.lightness > 97 and behind.chroma < 10:
        return np.zeros_like(mask)
    inner, wholes = (
        cv2.connectedComponents(cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8)), connectivity=4)[1]
        for part in (mask & same, mask & (same | soft))
    )
    sizes = np.bincount(inner.ravel())
    sizes[0] = 0
    rim = _grown(_joined_to_border(~mask), _NEAR)
    openings = np.zeros_like(mask)
    for part in np.flatnonzero(sizes > _LEAST_OPENING * mask.sum()):
        opening = inner == part
        colour = np.median(difference[opening], 0)
        whole = np.isin(wholes, np.unique(wholes[opening]))
        if (whole & rim).any():  # a grey product that passes for shadow
            whole = opening
        if np.count_nonzero(whole) < _LARGE_OPENING * mask.sum() and (
            np.abs(colour).max() > _VERY_COLOUR or _is_printed(whole, slope) or not _is_bounded(whole, slope)
        ):
            continue
        openings |= whole if np.count_nonzero(whole) < _MOST_SHADED * np.count_nonzero(opening) else opening
    return _grown(openings, 1)


def _is_bounded(part: np.ndarray, slope: np.ndarray) -> bool:
    """Whether a part ends in an edge all around; where a highlight begins on a label there is none."""
    outline = _grown(part, 1) & ~part
    near_edge = _grown(slope > _HARD_SLOPE, 2 * _NEAR)  # JPEG's colours reach so far beyond an edge
    return bool(near_edge[outline].mean() > _BOUNDED_SHARE)


def _is_printed(part: np.ndarray, slope: np.ndarray) -> bool:
    """Whether something with edges is within a part's convex hull, away from its outline."""
    hull = np.zeros(part.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(cv2.findNonZero(part.astype(np.uint8))), 1)
    inside = cv2.erode(hull, np.ones((2 * _NEAR + 1, 2 * _NEAR + 1), np.uint8)) > 0
    return bool(np.count_nonzero(inside & (slope > _SHADOW_SLOPE)) > _PRINTED_SHARE * np.count_nonzero(inside))


def _bounding_box(found: np.ndarray) -> np.ndarray:
    box = np.zeros_like(found)
    rows, columns = np.flatnonzero(found.sum(1) > 1), np.flatnonzero(found.sum(0) > 1)
    if rows.size and columns.size:
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box
