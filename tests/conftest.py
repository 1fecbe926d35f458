import io
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

NATIVE = {"torch", "tensorflow", "openvino"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that load large native libraries last: what those do to their process then meets no other test."""
    items.sort(key=lambda item: item.get_closest_marker("native") is not None)


@pytest.fixture(autouse=True)
def _native_libraries_stay_in_native_tests(request: pytest.FixtureRequest):
    yield
    loaded = NATIVE & sys.modules.keys()
    if loaded and request.node.get_closest_marker("native") is None:
        pytest.fail(f"{', '.join(loaded)} are loaded now: put `pytestmark = pytest.mark.native` into {request.path}")


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
