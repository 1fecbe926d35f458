"""A picture as it goes into the store from a folder: a JPEG, not larger than a limit."""

import cv2

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.encode import OutputFormat, encode
from imgpipe_dagster.imaging.formats import ImageFormat, read_header


def to_frame(data: bytes, max_side: int) -> bytes:
    """The picture as a JPEG whose longer side has at most ``max_side`` pixels.

    A JPEG that is small enough stays as it is, byte for byte. Others are turned upright, made smaller where they are
    too large (area interpolation), and encoded anew without metadata.

    Args:
        data: A file in one of the six formats, examined before.
        max_side: Pixels of the longer side; smaller pictures are not enlarged.

    Raises:
        DecodeError: It cannot be decoded.
    """
    header = read_header(data)
    longer = max(header.width, header.height)
    if header.format is ImageFormat.JPEG and longer <= max_side:
        return data
    image = decode_bgr(data)
    height, width = image.shape[:2]
    if longer > max_side:
        size = (max(1, round(width * max_side / longer)), max(1, round(height * max_side / longer)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return encode(image, OutputFormat.JPEG).data
