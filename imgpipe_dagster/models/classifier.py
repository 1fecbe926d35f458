"""Classifying pictures: options in, a classifier out, probabilities from it. No Dagster, SQL or settings here."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from imgpipe_dagster.models.devices import Device, takes_cuda
from imgpipe_dagster.models.framing import cover, fit
from imgpipe_dagster.models.predictor import Predictor
from imgpipe_dagster.models.weights import checked_weights, fingerprint

K = TypeVar("K")

Visit = Callable[[K, np.ndarray, "list[Probabilities]"], None]


@dataclass(frozen=True)
class Probabilities:
    """What a classifier makes of one picture.

    Attributes:
        values: float32 (n,), between 0 and 1 and together 1, in the order of the classifier's ``names``.

    Raises:
        ValueError: The shape or type is another.
    """

    values: np.ndarray

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or self.values.dtype != np.float32:
            raise ValueError(f"expected float32 of shape (n,), got {self.values.dtype} of shape {self.values.shape}")

    @property
    def class_id(self) -> int:
        """The most probable class."""
        return int(self.values.argmax())

    @property
    def confidence(self) -> float:
        """Its probability."""
        return float(self.values.max())


@dataclass(frozen=True)
class ClassifierOptions:
    """How to classify.

    Attributes:
        image_size: Side of the model's square input in pixels; default: that of the weights. Only for models with a
            dynamic input.
        precision: ``fp32`` is exact; ``bf16`` is faster and slightly different, and for CPUs only.
        device: ``auto`` takes CUDA where it is there and can serve the weights and the precision.
        streams: Pictures in work at once on a CPU, with a thread each.
        batch_size: Pictures and crops in one forward pass on CUDA.

    Raises:
        ValueError: A value is out of range.
    """

    image_size: int | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Device = "auto"
    streams: int = 2
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.precision not in {"fp32", "bf16"} or self.device not in {"auto", "cpu", "cuda"}:
            raise ValueError(f"there is no precision {self.precision!r} or no device {self.device!r}")
        size = 1 if self.image_size is None else self.image_size
        if min(self.streams, self.batch_size, size) < 1:
            raise ValueError("streams, batch_size and image_size are at least 1")


class Classifier(Predictor):
    """Says what pictures show."""

    def classify(self, image: np.ndarray) -> Probabilities:
        """Classify one picture, as ``YOLO(weights).predict`` does: the middle of it, if it is not square.

        Args:
            image: uint8 (height, width, 3), BGR, upright.
        """
        return self._answer(lambda canvas: cover(image, canvas))

    def classify_crop(self, image: np.ndarray, box: np.ndarray) -> Probabilities:
        """Classify one object in a picture: the whole of its box, on a grey square.

        Args:
            image: uint8 (height, width, 3), BGR, upright.
            box: Left, top, right, bottom in pixels of the picture.

        Raises:
            ValueError: The box lies outside of the picture.
        """
        return self._answer(lambda canvas: fit(image, box, canvas))

    @abstractmethod
    def classify_all(
        self,
        items: Iterable[tuple[K, bytes]],
        *,
        boxes_of: Callable[[K], np.ndarray] | None = None,
        visit: Visit[K] | None = None,
    ) -> Iterator[tuple[K, list[Probabilities]]]:
        """Classify many files, and objects in them, streaming: few files and fewer pictures are in memory at once.

        Args:
            items: A key and the bytes of an image file each. Read in the caller's thread, a little ahead.
            boxes_of: The boxes of a key's picture that are classified as crops too, (n, 4).
            visit: Called with the key, the decoded picture (uint8 BGR, upright) and its probabilities, possibly in a
                worker thread, several at once.

        Yields:
            Each key once, with the probabilities of the whole picture and then of each box, in no promised order.

        Raises:
            DecodeError: A file cannot be decoded; a note names its key. Validated files do not end here.
            ValueError: A box lies outside of its picture.
        """

    @abstractmethod
    def _answer(self, draw: Callable[[np.ndarray], None]) -> Probabilities:
        """Run the model on what ``draw`` makes of its input, uint8 (height, width, 3), BGR."""


def load_classifier(
    weights: str | Path, options: ClassifierOptions | None = None, *, cache_dir: Path, sha256: str | None = None
) -> Classifier:
    """Make a classifier from weights.

    Args:
        weights: A ``.pt`` or ``.onnx`` file, a folder that Ultralytics exported for OpenVINO, or the name of
            published weights such as ``yolo11n-cls.pt``. They are trusted, though a ``.pt`` is loaded in safe mode.
        options: How to classify.
        cache_dir: Where downloads, exports and compiled models are kept.
        sha256: Refuse weights with another digest, before anything parses them; for a folder see ``sha256_of``.

    Raises:
        WeightsError: The weights are missing, are not what ``sha256`` says or are no classifier.
        ValueError: The options do not fit the weights, the CPU or the device.
    """
    # Each kind of classifier brings libraries that the other does without.
    options = options or ClassifierOptions()
    path, digest = checked_weights(weights, cache_dir, sha256)
    if takes_cuda(path, device=options.device, precision=options.precision):
        from imgpipe_dagster.models.ultralytics_classifier import UltralyticsClassifier

        return UltralyticsClassifier(path, digest, options, device="cuda", cache_dir=cache_dir)
    from imgpipe_dagster.models.openvino_classifier import OpenVinoClassifier

    return OpenVinoClassifier(path, digest, options, cache_dir=cache_dir)


def classifier_version(weights: Path, digest: str, options: ClassifierOptions, image_size: tuple[int, int]) -> str:
    """The version that rows carry: the weights' name, and a digest of all that changes answers."""
    return fingerprint(weights, digest, [options.precision, *image_size])
