import io
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from imgpipe_dagster.models.temple_cnn import TrainingOptions
from imgpipe_dagster.models.temple_input import InputFormat, LabelledPictures
from imgpipe_dagster.models.temple_training import TrainedTemple, train_temple

NATIVE = {"torch", "tensorflow", "openvino"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that load large native libraries last: what those do to their process then meets no other test."""
    items.sort(key=lambda item: item.get_closest_marker("native") is not None)


@pytest.fixture(autouse=True)
def _native_libraries_stay_in_native_tests(request: pytest.FixtureRequest):
    before = NATIVE & sys.modules.keys()
    yield
    loaded = (NATIVE & sys.modules.keys()) - before
    if loaded and request.node.get_closest_marker("native") is None:
        pytest.fail(f"{', '.join(loaded)} were loaded: put `pytestmark = pytest.mark.native` into {request.path}")


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A BGR picture of 96 by 64 with gradients and texture, so that damage shows."""
    y, x = np.mgrid[:64, :96]
    waves = np.dstack([x * 2.5, y * 3.5, 128 + 90 * np.sin(x / 7) * np.cos(y / 5)])
    return (waves + np.random.default_rng(7).normal(0, 4, waves.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Make a file of a BGR array or a Pillow image: ``encode(picture, "JPEG", mode="L", quality=80)``."""

    def make(picture: np.ndarray | Image.Image, name: str, *, mode: str | None = None, **options: object) -> bytes:
        image = (
            picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture[..., ::-1]))
        )
        file = io.BytesIO()
        (image.convert(mode) if mode else image).save(file, name, **options)
        return file.getvalue()

    return make


TEMPLE_FORMAT = InputFormat(32, 40)


def temple_picture(category: str, seed: int, width: int = 80, height: int = 64) -> np.ndarray:
    """A wall with a window on the left, or on the right, or none, under changing light; uint8 BGR."""
    random = np.random.default_rng([seed, len(category)])
    picture = np.full((height, width, 3), 90, np.float32)
    cv2.rectangle(picture, (0, height * 3 // 4), (width, height), (60, 70, 80), -1)
    left = {"left": 0.08, "right": 0.6}.get(category)
    if left is not None:
        corner = int((left + random.uniform(-0.02, 0.02)) * width), int(height * 0.2)
        cv2.rectangle(picture, corner, (corner[0] + width // 3, height * 3 // 5), (200, 210, 190), -1)
    picture = picture * random.uniform(0.7, 1.2) + random.normal(0, 4, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def temple_pictures(categories: list[str], each: int, first_seed: int = 0) -> LabelledPictures:
    """Pictures in ``TEMPLE_FORMAT``, so many of each category."""
    labels = [category for category in categories for _ in range(each)]
    size = TEMPLE_FORMAT.width, TEMPLE_FORMAT.height
    pictures = [temple_picture(category, first_seed + number, *size) for number, category in enumerate(labels)]
    return LabelledPictures(tuple(range(len(labels))), tuple(labels), np.stack(pictures))


@pytest.fixture(scope="session")
def draw_temple() -> Callable[..., np.ndarray]:
    """Draw a picture of ``left``, ``right`` or anything else: ``draw_temple("left", seed)``."""
    return temple_picture


@pytest.fixture(scope="session")
def trained_temple() -> TrainedTemple:
    """One model for all tests that need one: it knows ``left`` from ``right``."""
    train = temple_pictures(["left", "right"], 24)
    test = temple_pictures(["left", "right", "none"], 10, first_seed=1000)
    return train_temple(train, test, TEMPLE_FORMAT, options=TrainingOptions(epochs=40))


@pytest.fixture
def legacy_architecture() -> dict:
    """A network's description as Keras 2.3 wrote it, shortened by what is not read."""
    return {
        "class_name": "Sequential",
        "config": {
            "name": "sequential_1",
            "layers": [
                {
                    "class_name": "Conv2D",
                    "config": {
                        "name": "conv2d_1",
                        "trainable": True,
                        "batch_input_shape": [None, 54, 96, 3],
                        "dtype": "float32",
                        "filters": 20,
                        "kernel_size": [5, 5],
                        "strides": [1, 1],
                        "padding": "same",
                        "data_format": "channels_last",
                        "dilation_rate": [1, 1],
                        "activation": "linear",
                        "use_bias": True,
                        "kernel_initializer": {"class_name": "VarianceScaling", "config": {"scale": 1.0}},
                    },
                },
                {"class_name": "Activation", "config": {"name": "activation_1", "activation": "relu"}},
                {
                    "class_name": "MaxPooling2D",
                    "config": {
                        "pool_size": [2, 2],
                        "padding": "valid",
                        "strides": [2, 2],
                        "data_format": "channels_last",
                    },
                },
                {"class_name": "Dropout", "config": {"rate": 0.5, "noise_shape": None, "seed": None}},
                {"class_name": "Flatten", "config": {"data_format": "channels_last"}},
                {"class_name": "Dense", "config": {"units": 2, "activation": "softmax", "use_bias": True}},
            ],
        },
        "keras_version": "2.3.1",
        "backend": "tensorflow",
    }
