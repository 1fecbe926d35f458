"""A file's pixels for enhancement: upright, in sRGB, with the transparency that detection does without."""

import io

import cv2
import numpy as np
from PIL import Image, ImageCms

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.formats import ImageFormat, recognise


def read_picture(data: bytes, decoded: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode a file as ``decode_bgr`` does, then apply its ICC profile and keep its transparency.

    Args:
        data: The whole file, validated.
        decoded: What ``decode_bgr`` makes of it, if that is there already.

    Returns:
        uint8 BGR, (height, width, 3) in sRGB, and uint8 alpha, (height, width), or None if every pixel is opaque.

    Raises:
        DecodeError: As ``decode_bgr``.
    """
    image = decode_bgr(data) if decoded is None else decoded
    return _to_srgb(image, data), _alpha(data, image.shape[:2])


def _alpha(data: bytes, shape: tuple[int, ...]) -> np.ndarray | None:
    if recognise(data) not in (ImageFormat.PNG, ImageFormat.WEBP):
        return None
    layers = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if layers is None or layers.ndim != 3 or layers.shape[2] != 4 or layers.shape[:2] != shape:
        return None
    alpha = layers[..., 3]
    if alpha.dtype == np.uint16:
        alpha = alpha // 256
    return None if (alpha == 255).all() else np.ascontiguousarray(alpha, np.uint8)


def _to_srgb(image: np.ndarray, data: bytes) -> np.ndarray:
    """Colours in sRGB. Profiles for CMYK, grey or damaged ones are passed over: the pixels are RGB by then."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            embedded = header.info.get("icc_profile")
    except (OSError, ValueError, SyntaxError):
        return image
    if not embedded:
        return image
    try:
        picture = Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        # Little CMS refuses a profile that is not for RGB.
        converted = ImageCms.profileToProfile(picture, io.BytesIO(embedded), ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError):
        return image
    return image if converted is None else cv2.cvtColor(np.asarray(converted), cv2.COLOR_RGB2BGR)
