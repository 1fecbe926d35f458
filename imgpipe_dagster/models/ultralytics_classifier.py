"""The classifier for CUDA: threads decode and scale, Ultralytics predicts in batches."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from imgpipe_dagster.models import batching
from imgpipe_dagster.models.classifier import Classifier, ClassifierOptions, K, Probabilities, Visit, classifier_version
from imgpipe_dagster.models.decoding import decode, stream
from imgpipe_dagster.models.framing import cover, fit
from imgpipe_dagster.models.weights import load_yolo

_DECODERS = min(8, os.cpu_count() or 1)


class UltralyticsClassifier(Classifier):
    """Pictures and crops fill batches together; the decoded pictures of one batch are in memory at once.

    Pictures that threads bring one by one share batches, too.
    """

    def __init__(self, weights: Path, digest: str, options: ClassifierOptions, *, device: str, cache_dir: Path) -> None:
        """Load a ``.pt`` onto the device; see ``load_classifier``."""
        self._yolo = load_yolo(weights, "classify", cache_dir)
        size = options.image_size or self._yolo.overrides.get("imgsz", 224)
        self.image_size = (size, size) if isinstance(size, int) else tuple(size)
        self.names = self._yolo.names
        self.version = classifier_version(weights, digest, options, self.image_size)
        self._options = options
        self._device = device
        self._predicting = threading.Lock()
        self._batches = batching.MicroBatcher(self._predict, most=options.batch_size, wait_s=batching.WAIT_S)

    def classify_all(  # noqa: D102 - inherited
        self,
        items: Iterable[tuple[K, bytes]],
        *,
        boxes_of: Callable[[K], np.ndarray] | None = None,
        visit: Visit[K] | None = None,
    ) -> Iterator[tuple[K, list[Probabilities]]]:
        def prepare(item: tuple[K, bytes]) -> tuple[K, np.ndarray, list[np.ndarray]]:
            key, data = item
            image = decode(key, data)
            boxes = boxes_of(key) if boxes_of is not None else ()
            crops = [self._drawn(partial(fit, image, box)) for box in boxes]
            return key, image, [self._drawn(partial(cover, image)), *crops]

        def answer(batch: list[tuple[K, np.ndarray, list[np.ndarray]]]) -> Iterator[tuple[K, list[Probabilities]]]:
            found = iter(self._predict([canvas for _, _, canvases in batch for canvas in canvases]))
            for key, image, canvases in batch:
                own = [next(found) for _ in canvases]
                if visit is not None:
                    visit(key, image, own)
                yield key, own

        waiting: list[tuple[K, np.ndarray, list[np.ndarray]]] = []
        for prepared in stream(prepare, items, workers=_DECODERS):
            waiting.append(prepared)
            if sum(len(canvases) for _, _, canvases in waiting) >= self._options.batch_size:
                yield from answer(waiting)
                waiting = []
        yield from answer(waiting)

    def close(self) -> None:  # noqa: D102 - inherited
        self._batches.close()
        del self._yolo

    def _answer(self, draw: Callable[[np.ndarray], None]) -> Probabilities:
        return self._batches.ask(self._drawn(draw))

    def _drawn(self, draw: Callable[[np.ndarray], None]) -> np.ndarray:
        canvas = np.empty((*self.image_size, 3), np.uint8)
        draw(canvas)
        return canvas

    def _predict(self, canvases: list[np.ndarray]) -> list[Probabilities]:
        found: list[Probabilities] = []
        for start in range(0, len(canvases), self._options.batch_size):
            with self._predicting:  # Ultralytics' predictor keeps state
                results = self._yolo.predict(
                    canvases[start : start + self._options.batch_size],
                    imgsz=list(self.image_size),  # the canvases fit as they are: nothing is scaled again
                    device=self._device,
                    verbose=False,
                )
            found += [Probabilities(result.probs.data.cpu().numpy().astype(np.float32)) for result in results]
        return found
