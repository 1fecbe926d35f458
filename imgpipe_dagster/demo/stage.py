"""What is before the camera, and the camera: pixels, who owns them, and the boxes of what can be seen. No scenes."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from imgpipe_dagster.demo.sprites import Article, Bottle, Can, FloatArray, Rng, Sprite

CLASS_NAMES = ("bottle", "can", "gap")
BOTTLE, CAN, GAP = range(3)

_MIN_VISIBLE = 0.35
_MIN_IN_FRAME = 0.35


@dataclass(frozen=True)
class Box:
    """One known object, in pixels of the picture, clipped to it.

    Attributes:
        class_id: Index into ``CLASS_NAMES``.
        x1: Left.
        y1: Top.
        x2: Right.
        y2: Bottom.
        opened: Whether a bottle has lost its cap; None for other classes.
    """

    class_id: int
    x1: float
    y1: float
    x2: float
    y2: float
    opened: bool | None = None

    @property
    def class_name(self) -> str:
        """The name of the class."""
        return CLASS_NAMES[self.class_id]


@dataclass(frozen=True)
class Scene:
    """A picture (uint8, height x width x 3, BGR) and what is in it. Hidden parts of an object count into its box."""

    image: NDArray[np.uint8]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class _Item:
    """An object on the stage: its outline in stage pixels, and how many pixels it would show if nothing hid it."""

    class_id: int
    outline: FloatArray
    area: int
    opened: bool | None


@dataclass
class Stage:
    """The picture before the camera: canvas, which object owns each pixel (0: none), and the objects."""

    canvas: FloatArray
    owner: NDArray[np.int16]
    items: list[_Item] = field(default_factory=list)

    def paint(self, sprite: Sprite, left: int, top: int, article: Article | None = None, gain: float = 1.0) -> None:
        """Blend a sprite in. A bottle or can becomes an object; anything else only hides what is behind it."""
        height, width = self.owner.shape
        rows = slice(max(top, 0), min(top + sprite.alpha.shape[0], height))
        columns = slice(max(left, 0), min(left + sprite.alpha.shape[1], width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        part = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        alpha = sprite.alpha[part][..., None]
        below = self.canvas[rows, columns]
        below += (sprite.image[part] * gain - below) * alpha
        number = 0
        if isinstance(article, Bottle | Can):
            opened = article.opened if isinstance(article, Bottle) else None
            class_id = BOTTLE if isinstance(article, Bottle) else CAN
            outline = _outline(sprite) + np.array([left, top], np.float32)
            self.items.append(_Item(class_id, outline, int((sprite.coverage > 0.5).sum()), opened))
            number = len(self.items)
        self.owner[rows, columns][sprite.coverage[part] > 0.5] = number

    def add_gap(self, left: float, top: float, right: float, bottom: float) -> None:
        """Note an empty place; call before anything is painted over it."""
        outline = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
        height, width = self.owner.shape
        x1, x2 = np.clip([int(left), int(right)], 0, width)
        y1, y2 = np.clip([int(top), int(bottom)], 0, height)
        self.items.append(_Item(GAP, outline, int((right - left) * (bottom - top)), None))
        self.owner[y1:y2, x1:x2] = len(self.items)


def _outline(sprite: Sprite) -> FloatArray:
    """Left and right ends of some rows of the silhouette: enough to find its box after a change of perspective."""
    solid = sprite.coverage > 0.5
    rows = np.unique(np.linspace(0, solid.shape[0] - 1, 24).astype(int))
    rows = rows[solid[rows].any(axis=1)]
    left = solid[rows].argmax(axis=1)
    right = solid.shape[1] - solid[rows, ::-1].argmax(axis=1)
    corners = [
        np.stack([left, rows], 1),
        np.stack([right, rows], 1),
        np.stack([left, rows + 1], 1),
        np.stack([right, rows + 1], 1),
    ]
    return np.concatenate(corners).astype(np.float32)


def photograph(stage: Stage, rng: Rng) -> Scene:
    """Take the picture: perspective, light, lens, sensor; and find each object's box in it."""
    height, width = stage.owner.shape
    shown = np.bincount(stage.owner.ravel(), minlength=len(stage.items) + 1)
    frame = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    inwards = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)], np.float32)
    quad = frame + inwards * rng.uniform(0, 0.06, (4, 2)).astype(np.float32) * (width, height)
    lens = cv2.getPerspectiveTransform(quad.astype(np.float32), frame)
    image = cv2.warpPerspective(stage.canvas, lens, (width, height), flags=cv2.INTER_LINEAR)
    boxes = []
    for number, item in enumerate(stage.items, start=1):
        points = cv2.perspectiveTransform(item.outline[None], lens)[0]
        low, high = points.min(axis=0), points.max(axis=0)
        x1, y1 = np.clip(low, 0, (width, height)).tolist()
        x2, y2 = np.clip(high, 0, (width, height)).tolist()
        in_frame = (x2 - x1) * (y2 - y1) / float(np.prod(high - low))
        if shown[number] >= _MIN_VISIBLE * item.area and in_frame >= _MIN_IN_FRAME and min(x2 - x1, y2 - y1) >= 4:
            boxes.append(Box(item.class_id, x1, y1, x2, y2, item.opened))
    return Scene(_expose(image, rng), tuple(boxes))


def _expose(image: FloatArray, rng: Rng) -> NDArray[np.uint8]:
    """Uneven light, white balance, blur and sensor noise."""
    height, width = image.shape[:2]
    lamps = rng.uniform(0.75, 1.12, (3, 4)).astype(np.float32) * np.float32(rng.choice([0.6, 0.85, 1, 1.1, 1.2]))
    balance = np.array([rng.uniform(0.88, 1.1), 1.0, rng.uniform(0.9, 1.12)], np.float32)
    image = cv2.multiply(image, cv2.resize(lamps[..., None] * balance, (width, height), interpolation=cv2.INTER_CUBIC))
    sigma = float(rng.choice([0.0, 0.5, 0.8, 1.3])) * width / 960
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < 0.12:
        length = max(int(width * rng.uniform(0.004, 0.01)), 2)
        image = cv2.blur(image, (length, 1) if rng.random() < 0.6 else (1, length))
    grain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(rng.uniform(1.0, 3.2))
    tint = rng.standard_normal((height // 2, width // 2, 3), dtype=np.float32) * np.float32(1.5)
    image += cv2.resize(tint, (width, height))
    image += cv2.merge([grain, grain, grain])
    return np.clip(image, 0, 255).astype(np.uint8)
