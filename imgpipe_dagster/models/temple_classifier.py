"""A temple's model at work: pictures in, a category with its confidence out, in batches. ONNX, no Keras."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.imaging.threads import one_thread_a_picture
from imgpipe_dagster.models.temple_calibration import Calibration, calibrated
from imgpipe_dagster.models.temple_input import InputFormat, Interpolation, fit, to_pixels
from imgpipe_dagster.models.temple_onnx import OnnxNetwork
from imgpipe_dagster.models.temple_scene import SceneSubspace, light_free, subspaces_from_bytes
from imgpipe_dagster.streams import map_unordered

K = TypeVar("K")

NO_CATEGORY = "No category (Anomaly)"
"""The class of a picture for which no category is probable enough; the words are those of the older system."""

BATCH = 64


class ModelFile(StrEnum):
    """The files of a model."""

    ARCHITECTURE = "model_architecture.json"
    WEIGHTS = "model.weights.h5"
    EXTRA_INFO = "extra_info.json"
    ONNX = "model.onnx"
    CALIBRATION = "calibration.json"
    SCENES = "scenes.npz"
    REPORT = "test_report.json"


CLASSIFIER_FILES = (ModelFile.EXTRA_INFO, ModelFile.ONNX, ModelFile.CALIBRATION, ModelFile.SCENES)
"""Those that prediction needs; they decide every answer."""


class ModelFileError(ValueError):
    """A file of a model cannot be understood."""


@dataclass(frozen=True)
class ModelInfo:
    """What ``extra_info.json`` says.

    Attributes:
        labels: The categories in the order of the network's outputs.
        form: What pictures are brought to.
        min_confidence: The probability below which a picture has no category.
    """

    labels: tuple[str, ...]
    form: InputFormat
    min_confidence: float = 0.5

    def to_json(self) -> bytes:
        """As a file. The first two names are those of the older system."""
        described = {
            "class_labels": list(self.labels),
            "resized_image_shape": list(self.form.shape),  # height, width, channels
            "interpolation": self.form.interpolation.value,
            "channel_order": "bgr",
            "pixel_range": [0, 1],
            "min_confidence": self.min_confidence,
        }
        return json.dumps(described, ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "ModelInfo":
        """Read what :meth:`to_json` wrote.

        Raises:
            ModelFileError: It is something else.
        """
        try:
            described: dict[str, Any] = json.loads(data)
            height, width, _ = described["resized_image_shape"]
            form = InputFormat(height, width, Interpolation(described["interpolation"]))
            return cls(tuple(described["class_labels"]), form, float(described["min_confidence"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelFileError(f"{ModelFile.EXTRA_INFO} cannot be understood: {error!r}") from error


@dataclass(frozen=True)
class TempleAnswer:
    """What a model says of one picture.

    Attributes:
        image_class: The most probable category, or ``NO_CATEGORY`` where none reaches the least confidence.
        class_confidence: The highest probability, of whichever category.
        probabilities: Of every category; they sum to 1.
        calibrated_confidence: The highest probability at the temperature that held-out pictures gave.
        scene_distance: How far the picture is from those that the category was trained on, in parts of the limit:
            above 1 it counts as unknown. None where no limit is known.
        anomaly: No category is probable enough, or the scene is unknown.
    """

    image_class: str
    class_confidence: float
    probabilities: dict[str, float]
    calibrated_confidence: float
    scene_distance: float | None
    anomaly: bool


@dataclass(frozen=True)
class TempleClassifier:
    """A model, ready to classify. Safe to share between threads."""

    info: ModelInfo
    network: OnnxNetwork
    calibration: Calibration
    scenes: tuple[SceneSubspace, ...]  # one a label, or none

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "TempleClassifier":
        """Make a classifier of the files in ``CLASSIFIER_FILES``, whose hashes were checked before.

        Raises:
            KeyError: One is missing.
            ModelFileError: One cannot be understood.
        """
        info = ModelInfo.from_json(files[ModelFile.EXTRA_INFO])
        calibration = calibration_from_json(files[ModelFile.CALIBRATION], info)
        known = any(limit is not None for limit in calibration.distance_limits)
        scenes = subspaces_from_bytes(files[ModelFile.SCENES], len(info.labels)) if known else []
        return cls(info, OnnxNetwork(files[ModelFile.ONNX]), calibration, tuple(scenes))

    @property
    def blind_spots(self) -> str | None:
        """Where unknown scenes pass unnoticed, for people; None where every category has a limit of distance."""
        limits = zip(self.info.labels, self.calibration.distance_limits, strict=True)
        blind = [label for label, limit in limits if limit is None]
        if not blind:
            return None
        return (
            f"Unknown scenes that it takes for {', '.join(blind)} are not noticed: too few pictures were held out of "
            "the training to know a limit. Some 15 of each category are enough."
        )

    def classify(self, pictures: np.ndarray) -> list[TempleAnswer]:
        """Classify pictures that already have the format of the input: uint8 BGR, (n, height, width, 3)."""
        answers: list[TempleAnswer] = []
        for start in range(0, len(pictures), BATCH):
            answers.extend(self._classify_batch(pictures[start : start + BATCH]))
        return answers

    def classify_files(
        self, items: Iterable[tuple[K, bytes]], *, threads: int = 2
    ) -> Iterator[tuple[K, TempleAnswer | DecodeError]]:
        """Classify files, streaming: they are decoded in threads and go through the network in batches.

        Args:
            items: A key and the bytes of an image file each.
            threads: That decode.

        Yields:
            Each key once, with its answer or with what is wrong with its file, in no promised order.
        """
        waiting: list[tuple[K, np.ndarray]] = []
        with one_thread_a_picture():
            for key, picture in map_unordered(self._read, items, threads=threads, ahead=BATCH):
                if isinstance(picture, DecodeError):
                    yield key, picture
                    continue
                waiting.append((key, picture))
                if len(waiting) == BATCH:
                    yield from self._answers(waiting)
                    waiting = []
        yield from self._answers(waiting)

    def _read(self, item: tuple[K, bytes]) -> tuple[K, np.ndarray | DecodeError]:
        key, data = item
        try:
            return key, fit(decode_bgr(data), self.info.form)
        except DecodeError as error:
            return key, error

    def _answers(self, waiting: list[tuple[K, np.ndarray]]) -> Iterator[tuple[K, TempleAnswer]]:
        if waiting:
            pictures = np.stack([picture for _, picture in waiting])
            yield from zip((key for key, _ in waiting), self.classify(pictures), strict=True)

    def _classify_batch(self, pictures: np.ndarray) -> list[TempleAnswer]:
        probabilities = self.network.probabilities(to_pixels(pictures))
        sure = calibrated(probabilities, self.calibration.temperature).max(axis=1)
        best = probabilities.argmax(axis=1)
        distances = self._scene_distances(pictures, best)
        answers = []
        for index, label in enumerate(best.tolist()):
            confidence = float(probabilities[index, label])
            distance = distances[index]
            unsure = confidence < self.info.min_confidence
            answers.append(
                TempleAnswer(
                    image_class=NO_CATEGORY if unsure else self.info.labels[label],
                    class_confidence=confidence,
                    probabilities=dict(zip(self.info.labels, probabilities[index].tolist(), strict=True)),
                    calibrated_confidence=float(sure[index]),
                    scene_distance=distance,
                    anomaly=unsure or (distance is not None and distance > 1),
                )
            )
        return answers

    def _scene_distances(self, pictures: np.ndarray, best: np.ndarray) -> list[float | None]:
        """Each picture's distance from the category that it was given, in parts of that category's limit."""
        found: list[float | None] = [None] * len(pictures)
        if not self.scenes:
            return found
        features = light_free(pictures)
        for label in np.unique(best).tolist():
            limit = self.calibration.distance_limits[label]
            if limit is not None:
                members = np.flatnonzero(best == label)
                distances = self.scenes[label].distances(features[members]) / max(limit, 1e-9)
                for index, distance in zip(members.tolist(), distances.tolist(), strict=True):
                    found[index] = distance
        return found


def calibration_to_json(calibration: Calibration, info: ModelInfo) -> bytes:
    """As ``calibration.json``."""
    described = {
        "temperature": calibration.temperature,
        "distance_limits": dict(zip(info.labels, calibration.distance_limits, strict=True)),
        "held_out_pictures": calibration.held_out,
    }
    return json.dumps(described, ensure_ascii=False, indent=1).encode()


def calibration_from_json(data: bytes, info: ModelInfo) -> Calibration:
    """Read what :func:`calibration_to_json` wrote.

    Raises:
        ModelFileError: It is something else.
    """
    try:
        described = json.loads(data)
        limits = tuple(described["distance_limits"][label] for label in info.labels)
        return Calibration(float(described["temperature"]), limits, int(described["held_out_pictures"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{ModelFile.CALIBRATION} cannot be understood: {error!r}") from error
