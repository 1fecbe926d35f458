"""The one decoder: bytes of a file to pixels. Everything that looks at pixels calls ``decode_bgr``."""

import cv2
import numpy as np

from imgpipe_dagster.imaging.formats import DecodeError, ImageFormat, ends_early, read_orientation, recognise
from imgpipe_dagster.reasons import Reason


def decode_bgr(data: bytes) -> np.ndarray:
    """Decode the first frame of a JPEG, PNG, GIF, WebP, BMP or TIFF file, upright.

    The pixels are those of ``cv2.imdecode(…, IMREAD_COLOR)``, or for TIFF those of Ultralytics' reader, so that a
    detector finds what ``YOLO.predict(file)`` finds. What that means for the less usual layouts:

    - the EXIF orientation is applied (in WebP also where the block has the ``Exif`` prefix that OpenCV overlooks);
    - alpha and transparent palette entries are dropped, not composed on a background: the stored colour is taken. Only
      libtiff composes 8-bit TIFF that declares alpha, on black;
    - palettes become colours, grey becomes three equal channels;
    - 16 bits per channel keep their high byte; samples of 32 bits or floating point are refused;
    - CMYK becomes BGR by OpenCV's formula, without the ICC profile; profiles are never applied;
    - an animation gives its first frame; an APNG that leaves its default image out gives the frame after that.

    Decoding trusts the header: let a ``Validator`` see files of unknown origin first.

    Args:
        data: The whole file.

    Returns:
        uint8 array of shape (height, width, 3), channels in BGR order, C-contiguous.

    Raises:
        DecodeError: ``empty_file``, ``not_an_image``, ``unsupported_format``, ``truncated``, ``corrupt`` or
            ``decode_memory``.
    """
    image_format = recognise(data)
    buffer = np.frombuffer(data, np.uint8)
    try:
        match image_format:
            case ImageFormat.TIFF:
                image = _decode_tiff(buffer)
            case ImageFormat.WEBP:
                image = cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            case _:
                image = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    except cv2.error as error:
        reason = Reason.DECODE_MEMORY if error.code == cv2.Error.StsNoMem else Reason.CORRUPT
        raise DecodeError(reason, f"OpenCV: {error.err or error}") from error
    if image is None:
        reason = Reason.TRUNCATED if ends_early(data, image_format) else Reason.CORRUPT
        raise DecodeError(reason, f"OpenCV cannot read this {image_format.name} file")
    if image.dtype != np.uint8:
        raise DecodeError(Reason.UNSUPPORTED_FORMAT, f"samples of type {image.dtype}")
    if image_format is ImageFormat.WEBP:
        image = _upright(image, read_orientation(data, image_format))
    return image


def _decode_tiff(buffer: np.ndarray) -> np.ndarray | None:
    # As ultralytics.utils.patches.imread (whose pixels differ from IMREAD_COLOR's at 16 bits): colour pages
    # unchanged and without further channels, others through IMREAD_COLOR. Only the first page is decoded here.
    found, pages = cv2.imdecodemulti(buffer, cv2.IMREAD_UNCHANGED, range=(0, 1))
    if not found or pages[0].ndim != 3 or pages[0].shape[2] < 3:
        return cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    page = np.ascontiguousarray(pages[0][..., :3])
    return np.right_shift(page, 8).astype(np.uint8) if page.dtype == np.uint16 else page


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (Exif 2.3, 4.6.4 A, tag 0x0112)."""
    match orientation:
        case 2:
            return cv2.flip(image, 1)
        case 3:
            return cv2.rotate(image, cv2.ROTATE_180)
        case 4:
            return cv2.flip(image, 0)
        case 5:
            return cv2.transpose(image)
        case 6:
            return cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
        case 7:
            return cv2.transpose(cv2.rotate(image, cv2.ROTATE_180))
        case 8:
            return cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)
        case _:
            return image
