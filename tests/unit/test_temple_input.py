"""What a network sees of a picture: its format and small variations."""

import numpy as np
import pytest

from imgpipe_dagster.models.temple_input import InputFormat, Interpolation, fit, input_format, to_pixels, vary


@pytest.mark.parametrize(
    ("height", "width", "factor", "expected"),
    [
        (1080, 1920, 1 / 20, (54, 96)),
        (1920, 1080, 1 / 20, (96, 54)),
        (480, 640, 1 / 20, (32, 32)),
        (40, 90, 1, (40, 90)),
    ],
)
def test_the_format_is_the_first_picture_times_the_factor(height, width, factor, expected):
    form = input_format(np.zeros((height, width, 3), np.uint8), factor)
    assert (form.height, form.width) == expected


@pytest.mark.parametrize("shape", [(64, 96, 3), (96, 64, 3), (7, 300, 3), (1, 1, 3), (40, 50, 3)])
def test_pictures_of_any_shape_fit(shape):
    fitted = fit(np.full(shape, 77, np.uint8), InputFormat(40, 50))
    assert (fitted.shape, fitted.dtype) == ((40, 50, 3), np.uint8)
    assert (fitted == 77).all()


def test_areas_average_noise_out_and_the_older_way_does_not(photo):
    large = np.repeat(np.repeat(photo, 8, 0), 8, 1)
    noisy = large + np.random.default_rng(1).normal(0, 20, large.shape)
    noisy = noisy.clip(0, 255).astype(np.uint8)
    error = {
        way: np.abs(fit(noisy, InputFormat(32, 48, way)).astype(int) - fit(large, InputFormat(32, 48, way))).mean()
        for way in Interpolation
    }
    assert error[Interpolation.AREA] < error[Interpolation.LINEAR] / 3


def test_pixels_go_from_0_to_1_and_keep_their_channel_order():
    pixels = to_pixels(np.array([[[[255, 0, 51]]]], np.uint8))
    assert pixels.dtype == np.float32
    assert pixels.ravel().tolist() == pytest.approx([1, 0, 0.2])


def test_variations_are_small_and_the_same_from_the_same_seed(photo):
    pictures = np.stack([photo] * 20)
    varied = vary(pictures, np.random.default_rng(3))
    assert (varied == vary(pictures, np.random.default_rng(3))).all()
    assert (varied.shape, varied.dtype) == (pictures.shape, np.uint8)
    apart = np.abs(varied.astype(int) - photo).mean(axis=(1, 2, 3))
    assert (apart > 1).all(), "each is changed"
    assert (apart < 50).all(), "none beyond recognition"
