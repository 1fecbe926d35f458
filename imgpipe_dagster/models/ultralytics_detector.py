"""The detector for CUDA: threads decode and scale, Ultralytics predicts in batches."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import numpy as np

from imgpipe_dagster.models import batching
from imgpipe_dagster.models.decoding import decode, stream
from imgpipe_dagster.models.detector import Boxes, Detector, DetectorOptions, K, detector_version
from imgpipe_dagster.models.letterbox import Letterbox, fitting_size
from imgpipe_dagster.models.weights import load_yolo

_DECODERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class _Scaled(Generic[K]):
    key: K
    letterbox: Letterbox
    canvas: np.ndarray
    image: np.ndarray


class UltralyticsDetector(Detector):
    """Pictures that scale to the same rectangle share a batch, so their boxes are those of single predictions.

    At most two batches of decoded pictures are in memory at once. Pictures that threads bring one by one share batches,
    too.
    """

    def __init__(self, weights: Path, digest: str, options: DetectorOptions, *, device: str, cache_dir: Path) -> None:
        """Load a ``.pt`` onto the device; see ``load_detector``."""
        self._yolo = load_yolo(weights, "detect", cache_dir)
        self._stride = max(int(self._yolo.model.stride.max()), 32)
        self.image_size = fitting_size(options.image_size or self._yolo.overrides.get("imgsz", 640), self._stride)
        self.names = self._yolo.names
        self.version = detector_version(weights, digest, options, self.image_size)
        self._options = options
        self._device = device
        self._predicting = threading.Lock()
        self._singles = batching.MicroBatcher(self._predict_any, most=options.batch_size, wait_s=batching.WAIT_S)

    def detect(self, image: np.ndarray) -> Boxes:  # noqa: D102 - inherited
        return self._singles.ask(self._scale(None, image))

    def detect_all(  # noqa: D102 - inherited
        self, items: Iterable[tuple[K, bytes]], *, visit: Callable[[K, np.ndarray, Boxes], None] | None = None
    ) -> Iterator[tuple[K, Boxes]]:
        def prepare(item: tuple[K, bytes]) -> _Scaled[K]:
            key, data = item
            return self._scale(key, decode(key, data))

        for batch in self._batches(stream(prepare, items, workers=_DECODERS)):
            for scaled, boxes in zip(batch, self._predict(batch), strict=True):
                if visit is not None:
                    visit(scaled.key, scaled.image, boxes)
                yield scaled.key, boxes

    def close(self) -> None:  # noqa: D102 - inherited
        self._singles.close()
        del self._yolo

    def _scale(self, key: K, image: np.ndarray) -> _Scaled[K]:
        letterbox = Letterbox.fit(image.shape[:2], self.image_size, self._stride, rectangular=True)
        canvas = np.empty((*letterbox.canvas, 3), np.uint8)
        letterbox.draw(image, canvas)
        return _Scaled(key, letterbox, canvas, image)

    def _batches(self, pictures: Iterable[_Scaled[K]]) -> Iterator[list[_Scaled[K]]]:
        """Group pictures of one canvas size; when twice a batch waits, the largest group goes as it is."""
        groups: dict[tuple[int, int], list[_Scaled[K]]] = {}
        for picture in pictures:
            group = groups.setdefault(picture.letterbox.canvas, [])
            group.append(picture)
            waiting = sum(map(len, groups.values()))
            if len(group) == self._options.batch_size or waiting == 2 * self._options.batch_size:
                yield groups.pop(max(groups, key=lambda size: len(groups[size])))
        yield from groups.values()

    def _predict_any(self, pictures: list[_Scaled[None]]) -> list[Boxes]:
        """The boxes of pictures of any canvas sizes, in order."""
        found: dict[int, Boxes] = {}
        for size in {picture.letterbox.canvas for picture in pictures}:
            places = [place for place, picture in enumerate(pictures) if picture.letterbox.canvas == size]
            found |= zip(places, self._predict([pictures[place] for place in places]), strict=True)
        return [found[place] for place in range(len(pictures))]

    def _predict(self, batch: list[_Scaled[K]]) -> list[Boxes]:
        options = self._options
        with self._predicting:  # Ultralytics' predictor keeps state
            results = self._yolo.predict(
                [scaled.canvas for scaled in batch],
                imgsz=list(batch[0].letterbox.canvas),  # the canvas fits as it is: nothing is scaled again
                conf=options.confidence,
                iou=options.iou,
                max_det=options.max_boxes,
                device=self._device,
                verbose=False,
            )
        answers = []
        for scaled, result in zip(batch, results, strict=True):
            found = result.boxes.cpu().numpy()
            xyxy = scaled.letterbox.restore(found.xyxy.astype(np.float32))
            answers.append(Boxes(xyxy, found.conf.astype(np.float32), found.cls.astype(np.int64)))
        return answers
