"""What is around bottles in photographs: hands, loose caps, drinking glasses. Sprites, no scenes."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imgpipe_dagster.demo.sprites import FloatArray, Rng, Sprite, View, hsv, packaging_colour

Point = tuple[float, float]


def skin_colour(rng: Rng) -> FloatArray:
    """A skin colour, light to dark, BGR."""
    depth = rng.uniform(0, 1)
    return np.array(hsv(rng.uniform(8, 26), 0.28 + 0.34 * depth, 0.97 - 0.6 * depth), np.float32)


def draw_hand(rng: Rng, size: tuple[int, int], grip: Point, half: float) -> tuple[Sprite, Sprite]:
    """A hand that holds something upright, as two layers over the whole picture.

    Args:
        rng: Decides pose and colour.
        size: Height and width of the picture.
        grip: Where the held thing's axis is gripped, in pixels.
        half: Half the width of the held thing there, in pixels.

    Returns:
        What is behind the held thing (palm, forearm, the fingers around it) and what is before it (thumb, fingertips).
    """
    skin = skin_colour(rng)
    light = float(rng.uniform(-0.8, 0.8))
    x, y = grip
    side = -1 if rng.random() < 0.7 else 1  # where the arm comes from
    thick = half * float(rng.uniform(0.32, 0.5))
    behind, front = _Layer(size, skin, light), _Layer(size, skin, light)

    palm = (x + side * half * 0.9, y + half * rng.uniform(0.2, 0.8))
    elbow = (x + side * half * rng.uniform(2.5, 5), y + half * rng.uniform(1.5, 5))
    behind.limb(palm, elbow, half * 1.1, half * rng.uniform(0.9, 1.5))
    behind.limb(palm, (x + side * half * 0.7, y - half * 0.6), half * 0.8, half * 0.45)
    pitch = thick * 1.75
    around = rng.random() < 0.35  # fingers wrapped around the front, else they come round the back
    for finger in range(4):
        level = y - half * 0.5 + pitch * finger + rng.uniform(-0.15, 0.15) * thick
        if around:
            tip = (x - side * half * rng.uniform(0.2, 0.95), level + rng.uniform(-0.6, 0.6) * thick)
            front.limb((x + side * half * 1.15, level - thick * rng.uniform(0, 1.2)), tip, thick * 1.05, thick * 0.85)
        else:
            out = (x - side * half * rng.uniform(1.0, 1.25), level)
            behind.limb((x, level), out, thick, thick * 0.85)
            front.limb(out, (x - side * half * rng.uniform(0.78, 0.95), level + 0.2 * thick), thick * 0.8, thick * 0.7)
    root = (x + side * half * 1.15, y + half * rng.uniform(-0.1, 0.6))
    knuckle = (x + side * half * rng.uniform(0.3, 0.7), y - half * rng.uniform(0.1, 0.7))
    tip = (x - side * half * rng.uniform(-0.2, 0.6), y - half * rng.uniform(0.3, 1.3))
    front.limb(root, knuckle, thick * 1.35, thick * 1.1)
    front.limb(knuckle, tip, thick * 1.1, thick * 0.9)
    if rng.random() < 0.7:
        front.nail(knuckle, tip, thick)
    return behind.sprite(), front.sprite()


class _Layer:
    """Limbs painted one over the other."""

    def __init__(self, size: tuple[int, int], skin: FloatArray, light: float) -> None:
        self._image = np.zeros((*size, 3), np.float32)
        self._alpha = np.zeros(size, np.float32)
        self._skin, self._light = skin, light

    def limb(self, start: Point, end: Point, thick_start: float, thick_end: float) -> None:
        """A round limb between two points, lit like a cylinder, with a crease of shade at its rim."""
        window, along, across, length = self._axes(start, end, max(thick_start, thick_end) + 2)
        part = np.clip(along / length, 0, 1)
        radius = thick_start + (thick_end - thick_start) * part
        distance = np.hypot(across, along - part * length) / radius
        cover = np.clip((1 - distance) * radius + 0.5, 0, 1)
        bulge = np.sqrt(np.clip(1 - distance**2, 0, 1))
        shade = 0.5 + 0.5 * bulge + 0.16 * self._light * across / radius
        self._paint(window, self._skin * shade[..., None], cover)

    def nail(self, knuckle: Point, tip: Point, thick: float) -> None:
        """A paler, glossy spot at the tip."""
        window, along, across, length = self._axes(knuckle, tip, 2 * thick + 2)
        spot = ((along - length - 0.15 * thick) / (0.55 * thick)) ** 2 + (across / (0.5 * thick)) ** 2
        self._paint(window, self._skin * 0.75 + 62, np.clip((1 - spot) * thick * 0.5, 0, 1))

    def sprite(self) -> Sprite:
        """What was painted."""
        return Sprite(np.clip(self._image, 0, 255), self._alpha, self._alpha)

    def _axes(self, start: Point, end: Point, reach: float) -> tuple[Any, FloatArray, FloatArray, float]:
        """The pixels near a line, and how far along it and beside it each of them is."""
        height, width = self._alpha.shape
        columns, rows = (
            slice(int(np.clip(min(pair) - reach, 0, limit)), int(np.clip(max(pair) + reach, 0, limit)))
            for pair, limit in zip(zip(start, end, strict=True), (width, height), strict=True)
        )
        direction = np.array(end, np.float32) - np.array(start, np.float32)
        length = max(float(np.hypot(*direction)), 1e-3)
        unit = direction / length
        y, x = np.mgrid[rows, columns].astype(np.float32) + 0.5
        x, y = x - start[0], y - start[1]
        return np.s_[rows, columns], x * unit[0] + y * unit[1], y * unit[0] - x * unit[1], length

    def _paint(self, window: Any, colour: FloatArray, cover: FloatArray) -> None:  # noqa: ANN401 - a numpy index
        below = self._image[window]
        below += (colour - below) * cover[..., None]
        np.maximum(self._alpha[window], cover, out=self._alpha[window])


def draw_loose_cap(rng: Rng, width: int, view: View) -> Sprite:
    """A crown or screw cap that lies on a table, seen under the view's elevation or steeper.

    Args:
        rng: Decides colour, kind and pose.
        width: Pixels, at least 4.
        view: Camera elevation and light.
    """
    half = max(width, 4) / 2
    flat = max(view.elevation, float(rng.uniform(0.3, 0.9)))
    rim = half * float(rng.uniform(0.15, 0.5)) * (1 - flat)
    height = int(2 * half * flat + rim) + 2
    down, across = np.mgrid[0:height, 0 : int(2 * half) + 1].astype(np.float32)
    across = (across - half) / half
    top = (down - half * flat) / (half * flat)
    bottom = (down - rim - half * flat) / (half * flat)
    teeth = 1 + 0.035 * np.sin(np.arctan2(bottom, across) * 21)
    disc, skirt = np.hypot(across, top), np.hypot(across, bottom) * teeth
    coverage = np.clip((1 - np.minimum(disc, skirt)) * half + 0.5, 0, 1)
    colour = np.array(packaging_colour(rng) if rng.random() < 0.7 else hsv(45, 0.4, 0.8), np.float32)
    ridges = 0.55 + 0.25 * np.sign(np.sin(np.arcsin(np.clip(across, -1, 1)) * 22)) + 0.2 * view.light * across
    image = colour * ridges[..., None]
    face = disc < 1
    upside_down = rng.random() < 0.4
    inner = colour * 0.25 + (150 if upside_down else 0)
    image[face] = inner if upside_down else colour * (1.05 + 0.2 * view.light * across[face][:, None]) + 12
    ring = face & (disc > 0.86)
    image[ring] = image[ring] * (0.7 if upside_down else 1.25)
    return Sprite(np.clip(image, 0, 255).astype(np.float32), coverage.astype(np.float32), coverage.astype(np.float32))


def draw_glass(rng: Rng, height: int, view: View) -> Sprite:
    """A drinking glass, tumbler to stemmed, empty or not: transparent and wide open, unlike any bottle.

    Args:
        rng: Decides shape, drink and level.
        height: Pixels, at least 8.
        view: Camera elevation and light.
    """
    profiles = (
        ((0, 1.0), (1, 0.8)),
        ((0, 1.0), (0.1, 0.98), (0.9, 0.66), (1, 0.66)),
        ((0, 0.86), (0.3, 1.0), (0.5, 0.8), (0.6, 0.12), (0.93, 0.1), (0.96, 0.7), (1, 0.75)),
        ((0, 0.95), (0.55, 1.0), (0.7, 0.2), (0.76, 0.14), (0.94, 0.14), (0.97, 0.72), (1, 0.75)),
    )
    profile = np.array(profiles[rng.integers(len(profiles))]).T
    half = height * float(rng.uniform(0.24, 0.42))
    down, across = np.mgrid[0:height, 0 : int(2 * half) + 3].astype(np.float32)
    across -= half + 1
    sag = view.elevation * half
    tall = (down - sag) / (height - 2 * sag)
    radius = np.interp(tall, *profile).astype(np.float32) * half
    turn = np.clip(across / np.maximum(radius, 1e-3), -1, 1)
    mouth = float(profile[1][0]) * half
    rim = (across / mouth) ** 2 + ((down - sag) / max(sag * mouth / half, 0.5)) ** 2
    side = np.clip(radius - np.abs(across) + 0.5, 0, 1) * (down >= sag) * (down <= height - sag)
    coverage = np.maximum(side, np.clip((1 - rim) * mouth + 0.5, 0, 1)).astype(np.float32)
    wall = turn**6
    image = np.full((*tall.shape, 3), 205, np.float32) * (0.75 + 0.35 * np.sqrt(1 - turn**2) - 0.45 * wall)[..., None]
    alpha = 0.16 + 0.6 * wall
    level = float(rng.choice([2.0, rng.uniform(0.15, 0.5)], p=[0.35, 0.65]))
    drink = np.array(hsv(rng.choice([38, 30, 20, 350, 200, 50]), rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.95)))
    full = (tall > level) & (tall < 0.93) & (radius > 0.3 * half)
    image[full] = (drink * (0.7 + 0.4 * np.sqrt(1 - turn**2))[..., None])[full]
    alpha[full] = 0.88
    if rng.random() < 0.4:
        foam = (tall > level - 0.12) & (tall <= level)
        image[foam], alpha[foam] = 235, 0.95
    lip = np.abs(np.sqrt(rim) - 0.97) < 0.05
    image[lip], alpha[lip] = 235, 0.7
    image += (70 * np.exp(-(((turn - 0.6 * np.sign(view.light or 1)) / 0.08) ** 2)))[..., None]
    return Sprite(_bytes(image), (np.clip(alpha, 0, 1) * coverage).astype(np.float32), coverage)


def _bytes(image: NDArray[Any]) -> FloatArray:
    return np.clip(image, 0, 255).astype(np.float32)


def turn_sprite(sprite: Sprite, degrees: float) -> Sprite:
    """Turn a sprite in the picture's plane."""
    tall, wide = sprite.alpha.shape
    turn = cv2.getRotationMatrix2D((wide / 2, tall / 2), degrees, 1.0)
    cosine, sine = abs(turn[0, 0]), abs(turn[0, 1])
    size = (int(tall * sine + wide * cosine) + 1, int(tall * cosine + wide * sine) + 1)
    turn[:, 2] += np.array(size) / 2 - (wide / 2, tall / 2)
    image, alpha, coverage = (
        cv2.warpAffine(layer, turn, size, flags=cv2.INTER_LINEAR, borderMode=border)
        for layer, border in (
            (sprite.image, cv2.BORDER_REPLICATE),
            (sprite.alpha, cv2.BORDER_CONSTANT),
            (sprite.coverage, cv2.BORDER_CONSTANT),
        )
    )
    return Sprite(image, alpha, coverage)
