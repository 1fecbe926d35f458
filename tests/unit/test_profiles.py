"""A marketplace's rules on pictures that keep or break each of them."""

import cv2
import numpy as np
import pytest

from imgpipe_dagster.imaging.colours import parse_colour
from imgpipe_dagster.imaging.profiles import PROFILES, Profile, RuleResult, check_profile


def picture(side: int = 1000, fill: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    image, alpha = np.full((side, side, 3), 255, np.uint8), np.zeros((side, side), np.uint8)
    start = round(side * (1 - fill) / 2)
    end = start + round(side * fill)
    cv2.rectangle(image, (start, start), (end - 1, end - 1), (40, 90, 200), -1)
    cv2.rectangle(alpha, (start, start), (end - 1, end - 1), 255, -1)
    return image, alpha


def failed(results: list[RuleResult]) -> dict[str, float]:
    return {result.rule: result.value for result in results if not result.passed}


def test_a_picture_that_keeps_all_rules_passes():
    results = check_profile(*picture(), PROFILES["amazon_main"])
    assert [result.rule for result in results] == ["background", "min_fill", "min_side", "max_side"]
    assert failed(results) == {}


def test_one_grey_background_pixel_fails_with_its_share():
    image, alpha = picture()
    image[0, 0] = 254
    assert failed(check_profile(image, alpha, PROFILES["amazon_main"])) == {
        "background": pytest.approx(1 / (alpha == 0).sum())
    }


def test_a_small_product_fails_with_its_share_of_the_frame():
    assert failed(check_profile(*picture(fill=0.5), PROFILES["amazon_main"])) == {"min_fill": 0.5}


def test_a_small_picture_fails_with_its_side():
    assert failed(check_profile(*picture(side=600), PROFILES["amazon_main"])) == {"min_side": 600}


def test_a_large_file_fails_with_its_size():
    results = check_profile(*picture(), Profile("custom", max_kb=100), size_bytes=150 * 1024)
    assert failed(results) == {"max_kb": 150}


def test_a_profile_checks_only_what_it_asks_for():
    assert check_profile(*picture(), Profile("custom")) == []


def test_a_picture_without_product_fills_nothing():
    image, alpha = picture()
    assert failed(check_profile(image, 0 * alpha, Profile("custom", min_fill=0.1))) == {"min_fill": 0}


@pytest.mark.parametrize(
    ("text", "bgr"),
    [("white", (255, 255, 255)), ("#FF8000", (0, 128, 255)), ("0a0B0c", (12, 11, 10)), (" Black ", (0, 0, 0))],
)
def test_colours_are_read(text: str, bgr: tuple[int, int, int]):
    assert parse_colour(text) == bgr


@pytest.mark.parametrize("text", ["", "whyte", "#12345", "#GGGGGG", "1,2,3"])
def test_an_unknown_colour_is_refused_with_the_valid_ones(text: str):
    with pytest.raises(ValueError, match="#RRGGBB or one of black, gray, grey, white"):
        parse_colour(text)
