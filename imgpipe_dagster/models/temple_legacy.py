"""Taking over a model that the older system wrote: Keras 2's architecture and ``.h5`` weights, labels and shape.

The files are of unknown origin. The architecture is read by :mod:`temple_architecture`, which knows a few layers only;
of the weights, nothing but plain arrays of the expected shapes is read, and no link leads out of the file.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imgpipe_dagster.models.temple_architecture import Architecture, build_architecture, parse_architecture
from imgpipe_dagster.models.temple_calibration import Calibration
from imgpipe_dagster.models.temple_classifier import ModelFile, ModelInfo, calibration_to_json
from imgpipe_dagster.models.temple_input import InputFormat, Interpolation
from imgpipe_dagster.models.temple_scene import subspaces_to_bytes
from imgpipe_dagster.models.temple_training import export_checked, weights_to_bytes

LEGACY_WEIGHTS = "model_weights.h5"
LEGACY_FILES = (ModelFile.ARCHITECTURE, LEGACY_WEIGHTS, ModelFile.EXTRA_INFO)


class LegacyModelError(ValueError):
    """The files are not those of a model that can be taken over; the message says which and why."""


def take_over(
    architecture: bytes, weights: bytes, extra_info: bytes, *, min_confidence: float = 0.5
) -> dict[str, bytes]:
    """Turn the older system's three files into those of a model here, but for the test report.

    The network stays what it was. Its pictures are reduced as the older system reduced them (OpenCV's default); nothing
    is known of held-out pictures, so that probabilities stay as they are and no distance is judged.

    Args:
        architecture: ``model_architecture.json``.
        weights: ``model_weights.h5``.
        extra_info: ``extra_info.json``.
        min_confidence: The probability below which a picture has no category.

    Raises:
        ArchitectureError: The architecture has layers that are not taken, or no network comes of them.
        LegacyModelError: Weights or labels do not fit it.
    """
    described = parse_architecture(architecture)
    arrays = read_weights(weights, described)
    labels = _labels(extra_info, described)
    height, width, _ = described.input_shape
    model = build_architecture(described)
    model.set_weights(arrays)
    info = ModelInfo(labels, InputFormat(height, width, Interpolation.LINEAR), min_confidence)
    calibration = Calibration(1.0, (None,) * len(labels), 0)
    return {
        ModelFile.ARCHITECTURE: model.to_json().encode(),
        ModelFile.WEIGHTS: weights_to_bytes(model),
        ModelFile.EXTRA_INFO: info.to_json(),
        ModelFile.ONNX: export_checked(model, np.zeros((1, *described.input_shape), np.uint8)),
        ModelFile.CALIBRATION: calibration_to_json(calibration, info),
        ModelFile.SCENES: subspaces_to_bytes([]),
    }


def read_weights(data: bytes, architecture: Architecture) -> list[np.ndarray]:
    """Read the arrays of Keras 2's ``save_weights`` (or of a whole model's ``.h5``), in the order of the layers.

    Args:
        data: The file.
        architecture: Says which shapes there must be.

    Raises:
        LegacyModelError: It is no such file, or it holds something else.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            root = _inside(file, "model_weights", h5py) if "model_weights" in file else file
            datasets = [
                _inside(layer, str(name), h5py)
                for layer in (_inside(root, str(name), h5py) for name in _names(root, "layer_names"))
                for name in _names(layer, "weight_names")
            ]
            shapes = [tuple(dataset.shape) for dataset in datasets]
            if shapes != architecture.weight_shapes():
                raise LegacyModelError(f"The weights have the shapes {shapes}, not {architecture.weight_shapes()}.")
            return [np.asarray(dataset[()], np.float32) for dataset in datasets]
    except (OSError, KeyError, AttributeError, TypeError) as error:
        raise LegacyModelError(f"{LEGACY_WEIGHTS} is no weights file of Keras 2: {error}") from error


def _names(group: Any, attribute: str) -> list[str]:  # noqa: ANN401 - h5py's
    return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[attribute]]


def _inside(group: Any, path: str, h5py: Any) -> Any:  # noqa: ANN401 - h5py's
    """What lies under a path, reached by plain links only: others could read any file of this machine."""
    for name in path.split("/"):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise LegacyModelError(f"{LEGACY_WEIGHTS} has a link instead of {path!r}.")
        group = group[name]
    if isinstance(group, h5py.Dataset) and (group.is_virtual or group.external):
        raise LegacyModelError(f"{LEGACY_WEIGHTS} keeps {path!r} in another file.")
    return group


def _labels(extra_info: bytes, architecture: Architecture) -> tuple[str, ...]:
    """The ordered labels: the only list of texts, as documents of the older system do not tell the key's name."""
    try:
        described = json.loads(extra_info)
    except ValueError as error:
        raise LegacyModelError(f"{ModelFile.EXTRA_INFO} is not JSON: {error}") from error
    values = list(described.values()) if isinstance(described, Mapping) else []
    lists = [value for value in values if _is_list_of(value, str)]
    if len(lists) != 1:
        raise LegacyModelError(f"{ModelFile.EXTRA_INFO} must hold one list of category labels; it holds {len(lists)}.")
    labels = tuple(lists[0])
    if len(labels) != architecture.labels or len(set(labels)) != len(labels):
        raise LegacyModelError(
            f"{ModelFile.EXTRA_INFO} names {len(labels)} categories, the network has {architecture.labels}."
        )
    sizes = [value for value in values if _is_list_of(value, int)]
    if any(sorted(size[:2]) != sorted(architecture.input_shape[:2]) for size in sizes):
        raise LegacyModelError(f"{ModelFile.EXTRA_INFO} gives another size of pictures than the network takes.")
    return labels


def _is_list_of(value: object, kind: type) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(item, kind) for item in value)
    )
