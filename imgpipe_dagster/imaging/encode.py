"""Pixels to the bytes that are published: no larger than asked, with a colour profile that says sRGB and nothing else.

EXIF (with its GPS position), XMP and comments of the original never get here: only pixels do.
"""

import io
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageCms

_QUALITIES = range(20, 96)
_MOST_ENCODES = 5
_LEAST_FILL = 0.8
# Room for what encoders cannot reach exactly: a guess aims below the target.
_AIM = 0.92


class OutputFormat(StrEnum):
    """What can be published."""

    JPEG = "jpeg"
    WEBP = "webp"
    PNG = "png"

    @property
    def extension(self) -> str:
        """The file name's ending, without the dot."""
        return "jpg" if self is OutputFormat.JPEG else self.value


@dataclass(frozen=True)
class Encoded:
    """A file.

    Attributes:
        data: Its bytes.
        format: Its format.
        quality: The encoder's quality, None for PNG.
        encodes: How often the picture was encoded to get there.
        target_unreachable: Even the lowest quality is larger than the target; ``data`` is the smallest there is.
    """

    data: bytes
    format: OutputFormat
    quality: int | None
    encodes: int
    target_unreachable: bool


def encode(
    image: np.ndarray,
    output: OutputFormat = OutputFormat.JPEG,
    *,
    target_kb: float | None = None,
    alpha: np.ndarray | None = None,
) -> Encoded:
    """Encode a picture, to a size in KB (1,024 bytes) if one is asked for.

    The logarithm of a file's size is nearly a line over the quality, so each guess follows the line through the two
    files that are nearest to the target; the best file within the target is kept, after five encodes at the most.

    Args:
        image: uint8 BGR, (height, width, 3), sRGB.
        output: The format.
        target_kb: The largest size. At best quality it may be much smaller.
        alpha: uint8, (height, width), for WebP and PNG.

    Raises:
        ValueError: A target that is not positive, or an alpha for JPEG.
    """
    if target_kb is not None and target_kb <= 0:
        raise ValueError(f"target_kb must be above 0, not {target_kb}")
    if alpha is not None and output is OutputFormat.JPEG:
        raise ValueError("JPEG has no transparency: use webp or png, or a background colour")
    picture = _picture(image, alpha)
    if output is OutputFormat.PNG:
        data = _write(picture, output, 0)
        return Encoded(data, output, None, 1, target_kb is not None and len(data) > target_kb * 1024)
    if target_kb is None:
        return Encoded(_write(picture, output, 90), output, 90, 1, False)
    return _encode_within(picture, output, target_kb * 1024)


def _encode_within(picture: Image.Image, output: OutputFormat, target: float) -> Encoded:
    known: dict[int, bytes] = {}
    quality = 85
    while len(known) < _MOST_ENCODES:
        known[quality] = _write(picture, output, quality)
        best = max((tried for tried, data in known.items() if len(data) <= target), default=None)
        above = min((tried for tried, data in known.items() if len(data) > target), default=101)
        between = [untried for untried in _qualities(output) if (best or 0) < untried < above]
        if not between or (best is not None and len(known[best]) >= _LEAST_FILL * target):
            break
        # The last encode is spent on having a file that fits.
        last_chance = best is None and len(known) == _MOST_ENCODES - 1
        guess = 0 if last_chance else _guess(known, target)
        quality = max((untried for untried in between if untried <= guess), default=between[0])
    best = max((tried for tried, data in known.items() if len(data) <= target), default=None)
    chosen = min(known) if best is None else best
    return Encoded(known[chosen], output, chosen, len(known), best is None)


@cache
def _qualities(output: OutputFormat) -> tuple[int, ...]:
    """The qualities to choose from: those at which plain white stays 255, 255, 255, as marketplaces ask for.

    At some low ones the quantisation of a block's mean has no step there, and white comes out as 254 or 253. In WebP,
    whose blocks lean on their neighbours, a block of a picture may come out as 254 even so, below quality 60 or so.
    """
    white = Image.new("RGB", (64, 64), "white")

    def stays_white(quality: int) -> bool:
        with Image.open(io.BytesIO(_write(white, output, quality))) as decoded:
            return decoded.convert("RGB").getextrema() == ((255, 255),) * 3

    return tuple(quality for quality in _QUALITIES if stays_white(quality))


def _guess(known: dict[int, bytes], target: float) -> float:
    """A quality whose file should be a little smaller than the target."""
    tried = sorted(known, key=lambda quality: abs(np.log(len(known[quality]) / (_AIM * target))))[:2]
    if len(tried) == 2:
        slope = (np.log(len(known[tried[0]])) - np.log(len(known[tried[1]]))) / (tried[0] - tried[1])
    else:
        slope = 0.035
    step = np.log(_AIM * target / len(known[tried[0]])) / max(slope, 0.005)
    return tried[0] + step


def _picture(image: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
    colours = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return Image.fromarray(colours if alpha is None else np.dstack([colours, alpha]))


def _write(picture: Image.Image, output: OutputFormat, quality: int) -> bytes:
    buffer = io.BytesIO()
    match output:
        case OutputFormat.JPEG:
            picture.save(buffer, "JPEG", quality=quality, icc_profile=_srgb())
        case OutputFormat.WEBP:
            picture.save(buffer, "WEBP", quality=quality, method=2, icc_profile=_srgb())
        case OutputFormat.PNG:
            picture.save(buffer, "PNG", compress_level=6, icc_profile=_srgb())
    return buffer.getvalue()


@cache
def _srgb() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # Without its date of creation, or the same picture would give other bytes every second (ICC.1:2010, 7.2.8).
    profile[24:36] = bytes(12)
    return bytes(profile)
