"""From labelled pictures to the files of a tested model: split, train, calibrate, test, export. Nothing is stored."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgpipe_dagster.models.temple_architecture import Architecture, build_architecture, parse_architecture
from imgpipe_dagster.models.temple_calibration import Calibration, distance_limit, fit_temperature
from imgpipe_dagster.models.temple_classifier import (
    CLASSIFIER_FILES,
    ModelFile,
    ModelInfo,
    TempleClassifier,
    calibration_to_json,
)
from imgpipe_dagster.models.temple_cnn import (
    EpochFigures,
    TrainingHooks,
    TrainingOptions,
    needed_memory_mb,
    split_held_out,
    standard_architecture,
    train_network,
)
from imgpipe_dagster.models.temple_input import InputFormat, LabelledPictures, to_pixels, vary
from imgpipe_dagster.models.temple_onnx import OnnxNetwork, export_onnx
from imgpipe_dagster.models.temple_report import TestReport, evaluate
from imgpipe_dagster.models.temple_scene import SceneSubspace, fit_subspace, light_free, subspaces_to_bytes

if TYPE_CHECKING:
    import keras

MAX_EXPORT_DIFFERENCE = 1e-4
_VARIATIONS = 5  # copies of each held-out picture that calibration sees, so that a few pictures stand for many moments
_FIT_VARIATIONS = 2  # copies of each training picture in its category's subspace


class TrainingError(ValueError):
    """No model can be made of these pictures; the message says why and what to do."""


class Stage(StrEnum):
    """The steps of making a model; the values are the flags that the older system answered with."""

    TRAINING_DATA = "got_training_data_flag"
    TESTING_DATA = "got_testing_data_flag"
    ARCHITECTURE = "made_model_architecture_flag"
    TRAINED = "trained_model_flag"
    TESTED = "tested_model_flag"
    SAVED = "saved_model_flag"


@dataclass(frozen=True)
class TrainedTemple:
    """A model that was trained and tested.

    Attributes:
        files: All of ``ModelFile``, by name.
        classifier: The model, made from these files.
        report: On the test pictures.
        curve: One entry a pass over the training pictures.
        best_epoch: The pass whose weights were kept.
        stopped_because: Why training ended.
        seconds: How long it took.
        architecture: The layers.
    """

    files: Mapping[str, bytes]
    classifier: TempleClassifier
    report: TestReport
    curve: tuple[EpochFigures, ...]
    best_epoch: int
    stopped_because: str
    seconds: float
    architecture: Architecture

    @property
    def fingerprint(self) -> str:
        """Ten hexadecimal digits of all that decides its answers."""
        return classifier_fingerprint(self.files)


def classifier_fingerprint(files: Mapping[str, bytes]) -> str:
    """Ten hexadecimal digits of the files that decide a model's answers."""
    digests = [hashlib.sha256(files[name]).hexdigest() for name in CLASSIFIER_FILES]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:10]


def train_temple(
    train: LabelledPictures,
    test: LabelledPictures,
    form: InputFormat,
    *,
    options: TrainingOptions,
    min_confidence: float = 0.5,
    hooks: TrainingHooks | None = None,
    on_stage: Callable[[Stage], None] = lambda _stage: None,
) -> TrainedTemple:
    """Train, calibrate and test a model of one temple.

    Args:
        train: Pictures in the format, of at least two categories.
        test: Pictures in the format that training never sees; possibly none, and of categories that ``train`` has not.
        form: The format.
        options: How to train.
        min_confidence: The probability below which a picture has no category.
        hooks: Whom to tell and to ask during training.
        on_stage: Called as each step is done; saving is the caller's.

    Raises:
        TrainingError: There are fewer than two categories, or it would take too much memory.
        TrainingStoppedError: ``hooks`` said so.
    """
    labels = tuple(sorted(set(train.categories)))
    check_categories(labels)
    info = ModelInfo(labels, form, min_confidence)
    architecture = standard_architecture(form.shape, len(labels))
    check_memory(form, len(labels), len(train) + len(test), options)
    on_stage(Stage.ARCHITECTURE)
    truth = np.array([labels.index(category) for category in train.categories])
    fitted, held_out = split_held_out(truth, options.held_out_share, options.seed)
    network = train_network(
        train.pictures[fitted],
        truth[fitted],
        train.pictures[held_out],
        truth[held_out],
        architecture=architecture,
        options=options,
        hooks=hooks or TrainingHooks(),
    )
    on_stage(Stage.TRAINED)
    files = {
        ModelFile.ARCHITECTURE: network.model.to_json().encode(),
        ModelFile.WEIGHTS: weights_to_bytes(network.model),
        ModelFile.EXTRA_INFO: info.to_json(),
        ModelFile.ONNX: export_checked(network.model, train.pictures[:8]),
    }
    files |= _calibrate(train.pictures, truth, fitted, held_out, info, OnnxNetwork(files[ModelFile.ONNX]), options.seed)
    classifier = TempleClassifier.from_files(files)
    report = evaluate(classifier, test)
    on_stage(Stage.TESTED)
    files[ModelFile.REPORT] = report.to_json()
    return TrainedTemple(
        files=files,
        classifier=classifier,
        report=report,
        curve=network.curve,
        best_epoch=network.best_epoch,
        stopped_because=network.stopped_because,
        seconds=network.seconds,
        architecture=architecture,
    )


def check_categories(labels: tuple[str, ...]) -> None:
    """Refuse to train on less than two categories.

    Raises:
        TrainingError: There are fewer.
    """
    if len(labels) < 2:
        found = f"only {labels[0]!r}" if labels else "none"
        raise TrainingError(
            f"A model needs readable training pictures of at least two categories; there is {found}. "
            "Add some: imgpipe temple add TEMPLE DIR --split train, a folder for each category."
        )


def check_memory(form: InputFormat, labels: int, pictures: int, options: TrainingOptions) -> None:
    """Refuse a training that would take more memory than the options allow, before anything is loaded.

    Raises:
        TrainingError: It would.
    """
    needed = needed_memory_mb(standard_architecture(form.shape, labels), pictures)
    if needed > options.max_memory_mb:
        raise TrainingError(
            f"Training on {pictures} pictures of {form.width}x{form.height} would take {needed:.0f} MB, more than "
            f"{options.max_memory_mb}: choose a smaller scale factor or fewer pictures."
        )


def export_checked(model: "keras.Sequential", pictures: np.ndarray) -> bytes:
    """Export a Keras model to ONNX and hold the two against each other on some pictures and on noise.

    Args:
        model: A model of layers that are known here.
        pictures: uint8 BGR in the format of its input.

    Raises:
        TrainingError: They differ by more than 1e-4.
    """
    data = export_onnx(parse_architecture(model.to_json()), model.get_weights())
    noise = np.random.default_rng(0).integers(0, 256, (8, *model.input_shape[1:]), np.uint8)
    pixels = to_pixels(np.concatenate([pictures, noise]))
    difference = float(np.abs(OnnxNetwork(data).probabilities(pixels) - np.asarray(model(pixels))).max())
    if not difference <= MAX_EXPORT_DIFFERENCE:
        raise TrainingError(f"The exported model differs from the trained one by {difference:g}.")
    return data


def weights_to_bytes(model: "keras.Sequential") -> bytes:
    """The weights of a Keras model as its ``.weights.h5`` file, without the optimizer, which is twice as large.

    Raises:
        OSError: The temporary folder is full, or cannot be written.
    """
    bare = build_architecture(parse_architecture(model.to_json()))
    bare.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ModelFile.WEIGHTS
        try:
            bare.save_weights(path)
        except OSError as error:  # HDF5 tells it in several lines of its own
            if error.errno is None:
                raise
            raise OSError(error.errno, os.strerror(error.errno), tempfile.gettempdir()) from error
        return path.read_bytes()


def load_keras(files: Mapping[str, bytes]) -> "keras.Sequential":
    """The Keras model of a model's files, whose hashes were checked before; prediction does not need it.

    Raises:
        ArchitectureError: The architecture has layers that are not taken.
    """
    model = build_architecture(parse_architecture(files[ModelFile.ARCHITECTURE]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ModelFile.WEIGHTS
        path.write_bytes(files[ModelFile.WEIGHTS])
        model.load_weights(path)
    return model


def _calibrate(
    pictures: np.ndarray,
    truth: np.ndarray,
    fitted: np.ndarray,
    held_out: np.ndarray,
    info: ModelInfo,
    network: OnnxNetwork,
    seed: int,
) -> dict[str, bytes]:
    """The two files of calibration: numbers, and a subspace for each label."""
    random = np.random.default_rng([seed, 0])
    scenes: list[SceneSubspace] = []
    limits: list[float | None] = []
    for label in range(len(info.labels)):
        known = pictures[fitted[truth[fitted] == label]]
        shown = np.concatenate([known, *(vary(known, random) for _ in range(_FIT_VARIATIONS))])
        scenes.append(fit_subspace(light_free(shown)))
        kept = pictures[held_out[truth[held_out] == label]]
        if distance_limit(np.zeros(len(kept))) is None:
            limits.append(None)
            continue
        seen = np.concatenate([kept, *(vary(kept, random) for _ in range(_VARIATIONS))])
        limits.append(distance_limit(scenes[-1].distances(light_free(seen))))
    probabilities = np.zeros((0, len(info.labels)))
    if len(held_out):
        probabilities = network.probabilities(to_pixels(pictures[held_out]))
    calibration = Calibration(fit_temperature(probabilities, truth[held_out]), tuple(limits), len(held_out))
    return {
        ModelFile.CALIBRATION: calibration_to_json(calibration, info),
        ModelFile.SCENES: subspaces_to_bytes(scenes),
    }


def curve_as_lists(curve: tuple[EpochFigures, ...]) -> dict[str, list[float | None]]:
    """A learning curve by figure: ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``."""
    entries = [asdict(figures) for figures in curve]
    return {name: [entry[name] for entry in entries] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
