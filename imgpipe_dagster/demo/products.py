"""Rendered product photographs with a known alpha: what the demo enhances and what the enhancement is measured on.

Everything is drawn here from a seed; no picture or font is shipped. Shelf scenes for the detector are elsewhere.
"""

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

_SUPERSAMPLING = 2
_BRANDS = ("MEDIPRO", "AQUA", "NORDIC", "SOLARIS", "BIOCARE", "PUREX", "VITAL", "ALPINA", "DERMA", "KINO")
_WORDS = ("extra", "fresh", "daily", "care", "cream", "drops", "with zinc", "500 ml", "SPF 30", "24 h", "forte", "gel")

Image = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Box = tuple[int, int, int, int]


class Backdrop(StrEnum):
    """What stands behind the product."""

    PLAIN = "plain"
    CLUTTERED = "cluttered"


class Defect(StrEnum):
    """A severe fault that a photograph can have."""

    DARK = "dark"
    NOISY = "noisy"
    BLURRED = "blurred"
    SMALL = "small"
    JPEG = "jpeg"


@dataclass(frozen=True)
class ProductPhoto:
    """A rendered photograph.

    Attributes:
        image: uint8 BGR, (height, width, 3).
        alpha: uint8, (height, width); 255 where only the product is seen.
        box: the product's bounding box (x1, y1, x2, y2) in pixels, right and lower edges exclusive.
        text_box: the label's bounding box, in the same form.
    """

    image: Image
    alpha: Image
    box: _Box
    text_box: _Box


def render_product(
    seed: int, *, width: int = 960, height: int = 960, backdrop: Backdrop = Backdrop.PLAIN
) -> ProductPhoto:
    """Draw one product (bottle, jar, tube, can or box) the same from the same seed."""
    random = np.random.default_rng(seed)
    draw = _draw_carton if random.random() < 0.3 else _draw_vessel
    colour, cover, label = draw(random, (height * _SUPERSAMPLING, width * _SUPERSAMPLING))
    product, alpha, printed = (_shrink(layer, width, height) for layer in (colour * cover[..., None], cover, label))
    if backdrop is Backdrop.PLAIN:
        scene = _plain_backdrop(random, width, height) * _shadow(random, alpha, 0.35)[..., None]
    else:
        scene = _cluttered_backdrop(random, width, height) * _shadow(random, alpha, 0.6)[..., None]
    image = product + (1 - alpha[..., None]) * scene
    image = image + random.normal(0, 1.0, image.shape).astype(np.float32)
    return ProductPhoto(
        image=image.clip(0, 255).round().astype(np.uint8),
        alpha=(255 * alpha).round().astype(np.uint8),
        box=_bounds(alpha > 0.5),
        text_box=_bounds(printed > 0.5),
    )


def degrade(image: Image, defect: Defect, seed: int = 0) -> Image:
    """Spoil a uint8 BGR picture severely in one way. ``SMALL`` returns fewer pixels, the others the same shape."""
    random = np.random.default_rng(seed)
    match defect:
        case Defect.DARK:
            return (image * random.uniform(0.12, 0.25)).astype(np.uint8)
        case Defect.NOISY:
            noise = random.normal(0, random.uniform(28, 45), image.shape)
            return (image + noise).clip(0, 255).astype(np.uint8)
        case Defect.BLURRED:
            return np.asarray(cv2.GaussianBlur(image, (0, 0), random.uniform(4, 8)), np.uint8)
        case Defect.SMALL:
            side = random.uniform(120, 220)
            factor = side / max(image.shape[:2])
            return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
        case Defect.JPEG:
            _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(3, 9))])
            return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _shrink(layer: _Floats, width: int, height: int) -> _Floats:
    return cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)


def _bounds(mask: NDArray[np.bool_]) -> _Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _colour(random: np.random.Generator, saturation: tuple[int, int], value: tuple[int, int]) -> _Floats:
    hsv = np.array([[[random.integers(180), random.integers(*saturation), random.integers(*value)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def _flat_label(random: np.random.Generator, width: int, height: int) -> _Floats:
    """A printed label: brand, stripe, small lines and a bar code; float32 BGR."""
    paper = _colour(random, (0, 140), (140, 256))
    ink = np.array((25, 25, 30) if paper.mean() > 130 else (245, 245, 245), np.float32)
    label = np.full((height, width, 3), paper, np.uint8)
    stripe = int(height * random.uniform(0.42, 0.6))
    cv2.rectangle(
        label, (0, stripe), (width, stripe + height // 14), _colour(random, (120, 256), (60, 230)).tolist(), -1
    )
    _write(label, str(random.choice(_BRANDS)), (0.5, random.uniform(0.18, 0.32)), 0.62, ink)
    for row in range(3):
        _write(label, str(random.choice(_WORDS)), (0.5, 0.68 + 0.09 * row), 0.34, ink)
    left, top = int(width * 0.4), int(height * 0.93)
    for bar in np.flatnonzero(random.random(40) < 0.5):
        x = left + int(bar * width * 0.005)
        cv2.rectangle(label, (x, top), (x + max(1, int(width * 0.004)), height), ink.tolist(), -1)
    return label.astype(np.float32)


def _write(label: Image, text: str, centre: tuple[float, float], share: float, ink: _Floats) -> None:
    height, width = label.shape[:2]
    (unit, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 1, 2)
    size = min(share * width / unit, 0.22 * share * height / tall)
    x, y = int(centre[0] * width - size * unit / 2), int(centre[1] * height + size * tall / 2)
    cv2.putText(
        label, text, (x, y), cv2.FONT_HERSHEY_DUPLEX, size, ink.tolist(), max(1, round(2.2 * size)), cv2.LINE_AA
    )


def _vessel_profile(random: np.random.Generator) -> tuple[list[float], list[float], float, float, float]:
    """Heights (0 top … 1 bottom) and radii of a body of revolution, its ratio width/height, and where the label is."""
    neck = random.uniform(0.25, 0.45)
    shapes = (
        ([0, 0.1, 0.105, 0.2, 0.36, 0.97, 1], [neck, neck, neck * 0.9, neck * 0.95, 1, 1, 0.93], 0.34, 0.42, 0.86),
        ([0, 0.24, 0.25, 0.3, 0.95, 1], [0.93, 0.93, 0.85, 1, 1, 0.92], 0.85, 0.38, 0.9),
        ([0, 0.16, 0.165, 0.22, 0.97, 1], [0.62, 0.62, 0.7, 0.95, 0.85, 0.84], 0.36, 0.3, 0.88),
        ([0, 0.03, 0.06, 0.94, 0.97, 1], [0.88, 0.9, 1, 1, 0.92, 0.88], 0.52, 0.12, 0.88),
    )
    heights, radii, aspect, top, bottom = shapes[random.integers(len(shapes))]
    return list(heights), list(radii), aspect * random.uniform(0.85, 1.2), top, bottom


def _draw_vessel(random: np.random.Generator, canvas: tuple[int, int]) -> tuple[_Floats, _Floats, _Floats]:
    heights, radii, aspect, label_top, label_bottom = _vessel_profile(random)
    tall = canvas[0] * random.uniform(0.62, 0.8)
    radius = min(tall * aspect, canvas[1] * 0.8) / 2
    top, centre = (canvas[0] - tall) * random.uniform(0.4, 0.65), canvas[1] * random.uniform(0.42, 0.58)
    y, x = np.mgrid[0 : canvas[0], 0 : canvas[1]].astype(np.float32)
    level = (y - top) / tall
    half = radius * np.interp(level[:, 0], heights, radii, left=0, right=0).astype(np.float32)[:, None]
    across = (x - centre) / np.maximum(half, 1)
    alpha = ((np.abs(across) < 1) & (half > 0)).astype(np.float32)
    across = across.clip(-1, 1)
    colour = np.full((*canvas, 3), _colour(random, (30, 230), (60, 245)), np.float32)
    colour[level[:, 0] < heights[1]] = _colour(random, (0, 230), (40, 250))
    turn = np.arcsin(across) / np.pi + 0.5
    flat = _flat_label(random, int(np.pi * radius), int((label_bottom - label_top) * tall))
    rows = (level - label_top) / (label_bottom - label_top) * (flat.shape[0] - 1)
    mapped = cv2.remap(flat, turn * (flat.shape[1] - 1), rows.astype(np.float32), cv2.INTER_LINEAR)
    printed = alpha * ((level > label_top) & (level < label_bottom) & (np.abs(across) < 0.93))
    colour = np.where(printed[..., None] > 0, mapped, colour)
    light = random.uniform(-0.5, 0.5)
    shade = 0.62 + 0.42 * np.sqrt(1 - (0.92 * (across - light) / (1 + abs(light))) ** 2)
    gloss = random.uniform(0.1, 0.5) * np.exp(-(((across - light * 1.2) / 0.07) ** 2))
    colour = colour * shade[..., None] + 130 * gloss[..., None]
    return _tilt(random, colour.clip(0, 255), alpha, printed.astype(np.float32))


def _tilt(random: np.random.Generator, *layers: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    height, width = layers[0].shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-4, 4), 1)
    turned = [
        cv2.warpAffine(layer, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=mode)
        for layer, mode in zip(layers, (cv2.BORDER_REPLICATE, cv2.BORDER_CONSTANT, cv2.BORDER_CONSTANT), strict=True)
    ]
    return turned[0].astype(np.float32), turned[1].astype(np.float32), turned[2].astype(np.float32)


def _draw_carton(random: np.random.Generator, canvas: tuple[int, int]) -> tuple[_Floats, _Floats, _Floats]:
    tall = canvas[0] * random.uniform(0.5, 0.68)
    wide = min(tall * random.uniform(0.5, 1.1), canvas[1] * 0.58)
    deep, rise = wide * random.uniform(0.18, 0.4), tall * random.uniform(0.05, 0.12)
    left, top = (canvas[1] - wide - deep) / 2, (canvas[0] - tall + rise) * random.uniform(0.45, 0.6)
    a, b = (left, top), (left + wide, top)
    c, d = (left + wide, top + tall), (left, top + tall)
    front = _flat_label(random, int(wide), int(tall))
    side = np.full((int(tall), int(deep), 3), front[2, 2] * 0.72, np.uint8)
    _write(side, str(random.choice(_WORDS)), (0.5, 0.2), 0.8, front[2, 2] * 0.3)
    lid = np.full((64, 64, 3), (front[2, 2] * 1.08).clip(0, 255), np.float32)
    back = ((left + deep, top - rise), (left + wide + deep, top - rise), (left + wide + deep, top + tall - rise))
    faces = (
        (lid, (back[0], back[1], b, a)),
        (side.astype(np.float32), (b, back[1], back[2], c)),
        (front, (a, b, c, d)),
    )
    colour, alpha = np.zeros((*canvas, 3), np.float32), np.zeros(canvas, np.float32)
    printed = np.zeros(canvas, np.float32)
    for face, corners in faces:
        h, w = face.shape[:2]
        source = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
        matrix = cv2.getPerspectiveTransform(source, np.array(corners, np.float32))
        cover = np.zeros(canvas, np.float32)
        cv2.fillConvexPoly(cover, np.array(corners, np.float32).round().astype(np.int32), 1)
        warped = cv2.warpPerspective(
            face, matrix, canvas[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        colour = np.where(cover[..., None] > 0, warped, colour)
        alpha = np.maximum(alpha, cover)
        printed = cover
    ramp = np.linspace(random.uniform(0.9, 1.05), random.uniform(0.8, 1), canvas[1], dtype=np.float32)
    return _tilt(random, (colour * ramp[None, :, None]).clip(0, 255), alpha, printed)


def _plain_backdrop(random: np.random.Generator, width: int, height: int) -> _Floats:
    base = (
        np.full(3, random.uniform(236, 254), np.float32)
        if random.random() < 0.5
        else _colour(random, (5, 60), (150, 245))
    )
    down = np.linspace(1, random.uniform(0.88, 0.97), height, dtype=np.float32)[:, None]
    across = np.linspace(random.uniform(0.95, 1), random.uniform(0.95, 1), width, dtype=np.float32)[None]
    return (down * across)[..., None] * base


def _cluttered_backdrop(random: np.random.Generator, width: int, height: int) -> _Floats:
    """A textured wall, a table edge and many odd shapes, partly out of focus."""
    scene = np.full((height, width, 3), _colour(random, (10, 120), (60, 200)), np.uint8)
    table = int(height * random.uniform(0.6, 0.8))
    scene[table:] = _colour(random, (20, 160), (50, 190))
    for _ in range(int(random.integers(18, 40))):
        colour = _colour(random, (20, 256), (30, 250)).tolist()
        x, y = int(random.integers(width)), int(random.integers(height))
        w, h = (random.uniform(0.03, 0.16, 2) * (width, height)).astype(int)
        match random.integers(3):
            case 0:
                cv2.rectangle(scene, (x - w, y - h), (x + w, y + h), colour, -1)
                cv2.putText(
                    scene, str(random.choice(_BRANDS)), (x - w, y), cv2.FONT_HERSHEY_DUPLEX, w / 80, (20, 20, 20), 3
                )
            case 1:
                cv2.ellipse(scene, (x, y), (int(w), int(h)), random.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
            case _:
                corners = (random.uniform(-1.2, 1.2, (5, 2)) * (w, h) + (x, y)).astype(np.int32)
                cv2.fillPoly(scene, [corners], colour, cv2.LINE_AA)
    textured = scene.astype(np.float32)
    for cell in (3, 12, 45):
        grain = random.normal(0, 12, (max(1, height // cell), max(1, width // (cell * 3)))).astype(np.float32)
        textured += cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    textured = cv2.GaussianBlur(textured, (0, 0), random.uniform(0.5, 3))
    fall = np.linspace(random.uniform(0.75, 1), random.uniform(0.75, 1), width, dtype=np.float32)
    return (textured * fall[None, :, None]).clip(0, 255).astype(np.float32)


def _shadow(random: np.random.Generator, alpha: _Floats, strength: float) -> _Floats:
    """A soft contact shadow: the product's foot, squashed and blurred; multiplies the backdrop."""
    height, width = alpha.shape
    x1, _, x2, y2 = _bounds(alpha > 0.5)
    shadow = np.zeros((height, width), np.float32)
    centre = (int((x1 + x2) / 2 + random.uniform(-0.1, 0.1) * (x2 - x1)), y2 - int(0.004 * height))
    cv2.ellipse(shadow, centre, (int(0.5 * (x2 - x1)), int(0.018 * height)), 0, 0, 360, strength, -1)
    return 1 - cv2.GaussianBlur(shadow, (0, 0), 0.012 * height)
