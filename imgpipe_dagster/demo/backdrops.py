"""What is behind and beside articles: rooms, landscapes, streets at night, tables, shadows. Painted onto a stage."""

import cv2
import numpy as np

from imgpipe_dagster.demo.sprites import Colour, FloatArray, Rng, Sprite, hsv
from imgpipe_dagster.demo.stage import Stage


def paint_backdrop(stage: Stage, rng: Rng) -> None:
    """Fill the stage with a place: a room, a landscape, a facade, a court, the night, plain or woven surfaces."""
    kind = rng.choice(
        ["room", "landscape", "facade", "court", "night", "surface", "clouds"],
        p=[0.3, 0.15, 0.14, 0.08, 0.15, 0.12, 0.06],
    )
    height, width = stage.owner.shape
    match kind:
        case "room":
            paint_room(stage, rng, int(height * rng.uniform(0.45, 1.0)) - 2)
        case "landscape":
            _paint_landscape(stage, rng)
        case "facade":
            _paint_facade(stage, rng)
        case "court":
            _paint_court(stage, rng)
        case "night":
            _paint_night(stage, rng)
        case "surface":
            _paint_surface(stage, rng)
        case _:
            stage.canvas[:] = _clouds(rng, height, width, colourful=True)
            grey = stage.canvas.mean(axis=2, keepdims=True)
            stage.canvas[:] = grey + (stage.canvas - grey) * float(rng.uniform(0, 1))
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.4 else 0):
        _paint_person(stage, rng)
    if rng.random() < 0.5:  # out of focus
        sigma = width * float(rng.uniform(0.002, 0.025))
        stage.canvas[:] = cv2.GaussianBlur(stage.canvas, (0, 0), sigma)


def paint_room(stage: Stage, rng: Rng, edge: int) -> None:
    """A wall with blurred things on it, and a table top from ``edge`` down."""
    height, width = stage.owner.shape
    small = np.empty((height // 4, width // 4, 3), np.float32)
    small[:] = hsv(rng.uniform(0, 360), rng.uniform(0, 0.35), rng.uniform(0.15, 0.95))
    for _ in range(int(rng.integers(2, 14))):
        colour = hsv(rng.uniform(0, 360), rng.uniform(0, 0.7), rng.uniform(0.1, 1))
        corner = rng.uniform(-0.1, 1, 2) * (width // 4, height // 4)
        span = rng.uniform(0.03, 0.35, 2) * (width // 4, height // 4)
        if rng.random() < 0.6:
            cv2.rectangle(small, corner.astype(int).tolist(), (corner + span).astype(int).tolist(), colour, -1)
        else:
            cv2.circle(small, corner.astype(int).tolist(), int(span[0] / 2) + 1, colour, -1)
    small = cv2.GaussianBlur(small, (0, 0), width / 4 * float(rng.uniform(0.002, 0.03)) + 0.3)
    stage.canvas[:] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    top = np.array(hsv(rng.uniform(15, 45), rng.uniform(0, 0.7), rng.uniform(0.25, 0.95)), np.float32)
    grain = cv2.resize(rng.normal(0, 1, (max((height - edge) // 3, 2), 12)).astype(np.float32), (width, height - edge))
    depth = np.linspace(0.75, 1.05, height - edge, dtype=np.float32)[:, None]
    stage.canvas[edge:] = top * (depth * (1 + 0.07 * grain))[..., None]


def paint_puddle(stage: Stage, x: float, base: float, wide: float) -> None:
    """The shadow where an article stands."""
    height, width = stage.owner.shape
    mask = np.zeros((height // 4, width // 4), np.float32)
    axes = (max(int(wide * 0.7 / 4), 1), max(int(wide * 0.16 / 4), 1))
    cv2.ellipse(mask, (int(x / 4), int((base - wide * 0.04) / 4)), axes, 0, 0, 360, 0.5, -1)
    stage.canvas *= 1 - cv2.resize(cv2.GaussianBlur(mask, (0, 0), max(wide / 40, 0.5)), (width, height))[..., None]


def paint_fruit(stage: Stage, rng: Rng, edge: int) -> None:
    """A shaded ball: round clutter that is no product."""
    height, width = stage.owner.shape
    radius = max(int(height * rng.uniform(0.03, 0.09)), 4)
    axis = np.arange(-radius, radius + 1, dtype=np.float32) / radius
    across, down = np.meshgrid(axis, axis)
    inside = np.clip((1 - np.hypot(across, down)) * radius + 0.5, 0, 1).astype(np.float32)
    shade = 0.45 + 0.6 * np.clip(
        -0.45 * across - 0.6 * down + 0.6 * np.sqrt(np.clip(1 - across**2 - down**2, 0, 1)), 0, 1
    )
    colour = np.array(hsv(rng.choice([5, 25, 45, 90]), 0.85, 0.9), np.float32)
    ball = Sprite((colour * shade[..., None]).astype(np.float32), inside, inside)
    stage.paint(ball, int(rng.uniform(0, width)), int(rng.uniform(edge, height)) - 2 * radius)


def _clouds(rng: Rng, height: int, width: int, *, colourful: bool = False) -> FloatArray:
    """Noise of many sizes, like foliage, grass, stone or cloth: float32 (height, width, 3), about 0 to 255."""
    picture = np.zeros((height, width, 3), np.float32)
    falloff = float(rng.uniform(0.45, 0.95))
    grain, strength = int(rng.integers(2, 6)), 1.0
    total = 0.0
    while grain < width / 2:
        channels = 3 if colourful or grain < 8 else 1
        coarse = rng.uniform(0, 1, (max(grain * height // width, 1) + 1, grain + 1, channels)).astype(np.float32)
        layer = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        picture += strength * layer.reshape(height, width, channels)
        total += strength
        grain, strength = grain * 2, strength * falloff
    return np.clip((picture / total - 0.5) * float(rng.uniform(1.2, 2.6)) + 0.5, 0, 1) * 255


def _tinted(rng: Rng, noise: FloatArray, hue: tuple[float, float], depth: float) -> FloatArray:
    """Noise in shades of one colour."""
    tint = np.array(hsv(rng.uniform(*hue), rng.uniform(0.1, 0.75), rng.uniform(0.3, 0.95)), np.float32)
    return tint * (1 - depth + depth * noise / 128)


def _paint_landscape(stage: Stage, rng: Rng) -> None:
    """A sky over hills, trees and a meadow, sand or water."""
    height, width = stage.owner.shape
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    zenith = np.array(hsv(rng.uniform(195, 225), rng.uniform(0.1, 0.7), rng.uniform(0.5, 1)), np.float32)
    haze = np.array(hsv(rng.uniform(20, 220), rng.uniform(0, 0.25), rng.uniform(0.7, 1)), np.float32)
    stage.canvas[:] = zenith * (1 - down) + haze * down
    if rng.random() < 0.6:
        veil = np.clip(_clouds(rng, height, width) / 255 - 0.4, 0, 1)
        stage.canvas += (245 - stage.canvas) * veil
    horizon = float(rng.uniform(0.15, 0.7))
    for layer in range(int(rng.integers(1, 5))):
        knots = rng.normal(0, 0.05 + 0.05 * (layer == 0), int(rng.integers(4, 18)))
        ridge = np.interp(np.linspace(0, len(knots) - 1, width), np.arange(len(knots)), knots) + horizon
        below = np.arange(height)[:, None] > ridge[None, :] * height
        hue = (60, 140) if rng.random() < 0.65 else (15, 50)
        ground = _tinted(rng, _clouds(rng, height, width), hue, float(rng.uniform(0.2, 0.7)))
        stage.canvas[below] = ground[below]
        horizon += float(rng.uniform(0.05, 0.25))


def _paint_facade(stage: Stage, rng: Rng) -> None:
    """Houses with rows of windows, or shelves of books: a grid of rectangles, some with signs."""
    height, width = stage.owner.shape
    image = np.empty((height, width, 3), np.uint8)
    image[:] = hsv(rng.uniform(0, 360), rng.uniform(0, 0.6), rng.uniform(0.2, 0.95))
    x = -float(rng.uniform(0, 0.3)) * width
    while x < width:
        wide = width * float(rng.uniform(0.15, 0.7))
        top = int(height * rng.uniform(-0.3, 0.4))
        wall = hsv(
            rng.uniform(0, 50) if rng.random() < 0.6 else rng.uniform(0, 360), rng.uniform(0, 0.7), rng.uniform(0.2, 1)
        )
        cv2.rectangle(image, (int(x), top), (int(x + wide), height), wall, -1)
        columns, pitch = int(rng.integers(1, 12)), height * float(rng.uniform(0.06, 0.3))
        filled = float(rng.uniform(0.4, 1.0))
        pane = hsv(rng.uniform(0, 360), rng.uniform(0, 0.5), rng.uniform(0.05, 0.9))
        for row in range(int((height - top) / pitch) + 1):
            for column in range(columns):
                if rng.random() > filled:
                    continue
                corner = np.array([x + wide * (column + 0.2) / columns, top + pitch * (row + 0.2)])
                other = corner + np.array((wide * 0.6 / columns, pitch * 0.6))
                shade = tuple(float(np.clip(channel * rng.uniform(0.6, 1.3), 0, 255)) for channel in pane)
                cv2.rectangle(image, corner.astype(int).tolist(), other.astype(int).tolist(), shade, -1)
        x += wide
    stage.canvas[:] = image
    if rng.random() < 0.6:
        street = int(height * rng.uniform(0.6, 0.95))
        noise = _clouds(rng, height - street, width)
        stage.canvas[street:] = _tinted(rng, noise, (0, 60), 0.3)


def _paint_court(stage: Stage, rng: Rng) -> None:
    """Flat coloured ground with lines, and a wall."""
    height, width = stage.owner.shape
    image = np.empty((height, width, 3), np.uint8)
    image[:] = hsv(rng.uniform(60, 230), rng.uniform(0.1, 0.7), rng.uniform(0.25, 0.85))
    wall = int(height * rng.uniform(0, 0.5))
    image[:wall] = hsv(rng.uniform(0, 360), rng.uniform(0.2, 0.9), rng.uniform(0.1, 0.7))
    for _ in range(int(rng.integers(1, 6))):
        ends = rng.uniform(-0.3, 1.3, (2, 2)) * (width, height - wall) + (0, wall)
        (x1, y1), (x2, y2) = ends.astype(int).tolist()
        cv2.line(image, (x1, y1), (x2, y2), (235, 240, 240), max(int(width * rng.uniform(0.004, 0.03)), 1), cv2.LINE_AA)
    stage.canvas[:] = image + 0.15 * (_clouds(rng, height, width) - 128)


def _paint_night(stage: Stage, rng: Rng) -> None:
    """The dark with blurred lights, some seen through the windows of a car."""
    height, width = stage.owner.shape
    picture = _clouds(rng, height, width) * float(rng.uniform(0.05, 0.35))
    lights = np.zeros((height, width, 3), np.float32)
    for _ in range(int(rng.integers(2, 25))):
        colour = hsv(rng.choice([0, 30, 45, 150, 210, 330]), rng.uniform(0, 0.9), 1.0)
        spot = (rng.uniform(0, 1, 2) * (width, height)).astype(int).tolist()
        cv2.circle(lights, spot, max(int(width * rng.uniform(0.004, 0.05)), 1), colour, -1, cv2.LINE_AA)
    picture += cv2.GaussianBlur(lights, (0, 0), width * float(rng.uniform(0.003, 0.02)))
    if rng.random() < 0.6:
        dark = hsv(rng.uniform(0, 360), rng.uniform(0, 0.4), rng.uniform(0.02, 0.35))
        corner = rng.uniform(0, 1, 2) * (width, height)
        shape = np.array([(-9, 9), tuple(rng.uniform(-0.6, 0.2, 2)), tuple(rng.uniform(-0.2, 0.6, 2)), (9, 9)])
        dashboard = (corner + shape * (width, height)).astype(np.int32)
        cv2.fillPoly(picture, [dashboard], dark, cv2.LINE_AA)
    stage.canvas[:] = picture


def _paint_surface(stage: Stage, rng: Rng) -> None:
    """A plain, striped or checked surface with a little grain: a wall, a cloth, a floor."""
    height, width = stage.owner.shape
    base = np.array(hsv(rng.uniform(0, 360), rng.uniform(0, 0.6), rng.uniform(0.1, 1)), np.float32)
    other = np.array(hsv(rng.uniform(0, 360), rng.uniform(0, 0.6), rng.uniform(0.1, 1)), np.float32)
    down, across = np.mgrid[0:height, 0:width].astype(np.float32) / width
    angle = rng.uniform(0, np.pi)
    first = np.sin((across * np.cos(angle) + down * np.sin(angle)) * rng.uniform(4, 60))
    second = np.sin((across * np.sin(angle) - down * np.cos(angle)) * rng.uniform(4, 60))
    match rng.choice(["plain", "stripes", "checks"]):
        case "plain":
            share = across * float(rng.uniform(-1, 1)) + down * float(rng.uniform(-1, 1)) + 0.3
        case "stripes":
            share = (first > rng.uniform(-0.8, 0.8)).astype(np.float32)
        case _:
            share = ((first * second) > 0).astype(np.float32)
    stage.canvas[:] = base + (other - base) * np.clip(share, 0, 1)[..., None]
    stage.canvas += float(rng.uniform(0, 0.25)) * (_clouds(rng, height, width) - 128)


def _paint_person(stage: Stage, rng: Rng) -> None:
    """Somebody at a distance: head, body, arms and legs in plain clothes."""
    height, width = stage.owner.shape
    tall = height * float(rng.uniform(0.15, 0.8))
    x, y = float(rng.uniform(0, width)), float(rng.uniform(0.1, 0.9)) * height
    figure = np.clip(stage.canvas, 0, 255).astype(np.uint8)
    skin = hsv(rng.uniform(8, 26), rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.95))
    shirt, trousers = (hsv(rng.uniform(0, 360), rng.uniform(0, 0.9), rng.uniform(0.05, 1)) for _ in range(2))

    def limb(start: tuple[float, float], end: tuple[float, float], thick: float, colour: Colour) -> None:
        ends = [(int(x + px * tall), int(y + py * tall)) for px, py in (start, end)]
        cv2.line(figure, ends[0], ends[1], colour, max(int(thick * tall), 1), cv2.LINE_AA)

    for side in (-1, 1):
        foot = (side * rng.uniform(0.02, 0.25), 0.5)
        limb((side * 0.04, 0.05), foot, 0.07, trousers if rng.random() < 0.6 else skin)
        hand = (side * 0.1 + rng.uniform(-0.3, 0.3), rng.uniform(-0.4, 0.2))
        limb((side * 0.08, -0.22), hand, 0.045, skin)
    limb((0, -0.22), (0, 0.05), 0.17, shirt)
    cv2.circle(figure, (int(x), int(y - 0.36 * tall)), max(int(0.065 * tall), 1), skin, -1, cv2.LINE_AA)
    stage.canvas[:] = figure
