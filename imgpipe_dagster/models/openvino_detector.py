"""The detector for CPUs: decode, scale, infer and suppress, on OpenVINO. Neither torch nor Ultralytics is loaded."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from imgpipe_dagster.models.cache import COMPILED
from imgpipe_dagster.models.decoding import decode, stream
from imgpipe_dagster.models.detector import Boxes, Detector, DetectorOptions, K, detector_version
from imgpipe_dagster.models.letterbox import Letterbox, fitting_size
from imgpipe_dagster.models.memory import keep_freed_pictures
from imgpipe_dagster.models.nms import Found, boxes_from_end2end, boxes_from_raw
from imgpipe_dagster.models.runtime import OpenVinoRuntime
from imgpipe_dagster.models.weights import (
    WeightsError,
    calibration_pictures,
    is_quantised,
    openvino_file,
    quantised_file,
    sha256_of,
)

_RUNTIME_PRECISION = {"fp32": "f32", "bf16": "bf16", "int8": "fastest"}
"""int8 leaves some operations unquantised; who asks for it wants speed, so those take bf16 where the CPU has it."""


class OpenVinoDetector(Detector):
    """Each worker takes one picture from file to boxes; as many work at once as there are streams.

    The boxes are those of ``YOLO(weights).predict(file)`` at the same precision. A model with a dynamic input gets the
    smallest rectangle that holds the picture, as a ``.pt`` does in Ultralytics, and so does a dynamic INT8 model, which
    Ultralytics pads to a square on CPUs with AMX only.
    """

    def __init__(self, weights: Path, digest: str, options: DetectorOptions, *, cache_dir: Path) -> None:
        """Load, after what conversion is needed; see ``load_detector``."""
        keep_freed_pictures()
        model = openvino_file(weights, digest, cache_dir, task="detect")
        if options.precision == "int8" and not is_quantised(model.path):
            pictures = calibration_pictures(options.calibration_dir)
            digest = hashlib.sha256("".join([digest, *map(sha256_of, pictures)]).encode()).hexdigest()
            model = quantised_file(model, digest, pictures, cache_dir)
        self._runtime = OpenVinoRuntime(
            model.path,
            precision=_RUNTIME_PRECISION[options.precision],
            streams=options.streams,
            blob_dir=cache_dir / COMPILED,
        )
        if self._runtime.fixed_size is not None:
            if options.image_size not in {None, max(self._runtime.fixed_size)}:
                raise ValueError(
                    f"{weights} takes pictures of {self._runtime.fixed_size} only, not {options.image_size}."
                )
            self.image_size = self._runtime.fixed_size
        else:
            self.image_size = fitting_size(options.image_size or model.image_size, model.stride)
        self.names = model.names
        self.version = detector_version(weights, digest, options, self.image_size)
        self.model = model
        self._options = options

    def detect(self, image: np.ndarray) -> Boxes:  # noqa: D102 - inherited
        rectangular = self._runtime.fixed_size is None
        letterbox = Letterbox.fit(image.shape[:2], self.image_size, self.model.stride, rectangular=rectangular)
        with self._runtime.slot(letterbox.canvas) as slot:
            letterbox.draw(image, slot.pixels)
            xyxy, confidence, class_id = self._read(slot.infer())
        return Boxes(letterbox.restore(xyxy), confidence, class_id)

    def detect_all(  # noqa: D102 - inherited
        self, items: Iterable[tuple[K, bytes]], *, visit: Callable[[K, np.ndarray, Boxes], None] | None = None
    ) -> Iterator[tuple[K, Boxes]]:
        def answer(item: tuple[K, bytes]) -> tuple[K, Boxes]:
            key, data = item
            image = decode(key, data)
            boxes = self.detect(image)
            if visit is not None:
                visit(key, image, boxes)
            return key, boxes

        return stream(answer, items, workers=self._options.streams)

    def close(self) -> None:  # noqa: D102 - inherited
        self._runtime.close()

    def _read(self, output: np.ndarray) -> Found:
        confidence, max_boxes = self._options.confidence, self._options.max_boxes
        if self.model.end2end or output.shape[-1] == 6:
            return boxes_from_end2end(output, confidence=confidence, max_boxes=max_boxes)
        if output.shape[0] != 4 + len(self.names):
            raise WeightsError(f"{self.model.path} gives output of shape {output.shape}: it is not a YOLO detector.")
        return boxes_from_raw(output, confidence=confidence, iou=self._options.iou, max_boxes=max_boxes)
