"""Rendered temple halls before a fixed camera: numpy and OpenCV in, pictures out. No files, network or settings.

A picture is a pure function of hall, door, seed and size. What stays from picture to picture is the hall; what changes
is what changes before a real camera: light, weather, visitors, sensor noise, and a mast that moves a little.
"""

import functools
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Rng = np.random.Generator
_Colour = tuple[float, float, float]
_Point = tuple[float, float]

_STAGE = (1056, 594)  # pixels; a tenth more than the largest part that the camera sees
_SUBPIXEL = 4  # bits behind the point in OpenCV's coordinates


class Door(StrEnum):
    """What is where the door is. The values are the categories of the demo's temples."""

    OPEN = "door_open"
    CLOSED = "door_closed"
    NONE = "no_door"  # the wall goes on: a near miss that no model was trained on


@dataclass(frozen=True)
class Hall:
    """What one hall looks like; colours are BGR from 0 to 255.

    Attributes:
        seed: Of everything that stays the same: planks, tiles, paving, hills.
        wall: Colour of the wall.
        wood: Colour of door and frame.
        roof: Colour of the tiles.
        pillar: Colour of the pillars.
        pillars: Where they stand, in parts of the stage's width.
        arched: The doorway ends in an arch, and the wall is plaster; else it is square, and the wall is planks.
    """

    seed: int
    wall: _Colour
    wood: _Colour
    roof: _Colour
    pillar: _Colour
    pillars: tuple[float, ...]
    arched: bool


HALLS = {
    "lakeside": Hall(
        seed=1,
        wall=(150, 172, 188),
        wood=(36, 52, 128),
        roof=(74, 70, 62),
        pillar=(44, 58, 150),
        pillars=(0.12, 0.24, 0.365, 0.635, 0.76, 0.88),
        arched=False,
    ),
    "hill-gate": Hall(
        seed=2,
        wall=(118, 168, 206),
        wood=(62, 84, 96),
        roof=(48, 92, 168),
        pillar=(196, 206, 214),
        pillars=(0.12, 0.36, 0.64, 0.88),
        arched=True,
    ),
}
"""The demo's halls by temple id."""


def render_hall(hall: Hall, door: Door, seed: int, width: int = 960, height: int = 540) -> NDArray[np.uint8]:
    """One picture of a hall: uint8 BGR, (height, width, 3)."""
    random = np.random.default_rng([hall.seed, list(Door).index(door), seed])
    stage = _paint_hall(hall, door).copy()
    _paint_visitors(stage, random)
    seen = _look(stage, random, width, height)
    return _expose(seen, random)


@functools.lru_cache(maxsize=8)
def _paint_hall(hall: Hall, door: Door) -> _Floats:
    """The hall as it stands there: float32 BGR on the stage, the same every time. Copy it before painting on it."""
    random = np.random.default_rng(hall.seed)
    width, height = _STAGE
    stage = _gradient((235, 205, 170), (225, 222, 214), height, width)
    _paint_hills(stage, random)
    _paint_paving(stage, random)
    left, right, top, foot = 0.10, 0.90, 0.30, 0.76
    _fill(stage, _wall(hall, random, stage.shape), [(left, top), (right, top), (right, foot), (left, foot)])
    if door is not Door.NONE:
        _paint_doorway(stage, hall, door)
    _paint_pillars(stage, hall, top, foot)
    _paint_roof(stage, hall, random, left, right, top)
    for step in range(3):
        y, reach = foot + 0.025 * step, 0.16 + 0.03 * step
        _box(stage, (176 - 22 * step, 180 - 22 * step, 184 - 22 * step), 0.5 - reach, y, 0.5 + reach, y + 0.026)
    return cv2.GaussianBlur(stage, (0, 0), 0.6).astype(np.float32)


def _paint_hills(stage: _Floats, random: _Rng) -> None:
    for shade, base in (((178, 176, 150), 0.42), ((122, 142, 108), 0.52)):
        x = np.linspace(0, 1, 40)
        waves = np.zeros_like(x)
        for _ in range(3):
            waves += random.uniform(0.01, 0.05) * np.sin(x * random.uniform(3, 14) + random.uniform(0, 6))
        _fill(stage, shade, [(0.0, 0.8), *zip(x, base + waves, strict=True), (1.0, 0.8)])


def _paint_paving(stage: _Floats, random: _Rng) -> None:
    _box(stage, (138, 146, 152), 0, 0.74, 1, 1)
    for row, y in enumerate(0.76 + 0.24 * (np.arange(7) / 7) ** 1.6):
        depth = (y - 0.7) / 0.3
        for column in range(-9, 10):
            x1, x2 = (0.5 + (column + side + 0.5 * (row % 2)) * 0.16 * depth for side in (0, 1))
            shade = random.uniform(118, 160)
            _box(stage, (shade, shade * 1.03, shade * 1.05), x1, y, x2 - 0.003, y + 0.032 * (depth + 0.4))


def _wall(hall: Hall, random: _Rng, shape: tuple[int, ...]) -> _Floats:
    """The wall's texture over the whole stage."""
    height, width = shape[:2]
    wall = np.full((height, width, 3), hall.wall, np.float32)
    grain = random.normal(0, 1, (height // 8, width // 8)).astype(np.float32)
    wall *= 1 + 0.04 * cv2.resize(grain, (width, height))[..., None]
    if hall.arched:
        cracks = random.uniform(0, 1, (14, 4)) * (width, height, 60, 40)
        for x, y, dx, dy in cracks:
            cv2.line(wall, (int(x), int(y)), (int(x + dx - 30), int(y + dy)), _shade(hall.wall, 0.8), 1, cv2.LINE_AA)
    else:
        for x in range(0, width, 22):
            cv2.line(wall, (x, 0), (x, height), _shade(hall.wall, 0.72), 2)
    return wall


def _paint_doorway(stage: _Floats, hall: Hall, door: Door) -> None:
    x1, x2, y1, y2 = 0.395, 0.605, 0.41, 0.76
    outline = _doorway(hall, x1 - 0.016, x2 + 0.016, y1 - 0.024, y2)
    _fill(stage, _shade(hall.wood, 0.62), outline)
    opening = _doorway(hall, x1, x2, y1, y2)
    if door is Door.OPEN:
        _fill(stage, _gradient((14, 20, 30), (34, 52, 76), *stage.shape[:2]), opening)
        _paint_shrine(stage)
        for edge, inner in ((x1, x1 + 0.034), (x2, x2 - 0.034)):
            leaf = [(edge, y1 + 0.03 * hall.arched), (inner, y1 + 0.035), (inner, y2 - 0.012), (edge, y2)]
            _fill(stage, _shade(hall.wood, 0.8), leaf)
        return
    _fill(stage, hall.wood, opening)
    middle = (x1 + x2) / 2
    for start in (x1, middle):
        for row in range(4):
            for column in range(2):
                left, top = start + 0.01 + column * 0.046, y1 + 0.05 + row * 0.074
                _box(stage, _shade(hall.wood, 0.74), left, top, left + 0.038, top + 0.058)
                _box(
                    stage,
                    _shade(hall.wood, 1.18),
                    left + 0.004,
                    top + 0.007,
                    left + 0.034,
                    top + 0.051,
                )
    _line(stage, (18, 22, 28), (middle, y1), (middle, y2), 3)
    for x in (middle - 0.012, middle + 0.012):
        _disc(stage, (70, 170, 206), x, 0.6, 0.008)


def _paint_shrine(stage: _Floats) -> None:
    """What an open door shows: a figure on a plinth, with two lamps before it."""
    _box(stage, (40, 60, 110), 0.45, 0.68, 0.55, 0.735)
    _fill(stage, (48, 132, 176), [(0.468, 0.68), (0.478, 0.6), (0.5, 0.575), (0.522, 0.6), (0.532, 0.68)])
    _disc(stage, (62, 150, 196), 0.5, 0.56, 0.017)
    for x in (0.45, 0.55):
        _disc(stage, (90, 200, 250), x, 0.655, 0.008)


def _paint_pillars(stage: _Floats, hall: Hall, top: float, foot: float) -> None:
    half = 0.014
    for centre in hall.pillars:
        for offset in np.linspace(-half, half, 12):
            light = 0.55 + 0.5 * np.cos(offset / half * 1.3 - 0.4)
            x = centre + offset
            _box(stage, _shade(hall.pillar, light), x - half / 11, top, x + half / 11, foot)
        _box(stage, (150, 156, 160), centre - half * 1.5, foot - 0.02, centre + half * 1.5, foot)


def _paint_roof(stage: _Floats, hall: Hall, random: _Rng, left: float, right: float, top: float) -> None:
    ridge, eaves, lift = 0.08, top + 0.02, 0.05 if not hall.arched else 0.0
    outline = [(left - 0.07, eaves - lift), (left + 0.14, ridge), (right - 0.14, ridge), (right + 0.07, eaves - lift)]
    _fill(stage, hall.roof, [*outline, (right, eaves), (left, eaves)])
    for part in np.linspace(0.04, 0.96, 44):
        shade = random.uniform(0.66, 1.25)
        above = (left + 0.14 + part * (right - left - 0.28), ridge)
        below = (left - 0.05 + part * (right - left + 0.1), eaves - lift * abs(2 * part - 1) ** 3)
        _line(stage, _shade(hall.roof, shade), above, below, 4)
    _box(stage, _shade(hall.roof, 0.5), left + 0.12, ridge - 0.025, right - 0.12, ridge + 0.008)
    _box(stage, _shade(hall.wood, 0.55), left, eaves, right, eaves + 0.028)


def _paint_visitors(stage: _Floats, random: _Rng) -> None:
    """Up to three people on the forecourt; one may stand before a part of the door."""
    for _ in range(int(random.choice(4, p=[0.4, 0.3, 0.2, 0.1]))):
        x, foot = random.uniform(0.05, 0.95), random.uniform(0.83, 0.98)
        tall = 0.16 * (foot - 0.55) / 0.3
        coat, trousers = (tuple(random.uniform(20, 220, 3).tolist()) for _ in range(2))
        _box(stage, trousers, x - tall * 0.09, foot - tall * 0.48, x + tall * 0.09, foot)
        body = [(x - tall * 0.13, foot - tall * 0.45), (x - tall * 0.1, foot - tall * 0.84)]
        _fill(stage, coat, [*body, (x + tall * 0.1, foot - tall * 0.84), (x + tall * 0.13, foot - tall * 0.45)])
        _disc(stage, (120, 150, 190), x, foot - tall * 0.92, tall * 0.05)


def _look(stage: _Floats, random: _Rng, width: int, height: int) -> _Floats:
    """What the camera sees of the stage: its mast moves and turns a little."""
    turn, zoom = random.normal(0, 0.35), random.normal(1, 0.006)
    scale = width / _STAGE[0] * 1.06 * zoom
    look = cv2.getRotationMatrix2D((_STAGE[0] / 2, _STAGE[1] / 2), turn, scale)
    look[:, 2] += np.array([width, height]) / 2 - np.array(_STAGE) / 2 + random.normal(0, 0.007, 2) * width
    return cv2.warpAffine(stage, look, (width, height), borderMode=cv2.BORDER_REFLECT).astype(np.float32)


def _expose(image: _Floats, random: _Rng) -> NDArray[np.uint8]:
    """Time of day, a cloud's or tree's shadow, and the sensor."""
    height, width = image.shape[:2]
    brightness = random.uniform(0.5, 1.1)
    warmth = random.uniform(-0.12, 0.12)
    light = np.array([1 - warmth, 1, 1 + warmth]) * brightness
    corners = random.uniform(0.85, 1.15, (2, 2)).astype(np.float32)
    image = image * (cv2.resize(corners, (width, height))[..., None] * light).astype(np.float32)
    if random.random() < 0.5:
        edge, slope = random.uniform(-0.2, 1.2), random.uniform(-0.6, 0.6)
        shadow = np.ones((height, width), np.float32)
        reach = [(edge, 0.0), (edge + 0.5, 0.0), (edge + 0.5 + slope, 1.0), (edge + slope, 1.0)]
        corner = np.array([(x * width, y * height) for x, y in reach], np.int32)
        cv2.fillPoly(shadow, [corner], random.uniform(0.6, 0.85))
        image = image * cv2.GaussianBlur(shadow, (0, 0), width / 80)[..., None]
    grain = random.standard_normal((height, width), dtype=np.float32) * random.uniform(1.5, 6)
    return (image + grain[..., None]).clip(0, 255).astype(np.uint8)


def _shade(colour: _Colour, factor: float) -> _Colour:
    blue, green, red = colour
    return blue * factor, green * factor, red * factor


def _gradient(top: _Colour, bottom: _Colour, height: int, width: int) -> _Floats:
    column = np.linspace(top, bottom, height, dtype=np.float32)
    return np.repeat(column[:, None], width, axis=1)


def _doorway(hall: Hall, x1: float, x2: float, y1: float, y2: float) -> list[_Point]:
    if not hall.arched:
        return [(x1, y2), (x1, y1), (x2, y1), (x2, y2)]
    middle, reach = (x1 + x2) / 2, (x2 - x1) / 2
    angles = np.linspace(np.pi, 0, 24)
    arch = [(middle + reach * np.cos(a), y1 + 0.12 - 0.12 * np.sin(a)) for a in angles]
    return [(x1, y2), *arch, (x2, y2)]


def _pixels(stage: _Floats, points: list[_Point]) -> NDArray[np.int32]:
    height, width = stage.shape[:2]
    return np.rint(np.array(points) * (width, height) * (1 << _SUBPIXEL)).astype(np.int32)


def _fill(stage: _Floats, paint: _Colour | _Floats, points: list[_Point]) -> None:
    """Fill a polygon, in parts of the stage, with a colour or with what another picture shows there."""
    if isinstance(paint, np.ndarray):
        mask = np.zeros(stage.shape[:2], np.uint8)
        cv2.fillPoly(mask, [_pixels(stage, points)], 255, cv2.LINE_AA, _SUBPIXEL)
        cover = mask[..., None].astype(np.float32) / 255
        stage += (paint - stage) * cover
    else:
        cv2.fillPoly(stage, [_pixels(stage, points)], paint, cv2.LINE_AA, _SUBPIXEL)


def _box(stage: _Floats, colour: _Colour, x1: float, y1: float, x2: float, y2: float) -> None:
    _fill(stage, colour, [(x1, y1), (x2, y1), (x2, y2), (x1, y2)])


def _line(stage: _Floats, colour: _Colour, start: _Point, end: _Point, thickness: int) -> None:
    first, last = _pixels(stage, [start, end]).tolist()
    cv2.line(stage, first, last, colour, thickness, cv2.LINE_AA, _SUBPIXEL)


def _disc(stage: _Floats, colour: _Colour, x: float, y: float, radius: float) -> None:
    (centre,) = _pixels(stage, [(x, y)]).tolist()
    cv2.circle(stage, centre, round(radius * stage.shape[1] * (1 << _SUBPIXEL)), colour, -1, cv2.LINE_AA, _SUBPIXEL)
