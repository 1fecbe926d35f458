"""The check that runs in the children, called in this process."""

import dataclasses
import io
import re
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.examine import examine
from imgpipe_dagster.imaging.formats import ImageFormat, ends_early, read_header, sniff
from imgpipe_dagster.imaging.validate import ValidationLimits, Verdict
from imgpipe_dagster.reasons import Reason

Encode = Callable[..., bytes]
LIMITS = ValidationLimits()

KINDS: dict[str, tuple[str, dict]] = {
    "jpeg": ("JPEG", {}),
    "jpeg progressive": ("JPEG", {"progressive": True}),
    "jpeg grey": ("JPEG", {"mode": "L"}),
    "png": ("PNG", {}),
    "png palette": ("PNG", {"mode": "P"}),
    "gif": ("GIF", {}),
    "webp": ("WEBP", {}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
    "bmp palette": ("BMP", {"mode": "P"}),
    "tiff": ("TIFF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff jpeg": ("TIFF", {"compression": "jpeg"}),
    "bigtiff": ("TIFF", {"big_tiff": True}),
}


@pytest.fixture(scope="module")
def files(encode: Encode, photo: np.ndarray) -> dict[str, bytes]:
    """One good file of each kind."""
    return {kind: encode(photo, name, **options) for kind, (name, options) in KINDS.items()}


def judge(data: bytes, **limits: float) -> Verdict:
    return examine(data, dataclasses.replace(LIMITS, **limits))


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_file_is_trusted_and_described(files: dict[str, bytes], kind: str):
    verdict = judge(files[kind])
    assert (verdict.reason, verdict.detail, verdict.notes) == (None, "", ())
    assert (verdict.width, verdict.height, verdict.frames, verdict.orientation) == (96, 64, 1, 1)
    assert verdict.format == kind.split()[0].removeprefix("big")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_anywhere_is_rejected(files: dict[str, bytes], kind: str, data: st.DataObject):
    whole = files[kind]
    cut = data.draw(st.integers(0, len(whole) - 1) | st.sampled_from([len(whole) - n for n in (1, 2, 3, 4, 12)]))
    assert judge(whole[:cut]).reason is not None


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_rejected_as_truncated(files: dict[str, bytes], kind: str, share: float):
    whole = files[kind]
    assert judge(whole[: int(len(whole) * share)]).reason is Reason.TRUNCATED


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_its_last_byte_is_truncated(files: dict[str, bytes], kind: str):
    assert judge(files[kind][:-1]).reason is Reason.TRUNCATED


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_always_gets_an_answer(files: dict[str, bytes], kind: str, data: st.DataObject):
    damaged = bytearray(files[kind])
    positions = st.integers(2, len(damaged) - 1) | st.integers(2, 120)
    for at in data.draw(st.lists(positions, min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    verdict = judge(bytes(damaged), max_pixels=1_000_000)
    if verdict.ok:
        height, width = decode_bgr(bytes(damaged)).shape[:2]
        assert (verdict.width, verdict.height) == (width, height)
    else:
        assert verdict.detail


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [bytes(100), b"\xff" * 7, b"<html>appended by a proxy</html>"])
def test_bytes_behind_the_end_are_harmless(files: dict[str, bytes], kind: str, tail: bytes):
    assert judge(files[kind] + tail).ok


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_sizes_are_those_of_the_upright_picture(encode: Encode, photo: np.ndarray, name: str, orientation: int):
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(photo, name, exif=exif)
    verdict = judge(data)
    assert verdict.orientation == orientation
    assert (verdict.width, verdict.height) == ((96, 64) if orientation < 5 else (64, 96))
    assert decode_bgr(data).shape == (verdict.height, verdict.width, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_of_a_turned_tiff_are_those_of_the_upright_picture(encode: Encode, photo: np.ndarray, orientation: int):
    data = encode(photo, "TIFF", tiffinfo={274: orientation})
    verdict = judge(data)
    assert (verdict.reason, verdict.orientation) == (None, orientation)
    assert decode_bgr(data).shape == (verdict.height, verdict.width, 3)


def test_empty_and_foreign_files_are_told_apart():
    assert judge(b"").reason is Reason.EMPTY_FILE
    assert judge(b"<html><body>404</body></html>").reason is Reason.NOT_AN_IMAGE
    assert judge(b"\0\0\0\x1cftypavif").reason is Reason.UNSUPPORTED_FORMAT
    assert judge(b"").format is None


def test_the_size_in_the_header_is_checked_before_decoding(encode: Encode, photo: np.ndarray):
    verdict = judge(encode(photo, "PNG"), max_pixels=96 * 64 - 1)
    assert verdict.reason is Reason.TOO_MANY_PIXELS
    assert (verdict.width, verdict.height) == (96, 64)
    assert "96 by 64" in verdict.detail
    assert judge(encode(photo, "PNG"), max_pixels=96 * 64).ok


def test_a_picture_that_may_not_fit_the_memory_is_not_begun(encode: Encode):
    data = encode(np.zeros((1500, 2000, 3), np.uint8), "JPEG")
    assert judge(data, memory_mb=60).reason is Reason.DECODE_MEMORY
    assert judge(data, memory_mb=80).ok


def test_more_frames_than_the_limit_are_unsupported(encode: Encode, photo: np.ndarray):
    image = Image.fromarray(photo)
    data = encode(image, "GIF", save_all=True, append_images=[image.rotate(90), image.rotate(180)])
    assert judge(data, max_frames=2).reason is Reason.UNSUPPORTED_FORMAT
    assert judge(data, max_frames=3).ok


def test_a_png_with_a_wrong_checksum_is_rejected(files: dict[str, bytes]):
    data = bytearray(files["png"])
    data[data.index(b"IDAT") + 40] ^= 1
    assert judge(bytes(data)).reason is Reason.CORRUPT


def test_a_jpeg_that_libjpeg_only_warns_about_is_corrupt(encode: Encode, photo: np.ndarray):
    whole = encode(photo, "JPEG", quality=90)
    at = len(whole) // 2
    damaged = whole[:at] + bytes(200) + whole[at + 200 :]
    assert Image.open(io.BytesIO(damaged)).convert("RGB").size == (96, 64), "Pillow alone is content"
    assert cv2.imdecode(np.frombuffer(damaged, np.uint8), cv2.IMREAD_COLOR) is not None, "and so is OpenCV"
    verdict = judge(damaged)
    assert verdict.reason is Reason.CORRUPT
    assert "Corrupt JPEG data" in verdict.detail


def test_zeros_before_the_end_of_a_jpeg_are_padding_and_left_over_data_is_not(files: dict[str, bytes]):
    body, end = files["jpeg"][:-2], files["jpeg"][-2:]
    assert end == b"\xff\xd9"
    padded = judge(body + bytes(16) + end)
    assert padded.ok
    assert re.fullmatch(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9", *padded.notes)
    assert judge(body + bytes(15) + b"\x01" + end).reason is Reason.CORRUPT


def test_damaged_exif_is_no_reason_to_reject(files: dict[str, bytes]):
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
    ):
        segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        verdict = judge(files["jpeg"][:2] + segment + files["jpeg"][2:])
        assert (verdict.reason, verdict.orientation) == (None, 1)


def test_the_end_of_an_embedded_thumbnail_does_not_count_as_the_end(files: dict[str, bytes]):
    whole = files["jpeg"]
    thumbnail = b"Exif\0\0" + whole
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    with_thumbnail = whole[:2] + segment + whole[2:]
    assert judge(with_thumbnail).ok
    assert ends_early(with_thumbnail[:-2], ImageFormat.JPEG)


def test_a_bad_colour_profile_in_a_png_is_noted_and_harmless(files: dict[str, bytes]):
    whole = files["png"]
    profile = png_chunk(b"iCCP", b"broken\0\0" + zlib.compress(b"no profile at all"))
    verdict = judge(whole[:33] + profile + whole[33:])
    assert verdict.ok
    assert re.match("libpng warning: iCCP: ", verdict.notes[0])


def test_lossy_tiff_strips_with_damage_are_corrupt(encode: Encode, photo: np.ndarray):
    whole = encode(photo, "TIFF", compression="tiff_lzw")
    damaged = whole[:2000] + bytes(64) + whole[2064:]
    assert judge(damaged).reason in (Reason.CORRUPT, Reason.DECODERS_DISAGREE)
    whole = encode(photo, "TIFF", compression="jpeg")
    damaged = whole[:1500] + bytes(64) + whole[1564:]
    assert judge(damaged).reason is Reason.CORRUPT


def test_what_one_decoder_refuses_is_not_trusted(files: dict[str, bytes]):
    data = bytearray(files["bmp"])
    data[14:18] = (66).to_bytes(4, "little")  # a header size that OpenCV takes and Pillow does not know
    verdict = judge(bytes(data))
    assert verdict.reason is Reason.DECODERS_DISAGREE
    assert "Pillow refuses what OpenCV reads" in verdict.detail


def test_samples_that_nobody_shows_are_an_unsupported_variant():
    data = cv2.imencode(".tif", np.zeros((8, 8, 3), np.float32))[1].tobytes()
    assert judge(data).reason is Reason.UNSUPPORTED_FORMAT


def test_notes_say_what_decoding_drops(encode: Encode, photo: np.ndarray):
    image = Image.fromarray(photo)
    assert judge(encode(image, "JPEG", mode="CMYK")).notes == ("CMYK is converted without its colour profile",)
    assert judge(encode(image, "PNG", mode="RGBA")).notes == ("alpha is dropped",)
    for suffix in (".png", ".tif"):
        deep = cv2.imencode(suffix, photo[..., 0].astype(np.uint16) * 257)[1].tobytes()
        assert judge(deep).notes == ("16 bits per channel: the high byte is kept",)
    animated = encode(image, "WEBP", save_all=True, append_images=[image.rotate(180)])
    assert judge(animated).notes == ("the first of 2 frames",)


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_frames_are_counted(encode: Encode, photo: np.ndarray, name: str):
    frames = [Image.fromarray(photo).rotate(angle) for angle in (0, 90, 180)]
    assert judge(encode(frames[0], name, save_all=True, append_images=frames[1:])).frames == 3


def test_pillow_as_ultralytics_patches_it_is_not_used(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    def installs_a_package(*_: object, **__: object) -> None:
        raise AssertionError("Image.open was called")

    monkeypatch.setattr(Image, "open", installs_a_package)
    for data in files.values():
        assert judge(data).ok
        assert not judge(data[:100]).ok


def test_details_are_short_and_of_one_line():
    for data in (b"GIF89a" + bytes(20), b"II*\0\x08\0\0\0" + bytes(50), b"<html>\n" * 100, b"\0" * 999):
        detail = judge(data).detail
        assert 0 < len(detail) <= 300
        assert "\n" not in detail


def test_what_decoders_print_does_not_reach_the_standard_error(files: dict[str, bytes], capfd):
    judge(files["png"][:500])
    judge(files["tiff lzw"][:300])
    assert capfd.readouterr().err == ""


def test_a_verdict_survives_its_way_through_the_pipe(files: dict[str, bytes]):
    for verdict in (judge(files["gif"]), judge(files["gif"][:-1]), judge(b"")):
        assert Verdict.from_json(verdict.to_json()) == verdict
        assert "\n" not in verdict.to_json()


def test_headers_are_read_without_pixels(encode: Encode, photo: np.ndarray):
    header = read_header(encode(photo, "PNG", mode="L")[:60])
    assert (header.format, header.width, header.height, header.mode, header.bit_depth) == ("png", 96, 64, "L", 8)


@pytest.mark.parametrize("image_format", ImageFormat)
def test_formats_know_their_extension_and_media_type(encode: Encode, photo: np.ndarray, image_format: ImageFormat):
    assert sniff(encode(photo, image_format.name)) is image_format
    assert image_format.mime == f"image/{image_format}"
    assert image_format.extension == {"jpeg": "jpg"}.get(image_format, image_format)


@pytest.mark.parametrize("image_format", ImageFormat)
@given(data=st.binary(max_size=80))
def test_looking_for_the_end_never_fails(image_format: ImageFormat, data: bytes):
    assert ends_early(data, image_format) in (True, False)
