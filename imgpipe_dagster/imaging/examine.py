"""Whether a file can be trusted: the check that runs in the children of a ``Validator``.

A file is trusted if its end is where the format wants it, OpenCV decodes it without complaint, and, in every format
but JPEG, Pillow decodes it too. (For JPEG both use the same library, and OpenCV lets us hear its warnings.) Damage that
leaves no trace in the bit stream, such as a few flipped bits in a BMP, cannot be seen by anybody.
"""

import contextlib
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.formats import (
    PILLOW_ERRORS,
    DecodeError,
    Header,
    ImageFormat,
    ends_early,
    jpeg_first_scan,
    open_pillow,
    pillow_refusal,
    read_header,
    recognise,
    sniff,
)
from imgpipe_dagster.imaging.validate import ValidationLimits, Verdict
from imgpipe_dagster.reasons import Reason

# What libjpeg, libpng and libtiff say about metadata and other things that do not touch the pixels. All else that they
# say means that they carried on over damage.
_HARMLESS = re.compile(
    r"libpng warning: [a-z]\w{3}: "  # chunks with a small first letter are ancillary
    r"|libpng warning: Interlace handling"
    r"|Warning: unknown JFIF revision number"
    r"|Invalid SOS parameters for sequential JPEG"  # scan fields that baseline decoding does not use
    r"|TIFFReadDirectory: Unknown field with tag"
    r"|TIFFReadDirectory: Sum of Photometric type-related color channels"
    r"|does not end in null byte"
)
_BYTES_BEFORE_EOI = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_LOG_PREFIX = re.compile(r"^\[ *\w+:\d+@[\d.]+\] global \S+ \w+ ", re.MULTILINE)  # of OpenCV's: level, time, line
# What the hungriest decoders (of WebP and of 16-bit TIFF) took at most, measured.
_BYTES_PER_PIXEL = 24
_LONGEST_DETAIL = 300
_UNSUPPORTED_VARIANT = re.compile(r"can not handle images with \S+ samples")
_NO_MEMORY = "(-4:Insufficient memory)"  # as OpenCV logs an exception of its GIF reader


def examine(data: bytes, limits: ValidationLimits, take: Callable[[np.ndarray], None] | None = None) -> Verdict:
    """Examine one file in this process: what the child of a ``Validator`` runs. Ends neither at a time nor at a size.

    While it works it captures file descriptor 2 and Python's warnings, for that is where decoders complain when they
    make up pixels: call it in a process that does nothing else, or call a ``Validator``.

    Args:
        data: The whole file.
        limits: ``max_pixels``, ``max_frames`` and ``memory_mb`` (as far as the header tells) count here.
        take: Called with the pixels as soon as there are any, as ``decode_bgr`` gives them; whether they can be trusted
            is known later.

    Returns:
        The verdict, for every file: what decoders raise becomes a reason.
    """
    verdict = Verdict(format=sniff(data))
    try:
        image_format = recognise(data)
        with _captured_stderr() as take_messages:
            try:
                header = read_header(data)
            except DecodeError as error:
                if error.reason is Reason.TOO_MANY_PIXELS:
                    raise
                opencv = _ask_opencv(data, take_messages)
                raise _objection(data, image_format, opencv, _Opinion(refusal=error)) or error from error
            verdict = replace(
                verdict,
                width=header.width,
                height=header.height,
                frames=header.frames,
                orientation=header.orientation,
                mode=header.mode,
                notes=_notes(header),
            )
            _raise_if_too_large(header, len(data), limits)
            opencv = _ask_opencv(data, take_messages, take)
            second = image_format is not ImageFormat.JPEG or opencv.refusal is not None
            pillow = _ask_pillow(data, image_format) if second else _Opinion(size=(header.width, header.height))
            objection = _objection(data, image_format, opencv, pillow)
            if objection:
                raise objection
            return replace(verdict, notes=verdict.notes + opencv.messages)
    except DecodeError as error:
        return replace(verdict, reason=error.reason, detail=" ".join(error.detail.split())[:_LONGEST_DETAIL])
    except MemoryError:
        return replace(verdict, reason=Reason.DECODE_MEMORY, detail=f"more than {limits.memory_mb} MB")


@dataclass(frozen=True)
class _Opinion:
    """What one decoder made of a file: a size, or a refusal; and what it said meanwhile."""

    size: tuple[int, int] | None = None
    refusal: DecodeError | None = None
    messages: tuple[str, ...] = ()


def _ask_opencv(
    data: bytes, take_messages: Callable[[], str], take: Callable[[np.ndarray], None] | None = None
) -> _Opinion:
    take_messages()
    size = refusal = None
    try:
        image = decode_bgr(data)
        size = image.shape[1], image.shape[0]
        if take is not None:
            take(image)
        del image  # before another decoder needs memory
    except DecodeError as error:
        if error.reason is Reason.DECODE_MEMORY:
            raise
        refusal = error
    messages = _LOG_PREFIX.sub("", take_messages())
    if variant := _UNSUPPORTED_VARIANT.search(messages):
        refusal = DecodeError(Reason.UNSUPPORTED_FORMAT, f"OpenCV {variant[0]}")
    if _NO_MEMORY in messages:
        raise MemoryError(messages)
    if "CV_IO_MAX_IMAGE" in messages:  # OpenCV's own limit, set by the worker: reached where Pillow read no header
        raise DecodeError(Reason.TOO_MANY_PIXELS, "OpenCV: more pixels than the limit")
    return _Opinion(size, refusal, tuple(messages.splitlines()))


def _ask_pillow(data: bytes, image_format: ImageFormat) -> _Opinion:
    try:
        with open_pillow(data, image_format) as image:
            image.load()
            return _Opinion(size=image.size)
    except Image.DecompressionBombError as error:
        raise DecodeError(Reason.TOO_MANY_PIXELS, str(error)) from error
    except PILLOW_ERRORS as error:
        return _Opinion(refusal=pillow_refusal(data, image_format, error))


def _raise_if_too_large(header: Header, file_size: int, limits: ValidationLimits) -> None:
    if header.pixels > limits.max_pixels:
        raise DecodeError(
            Reason.TOO_MANY_PIXELS,
            f"{header.width} by {header.height} pixels; the limit is {limits.max_pixels:,} in all",
        )
    if header.frames > limits.max_frames:
        raise DecodeError(Reason.UNSUPPORTED_FORMAT, f"{header.frames} frames; the limit is {limits.max_frames:,}")
    # Not begun, because decoders that run out of memory often say that the file is damaged.
    needed_mb = (header.pixels * _BYTES_PER_PIXEL + 2 * file_size) >> 20
    if needed_mb > limits.memory_mb:
        raise DecodeError(Reason.DECODE_MEMORY, f"may need {needed_mb} MB; the limit is {limits.memory_mb} MB")


def _objection(data: bytes, image_format: ImageFormat, opencv: _Opinion, pillow: _Opinion) -> DecodeError | None:
    """Weigh the two opinions: why the file cannot be trusted, or None."""
    refusals = [refusal for refusal in (pillow.refusal, opencv.refusal) if refusal]
    if ends_early(data, image_format):
        return DecodeError(Reason.TRUNCATED, refusals[0].detail if refusals else "the end of the file is missing")
    if opencv.refusal and opencv.refusal.reason is Reason.UNSUPPORTED_FORMAT:
        return opencv.refusal
    if len(refusals) == 2:
        return refusals[0]
    if refusals:
        refuser, reader = ("Pillow", "OpenCV") if pillow.refusal else ("OpenCV", "Pillow")
        return DecodeError(Reason.DECODERS_DISAGREE, f"{refuser} refuses what {reader} reads: {refusals[0].detail}")
    # Not the order of the two: in which direction a decoder turns the picture is a matter of metadata.
    if set(opencv.size or ()) != set(pillow.size or ()):
        return DecodeError(Reason.DECODERS_DISAGREE, f"OpenCV sees {opencv.size} pixels, Pillow {pillow.size}")
    complaints = [message for message in opencv.messages if not _is_harmless(message, data)]
    return DecodeError(Reason.CORRUPT, f"read with a complaint: {complaints[0]}") if complaints else None


def _is_harmless(message: str, data: bytes) -> bool:
    if padding := _BYTES_BEFORE_EOI.match(message):
        # Cameras pad with zeros; left-over image data in this place shows that decoding lost its way.
        end = data.find(b"\xff\xd9", jpeg_first_scan(data))
        return not any(data[end - int(padding[1]) : end])
    return _HARMLESS.search(message) is not None


def _notes(header: Header) -> tuple[str, ...]:
    notes = {
        f"the first of {header.frames} frames": header.frames > 1,
        "16 bits per channel: the high byte is kept": header.bit_depth == 16,
        "alpha is dropped": header.mode in ("RGBA", "LA", "PA", "La", "RGBa"),
        "CMYK is converted without its colour profile": header.mode == "CMYK",
    }
    return tuple(note for note, applies in notes.items() if applies)


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Capture what is written to file descriptor 2. Gives a function that takes what came since its last call."""
    original = os.dup(2)
    with tempfile.TemporaryFile(buffering=0) as messages, warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def take() -> str:
            messages.seek(0)
            text = messages.read().decode("utf-8", "replace")
            messages.seek(0)
            messages.truncate()
            return text

        os.dup2(messages.fileno(), 2)
        try:
            yield take
        finally:
            os.dup2(original, 2)
            os.close(original)
