"""The classifier for CPUs: decode, scale and infer, on OpenVINO. Neither torch nor Ultralytics is loaded."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from imgpipe_dagster.models.cache import COMPILED
from imgpipe_dagster.models.classifier import Classifier, ClassifierOptions, K, Probabilities, Visit, classifier_version
from imgpipe_dagster.models.decoding import decode, stream
from imgpipe_dagster.models.memory import keep_freed_pictures
from imgpipe_dagster.models.runtime import OpenVinoRuntime
from imgpipe_dagster.models.weights import WeightsError, openvino_file

_RUNTIME_PRECISION = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoClassifier(Classifier):
    """Each worker takes one picture from file to probabilities, its crops included; as many work at once as streams."""

    def __init__(self, weights: Path, digest: str, options: ClassifierOptions, *, cache_dir: Path) -> None:
        """Load, after what conversion is needed; see ``load_classifier``."""
        keep_freed_pictures()
        model = openvino_file(weights, digest, cache_dir, task="classify")
        self._runtime = OpenVinoRuntime(
            model.path,
            precision=_RUNTIME_PRECISION[options.precision],
            streams=options.streams,
            blob_dir=cache_dir / COMPILED,
        )
        wanted = None if options.image_size is None else (options.image_size, options.image_size)
        fixed = self._runtime.fixed_size
        if fixed is not None and wanted not in {None, fixed}:
            raise ValueError(f"{weights} takes pictures of {fixed} only, not {options.image_size}.")
        self.image_size = fixed or wanted or model.image_size
        self.names = model.names
        self.version = classifier_version(weights, digest, options, self.image_size)
        self._options = options

    def classify_all(  # noqa: D102 - inherited
        self,
        items: Iterable[tuple[K, bytes]],
        *,
        boxes_of: Callable[[K], np.ndarray] | None = None,
        visit: Visit[K] | None = None,
    ) -> Iterator[tuple[K, list[Probabilities]]]:
        def answer(item: tuple[K, bytes]) -> tuple[K, list[Probabilities]]:
            key, data = item
            image = decode(key, data)
            boxes = boxes_of(key) if boxes_of is not None else ()
            found = [self.classify(image), *(self.classify_crop(image, box) for box in boxes)]
            if visit is not None:
                visit(key, image, found)
            return key, found

        return stream(answer, items, workers=self._options.streams)

    def close(self) -> None:  # noqa: D102 - inherited
        self._runtime.close()

    def _answer(self, draw: Callable[[np.ndarray], None]) -> Probabilities:
        with self._runtime.slot(self.image_size) as slot:
            draw(slot.pixels)
            values = slot.infer().copy()
        if values.shape != (len(self.names),):
            raise WeightsError(f"The model gives output of shape {values.shape} for {len(self.names)} classes.")
        return Probabilities(values)
