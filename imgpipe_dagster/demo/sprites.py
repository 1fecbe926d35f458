"""Single shelf articles (bottles, cans, cartons) drawn from nothing: sprites with opacity. No scenes, files, settings.

A bottle or can is a solid of revolution: a profile gives the radius at each height, the cylinder's normal gives the
light, and labels are wrapped around it. All names and labels are invented.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

# float32 throughout; the stubs of NumPy and OpenCV cannot promise it.
FloatArray = NDArray[Any]
Mask = NDArray[np.bool_]
Colour = tuple[float, float, float]
Rng = np.random.Generator

_BRANDS = (
    "LUMO",
    "ORVA",
    "TELLU",
    "NIMBO",
    "ZAVI",
    "KESTO",
    "MIRLA",
    "OLUNA",
    "RUBO",
    "SELVA",
    "TARN",
    "WENDA",
    "PYRA",
)
_LINES = ("natural", "extra fine", "since 1921", "no sugar", "premium", "original", "lemon", "classic", "0.5 l", "dry")
_FONTS = (cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)


@dataclass(frozen=True)
class Sprite:
    """One drawn article.

    Attributes:
        image: float32, height x width x 3, BGR from 0 to 255.
        alpha: float32, height x width, opacity from 0 to 1 (glass lets the background through).
        coverage: float32, height x width, 1 inside the silhouette and 0 outside, whatever the opacity.
    """

    image: FloatArray
    alpha: FloatArray
    coverage: FloatArray


@dataclass(frozen=True)
class View:
    """How articles are seen: camera elevation (0 is eye level, about 0.2 from above) and the light's side (-1 to 1)."""

    elevation: float = 0.08
    light: float = -0.3


@dataclass(frozen=True)
class BottleShape:
    """A silhouette, and where its parts lie.

    Attributes:
        aspect: Width / height.
        profile: (distance from the top in parts of the height, radius in parts of the half-width) pairs.
        cap_bottom: Where the cap ends, in parts of the height.
        label: Where the label begins and ends, in parts of the height.
        materials: Of these one is drawn.
        smooth: Length over which the profile's corners are rounded, in parts of the height.
    """

    aspect: float
    profile: tuple[tuple[float, float], ...]
    cap_bottom: float
    label: tuple[float, float]
    materials: tuple[str, ...]
    smooth: float = 0.03


# fmt: off
BOTTLE_SHAPES: dict[str, BottleShape] = {
    "bordeaux": BottleShape(
        0.25, ((0, 0.36), (0.2, 0.37), (0.24, 0.4), (0.33, 0.96), (0.37, 1), (0.97, 1), (1, 0.95)),
        0.13, (0.5, 0.86), ("glass",),
    ),
    "burgundy": BottleShape(
        0.28, ((0, 0.33), (0.18, 0.34), (0.3, 0.62), (0.45, 0.97), (0.5, 1), (0.97, 1), (1, 0.95)),
        0.12, (0.57, 0.85), ("glass",),
    ),
    "longneck": BottleShape(
        0.27, ((0, 0.43), (0.03, 0.43), (0.04, 0.37), (0.2, 0.42), (0.3, 0.56), (0.42, 0.98), (0.46, 1), (0.97, 1),
               (1, 0.93)),
        0.036, (0.52, 0.83), ("glass", "glass", "clear"),
    ),
    "stubby": BottleShape(
        0.38, ((0, 0.36), (0.05, 0.36), (0.06, 0.32), (0.16, 0.4), (0.32, 0.97), (0.36, 1), (0.97, 1), (1, 0.93)),
        0.05, (0.45, 0.83), ("glass", "clear"),
    ),
    "soda": BottleShape(
        0.31, ((0, 0.35), (0.055, 0.35), (0.065, 0.4), (0.075, 0.33), (0.1, 0.36), (0.2, 0.76), (0.3, 1), (0.5, 1),
               (0.6, 0.88), (0.72, 0.97), (0.94, 0.97), (1, 0.78)),
        0.056, (0.32, 0.53), ("pet", "pet", "clear"),
    ),
    "water": BottleShape(
        0.28, ((0, 0.38), (0.05, 0.38), (0.06, 0.44), (0.07, 0.36), (0.1, 0.42), (0.22, 0.93), (0.27, 1), (0.36, 0.94),
               (0.4, 1), (0.66, 1), (0.7, 0.94), (0.76, 1), (0.82, 0.94), (0.88, 1), (0.96, 1), (1, 0.85)),
        0.05, (0.42, 0.65), ("clear", "clear", "pet"), smooth=0.015,
    ),
    "juice": BottleShape(
        0.37, ((0, 0.55), (0.08, 0.55), (0.09, 0.5), (0.12, 0.54), (0.27, 0.97), (0.32, 1), (0.96, 1), (1, 0.92)),
        0.085, (0.4, 0.84), ("clear", "pet", "opaque"),
    ),
    "milk": BottleShape(
        0.42, ((0, 0.46), (0.08, 0.46), (0.09, 0.4), (0.12, 0.42), (0.3, 0.97), (0.36, 1), (0.96, 1), (1, 0.93)),
        0.08, (0.42, 0.86), ("opaque",),
    ),
    "spirits": BottleShape(
        0.36, ((0, 0.32), (0.11, 0.32), (0.12, 0.27), (0.22, 0.28), (0.26, 0.42), (0.3, 0.95), (0.33, 1), (0.97, 1),
               (1, 0.97)),
        0.11, (0.45, 0.85), ("glass", "clear", "clear"), smooth=0.015,
    ),
    "sauce": BottleShape(
        0.36, ((0, 0.4), (0.03, 0.44), (0.13, 0.56), (0.135, 0.5), (0.2, 0.8), (0.3, 0.98), (0.6, 0.9), (0.9, 1),
               (1, 0.9)),
        0.13, (0.36, 0.82), ("opaque", "clear"),
    ),
}
# Hue, saturation, value.
_GLASSES = {
    "glass": ((115, 0.6, 0.33), (95, 0.55, 0.25), (25, 0.8, 0.3), (20, 0.75, 0.2), (215, 0.7, 0.45)),
    "pet": ((130, 0.5, 0.6), (205, 0.4, 0.75), (20, 0.65, 0.4), (0, 0.0, 0.85)),
    "clear": ((175, 0.05, 0.8), (200, 0.1, 0.85), (210, 0.03, 0.9)),
}
_LIQUIDS = (
    (40, 0.85, 0.85), (28, 0.9, 0.8), (25, 0.9, 0.2), (350, 0.85, 0.5), (200, 0.08, 0.9), (90, 0.6, 0.65),
    (52, 0.5, 0.9),
)
# fmt: on


@dataclass(frozen=True)
class Bottle:
    """One bottle article, enough to draw it at any size.

    Attributes:
        shape: Key of ``BOTTLE_SHAPES``.
        material: glass, pet, clear or opaque.
        glass: Colour of the body.
        liquid: Colour of the contents.
        fill: Where the liquid begins, in parts of the height from the top.
        cap: Colour of the cap.
        opened: Whether the cap is gone.
        label_seed: Decides the label.
        phase: Turns the label (radians).
        foam: Thickness of the foam on the liquid, in parts of the height.
        label_seed: Decides the label.
        phase: Turn of the label in radians.
    """

    shape: str
    material: str
    glass: Colour
    liquid: Colour
    fill: float
    cap: Colour
    opened: bool
    label_seed: int
    phase: float = 0.0
    foam: float = 0.0


@dataclass(frozen=True)
class Can:
    """One can article: a drinks can, or a ``tin`` (ribbed and wide). ``phase`` turns the label (radians)."""

    aspect: float
    tin: bool
    label_seed: int
    phase: float = 0.0


@dataclass(frozen=True)
class Carton:
    """One cardboard box: clutter between the others, no class of its own."""

    aspect: float
    label_seed: int


Article = Bottle | Can | Carton


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A BGR colour (0 to 255) from hue in degrees and saturation and value from 0 to 1."""
    pixel = np.array([[[hue % 360, saturation, value]]], np.float32)
    blue, green, red = (cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0] * 255).tolist()
    return blue, green, red


def packaging_colour(rng: Rng) -> Colour:
    """A packaging colour: mostly saturated, sometimes white, cream or nearly black."""
    kind = rng.random()
    if kind < 0.12:
        return hsv(40, rng.uniform(0, 0.12), rng.uniform(0.88, 0.98))
    if kind < 0.2:
        return hsv(rng.uniform(0, 360), 0.3, rng.uniform(0.08, 0.2))
    return hsv(rng.uniform(0, 360), rng.uniform(0.55, 0.95), rng.uniform(0.4, 0.95))


def random_bottle(rng: Rng, *, opened: bool) -> Bottle:
    """A random bottle with or without its cap."""
    shape = str(rng.choice(list(BOTTLE_SHAPES)))
    material = str(rng.choice(BOTTLE_SHAPES[shape].materials))
    if material == "opaque":
        glass = packaging_colour(rng) if rng.random() < 0.6 else hsv(40, 0.04, 0.95)
    else:
        glass = hsv(*_GLASSES[material][rng.integers(len(_GLASSES[material]))])
    return Bottle(
        shape=shape,
        material=material,
        glass=glass,
        liquid=hsv(*_LIQUIDS[rng.integers(len(_LIQUIDS))]),
        fill=float(rng.uniform(0.2, 0.7) if opened else rng.uniform(0.13, 0.24)),
        cap=packaging_colour(rng) if rng.random() < 0.8 else hsv(45, 0.5, 0.75),
        opened=opened,
        label_seed=int(rng.integers(2**31)),
        phase=float(rng.uniform(-0.4, 0.4)),
    )


def random_can(rng: Rng) -> Can:
    """A random drinks can (standard or slim) or tin."""
    tin = bool(rng.random() < 0.25)
    aspect = rng.uniform(0.66, 0.85) if tin else rng.choice([0.54, 0.54, 0.44]) * rng.uniform(0.96, 1.04)
    return Can(float(aspect), tin, int(rng.integers(2**31)), float(rng.uniform(-0.4, 0.4)))


def random_carton(rng: Rng) -> Carton:
    """A random cardboard box."""
    return Carton(float(rng.uniform(0.5, 1.1)), int(rng.integers(2**31)))


def draw(article: Article, height: int, view: View) -> Sprite:
    """Draw an article.

    Args:
        article: What to draw.
        height: Its height in pixels, at least 8.
        view: Camera elevation and light.

    Returns:
        The sprite, cropped to the article.
    """
    match article:
        case Bottle():
            return _draw_bottle(article, height, view)
        case Can():
            return _draw_can(article, height, view)
        case Carton():
            return _draw_carton(article, height, view)


def label_art(seed: int, height: int, width: int, style: Literal["band", "wrap"]) -> FloatArray:
    """Invented packaging art: colours, stripes, an emblem and text.

    Args:
        seed: Decides the art.
        height: Pixels.
        width: Pixels.
        style: ``band`` is a paper label with borders, ``wrap`` covers a whole can or carton.

    Returns:
        float32, height x width x 3, BGR from 0 to 255.
    """
    art = _full_size_art(seed, style)
    return cv2.resize(art, (max(width, 2), max(height, 2)), interpolation=cv2.INTER_AREA).astype(np.float32)


@lru_cache(maxsize=32)
def _full_size_art(seed: int, style: Literal["band", "wrap"]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    rows, columns = 192, 256
    ground, accent, ink = packaging_colour(rng), packaging_colour(rng), packaging_colour(rng)
    if abs(sum(ground) - sum(ink)) < 220:
        ink = (250.0, 250.0, 250.0) if sum(ground) < 380 else (25.0, 20.0, 20.0)
    art = np.empty((rows, columns, 3), np.uint8)
    art[:] = ground
    if rng.random() < 0.5:
        fade = np.linspace(0, rng.uniform(0.2, 0.8), rows, dtype=np.float32)[:, None, None]
        art = (art * (1 - fade) + np.array(accent, np.float32) * fade).astype(np.uint8)
    for _ in range(rng.integers(0, 4)):
        top, slant = int(rng.integers(0, rows)), int(rng.integers(-60, 60))
        stripe = accent if rng.random() < 0.6 else ink
        cv2.line(art, (0, top), (columns, top + slant), stripe, int(rng.integers(4, 28)), cv2.LINE_AA)
    _draw_emblem(art, rng, accent, ink)
    _print_label(art, rng, ink)
    for bar in range(12):
        left = 6 + bar * 3
        ink_of_bar = (20, 20, 20) if (seed >> bar) & 1 else (245, 245, 245)
        cv2.line(art, (left, rows - 40), (left, rows - 16), ink_of_bar, 2)
    if style == "band":
        cv2.rectangle(art, (-4, 3), (columns + 4, rows - 4), ink, 3)
    return art


def _draw_emblem(art: NDArray[np.uint8], rng: Rng, accent: Colour, ink: Colour) -> None:
    rows, columns = art.shape[:2]
    centre = (columns // 2, int(rows * rng.uniform(0.3, 0.7)))
    size = int(rng.integers(24, 46))
    match rng.choice(["seal", "oval", "diamond", "none"]):
        case "seal":
            cv2.circle(art, centre, size, accent, -1, cv2.LINE_AA)
            cv2.circle(art, centre, size, ink, 3, cv2.LINE_AA)
        case "oval":
            cv2.ellipse(art, centre, (int(size * 1.5), int(size * 0.7)), 0, 0, 360, accent, -1, cv2.LINE_AA)
        case "diamond":
            diamond = np.array([(0, -size), (size, 0), (0, size), (-size, 0)]) + centre
            cv2.fillPoly(art, [diamond.astype(np.int32)], accent, cv2.LINE_AA)


def _print_label(art: NDArray[np.uint8], rng: Rng, ink: Colour) -> None:
    rows, columns = art.shape[:2]
    brand = str(rng.choice(_BRANDS))
    font = int(rng.choice(_FONTS))
    brand_width = 92
    scale = brand_width / cv2.getTextSize(brand, font, 1.0, 2)[0][0]
    baseline = int(rows * rng.uniform(0.4, 0.6))
    cv2.putText(art, brand, ((columns - brand_width) // 2, baseline), font, scale, ink, 2, cv2.LINE_AA)
    for line in range(int(rng.integers(1, 4))):
        text = str(rng.choice(_LINES))
        text_width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0]
        spot = ((columns - text_width) // 2, baseline + 22 + 20 * line)
        cv2.putText(art, text, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, 1, cv2.LINE_AA)


def _draw_bottle(bottle: Bottle, height: int, view: View) -> Sprite:
    shape = BOTTLE_SHAPES[bottle.shape]
    half = shape.aspect * height / 2
    across, down = _grid(height, half)
    # Seen from above, level circles hang: what is at one height of the bottle is lower in the middle of the picture.
    sag = view.elevation * half
    tall = (down + sag * (1 - _bulge(across / half))) / height
    radius = _radius_at(shape, bottle, tall) * half
    turn = np.clip(across / np.maximum(radius, 1e-3), -1, 1)
    coverage = _edge(radius - np.abs(across)) * _edge((1 - tall) * height)
    mouth = float(_radius_at(shape, bottle, np.zeros((1, 1), np.float32))[0, 0]) * half
    disc = _disc(across, down, mouth, view.elevation)
    coverage = np.where(down < view.elevation * mouth, _edge((1 - disc) * mouth), coverage)

    light = _cylinder_light(turn, view.light)
    image, alpha = _bottle_body(bottle, tall, turn, light)
    label_top, label_bottom = shape.label
    on_label = (tall >= label_top) & (tall <= label_bottom)
    along = (tall - label_top) / (label_bottom - label_top)
    _wrap(image, alpha, on_label, along, turn, light, _LabelSpec(bottle.label_seed, "band", bottle.phase, half))
    if bottle.material != "opaque":
        _streaks(image, turn, view.light, 120, tall > shape.cap_bottom)
    head = slice(0, int(shape.cap_bottom * height) + 2)
    top, face = tall[head] < shape.cap_bottom, disc[head] < 1
    if bottle.opened:
        _open_neck(bottle, image[head], alpha[head], top, face, disc[head], tall[head] * height)
    else:
        _close_neck(bottle, image[head], alpha[head], top, face, light[head], turn[head])
    return _sprite(image, alpha, coverage)


def _close_neck(
    bottle: Bottle, image: FloatArray, alpha: FloatArray, top: Mask, face: Mask, light: FloatArray, turn: FloatArray
) -> None:
    """Paint a ridged cap over the neck."""
    cap = np.array(bottle.cap, np.float32)
    ridges = 1 + 0.12 * np.sign(np.sin(np.arcsin(turn) * 24))
    image[top] = (cap * (light * ridges)[..., None])[top]
    image[face] = cap * 1.12 + 14
    alpha[top | face] = 1
    image[-3:-1] *= 0.6


def _open_neck(
    bottle: Bottle, image: FloatArray, alpha: FloatArray, top: Mask, face: Mask, disc: FloatArray, down: FloatArray
) -> None:
    """Paint the thread of an open neck and the dark mouth."""
    thread = 0.75 + 0.25 * np.sin(down * 1.1)
    image[top] = ((image * 0.6 + 90) * thread[..., None])[top]
    alpha[top] = np.maximum(alpha[top], 0.75)
    image[face] = np.where(disc[face, None] > 0.72, 215, np.array(bottle.glass, np.float32) * 0.25)
    alpha[face] = 0.95


def _bottle_body(
    bottle: Bottle, tall: FloatArray, turn: FloatArray, light: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Colour and opacity of the bare body: the glass, and the liquid behind it."""
    glass = np.array(bottle.glass, np.float32)
    if bottle.material == "opaque":
        return glass * light[..., None], np.ones_like(tall)
    liquid = np.array(bottle.liquid, np.float32)
    full = tall > bottle.fill
    if bottle.material == "glass":
        filled, alpha_full, alpha_empty = glass * 0.75 + liquid * 0.12, 0.96, 0.72
    else:
        filled, alpha_full, alpha_empty = liquid * 0.8 + glass * 0.15, 0.93, 0.42
    body = np.where(full[..., None], filled, glass)
    alpha = np.where(full, np.float32(alpha_full), np.float32(alpha_empty))
    # Light that passes through brightens the middle and leaves dark walls.
    square = turn * turn
    through = 0.75 + 0.4 * (1 - square) - 0.35 * square**3
    image = body * (0.45 * light + 0.55 * through)[..., None]
    meniscus = np.abs(tall - bottle.fill) < 0.006
    image[meniscus] = image[meniscus] * 0.5 + 110
    froth = (tall > bottle.fill - bottle.foam) & (tall <= bottle.fill)
    image[froth] = image[froth] * 0.35 + 140
    alpha[froth] = 0.9
    return image.astype(np.float32), np.clip(alpha + 0.4 * square**2, 0, 1).astype(np.float32)


def _draw_can(can: Can, height: int, view: View) -> Sprite:
    half = can.aspect * height / 2
    across, down = _grid(height, half)
    sag = view.elevation * half
    tall = (down - sag - sag * _bulge(across / half)) / (height - 2 * sag)
    if can.tin:
        profile = ((0, 1.0), (0.025, 1.0), (0.03, 0.97), (0.97, 0.97), (0.975, 1.0), (1, 1.0))
    else:
        profile = ((0, 0.86), (0.02, 0.87), (0.1, 1.0), (0.94, 1.0), (1, 0.86))
    radius = np.interp(tall, *np.array(profile).T).astype(np.float32) * half
    turn = np.clip(across / np.maximum(radius, 1e-3), -1, 1)
    lid = profile[0][1] * half
    disc = (across / lid) ** 2 + ((down - sag) / max(view.elevation * lid, 0.5)) ** 2
    side = _edge(radius - np.abs(across)) * _edge((1 - tall) * (height - 2 * sag)) * (down >= sag)
    coverage = np.maximum(side, _edge((1 - disc) * lid))

    light = _cylinder_light(turn, view.light)
    metal = (
        70
        + 120 * light
        + 70 * np.exp(-(((turn + view.light) / 0.15) ** 2))
        - 60 * np.exp(-(((turn - 0.55) / 0.2) ** 2))
    )
    if can.tin:
        metal = metal + 14 * np.sin(tall * 2 * np.pi * 11)
    image = np.repeat(metal[..., None], 3, axis=2).astype(np.float32)
    alpha = np.ones_like(tall)
    label_top, label_bottom = (0.13, 0.88) if can.tin else (0.09, 0.95)
    on_label = (tall >= label_top) & (tall <= label_bottom)
    along = (tall - label_top) / (label_bottom - label_top)
    _wrap(image, alpha, on_label, along, turn, light, _LabelSpec(can.label_seed, "wrap", can.phase, half))
    _streaks(image, turn, view.light, 60, on_label)
    rings = 30 * (disc > 0.8) - 25 * ((disc > 0.6) & (disc < 0.8)) - 30 * (disc < 0.1)
    face = disc < 1
    image[face] = (165 + 35 * view.light * across / half + rings)[face][:, None]
    return _sprite(image, alpha, coverage)


def _draw_carton(carton: Carton, height: int, view: View) -> Sprite:
    width = max(int(carton.aspect * height), 4)
    art = label_art(carton.label_seed, height, width, "wrap")
    sides = np.linspace(1.05 + 0.1 * view.light, 0.95 - 0.1 * view.light, width, dtype=np.float32)[None, :, None]
    image = art * sides * np.linspace(1.05, 0.8, height, dtype=np.float32)[:, None, None]
    lid = max(int(view.elevation * width * 0.5), 1)
    image[:lid] = image[lid : lid + 1] * 1.2 + 10
    solid = np.ones((height, width), np.float32)
    return _sprite(image, solid, solid)


def _grid(height: int, half: float) -> tuple[FloatArray, FloatArray]:
    """Pixel centres: x from the axis and y from the top."""
    columns = 2 * int(np.ceil(half)) + 1
    across = (np.arange(columns) - columns // 2).astype(np.float32)[None, :].repeat(height, axis=0)
    down = (np.arange(height) + 0.5).astype(np.float32)[:, None].repeat(columns, axis=1)
    return across, down


def _bulge(turn: FloatArray) -> FloatArray:
    """How far the front of a unit cylinder stands out, by sideways position."""
    return np.sqrt(np.clip(1 - turn * turn, 0, 1))


def _edge(distance: FloatArray) -> FloatArray:
    """Antialiased inside-ness of a signed distance in pixels."""
    return np.clip(distance + 0.5, 0, 1).astype(np.float32)


def _disc(across: FloatArray, down: FloatArray, radius: float, elevation: float) -> FloatArray:
    """Squared elliptic distance from the centre of the level circle that tops a bottle: 1 on its rim."""
    low = max(elevation * radius, 0.5)
    return (across / max(radius, 1)) ** 2 + ((down - low) / low) ** 2


def _radius_at(shape: BottleShape, bottle: Bottle, tall: FloatArray) -> FloatArray:
    """The radius in parts of the half-width; an opened bottle shows the slimmer neck under its cap."""
    table = np.linspace(0, 1, 257)
    sharp = np.interp(table, *np.array(shape.profile).T)
    kernel = int(shape.smooth * len(table)) | 1
    radius = np.convolve(np.pad(sharp, kernel // 2, mode="edge"), np.full(kernel, 1 / kernel), mode="valid")
    under_cap = table < shape.cap_bottom
    radius[under_cap] = sharp[under_cap] * (0.84 if bottle.opened else 1)
    return np.interp(tall, table, radius).astype(np.float32)


def _cylinder_light(turn: FloatArray, light: float) -> FloatArray:
    """Lambert's law on an upright cylinder, with a lit side and some light from everywhere."""
    facing = np.clip(turn * light * 1.4 + _bulge(turn) * 0.85, 0, 1)
    return (0.38 + 0.72 * facing).astype(np.float32)


def _streaks(image: FloatArray, turn: FloatArray, light: float, strength: float, where: Mask) -> None:
    """Add the reflections of a long lamp and of a window."""
    side = 1 if light > 0 else -1
    shine = np.exp(-(((turn - side * 0.62) / 0.07) ** 2)) + 0.45 * np.exp(-(((turn + side * 0.74) / 0.05) ** 2))
    image += (strength * shine * where)[..., None]


@dataclass(frozen=True)
class _LabelSpec:
    seed: int
    style: Literal["band", "wrap"]
    phase: float
    half: float


def _wrap(
    image: FloatArray,
    alpha: FloatArray,
    where: Mask,
    along: FloatArray,
    turn: FloatArray,
    light: FloatArray,
    spec: _LabelSpec,
) -> None:
    """Paint a label around the cylinder; ``along`` runs from 0 to 1 down the label."""
    lines = np.flatnonzero(where.any(axis=1))
    if len(lines) < 2:
        return
    band = slice(int(lines[0]), int(lines[-1]) + 1)
    inside = where[band]
    rows, columns = int(inside.sum(axis=0).max()), int(2 * np.pi * spec.half)
    art = label_art(spec.seed, rows, columns, spec.style)
    around = (np.arcsin(turn[band]) + spec.phase) / (2 * np.pi) + 0.5
    source = (around * (columns - 1)).astype(np.float32), (along[band] * (rows - 1)).astype(np.float32)
    wrapped = cv2.remap(art, *source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    np.copyto(image[band], wrapped * light[band, :, None], where=inside[..., None])
    alpha[band][inside] = 1


def _sprite(image: FloatArray, alpha: FloatArray, coverage: FloatArray) -> Sprite:
    """Crop to the silhouette and keep the promised types and ranges."""
    rows, columns = np.flatnonzero(coverage.max(axis=1) > 0.5), np.flatnonzero(coverage.max(axis=0) > 0.5)
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    solid = coverage[window].astype(np.float32)
    return Sprite(np.clip(image[window], 0, 255).astype(np.float32), (alpha[window] * solid).astype(np.float32), solid)
