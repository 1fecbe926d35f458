"""Rendered photographs of bottles, opened or closed, and of anything else: what the demo classifier learns from.

A picture is a pure function of its seed, status and size. The bottle is its subject: it is held in a hand or stands on
a table, fills at least half of the picture's height, and its cap or its open mouth is in the picture and not hidden.
"""

from dataclasses import replace
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from imgpipe_dagster.demo.backdrops import paint_backdrop, paint_fruit, paint_puddle, paint_room
from imgpipe_dagster.demo.props import draw_glass, draw_hand, draw_loose_cap, turn_sprite
from imgpipe_dagster.demo.render import render_clutter, render_scene
from imgpipe_dagster.demo.sprites import (
    Bottle,
    Colour,
    Rng,
    Sprite,
    View,
    draw,
    hsv,
    packaging_colour,
    random_bottle,
    random_can,
    random_carton,
)
from imgpipe_dagster.demo.stage import Box, Stage, photograph
from imgpipe_dagster.models.framing import fit

Image = NDArray[np.uint8]


class BottleStatus(StrEnum):
    """What a picture shows: the class names of the demo classifier, in its order."""

    BACKGROUND = "background"
    CLOSED = "closed"
    OPENED = "opened"


_BEERS = (("longneck", 0.5), ("stubby", 0.12), ("bordeaux", 0.06), ("burgundy", 0.06), ("soda", 0.07), ("water", 0.06),
          ("spirits", 0.06), ("juice", 0.04), ("sauce", 0.03))  # fmt: skip
_BEER_LIQUIDS = ((38, 0.85, 0.85), (44, 0.8, 0.92), (30, 0.9, 0.6), (24, 0.85, 0.38), (40, 0.7, 0.7))
_CROP = 192  # side of a crop from a shelf, in pixels
_SHELF_BOTTLE = 120  # pixels: of a smaller bottle on a shelf the cap cannot be told
_CAP_CONTRAST = 110  # at least, between cap and glass: the sum of the differences of three channels, 0 to 765
_ROOM = 0.35  # pixels around the picture that are drawn too, in parts of its height, so that it can be tilted


def render_status(seed: int, status: BottleStatus, width: int = 224, height: int = 224) -> Image:
    """Draw one picture of a bottle with that status, or of no bottle.

    Args:
        seed: Decides everything else.
        status: What is to be seen.
        width: Pixels, at least 64.
        height: Pixels, at least 64.

    Returns:
        uint8 (height, width, 3), BGR; some are crops from a shelf, which have a size of their own.
    """
    rng = np.random.default_rng([seed, 3])
    if rng.random() < 0.16:
        shelf = _from_shelf(seed, status, rng)
        if shelf is not None:
            return shelf
    if status is BottleStatus.BACKGROUND:
        return _picture_without_bottle(seed, rng, width, height)
    stage = _empty_stage(width, height)
    paint_backdrop(stage, rng)
    _paint_bottle(stage, rng, opened=status is BottleStatus.OPENED)
    return _photograph(stage, rng)


def _empty_stage(width: int, height: int) -> Stage:
    return Stage(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.int16))


def _photograph(stage: Stage, rng: Rng) -> Image:
    """Take the picture, some of them in bad light."""
    if rng.random() < 0.35:
        cast = np.array(hsv(rng.uniform(0, 360), rng.uniform(0, 0.3), 1.0), np.float32) / 255
        gain = float(rng.uniform(0.75, 1.0))  # darker ones would hide what tells the status
        stage.canvas *= gain * cast
    return photograph(stage, rng).image


def _paint_bottle(stage: Stage, rng: Rng, *, opened: bool) -> None:
    """A bottle, held or standing, with things around it."""
    height, width = stage.owner.shape
    light = float(rng.uniform(-0.8, 0.8))
    view = View(float(rng.uniform(0.05, 0.3)), light)
    held = rng.random() < 0.6
    if not held:
        _paint_table_top(stage, rng)
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.45 else 0):
        _paint_thing(stage, rng, view)
    bottle = _beer(rng, opened=opened)
    tall = height * float(rng.uniform(0.55, 0.92) if rng.random() < 0.6 else rng.uniform(0.92, 1.5))
    tilt = float(np.clip(rng.normal(0, 9), -20, 20)) if held or rng.random() < 0.3 else 0.0
    top = height * float(rng.uniform(0.07, max(0.97 - tall / height, 0.2)))
    axis = width / 2 + height * float(rng.uniform(-0.18, 0.18))
    _paint_held(stage, rng, bottle, view, axis=axis, top=top, tall=tall, tilt=tilt, held=held)
    if rng.random() < 0.3:
        _paint_caps(stage, rng, view)


def _beer(rng: Rng, *, opened: bool) -> Bottle:
    """A bottle, mostly of beer: full if it is closed, anything from full to empty if not."""
    bottle = random_bottle(rng, opened=opened)
    shapes, chances = zip(*_BEERS, strict=True)
    shape = str(rng.choice(shapes, p=chances))
    material = str(rng.choice(["glass", "clear"])) if shape not in {"soda", "water", "juice", "sauce"} else "clear"
    dark = hsv(rng.choice([20, 28, 110, 130]), rng.uniform(0.5, 0.85), rng.uniform(0.2, 0.5))
    glass = dark if material == "glass" else _clear_glass(rng)
    liquid = hsv(*_BEER_LIQUIDS[rng.integers(len(_BEER_LIQUIDS))]) if rng.random() < 0.75 else bottle.liquid
    fill = float(rng.choice([1.2, rng.uniform(0.35, 0.9), rng.uniform(0.1, 0.35)], p=[0.4, 0.45, 0.15]))
    return replace(
        bottle,
        shape=shape,
        material=material,
        glass=glass,
        cap=_contrasting(bottle.cap, glass, rng),
        liquid=liquid,
        fill=fill if opened else float(rng.uniform(0.1, 0.27)),
        phase=float(rng.uniform(-0.9, 0.9)),
        foam=float(rng.uniform(0.01, 0.07)) if rng.random() < 0.35 else 0.0,
    )


def _clear_glass(rng: Rng) -> Colour:
    return hsv(rng.uniform(150, 210), rng.uniform(0.02, 0.15), rng.uniform(0.7, 0.95))


def _contrasting(cap: Colour, glass: Colour, rng: Rng) -> Colour:
    """The cap's colour, or another one, that can be told from the glass."""
    while sum(abs(one - other) for one, other in zip(cap, glass, strict=True)) < _CAP_CONTRAST:
        cap = packaging_colour(rng) if rng.random() < 0.7 else hsv(45, rng.uniform(0.1, 0.6), rng.uniform(0.6, 0.95))
    return cap


def _paint_held(
    stage: Stage,
    rng: Rng,
    bottle: Bottle,
    view: View,
    *,
    axis: float,
    top: float,
    tall: float,
    tilt: float,
    held: bool,
) -> None:
    """Paint a bottle and the hand that holds it, tilted about the middle of what is seen of it.

    Args:
        stage: Painted on.
        rng: Decides the hand.
        bottle: What is held.
        view: Camera and light.
        axis: Where its axis is, in pixels from the left.
        top: Where it ends above, in pixels; negative where that is out of the picture.
        tall: Its height in pixels.
        tilt: Degrees.
        held: Whether there is a hand.
    """
    height, width = stage.owner.shape
    room = int(_ROOM * height)
    size = (height + 2 * room, width + 2 * room)
    sprite = draw(bottle, int(tall), view)
    half = sprite.alpha.shape[1] / 2
    layers = [_on_layer(sprite, axis + room - half, top + room, size)]
    seen_end = min(top + tall, height)
    if held:
        grip = max(top + tall * float(rng.uniform(0.38, 0.9)), 0.3 * height)
        behind, front = draw_hand(rng, size, (axis + room, min(grip, 1.05 * height) + room), half)
        layers = [behind, *layers, front]
    else:
        paint_puddle(stage, axis - view.light * half, min(top + tall, 2 * height), 2 * half)
    middle = (axis + room, (max(top, 0) + seen_end) / 2 + room)
    turn = cv2.getRotationMatrix2D(middle, tilt, 1.0)
    turn[:, 2] -= room
    for layer in layers:
        image, alpha, coverage = (
            cv2.warpAffine(part, turn, (width, height), flags=cv2.INTER_LINEAR)
            for part in (layer.image, layer.alpha, layer.coverage)
        )
        stage.paint(Sprite(image, alpha, coverage), 0, 0)


def _on_layer(sprite: Sprite, left: float, top: float, size: tuple[int, int]) -> Sprite:
    """A sprite on a transparent layer of that height and width; what lies outside is cut off."""
    layer = Sprite(np.zeros((*size, 3), np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32))
    tall, wide = sprite.alpha.shape
    x, y = int(left), int(top)
    rows, columns = slice(max(y, 0), min(y + tall, size[0])), slice(max(x, 0), min(x + wide, size[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        part = np.s_[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
        layer.image[rows, columns] = sprite.image[part]
        layer.alpha[rows, columns] = sprite.alpha[part]
        layer.coverage[rows, columns] = sprite.coverage[part]
    return layer


def _paint_table_top(stage: Stage, rng: Rng) -> None:
    """A table from somewhere down, before the backdrop."""
    height, width = stage.owner.shape
    edge = int(height * rng.uniform(0.35, 0.95))
    table = _empty_stage(width, height)
    paint_room(table, rng, edge)
    stage.canvas[edge:] = table.canvas[edge:]


def _paint_thing(stage: Stage, rng: Rng, view: View) -> None:
    """Something that is no bottle: a glass, a can, a carton, a ball, a loose cap."""
    height, width = stage.owner.shape
    tall = int(height * rng.uniform(0.12, 0.75))
    match rng.choice(["glass", "can", "carton", "ball", "cap"], p=[0.3, 0.3, 0.15, 0.1, 0.15]):
        case "glass":
            sprite = draw_glass(rng, tall, view)
        case "can":
            sprite = draw(random_can(rng), tall, view)
        case "carton":
            sprite = draw(random_carton(rng), tall, view)
        case "cap":
            sprite = draw_loose_cap(rng, int(width * rng.uniform(0.04, 0.3)), view)
        case _:
            paint_fruit(stage, rng, int(0.4 * height))
            return
    if rng.random() < 0.3:
        sprite = turn_sprite(sprite, float(rng.uniform(-40, 40)))
    base = float(rng.uniform(0.5, 1.1)) * height
    stage.paint(sprite, int(rng.uniform(-0.15, 0.95) * width), int(base) - sprite.alpha.shape[0])


def _paint_caps(stage: Stage, rng: Rng, view: View) -> None:
    """Loose caps low in the picture, beside opened and closed bottles alike."""
    height, width = stage.owner.shape
    for _ in range(int(rng.integers(1, 4))):
        cap = draw_loose_cap(rng, int(width * rng.uniform(0.04, 0.12)), view)
        stage.paint(cap, int(rng.uniform(0, 0.95) * width), int(rng.uniform(0.75, 0.97) * height))


def _picture_without_bottle(seed: int, rng: Rng, width: int, height: int) -> Image:
    """A place, things, a hand that holds none or another thing, or sheer clutter."""
    if rng.random() < 0.12:
        return render_clutter(seed, width, height).image
    stage = _empty_stage(width, height)
    paint_backdrop(stage, rng)
    view = View(float(rng.uniform(0.01, 0.25)), float(rng.uniform(-0.8, 0.8)))
    if rng.random() < 0.35:
        _paint_table_top(stage, rng)
    things = int(rng.integers(1, 7)) if rng.random() < 0.5 else 0
    for _ in range(things):
        _paint_thing(stage, rng, view)
    if rng.random() < 0.22:
        _paint_hand_with_other(stage, rng, view)
    return _photograph(stage, rng)


def _paint_hand_with_other(stage: Stage, rng: Rng, view: View) -> None:
    """A hand, empty or around a can, a glass or a carton."""
    height, width = stage.owner.shape
    half = width * float(rng.uniform(0.08, 0.25))
    axis, grip = width * float(rng.uniform(0.2, 0.8)), height * float(rng.uniform(0.3, 1.0))
    behind, front = draw_hand(rng, (height, width), (axis, grip), half)
    stage.paint(behind, 0, 0)
    if rng.random() < 0.7:
        tall = int(height * rng.uniform(0.4, 1.0))
        other = rng.choice(["can", "glass", "carton"])
        sprite = (
            draw_glass(rng, tall, view)
            if other == "glass"
            else draw(random_can(rng) if other == "can" else random_carton(rng), tall, view)
        )
        scale = 2 * half / sprite.alpha.shape[1]
        layers = (sprite.image, sprite.alpha, sprite.coverage)
        fitted = Sprite(*(cv2.resize(layer, None, fx=scale, fy=scale) for layer in layers))
        tall = fitted.alpha.shape[0]
        stage.paint(fitted, int(axis - half), int(grip - tall * rng.uniform(0.35, 0.7)))
    stage.paint(front, 0, 0)


def _from_shelf(seed: int, status: BottleStatus, rng: Rng) -> Image | None:
    """One object of a shelf or table with that status, as ``classify_crop`` cuts it; None if the scene has none."""
    scene = render_scene(seed, 800, 600)
    # Of a bottle whose box begins at the upper edge, the picture may have cut off the mouth.
    boxes = [
        box
        for box in scene.boxes
        if _status_of(box) is status
        and (status is BottleStatus.BACKGROUND or (box.y2 - box.y1 > _SHELF_BOTTLE and box.y1 > 2))
        and box.y2 - box.y1 > 40
    ]
    if not boxes:
        return None
    box = boxes[int(rng.integers(len(boxes)))]
    jitter = rng.normal(0, 0.015, 4) * np.array([box.x2 - box.x1, box.y2 - box.y1] * 2)
    crop = np.empty((_CROP, _CROP, 3), np.uint8)
    fit(scene.image, np.array([box.x1, box.y1, box.x2, box.y2]) + jitter, crop)
    return crop


def _status_of(box: Box) -> BottleStatus:
    match box.opened:
        case None:
            return BottleStatus.BACKGROUND
        case True:
            return BottleStatus.OPENED
        case False:
            return BottleStatus.CLOSED
