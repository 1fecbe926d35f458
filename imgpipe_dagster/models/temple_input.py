"""How a picture becomes the input of a temple's network: its size, its pixels, and small changes of it. No network."""

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

MIN_SIDE = 32
"""Smallest side of an input in pixels: two convolutions with pooling need some picture left."""


class Interpolation(StrEnum):
    """How OpenCV makes a picture smaller."""

    AREA = "area"  # every pixel counts, so that noise averages out; for models that are trained here
    LINEAR = "linear"  # OpenCV's default, which the older system used; for models that it left


_OPENCV = {Interpolation.AREA: cv2.INTER_AREA, Interpolation.LINEAR: cv2.INTER_LINEAR}


@dataclass(frozen=True)
class InputFormat:
    """What a network takes: pictures of one size, channels in BGR order, as OpenCV reads them.

    Attributes:
        height: In pixels.
        width: In pixels.
        interpolation: How pictures are brought to that size.
    """

    height: int
    width: int
    interpolation: Interpolation = Interpolation.AREA

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, 3


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures of one format, each with the category that people gave it.

    Attributes:
        ids: Whatever names each picture to whoever made the set.
        categories: One a picture.
        pictures: uint8 BGR, (n, height, width, 3).
    """

    ids: tuple[int, ...]
    categories: tuple[str, ...]
    pictures: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.categories) == len(self.pictures):
            raise ValueError("ids, categories and pictures must be equally many")

    def __len__(self) -> int:
        return len(self.ids)


def input_format(picture: np.ndarray, scale_factor: float) -> InputFormat:
    """The format that a temple's first training picture gives: its size times a factor, at least 32 pixels a side.

    A picture of 1920 x 1080 with the factor 1/20 gives 96 x 54.
    """
    height, width = (max(MIN_SIDE, round(side * scale_factor)) for side in picture.shape[:2])
    return InputFormat(height, width)


def fit(picture: np.ndarray, form: InputFormat) -> np.ndarray:
    """Bring a picture of any size and orientation to the input's size, without regard to its proportions.

    Args:
        picture: uint8 BGR, (height, width, 3).
        form: The format.

    Returns:
        uint8 BGR of the format's shape.
    """
    if picture.shape == form.shape:
        return picture
    resized = cv2.resize(picture, (form.width, form.height), interpolation=_OPENCV[form.interpolation])
    return np.asarray(resized, np.uint8)


def to_pixels(pictures: np.ndarray) -> np.ndarray:
    """What a network is fed with: float32 from 0 to 1, in the shape and channel order of the uint8 pictures."""
    return pictures.astype(np.float32) / np.float32(255)


def vary(pictures: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Change pictures as a camera on a mast does: shift, turn, zoom and brightness a little, and some noise.

    Args:
        pictures: uint8 BGR, (n, height, width, 3).
        random: Where chance comes from.

    Returns:
        uint8 of the same shape.
    """
    height, width = pictures.shape[1:3]
    varied = np.empty_like(pictures)
    for index, picture in enumerate(pictures):
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-2, 2), random.uniform(0.97, 1.03))
        turn[:, 2] += random.uniform(-0.02, 0.02, 2) * (width, height)
        moved = cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
        lit = moved * np.float32(random.uniform(0.7, 1.2))
        lit += random.standard_normal(picture.shape, dtype=np.float32) * np.float32(random.uniform(0, 5))
        varied[index] = lit.clip(0, 255)
    return varied
