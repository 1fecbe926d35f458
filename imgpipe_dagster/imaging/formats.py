"""What a file is, from its first bytes and its structure: format, size, frames. No pixel is decoded here."""

import contextlib
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from imgpipe_dagster.reasons import Reason

# What Pillow's parsers raise on damaged files. MemoryError is left out on purpose: it is not the file's structure.
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, EOFError,
    struct.error,
)  # fmt: skip
_EXIF_ORIENTATION = 274
_PLAIN_TEXT = frozenset(b"\t\n\f\r\x1b") | frozenset(range(32, 256))


class DecodeError(Exception):
    """A file whose pixels cannot be had, and why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ImageFormat(StrEnum):
    """A format that the pipeline takes."""

    JPEG = "jpeg"
    PNG = "png"
    GIF = "gif"
    WEBP = "webp"
    BMP = "bmp"
    TIFF = "tiff"

    @property
    def extension(self) -> str:
        """The usual file name extension, without a dot."""
        return "jpg" if self is ImageFormat.JPEG else self.value

    @property
    def mime(self) -> str:
        """The media type."""
        return f"image/{self.value}"


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Attributes:
        format: By magic bytes, whatever the name says.
        width: Of the upright picture, in pixels.
        height: Of the upright picture, in pixels.
        frames: Of an animation, or pages of a TIFF; else 1.
        mode: Pillow's name of the pixel layout: ``RGB``, ``L``, ``P``, ``CMYK``, ``RGBA``, ``I;16`` …
        bit_depth: Bits per channel.
        orientation: The EXIF orientation, 1 to 8; 1 where there is none.
    """

    format: ImageFormat
    width: int
    height: int
    frames: int
    mode: str
    bit_depth: int
    orientation: int

    @property
    def pixels(self) -> int:
        """Pixels of one frame."""
        return self.width * self.height


def sniff(data: bytes) -> ImageFormat | None:
    """The format by magic bytes, or None if it is not one of the six."""
    if data.startswith(b"\xff\xd8\xff"):
        return ImageFormat.JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ImageFormat.PNG
    if data.startswith((b"GIF87a", b"GIF89a")):
        return ImageFormat.GIF
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ImageFormat.WEBP
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return ImageFormat.TIFF
    # "BM" alone also starts words: the size of the header behind it fits in two bytes in every version.
    if data.startswith(b"BM") and data[16:18] == b"\0\0":
        return ImageFormat.BMP
    return None


def looks_like_text(data: bytes) -> bool:
    """Whether the first kilobyte reads as text: an error page, JSON, a pointer file. SVG does not count as text."""
    head = data[:1024]
    if b"<svg" in head:
        return False
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or _PLAIN_TEXT.issuperset(head)


def recognise(data: bytes) -> ImageFormat:
    """The format of a file.

    Raises:
        DecodeError: ``empty_file``, ``not_an_image`` (text) or ``unsupported_format`` (anything else).
    """
    if not data:
        raise DecodeError(Reason.EMPTY_FILE, "0 bytes")
    image_format = sniff(data)
    if image_format is not None:
        return image_format
    if looks_like_text(data):
        raise DecodeError(Reason.NOT_AN_IMAGE, f"text that starts with {data[:40].decode('utf-8', 'replace')!r}")
    raise DecodeError(Reason.UNSUPPORTED_FORMAT, f"starts with bytes {data[:8].hex(' ')}")


def open_pillow(data: bytes, image_format: ImageFormat) -> ImageFile.ImageFile:
    """Open with Pillow's plugin for one format. Raises one of ``PILLOW_ERRORS`` or DecompressionBombError.

    Not through ``Image.open``: no other plugin shall see the bytes, and Ultralytics replaces that function by one that
    answers a damaged file with an attempt to install a package.
    """
    plugins: dict[ImageFormat, type[ImageFile.ImageFile]] = {
        ImageFormat.JPEG: JpegImageFile,
        ImageFormat.PNG: PngImageFile,
        ImageFormat.GIF: GifImageFile,
        ImageFormat.WEBP: WebPImageFile,
        ImageFormat.BMP: BmpImageFile,
        ImageFormat.TIFF: TiffImageFile,
    }
    return plugins[image_format](io.BytesIO(data))


def read_header(data: bytes) -> Header:
    """Size, frames and layout of a file, without decoding pixels (some tens of microseconds).

    Raises:
        DecodeError: As ``recognise``; ``too_many_pixels`` above Pillow's own guard; ``truncated``, ``corrupt`` or
            ``unsupported_format`` if the header makes no sense.
    """
    image_format = recognise(data)
    try:
        with open_pillow(data, image_format) as image:
            orientation = _orientation(image)
            width, height = image.size
            # Pillow turns the size of a TIFF itself.
            if orientation >= 5 and image_format is not ImageFormat.TIFF:
                width, height = height, width
            return Header(
                format=image_format,
                width=width,
                height=height,
                frames=_count_frames(image, image_format, data),
                mode=image.mode,
                bit_depth=_bit_depth(image, image_format, data),
                orientation=orientation,
            )
    except Image.DecompressionBombError as error:
        raise DecodeError(Reason.TOO_MANY_PIXELS, str(error)) from error
    except PILLOW_ERRORS as error:
        raise pillow_refusal(data, image_format, error) from error


def pillow_refusal(data: bytes, image_format: ImageFormat, error: Exception) -> DecodeError:
    """Pillow's refusal of a file as a reason and a detail."""
    detail = f"Pillow: {error or type(error).__name__}"
    if ends_early(data, image_format) or "truncated" in detail.lower():
        return DecodeError(Reason.TRUNCATED, detail)
    if "unsupported" in detail.lower():
        return DecodeError(Reason.UNSUPPORTED_FORMAT, detail)
    return DecodeError(Reason.CORRUPT, detail)


def read_orientation(data: bytes, image_format: ImageFormat) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the header cannot be read."""
    try:
        with open_pillow(data, image_format) as image:
            return _orientation(image)
    except (*PILLOW_ERRORS, Image.DecompressionBombError):
        return 1


def _orientation(image: Image.Image) -> int:
    if isinstance(image, TiffImageFile):
        value = image.tag_v2.get(_EXIF_ORIENTATION)
    else:
        # Not image.getexif(): that also believes XMP, which neither OpenCV nor browsers do.
        exif = Image.Exif()
        with contextlib.suppress(*PILLOW_ERRORS):  # damaged metadata are no reason to refuse the pixels
            exif.load(image.info.get("exif", b""))
        value = exif.get(_EXIF_ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _bit_depth(image: Image.Image, image_format: ImageFormat, data: bytes) -> int:
    if image_format is ImageFormat.PNG:
        return data[24]
    if isinstance(image, TiffImageFile):
        return image.tag_v2.get(258, (1,))[0]
    return 1 if image.mode == "1" else 8


def _count_frames(image: Image.Image, image_format: ImageFormat, data: bytes) -> int:
    if image_format is ImageFormat.JPEG:
        return 1  # the further pictures of an MPF file are previews and depth maps, not frames
    if image_format is ImageFormat.GIF:
        return sum(kind == _GIF_FRAME for kind in _gif_blocks(data))  # Pillow's count takes seconds on long ones
    return getattr(image, "n_frames", 1)


def ends_early(data: bytes, image_format: ImageFormat) -> bool:
    """Whether the end that the format prescribes is missing: what no decoder says reliably.

    JPEG: the EOI marker behind the first scan. PNG: IEND. GIF: the trailer. WebP: the RIFF length. BMP: the rows.
    TIFF: the first page's directory, its values, and its strips or tiles. Bytes behind the end are nobody's business.
    """
    try:
        return _ENDS_EARLY[image_format](data)
    except (IndexError, OverflowError, struct.error):  # a length or an offset points behind the last byte
        return True


def jpeg_first_scan(data: bytes) -> int:
    """Where the first scan of a JPEG starts: behind the metadata and their thumbnails. IndexError if there is none."""
    at = 2
    while data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + struct.unpack_from(">H", data, at + 2)[0]
    return at


def _jpeg_ends_early(data: bytes) -> bool:
    return data.rfind(b"\xff\xd9", jpeg_first_scan(data)) < 0


def _png_ends_early(data: bytes) -> bool:
    at = 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind == b"IEND":
            return at > len(data)


_GIF_FRAME, _GIF_TRAILER = 0x2C, 0x3B


def _gif_blocks(data: bytes) -> Iterator[int]:
    """The kinds of the blocks of a GIF, up to and with the trailer, or up to the end of a file without one."""

    def colour_table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    at = 13 + colour_table(data[10]) if len(data) > 10 else len(data)
    while at < len(data):
        kind = data[at]
        yield kind
        if kind == _GIF_FRAME and at + 9 < len(data):
            at += 11 + colour_table(data[at + 9])
        elif kind == 0x21:
            at += 2
        else:
            return
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1


def _gif_ends_early(data: bytes) -> bool:
    kind = None
    for kind in _gif_blocks(data):  # noqa: B007 - the last one is wanted
        pass
    # Another kind is damage, not an early end.
    return kind in (None, _GIF_FRAME, 0x21)


def _webp_ends_early(data: bytes) -> bool:
    return struct.unpack_from("<I", data, 4)[0] + 8 > len(data)


def _bmp_ends_early(data: bytes) -> bool:
    pixels_at, header_size = struct.unpack_from("<II", data, 10)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    # Run-length encoded rows have no length to be told by, nor have bit counts that do not exist.
    if compression in (1, 2) or bits not in (1, 2, 4, 8, 16, 24, 32):
        return False
    return pixels_at + (width * bits + 31) // 32 * 4 * abs(height) > len(data)


# Bytes of one value, by the type number of TIFF 6.0 (section 2) and BigTIFF.
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_INTEGERS = {3: "H", 4: "I", 16: "Q"}
_TIFF_OFFSETS, _TIFF_LENGTHS = (273, 324), (279, 325)  # of strips and of tiles


def _tiff_ends_early(data: bytes) -> bool:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    offset_type, count_type, entry_size, inline = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (directory,) = struct.unpack_from(order + offset_type, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count_type, data, directory)
    first = directory + struct.calcsize(order + count_type)
    starts, lengths = (), ()
    for at in range(first, first + entries * entry_size, entry_size):
        tag, kind, count = struct.unpack_from(f"{order}HH{offset_type}", data, at)
        value_at = at + entry_size - inline
        size = count * _TIFF_SIZES.get(kind, 0)
        if size > inline:
            (value_at,) = struct.unpack_from(order + offset_type, data, value_at)
        if value_at + size > len(data):
            return True
        if kind in _TIFF_INTEGERS and tag in _TIFF_OFFSETS:
            starts = struct.unpack_from(f"{order}{count}{_TIFF_INTEGERS[kind]}", data, value_at)
        elif kind in _TIFF_INTEGERS and tag in _TIFF_LENGTHS:
            lengths = struct.unpack_from(f"{order}{count}{_TIFF_INTEGERS[kind]}", data, value_at)
    return any(start + length > len(data) for start, length in zip(starts, lengths, strict=False))


_ENDS_EARLY: dict[ImageFormat, Callable[[bytes], bool]] = {
    ImageFormat.JPEG: _jpeg_ends_early,
    ImageFormat.PNG: _png_ends_early,
    ImageFormat.GIF: _gif_ends_early,
    ImageFormat.WEBP: _webp_ends_early,
    ImageFormat.BMP: _bmp_ends_early,
    ImageFormat.TIFF: _tiff_ends_early,
}
