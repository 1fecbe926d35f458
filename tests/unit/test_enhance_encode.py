"""Files of a wanted size, without metadata."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from imgpipe_dagster.demo.products import Backdrop, render_product
from imgpipe_dagster.imaging import encode as module
from imgpipe_dagster.imaging.encode import OutputFormat, encode


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [render_product(seed, width=700, height=700, backdrop=Backdrop.CLUTTERED).image for seed in range(8)]


@pytest.mark.parametrize("output", [OutputFormat.JPEG, OutputFormat.WEBP])
def test_files_come_within_a_fifth_below_the_target_in_few_encodes(pictures: list[np.ndarray], output: OutputFormat):
    good = total = 0
    for picture in pictures:
        most, least = (len(module._write(module._picture(picture, None), output, quality)) for quality in (95, 20))
        for target in np.geomspace(1.3 * least, 0.9 * most, 4) / 1024:
            encoded = encode(picture, output, target_kb=target)
            share = len(encoded.data) / 1024 / target
            assert share <= 1
            assert encoded.encodes <= 5
            assert not encoded.target_unreachable
            total += 1
            good += share >= 0.8
    assert good / total >= 0.95


def test_a_target_that_cannot_be_reached_gives_the_smallest_file_and_says_so(pictures: list[np.ndarray]):
    encoded = encode(pictures[0], target_kb=2)
    assert encoded.target_unreachable
    assert encoded.quality == 21
    assert len(encoded.data) > 2 * 1024


def test_a_generous_target_gives_the_best_quality(pictures: list[np.ndarray]):
    encoded = encode(pictures[0], target_kb=100_000)
    assert (encoded.quality, encoded.target_unreachable) == (95, False)


def test_white_stays_white_in_jpeg_whatever_the_target(pictures: list[np.ndarray]):
    picture = np.full((700, 1400, 3), 255, np.uint8)
    picture[:, 700:] = pictures[2]
    qualities = set()
    for target in np.geomspace(12, 60, 12):
        encoded = encode(picture, target_kb=target)
        qualities.add(encoded.quality)
        with Image.open(io.BytesIO(encoded.data)) as published:
            assert (np.asarray(published.convert("RGB"))[:, :640] == 255).all(), encoded.quality
    assert len(qualities) > 5


def test_the_same_picture_gives_the_same_bytes(pictures: list[np.ndarray]):
    module._srgb.cache_clear()
    first = encode(pictures[1], target_kb=60).data
    module._srgb.cache_clear()
    assert encode(pictures[1], target_kb=60).data == first


@pytest.mark.parametrize("output", OutputFormat)
def test_files_say_srgb_and_carry_no_exif(pictures: list[np.ndarray], output: OutputFormat):
    with Image.open(io.BytesIO(encode(pictures[0], output).data)) as picture:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
        assert not picture.getexif()


def test_transparency_is_kept_and_colours_are_not_swapped():
    image = np.full((20, 30, 3), (10, 120, 250), np.uint8)
    alpha = np.zeros((20, 30), np.uint8)
    alpha[5:15, 5:25] = 255
    with Image.open(io.BytesIO(encode(image, OutputFormat.PNG, alpha=alpha).data)) as picture:
        pixels = np.asarray(picture)
    assert pixels[10, 10].tolist() == [250, 120, 10, 255]
    assert pixels[0, 0, 3] == 0


def test_jpeg_with_transparency_is_refused():
    with pytest.raises(ValueError, match="webp or png"):
        encode(np.zeros((4, 4, 3), np.uint8), OutputFormat.JPEG, alpha=np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("target", [0, -3])
def test_a_target_that_is_no_size_is_refused(target: float):
    with pytest.raises(ValueError, match="target_kb"):
        encode(np.zeros((4, 4, 3), np.uint8), target_kb=target)
