import contextlib
import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.reasons import Reason

Encode = Callable[..., bytes]

# Corners of the upright picture: red, green / blue, white; larger than the blocks of JPEG, so that colours stay apart.
UPRIGHT = np.zeros((48, 96, 3), np.uint8)
UPRIGHT[:24, :48] = (0, 0, 255)
UPRIGHT[:24, 48:] = (0, 255, 0)
UPRIGHT[24:, :48] = (255, 0, 0)
UPRIGHT[24:, 48:] = (255, 255, 255)

# How the camera held by an orientation stores the upright picture (Exif 2.3, tag 0x0112).
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: UPRIGHT.transpose(1, 0, 2)[::-1],
    7: UPRIGHT.transpose(1, 0, 2)[::-1, ::-1],
    8: UPRIGHT.transpose(1, 0, 2)[:, ::-1],
}


def exif_with(orientation: int, prefix: bytes) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return prefix + exif.tobytes().removeprefix(b"Exif\0\0")


def cv2_imread(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def assert_looks_like(image: np.ndarray, expected: np.ndarray) -> None:
    assert image.shape == expected.shape
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= 40


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("name", "options"), [("JPEG", {"subsampling": 0}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_exif_orientations_give_upright_pixels(encode: Encode, name: str, options: dict, orientation: int):
    data = encode(STORED[orientation], name, exif=exif_with(orientation, prefix=b"Exif\0\0"), **options)
    assert_looks_like(decode_bgr(data), UPRIGHT)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_orientations_give_upright_pixels(encode: Encode, compression: str | None, orientation: int):
    data = encode(STORED[orientation], "TIFF", compression=compression, tiffinfo={274: orientation})
    assert_looks_like(decode_bgr(data), UPRIGHT)


def riff_chunk(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "little") + payload + bytes(len(payload) % 2)


@pytest.mark.parametrize("orientation", STORED)
def test_webp_orientation_behind_the_exif_prefix_is_applied_too(encode: Encode, orientation: int):
    stored = np.ascontiguousarray(STORED[orientation])
    picture = encode(stored, "WEBP", lossless=True)[12:]
    height, width = stored.shape[:2]
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = riff_chunk(b"VP8X", b"\x08\0\0\0" + size)
    exif = riff_chunk(b"EXIF", exif_with(orientation, prefix=b"Exif\0\0"))
    data = b"RIFF" + (4 + len(extended + picture + exif)).to_bytes(4, "little") + b"WEBP" + extended + picture + exif
    assert_looks_like(decode_bgr(data), UPRIGHT)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("JPEG", {"quality": 85}),
        ("JPEG", {"quality": 85, "progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"quality": 80}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_of_ordinary_files_are_those_of_opencv(
    encode: Encode, photo: np.ndarray, name: str, options: dict, mode: str
):
    data = encode(photo, name, mode=mode, **options)
    np.testing.assert_array_equal(decode_bgr(data), cv2_imread(data))


@pytest.mark.native
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("suffix", "depth"),
    [
        *((suffix, np.uint8) for suffix in (".jpg", ".png", ".bmp", ".webp", ".tif")),
        (".png", np.uint16),
        (".tif", np.uint16),
    ],
)
def test_a_detector_sees_what_ultralytics_reads_from_the_file(tmp_path, photo, suffix: str, depth: type, channels: int):
    from ultralytics.utils.patches import imread

    picture = np.dstack([photo, photo[..., :1]])[..., :channels]
    if depth is np.uint16:
        picture = picture.astype(np.uint16) * 255 + 77
    path = tmp_path / f"picture{suffix}"
    cv2.imwrite(str(path), picture)
    expected = imread(path)
    assert expected is not None
    np.testing.assert_array_equal(decode_bgr(path.read_bytes()), expected)


def test_sixteen_bits_keep_the_high_byte():
    deep = np.arange(40 * 30 * 3, dtype=np.uint16).reshape(30, 40, 3) * 18
    for suffix in (".png", ".tif"):
        data = cv2.imencode(suffix, deep)[1].tobytes()
        np.testing.assert_array_equal(decode_bgr(data), deep >> 8)


def half_transparent(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(picture[..., ::-1])
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize(("name", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_alpha_is_dropped_and_not_composed(encode: Encode, photo: np.ndarray, name: str, options: dict):
    np.testing.assert_array_equal(decode_bgr(encode(half_transparent(photo), name, **options)), photo)


def test_alpha_of_a_tiff_is_composed_on_black(encode: Encode, photo: np.ndarray):
    image = half_transparent(photo)
    expected = photo * (np.asarray(image)[..., 3:] / 255)
    assert np.abs(decode_bgr(encode(image, "TIFF")) - expected).max() <= 1


@pytest.mark.parametrize("name", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_becomes_colours(encode: Encode, name: str):
    image = Image.fromarray(UPRIGHT[..., ::-1]).quantize(8)
    np.testing.assert_array_equal(decode_bgr(encode(image, name)), UPRIGHT)


def test_a_transparent_palette_entry_keeps_its_colour(encode: Encode):
    image = Image.fromarray(UPRIGHT[..., ::-1]).quantize(8)
    np.testing.assert_array_equal(decode_bgr(encode(image, "PNG", transparency=0)), UPRIGHT)


def test_grey_and_bilevel_become_three_equal_channels(encode: Encode, photo: np.ndarray):
    for mode in ("L", "1"):
        grey = Image.fromarray(photo[..., ::-1]).convert(mode)
        expected = np.asarray(grey.convert("RGB"))
        np.testing.assert_array_equal(decode_bgr(encode(grey, "PNG")), expected)


def test_a_cmyk_jpeg_becomes_bgr(encode: Encode, photo: np.ndarray):
    image = Image.fromarray(photo[..., ::-1]).convert("CMYK")
    decoded = decode_bgr(encode(image, "JPEG", quality=98, subsampling=0))
    assert np.abs(decoded.astype(int) - photo).mean() < 3


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(encode: Encode, name: str):
    red, green = (Image.new("RGB", (24, 16), colour) for colour in ("red", "lime"))
    data = encode(red, name, save_all=True, append_images=[green])
    assert_looks_like(decode_bgr(data), np.full((16, 24, 3), (0, 0, 255), np.uint8))


def test_an_apng_gives_the_first_frame_of_the_animation_and_not_its_default_image(encode: Encode):
    red, green = (Image.new("RGB", (24, 16), colour) for colour in ("red", "lime"))
    data = encode(red, "PNG", save_all=True, append_images=[green, red], default_image=True)
    assert decode_bgr(data)[0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_one_pixel_is_a_picture(encode: Encode, name: str):
    data = encode(np.full((1, 1, 3), 128, np.uint8), name)
    assert_looks_like(decode_bgr(data), np.full((1, 1, 3), 128, np.uint8))


def test_decoded_pixels_are_contiguous(encode: Encode, photo: np.ndarray):
    rgba = Image.fromarray(photo[..., ::-1]).convert("RGBA")
    assert decode_bgr(encode(rgba, "TIFF")).flags.c_contiguous


def test_floating_point_samples_are_unsupported():
    data = cv2.imencode(".tif", np.zeros((8, 8, 3), np.float32))[1].tobytes()
    with pytest.raises(DecodeError) as caught:
        decode_bgr(data)
    assert caught.value.reason is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", Reason.NOT_AN_IMAGE),
        (b'{"error": "no such object"}', Reason.NOT_AN_IMAGE),
        ("\ufeffgefälscht".encode("utf-16"), Reason.NOT_AN_IMAGE),
        (b"BMW is not a bitmap", Reason.NOT_AN_IMAGE),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", Reason.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x1cftypavif\0\0\0\0", Reason.UNSUPPORTED_FORMAT),
        (b"PK\x03\x04\x14\0\0\0", Reason.UNSUPPORTED_FORMAT),
        (b"\xff\xd8\xff\xe0", Reason.TRUNCATED),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), Reason.TRUNCATED),
        (b"MM\0+\0\x08\0\0\x80" + bytes(7), Reason.TRUNCATED),  # its directory is 2**63 bytes away
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(data: bytes, reason: Reason):
    with pytest.raises(DecodeError) as caught:
        decode_bgr(data)
    assert caught.value.reason is reason


@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0+", b"BM", b"RIFF"]),
    rest=st.binary(max_size=300),
)
def test_garbage_never_raises_anything_but_a_decode_error(start: bytes, rest: bytes):
    with contextlib.suppress(DecodeError):
        assert decode_bgr(start + rest).ndim == 3


def test_a_shortened_jpeg_is_refused_as_truncated(encode: Encode, photo: np.ndarray):
    data = encode(photo, "JPEG")
    with pytest.raises(DecodeError) as caught:
        decode_bgr(data[: len(data) * 6 // 10])
    assert caught.value.reason is Reason.TRUNCATED


def test_decoding_leaves_the_bytes_alone(encode: Encode, photo: np.ndarray):
    data = encode(photo, "PNG")
    image = decode_bgr(data)
    image[:] = 0
    assert np.asarray(Image.open(io.BytesIO(data)))[..., ::-1].any()
