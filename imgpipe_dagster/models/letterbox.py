"""How a picture is fitted into a detector's input and how boxes come back from there. Geometry and pixels only."""

from dataclasses import dataclass

import cv2
import numpy as np

PADDING = 114  # the grey that Ultralytics trains with


@dataclass(frozen=True)
class Letterbox:
    """A picture scaled to fit and centred on a grey canvas, exactly as Ultralytics' ``LetterBox`` does it.

    Attributes:
        source: Height and width of the picture.
        inner: Height and width of the scaled picture on the canvas.
        canvas: Height and width of the model's input.
        top: Rows of padding above the scaled picture.
        left: Columns of padding to the left of it.
    """

    source: tuple[int, int]
    inner: tuple[int, int]
    canvas: tuple[int, int]
    top: int
    left: int

    @classmethod
    def fit(cls, source: tuple[int, int], target: tuple[int, int], stride: int, *, rectangular: bool) -> "Letterbox":
        """Plan how a picture goes into the model's input.

        Args:
            source: Height and width of the picture.
            target: Height and width that the scaled picture must fit into.
            stride: Largest stride of the model.
            rectangular: Pad to the next multiple of the stride only (models with a dynamic input) instead of to
                the whole target.
        """
        height, width = source
        scale = min(target[0] / height, target[1] / width)
        inner = max(round(height * scale), 1), max(round(width * scale), 1)
        spare_y, spare_x = target[0] - inner[0], target[1] - inner[1]
        if rectangular:
            spare_y, spare_x = spare_y % stride, spare_x % stride
        canvas = inner[0] + spare_y, inner[1] + spare_x
        return cls((height, width), inner, canvas, round(spare_y / 2 - 0.1), round(spare_x / 2 - 0.1))

    def draw(self, picture: np.ndarray, canvas: np.ndarray) -> None:
        """Scale the picture into the canvas and fill the rest with grey, in place.

        Args:
            picture: uint8 (height, width, 3) of size ``source``.
            canvas: uint8 (height, width, 3) of size ``canvas``, C-contiguous; overwritten.
        """
        bottom, right = self.top + self.inner[0], self.left + self.inner[1]
        canvas[: self.top] = PADDING
        canvas[bottom:] = PADDING
        canvas[self.top : bottom, : self.left] = PADDING
        canvas[self.top : bottom, right:] = PADDING
        window = canvas[self.top : bottom, self.left : right]
        if self.inner == self.source:
            window[:] = picture
        else:
            cv2.resize(picture, self.inner[::-1], dst=window, interpolation=cv2.INTER_LINEAR)

    def restore(self, xyxy: np.ndarray) -> np.ndarray:
        """Move boxes from the canvas to the picture and clip them to it, as Ultralytics' ``scale_boxes`` does.

        Args:
            xyxy: float32 (n, 4) boxes in pixels of the canvas.

        Returns:
            float32 (n, 4) boxes in pixels of the picture.
        """
        (height, width), (canvas_height, canvas_width) = self.source, self.canvas
        # The scale is worked out again from the rounded sizes, as there, not taken from the plan: they can differ by
        # a pixel.
        scale = min(canvas_height / height, canvas_width / width)
        inner_height, inner_width = max(round(height * scale), 1), max(round(width * scale), 1)
        left, top = round((canvas_width - inner_width) / 2 - 0.1), round((canvas_height - inner_height) / 2 - 0.1)
        boxes = xyxy - np.array([left, top, left, top], np.float32)
        boxes /= np.array([inner_width / width, inner_height / height] * 2, np.float32)
        return np.clip(boxes, 0, np.array([width, height, width, height], np.float32), out=boxes)


def fitting_size(size: int | tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width of a model's input: the size (of both sides, if one), rounded up to multiples of the stride."""
    height, width = (size, size) if isinstance(size, int) else size
    return -(-height // stride) * stride, -(-width // stride) * stride
