"""Pictures for pages: out of the store, small enough to send, kept for the next look. No widgets, no queries."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.draw import draw_boxes, thumbnail
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.imaging.pictures import read_picture
from imgpipe_dagster.store.base import ImageStore, StoreError

THUMBNAIL = 320
LARGE = 1400
"""Longer side in pixels of a picture in a grid, and of one on its own."""

_QUALITY = 85
_THREADS = 4


@lru_cache(maxsize=2000)
def small_picture(store: ImageStore, key: str) -> bytes:
    """A picture of the store for a grid, as JPEG.

    Raises:
        StoreError: It cannot be read.
        DecodeError: It is no picture.
    """
    return _jpeg(_shrunk(store, key, THUMBNAIL))


@lru_cache(maxsize=60)
def large_picture(store: ImageStore, key: str) -> bytes:
    """A picture of the store on its own, as JPEG; errors as of `small_picture`."""
    return _jpeg(_shrunk(store, key, LARGE))


def full_picture(store: ImageStore, key: str) -> bytes:
    """A picture of the store with every pixel, as JPEG; errors as of `small_picture`."""
    return _jpeg(_visible(store.get(key)))


def small_pictures(store: ImageStore, keys: Iterable[str]) -> dict[str, bytes]:
    """Pictures for a grid, by key; those that cannot be shown are left out."""

    def read(key: str) -> tuple[str, bytes | None]:
        try:
            return key, small_picture(store, key)
        except (StoreError, DecodeError):
            return key, None

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="thumbnails") as pool:
        return {key: data for key, data in pool.map(read, keys) if data is not None}


def with_boxes(store: ImageStore, key: str, objects: Sequence[Mapping[str, object]]) -> bytes:
    """A picture with objects drawn in, as JPEG; errors as of `small_picture`.

    Args:
        store: Where it lies.
        key: Under which key.
        objects: Rows of ``detections``.
    """
    image = _whole(store, key)
    shown = thumbnail(image, LARGE, LARGE)
    scale = shown.shape[1] / image.shape[1]
    corners = np.array([[item[side] for side in ("x1", "y1", "x2", "y2")] for item in objects], float)
    ids = [int(str(item["class_id"])) for item in objects]
    names = {class_id: str(item["class_name"]) for class_id, item in zip(ids, objects, strict=True)}
    confidences = [float(str(item["confidence"])) for item in objects]
    return _jpeg(draw_boxes(shown, corners.reshape(-1, 4) * scale, ids, names, confidences))


@lru_cache(maxsize=4)
def _whole(store: ImageStore, key: str) -> np.ndarray:
    """The pixels of a picture, kept while its boxes are switched; errors as of `small_picture`."""
    return decode_bgr(store.get(key))


def _shrunk(store: ImageStore, key: str, longer: int) -> np.ndarray:
    return thumbnail(_visible(store.get(key)), longer, longer)


def jpeg_of(image: np.ndarray, alpha: np.ndarray | None = None) -> bytes:
    """Pixels (uint8 BGR) as JPEG for a page, no larger than a picture on its own; with ``alpha``, on chequers."""
    return _jpeg(thumbnail(image if alpha is None else _on_chequers(image, alpha), LARGE, LARGE))


def _visible(data: bytes) -> np.ndarray:
    """The pixels of a file as people should see them: in sRGB, and on chequers where they are transparent."""
    image, alpha = read_picture(data)
    return image if alpha is None else _on_chequers(image, alpha)


def _on_chequers(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    side = max(8, max(alpha.shape) // 60)
    rows, columns = (np.arange(length) // side for length in alpha.shape)
    chequers = np.where((rows[:, None] + columns) % 2, 255, 225)[..., None]
    cover = (alpha / np.float32(255))[..., None]
    return (image * cover + chequers * (1 - cover)).round().astype(np.uint8)


def _jpeg(image: np.ndarray) -> bytes:
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return jpeg.tobytes()
