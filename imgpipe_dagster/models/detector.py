"""Finding objects: options in, a detector out, boxes from it. No Dagster, SQL or settings here."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from imgpipe_dagster.models.devices import Device, takes_cuda
from imgpipe_dagster.models.predictor import Predictor
from imgpipe_dagster.models.weights import checked_weights, fingerprint

K = TypeVar("K")


@dataclass(frozen=True)
class Boxes:
    """The objects found in one picture, the most confident first.

    Attributes:
        xyxy: float32 (n, 4): left, top, right, bottom in pixels of the upright picture, clipped to it.
        confidence: float32 (n,) between 0 and 1, descending.
        class_id: int64 (n,): keys of the detector's ``names``.

    Raises:
        ValueError: Shapes, types or the order are not these.
    """

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.confidence)
        expected = ((self.xyxy, (count, 4), "float32"), (self.confidence, (count,), "float32"))
        for array, shape, dtype in (*expected, (self.class_id, (count,), "int64")):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"expected {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}")
        if (np.diff(self.confidence) > 0).any():
            raise ValueError("the boxes are not sorted by confidence")

    def __len__(self) -> int:
        """How many objects."""
        return len(self.confidence)


@dataclass(frozen=True)
class DetectorOptions:
    """How to detect. The defaults are those of Ultralytics' ``predict``.

    Attributes:
        confidence: Boxes that score no more are dropped.
        iou: Of two boxes of one class that overlap more, the weaker is dropped.
        image_size: The picture's longer side on the model's input, in pixels; default: that of the weights. Only for
            models with a dynamic input.
        precision: ``fp32`` is exact; ``bf16`` and ``int8`` are faster and slightly different, and for CPUs only.
        device: ``auto`` takes CUDA where it is there and can serve the weights and the precision.
        calibration_dir: Folder of typical pictures that ``int8`` is calibrated with.
        max_boxes: At most so many boxes a picture.
        streams: Pictures in work at once on a CPU, with a thread each.
        batch_size: Pictures in one forward pass on CUDA.

    Raises:
        ValueError: A value is out of range.
    """

    confidence: float = 0.25
    iou: float = 0.7
    image_size: int | None = None
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    device: Device = "auto"
    calibration_dir: Path | None = None
    max_boxes: int = 300
    streams: int = 2
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not (0 <= self.confidence <= 1 and 0 <= self.iou <= 1):
            raise ValueError(f"confidence and iou are between 0 and 1, not {self.confidence} and {self.iou}")
        if self.precision not in {"fp32", "bf16", "int8"} or self.device not in {"auto", "cpu", "cuda"}:
            raise ValueError(f"there is no precision {self.precision!r} or no device {self.device!r}")
        size = 1 if self.image_size is None else self.image_size
        if min(self.max_boxes, self.streams, self.batch_size, size) < 1:
            raise ValueError("max_boxes, streams, batch_size and image_size are at least 1")


class Detector(Predictor):
    """Finds objects in pictures."""

    @abstractmethod
    def detect(self, image: np.ndarray) -> Boxes:
        """Find the objects in one picture.

        Args:
            image: uint8 (height, width, 3), BGR, upright.
        """

    @abstractmethod
    def detect_all(
        self, items: Iterable[tuple[K, bytes]], *, visit: Callable[[K, np.ndarray, Boxes], None] | None = None
    ) -> Iterator[tuple[K, Boxes]]:
        """Find the objects in many files, streaming: few files and fewer pictures are in memory at once.

        Args:
            items: A key and the bytes of an image file each. Read in the caller's thread, a little ahead.
            visit: Called with the key, the decoded picture (uint8 BGR, upright) and its boxes, possibly in a worker
                thread, several at once.

        Yields:
            Each key once, with its boxes, in no promised order.

        Raises:
            DecodeError: A file cannot be decoded; a note names its key. Validated files do not end here.
        """


def load_detector(
    weights: str | Path, options: DetectorOptions | None = None, *, cache_dir: Path, sha256: str | None = None
) -> Detector:
    """Make a detector from weights.

    Args:
        weights: A ``.pt`` or ``.onnx`` file, a folder that Ultralytics exported for OpenVINO, or the name of
            published weights such as ``yolo11n.pt``. They are trusted, though a ``.pt`` is loaded in safe mode.
        options: How to detect.
        cache_dir: Where downloads, exports and compiled models are kept.
        sha256: Refuse weights with another digest, before anything parses them; for a folder see ``sha256_of``.

    Raises:
        WeightsError: The weights are missing, are not what ``sha256`` says or are no detector, or ``int8`` lacks nncf
            or pictures.
        ValueError: The options do not fit the weights, the CPU or the device.
    """
    # Each kind of detector brings libraries that the other does without.
    options = options or DetectorOptions()
    path, digest = checked_weights(weights, cache_dir, sha256)
    if takes_cuda(path, device=options.device, precision=options.precision):
        from imgpipe_dagster.models.ultralytics_detector import UltralyticsDetector

        return UltralyticsDetector(path, digest, options, device="cuda", cache_dir=cache_dir)
    from imgpipe_dagster.models.openvino_detector import OpenVinoDetector

    return OpenVinoDetector(path, digest, options, cache_dir=cache_dir)


def detector_version(weights: Path, digest: str, options: DetectorOptions, image_size: tuple[int, int]) -> str:
    """The version that rows carry: the weights' name, and a digest of all that changes answers."""
    changes = [options.confidence, options.iou, options.precision, options.max_boxes, *image_size]
    return fingerprint(weights, digest, changes)
