"""How pictures and crops are brought to a classifier's input, held against torchvision."""

from typing import Any

import numpy as np
import pytest

from imgpipe_dagster.demo.render import render_scene
from imgpipe_dagster.models.framing import PADDING, cover, fit

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def transforms() -> Any:
    from PIL import Image
    from ultralytics.data.augment import classify_transforms

    def apply(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        steps = classify_transforms(size).transforms[:2]
        return np.asarray(steps[1](steps[0](Image.fromarray(image))))

    return apply


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return render_scene(3, 1280, 960).image


def framed(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    canvas = np.full((*size, 3), 7, np.uint8)
    cover(image, canvas)
    return canvas


@pytest.mark.parametrize("size", [(128, 128), (224, 224), (96, 160)])
@pytest.mark.parametrize("shape", [(960, 1280), (959, 1277), (1280, 720), (300, 201), (97, 700), (128, 128), (20, 30)])
def test_a_picture_is_framed_as_ultralytics_frames_it(
    shape: tuple[int, int], size: tuple[int, int], scene: np.ndarray, transforms: Any
) -> None:
    image = np.ascontiguousarray(np.vstack([scene, scene])[: shape[0], : shape[1]])
    difference = np.abs(framed(image, size).astype(int) - transforms(image, size))
    usual = min(shape[0] / size[0], shape[1] / size[1]) < 6  # above, whole blocks are averaged first
    assert difference.max() <= (1 if usual else 4)
    assert difference.mean() <= 0.3


def test_a_very_long_picture_is_framed_without_scaling_the_whole_of_it(scene: np.ndarray) -> None:
    assert framed(np.full((1, 3000, 3), 200, np.uint8), (128, 128)).min() == 200
    assert framed(np.full((20_000, 3, 3), 200, np.uint8), (128, 128)).min() == 200


def fitted(image: np.ndarray, box: list[int], side: int) -> np.ndarray:
    canvas = np.full((side, side, 3), 7, np.uint8)
    fit(image, np.array(box, np.float32), canvas)
    return canvas


def test_a_crop_holds_its_whole_box_with_a_little_around_it_on_grey() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:80, 50:70] = 255
    crop = fitted(image, [50, 20, 70, 80], 66)  # the box with its margin, as large as it is
    assert (crop == 255).all(axis=2).sum() == 60 * 20
    assert (crop[3:63, 23:43] == 255).all()
    assert (crop[33, 20:23] == 0).all(), "a little of what is around the box is kept"
    assert (crop[:, :20] == PADDING).all()
    assert (crop[:, 46:] == PADDING).all()


def test_a_crop_is_scaled_to_the_canvas_whatever_its_size(scene: np.ndarray) -> None:
    for box in ([100, 100, 900, 900], [100, 100, 104, 112], [0, 0, 1280, 960]):
        crop = fitted(scene, box, 128)
        inside = (crop != PADDING).any(axis=2)
        assert max(inside.any(axis=0).sum(), inside.any(axis=1).sum()) == 128
        part = scene[box[1] : box[3], box[0] : box[2]]
        assert crop[inside].mean() == pytest.approx(part.mean(), abs=12)


def test_a_box_at_the_edge_is_cut_at_the_edge_and_one_outside_is_refused() -> None:
    image = np.full((100, 200, 3), 9, np.uint8)
    crop = fitted(image, [-30, 90, 20, 140], 46)
    assert (crop == 9).all(axis=2).sum(axis=0).max() == 26, "scaled to fit its longer side: 23 by 13 pixels, twice"
    with pytest.raises(ValueError, match="lies outside of a picture of"):
        fitted(image, [300, 10, 320, 20], 46)
