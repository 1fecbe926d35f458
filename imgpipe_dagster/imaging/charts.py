"""Small charts for people: lines over steps. Nothing here is measured or stored as data."""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imgpipe_dagster.imaging.draw import class_colour

_WIDTH, _HEIGHT = 480, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 30, 24
_PAPER, _INK, _GRID = (255, 255, 255), (40, 40, 40), (225, 225, 225)
_GRID_LINES = 4
_LETTERS = 12


def line_chart(series: Mapping[str, Sequence[float | None]], *, top: float | None = None) -> bytes:
    """Draw lines over steps 1, 2, 3, …, from 0 upwards, with a legend.

    Args:
        series: Values by name; None and what is not finite leave a gap.
        top: The highest value that is shown; default: the highest there is.

    Returns:
        A PNG file of about 10 KB.
    """
    steps = max((len(values) for values in series.values()), default=0)
    finite = [v for values in series.values() for v in values if v is not None and math.isfinite(v)]
    highest = top or max(finite, default=1.0) or 1.0
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_LETTERS)

    def place(step: int, value: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step / max(steps - 1, 1))
        return x, _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(value / highest, 1.0)

    for line in range(_GRID_LINES + 1):
        value = highest * line / _GRID_LINES
        (left, y), (right, _) = place(0, value), place(max(steps - 1, 1), value)
        draw.line([(left, y), (right, y)], fill=_GRID)
        draw.text((_LEFT - 6, y), f"{value:.2f}", fill=_INK, font=font, anchor="rm")
    draw.text((_LEFT, _HEIGHT - _BOTTOM + 6), "1", fill=_INK, font=font, anchor="ma")
    draw.text((_WIDTH - _RIGHT, _HEIGHT - _BOTTOM + 6), str(steps), fill=_INK, font=font, anchor="ra")
    legend = _LEFT
    for number, (name, values) in enumerate(series.items()):
        blue, green, red = (channel * 3 // 4 for channel in class_colour(number))  # darker: the paper is white
        for part in _unbroken(values):
            points = [place(step, value) for step, value in part]
            draw.line(points if len(points) > 1 else points * 2, fill=(red, green, blue), width=2, joint="curve")
        draw.line([(legend, 14), (legend + 16, 14)], fill=(red, green, blue), width=3)
        draw.text((legend + 21, 14), name, fill=_INK, font=font, anchor="lm")
        legend += 21 + math.ceil(font.getlength(name)) + 16
    _, data = cv2.imencode(".png", np.asarray(picture)[..., ::-1])
    return data.tobytes()


def _unbroken(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """The stretches without a gap, with the place of each value."""
    parts: list[list[tuple[int, float]]] = [[]]
    for step, value in enumerate(values):
        if value is not None and math.isfinite(value):
            parts[-1].append((step, value))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]
