"""Synthetic shelf and table scenes with known boxes: numpy and OpenCV in, pictures out. No files, network or settings.

A scene is a pure function of its seed and size. Detector training, the demo pictures and the tests all draw from it.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from imgpipe_dagster.demo.backdrops import paint_fruit, paint_puddle, paint_room
from imgpipe_dagster.demo.props import turn_sprite
from imgpipe_dagster.demo.sprites import (
    Article,
    Bottle,
    Can,
    Colour,
    FloatArray,
    Rng,
    Sprite,
    View,
    draw,
    hsv,
    random_bottle,
    random_can,
    random_carton,
)
from imgpipe_dagster.demo.stage import BOTTLE, CAN, CLASS_NAMES, GAP, Box, Scene, Stage, photograph

__all__ = ["BOTTLE", "CAN", "CLASS_NAMES", "GAP", "Box", "Scene", "render_clutter", "render_scene"]


@dataclass(frozen=True)
class _Placement:
    """An article about to be painted, by the top left corner of its sprite."""

    sprite: Sprite
    article: Article
    left: int
    top: int


@dataclass(frozen=True)
class _Block:
    """What one block of a shelf holds: the same article with its faces turned, in piles of ``piles``."""

    faces: tuple[tuple[Article, Sprite], ...]
    piles: int

    @property
    def width(self) -> int:
        return self.faces[0][1].alpha.shape[1]

    @property
    def height(self) -> int:
        return self.faces[0][1].alpha.shape[0] * self.piles

    @property
    def can_be_missing(self) -> bool:
        return isinstance(self.faces[0][0], Bottle | Can)

    def place(self, rng: Rng, left: int, base: int, view: View) -> list[_Placement]:
        """One pile that stands on ``base``, from the lowest up."""
        spots = []
        for _ in range(self.piles):
            article, sprite = self.faces[int(rng.integers(len(self.faces)))]
            tall = sprite.alpha.shape[0]
            spots.append(_Placement(sprite, article, left, base - tall))
            # An article stands on the lid below it, whose far rim shows behind it.
            base -= tall - int(view.elevation * sprite.alpha.shape[1])
        return spots


def render_scene(seed: int, width: int = 1280, height: int = 960) -> Scene:
    """Draw one scene: about three of four are shop shelves, the rest bottles and cans on a table.

    Args:
        seed: Decides everything; the same seed and size give the same bytes with the same OpenCV.
        width: Pixels, at least 64.
        height: Pixels, at least 64.

    Returns:
        The picture and the boxes of all objects of which enough can be seen.

    Raises:
        ValueError: If the size is smaller than 64 pixels.
    """
    if min(width, height) < 64:
        raise ValueError(f"a scene is at least 64 pixels wide and high, not {width}x{height}")
    rng = np.random.default_rng([seed, 1])
    stage = Stage(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.int16))
    if rng.random() < 0.75:
        _build_shelves(stage, rng)
    else:
        _build_table(stage, rng)
    return photograph(stage, rng)


def render_clutter(seed: int, width: int = 1280, height: int = 960) -> Scene:
    """Draw a picture of shapes, stripes and blobs in which there is nothing to find.

    A detector that has only seen shelves sees bottles in every upright thing; these teach it otherwise.

    Args:
        seed: Decides everything.
        width: Pixels, at least 64.
        height: Pixels, at least 64.

    Returns:
        The picture, without boxes.
    """
    rng = np.random.default_rng([seed, 2])
    clouds = np.zeros((height, width, 3), np.float32)
    for grain, strength in ((4, 80), (16, 44), (64, 13)):
        coarse = rng.uniform(0, strength, (grain * height // width + 1, grain, 3)).astype(np.float32)
        clouds += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.clip(clouds, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(10, 70))):
        _scribble(image, rng)
    stage = Stage(image.astype(np.float32), np.zeros((height, width), np.int16))
    return photograph(stage, rng)


def _scribble(image: NDArray[np.uint8], rng: Rng) -> None:
    """Draw one random thing: a polygon, an ellipse, a line, a rounded bar or a grid."""
    height, width = image.shape[:2]
    size = height * float(rng.choice([0.05, 0.1, 0.2, 0.4])) * float(rng.uniform(0.6, 1.4))
    middle = rng.uniform(0, 1, 2) * (width, height)
    colour = hsv(rng.uniform(0, 360), rng.uniform(0, 0.9), rng.uniform(0.05, 1))
    x, y = middle.astype(int).tolist()
    match rng.choice(["polygon", "ellipse", "line", "bar", "grid"]):
        case "polygon":
            corners = middle + rng.uniform(-size, size, (int(rng.integers(3, 8)), 2))
            cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)
        case "ellipse":
            axes = (rng.uniform(0.2, 1, 2) * size / 2 + 1).astype(int).tolist()
            cv2.ellipse(image, (x, y), axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
        case "line":
            end = (middle + rng.uniform(-2 * size, 2 * size, 2)).astype(int).tolist()
            cv2.line(image, (x, y), end, colour, int(rng.uniform(1, size / 6 + 2)), cv2.LINE_AA)
        case "bar":
            # Upright and round like a bottle, but without a neck, a lid or a label.
            half = max(int(size * rng.uniform(0.05, 0.3)), 2)
            for step in range(half, 0, -max(half // 8, 1)):
                tone = tuple(channel * (1.1 - 0.7 * step / half) for channel in colour)
                cv2.line(image, (x, y - int(size)), (x, y + int(size)), tone, 2 * step)
        case _:
            pitch = max(int(size / rng.integers(3, 9)), 3)
            for offset in range(0, int(size), pitch):
                cv2.line(image, (x + offset, y), (x + offset, y + int(size)), colour, max(pitch // 4, 1))
                cv2.line(image, (x, y + offset), (x + int(size), y + offset), colour, max(pitch // 4, 1))


# Shelves


def _build_shelves(stage: Stage, rng: Rng) -> None:
    height, width = stage.owner.shape
    rows = int(rng.choice([1, 2, 3, 4], p=[0.25, 0.4, 0.28, 0.07]))
    pitch = height / rows * rng.uniform(0.92, 1.12)
    board = pitch * rng.uniform(0.07, 0.12)
    top = -rng.uniform(0, 0.15) * pitch
    eye = rng.uniform(0.1, 0.5) * height
    light = float(rng.uniform(-0.7, 0.7))
    wall = np.array(hsv(rng.uniform(0, 360), rng.uniform(0, 0.25), rng.uniform(0.3, 0.92)), np.float32)
    wood = np.array(hsv(rng.uniform(20, 45), rng.uniform(0, 0.5), rng.uniform(0.35, 0.95)), np.float32)
    strip = np.array(
        hsv(*[(0, 0, 0.93), (50, 0.8, 0.95), (355, 0.8, 0.75), (210, 0.3, 0.8), (0, 0, 0.3)][rng.integers(5)])
    )
    panel = int(rng.integers(3))
    fullness = rng.uniform(0.55, 0.95)
    while top < height:
        front = top + pitch - board
        view = View(float(np.clip(0.03 + 0.22 * (front - eye) / height, 0.015, 0.2)), light)
        _paint_compartment(stage, rng, top, front, wall, wood, panel, view)
        _fill_row(stage, rng, top, front, view, fullness)
        _paint_board(stage, rng, front, board, wood, strip)
        if rng.random() < 0.3:
            _paint_wobbler(stage, rng, rng.uniform(0.05, 0.95) * width, front + board * 0.5, pitch * 0.11)
        top += pitch
    if rng.random() < 0.12:
        _paint_passer_by(stage, rng)


def _paint_compartment(
    stage: Stage, rng: Rng, top: float, front: float, wall: FloatArray, wood: FloatArray, panel: int, view: View
) -> None:
    """The back wall with the upper shelf's shadow, and the board's surface that the products stand on."""
    height, width = stage.owner.shape
    surface = front - (front - top) * (0.02 + 0.35 * view.elevation)
    y1, y2, y3 = (int(np.clip(y, 0, height)) for y in (top, surface, front))
    if y2 > y1:
        depth = np.linspace(0, 1, y2 - y1, dtype=np.float32)[:, None]
        shade = 0.5 + 0.5 * np.minimum(depth / rng.uniform(0.25, 0.7), 1) - 0.25 * np.maximum(depth - 0.75, 0)
        across = np.arange(width, dtype=np.float32)[None, :] / width
        if panel == 1:
            shade = shade * np.where((across * rng.integers(6, 14)) % 1 < 0.03, 0.75, 1)
        elif panel == 2:
            pegs = (np.arange(y1, y2)[:, None] % max(height // 40, 6) < max(height // 160, 2)) & (
                np.arange(width)[None, :] % max(height // 40, 6) < max(height // 160, 2)
            )
            shade = shade * np.where(pegs, 0.6, 1)
        stage.canvas[y1:y2] = wall * np.broadcast_to(shade, (y2 - y1, width))[..., None]
    if y3 > y2:
        stage.canvas[y2:y3] = wood * np.linspace(0.55, 0.9, y3 - y2, dtype=np.float32)[:, None, None]
    stage.owner[y1:y3] = 0


def _fill_row(stage: Stage, rng: Rng, top: float, front: float, view: View, fullness: float) -> None:
    """Stock one row from left to right: blocks of one article each, some places of which are empty."""
    width = stage.owner.shape[1]
    clear = front - top
    base = front - clear * 0.015
    placements: list[_Placement] = []
    x = -float(rng.uniform(0, 0.1)) * width
    while x < width:
        block = _choose_block(rng, clear, view)
        pace = block.width * float(rng.uniform(1.02, 1.14))
        slots = int(rng.integers(1, 7 if block.can_be_missing else 4))
        stocked = rng.random(slots) < (fullness if block.can_be_missing else 1)
        stocked[[0, -1]] = True
        for slot in np.flatnonzero(stocked):
            left = int(x + slot * pace + rng.uniform(0, 0.03) * block.width)
            placements += block.place(rng, left, int(base + rng.uniform(0, 0.012) * clear), view)
        for first, last in _runs(~stocked):
            stage.add_gap(x + first * pace - (pace - block.width), base - block.height, x + last * pace, base)
        x += slots * pace + block.width * float(rng.uniform(-0.02, 0.08))
    _cast_shadows(stage, placements, clear)
    lift, shift = int(clear * 0.12 * view.elevation), int(clear * 0.01)
    for spot in placements:
        stage.paint(spot.sprite, spot.left + shift, spot.top - lift, gain=0.55)
    for spot in placements:
        stage.paint(spot.sprite, spot.left, spot.top, spot.article, gain=float(rng.uniform(0.94, 1.04)))


def _choose_block(rng: Rng, clear: float, view: View) -> "_Block":
    """An article for a row ``clear`` pixels high: bottles, single or piled cans, cartons."""
    kind = rng.choice(["bottle", "can", "carton"], p=[0.54, 0.36, 0.1])
    if kind == "bottle":
        article = random_bottle(rng, opened=False)
        tall = max(int(clear * rng.uniform(0.6, 0.92)), 12)
        faces: list[Article] = [article, replace(article, phase=article.phase + 0.5)]
        if rng.random() < 0.3:
            faces.append(replace(article, opened=True, fill=float(rng.uniform(0.3, 0.6))))
        return _Block(tuple((face, draw(face, tall, view)) for face in faces), 1)
    if kind == "can":
        article = random_can(rng)
        tall = max(int(clear * rng.uniform(0.3, 0.6) * (0.75 if article.tin else 1)), 12)
        piles = int(rng.integers(1, max(int(clear * 0.92 / tall), 1) + 1))
        turned = replace(article, phase=article.phase + 0.6)
        return _Block(((article, draw(article, tall, view)), (turned, draw(turned, tall, view))), piles)
    carton = random_carton(rng)
    return _Block(((carton, draw(carton, max(int(clear * rng.uniform(0.4, 0.9)), 12), view)),), 1)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open index ranges in which the flags hold."""
    steps = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(first), int(last)) for first, last in zip(steps[::2], steps[1::2], strict=True)]


def _cast_shadows(stage: Stage, placements: "list[_Placement]", clear: float) -> None:
    """Soft shadows of a row's products on the wall and on the board."""
    if not placements:
        return
    height, width = stage.owner.shape
    scale = 8
    reach = clear * 0.15
    y1 = int(max(min(spot.top for spot in placements) - reach, 0))
    y2 = int(min(max(spot.top + spot.sprite.alpha.shape[0] for spot in placements) + reach, height))
    if y2 <= y1:
        return
    mask = np.zeros(((y2 - y1) // scale + 1, width // scale + 1), np.float32)
    for spot in placements:
        tall, wide = (side // scale for side in spot.sprite.alpha.shape)
        left, top = spot.left // scale, (spot.top - y1) // scale
        mask[max(top, 0) : max(top + tall + 2, 0), max(left, 0) : max(left + wide + 1, 0)] = 0.35
    mask = cv2.GaussianBlur(mask, (0, 0), max(clear / scale * 0.05, 0.8))
    shade = 1 - cv2.resize(mask, (mask.shape[1] * scale, mask.shape[0] * scale))[: y2 - y1, :width]
    stage.canvas[y1:y2] *= shade[..., None]


def _paint_board(stage: Stage, rng: Rng, front: float, board: float, wood: FloatArray, strip: FloatArray) -> None:
    """The board's front edge with its price strip and price tags."""
    height, width = stage.owner.shape
    y1, y2 = int(np.clip(front, 0, height)), int(np.clip(front + board, 0, height))
    if y2 <= y1:
        return
    stage.canvas[y1:y2] = wood * np.linspace(1.0, 0.6, y2 - y1, dtype=np.float32)[:, None, None]
    stage.owner[y1:y2] = 0
    rail_top, rail_bottom = int(front + board * 0.12), int(front + board * 0.88)
    stage.canvas[max(rail_top, 0) : max(rail_bottom, 0)] = strip * 0.95
    x = float(rng.uniform(0, 0.1)) * width
    tag_height = int(board * 0.68)
    while x < width and tag_height >= 6:
        tag_width = int(tag_height * rng.uniform(1.4, 2.2))
        tag = np.empty((tag_height, tag_width, 3), np.uint8)
        tag[:] = (120, 245, 255) if rng.random() < 0.25 else (248, 248, 248)
        _print(tag, f"{rng.integers(0, 20)}.{rng.choice([29, 49, 79, 95, 99])}", (30, 20, 20))
        stage.paint(_card(tag, np.full(tag.shape[:2], 255, np.uint8)), int(x), int(front + board * 0.16))
        x += tag_width + width * float(rng.uniform(0.04, 0.16))


def _paint_wobbler(stage: Stage, rng: Rng, x: float, y: float, radius: float) -> None:
    """A round promotion sign in front of the products."""
    size = max(int(radius), 4)
    sign = np.empty((2 * size + 1, 2 * size + 1, 3), np.uint8)
    sign[:] = hsv(rng.uniform(0, 60), 0.9, 0.95)
    _print(sign, f"-{rng.integers(1, 7)}0%", (255, 255, 255))
    mask = np.zeros(sign.shape[:2], np.uint8)
    cv2.circle(mask, (size, size), size, 255, -1, cv2.LINE_AA)
    stage.paint(_card(sign, mask), int(x) - size, int(y) - size)


def _print(card: NDArray[np.uint8], text: str, ink: Colour) -> None:
    """Write a line across the middle of a flat picture."""
    height, width = card.shape[:2]
    across, high = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 1.0, 1)[0]
    scale = min(0.84 * width / across, 0.7 * height / high)
    spot = (int((width - across * scale) / 2), int((height + high * scale) / 2))
    cv2.putText(card, text, spot, cv2.FONT_HERSHEY_DUPLEX, scale, ink, max(int(height / 25), 1), cv2.LINE_AA)


def _card(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Sprite:
    """A sprite from a flat picture and its mask (0 to 255)."""
    inside = mask.astype(np.float32) / 255
    return Sprite(image.astype(np.float32), inside, inside)


def _paint_passer_by(stage: Stage, rng: Rng) -> None:
    """A blurred shoulder that hides one side of the picture."""
    height, width = stage.owner.shape
    side = 0 if rng.random() < 0.5 else width
    reach = (int(width * rng.uniform(0.08, 0.2)), int(height * rng.uniform(0.4, 0.7)))
    centre = (side, int(height * rng.uniform(0.8, 1.1)))
    mask = np.zeros((height // 4, width // 4), np.float32)
    cv2.ellipse(mask, (centre[0] // 4, centre[1] // 4), (reach[0] // 4, reach[1] // 4), 0, 0, 360, 1.0, -1)
    soft = cv2.resize(cv2.GaussianBlur(mask, (0, 0), width / 200), (width, height))[..., None]
    cloth = np.array(hsv(rng.uniform(0, 360), rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.5)), np.float32)
    stage.canvas += (cloth - stage.canvas) * soft
    stage.owner[soft[..., 0] > 0.5] = 0


# Tables


def _build_table(stage: Stage, rng: Rng) -> None:
    """A few products on a table in a blurred room, small to close-up, some tilted."""
    height, width = stage.owner.shape
    edge = int(height * rng.uniform(0.45, 0.8))
    paint_room(stage, rng, edge)
    light = float(rng.uniform(-0.7, 0.7))
    view = View(float(rng.uniform(0.06, 0.22)), light)
    count = int(rng.integers(1, 7))
    size = float(rng.uniform(0.3, 0.6) if count > 2 else rng.uniform(0.45, 1.05))
    for base in np.sort(rng.uniform(edge + 0.1 * (height - edge), height * 1.02, count)):
        scale = size * (0.75 + 0.35 * (base - edge) / (height - edge))
        kind = rng.choice(["bottle", "can", "carton"], p=[0.66, 0.24, 0.1])
        if kind == "bottle":
            article: Article = random_bottle(rng, opened=bool(rng.random() < 0.45))
        elif kind == "can":
            article, scale = random_can(rng), scale * 0.55
        else:
            article, scale = random_carton(rng), scale * 0.8
        sprite = draw(article, max(int(height * scale), 16), view)
        if rng.random() < 0.3:
            sprite = turn_sprite(sprite, float(rng.uniform(-22, 22)))
        tall, wide = sprite.alpha.shape
        left = int(rng.uniform(-0.2 * wide, width - 0.8 * wide))
        paint_puddle(stage, left + wide / 2 - light * wide * 0.5, base, wide)
        stage.paint(sprite, left, int(base) - tall, article)
    for _ in range(int(rng.integers(0, 4))):
        paint_fruit(stage, rng, edge)
