"""The convolutional network of one temple: its layers, and how they are trained. Arrays in, a Keras model out.

Keras runs on TensorFlow here; both are imported by the functions that need them.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imgpipe_dagster.models.quiet_keras import import_keras
from imgpipe_dagster.models.temple_architecture import (
    Architecture,
    Layer,
    LayerKind,
    build_architecture,
)
from imgpipe_dagster.models.temple_input import to_pixels, vary

if TYPE_CHECKING:
    import keras

CONVOLUTION_FILTERS = (16, 32)
DENSE_UNITS = (128, 64)
DROPOUT = 0.5
LEARNING_RATE = 1e-3
DECAY_PER_STEP = LEARNING_RATE / 50
MIN_PROGRESS = 0.002  # of the loss
_BYTES_PER_PARAMETER = 16  # the weight, its gradient and Adam's two moments, float32 each


class TrainingStoppedError(RuntimeError):
    """Somebody asked the training to stop; nothing was kept."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        epochs: At most so many passes over the training pictures.
        batch_size: Pictures in one step.
        patience: Passes without progress on the held-out pictures after which training ends.
        warm_up: Passes that a network may take before it is better than chance: small ones with much dropout need some.
        held_out_share: Part of each category that is held out, for early stopping and calibration.
        time_limit_s: Training ends after so many seconds, with the best weights until then.
        max_memory_mb: What pictures, weights and their moments may take in memory; more is refused beforehand.
        seed: Of the first weights, dropout, the split, the order and the variations.
    """

    epochs: int = 100
    batch_size: int = 32
    patience: int = 10
    warm_up: int = 30
    held_out_share: float = 0.2
    time_limit_s: float = 1800
    max_memory_mb: int = 4096
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.patience, self.max_memory_mb) < 1 or self.time_limit_s <= 0:
            raise ValueError("epochs, batch_size, patience, max_memory_mb and time_limit_s must be positive")
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share is a part of each category, from 0 to below 1, not {self.held_out_share}")


@dataclass(frozen=True)
class EpochFigures:
    """How one pass went. The ``val_`` figures are of held-out pictures, None where there are none."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float | None = None
    val_accuracy: float | None = None


@dataclass(frozen=True)
class TrainingHooks:
    """What a training tells while it runs, and whom it asks whether to go on.

    Attributes:
        on_epoch: Called after each pass.
        should_stop: Asked after each step; True ends the training with :class:`TrainingStoppedError`.
    """

    on_epoch: Callable[[EpochFigures], None] = lambda _figures: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network and the story of its training.

    Attributes:
        model: The Keras model, with its best weights.
        curve: One entry a pass.
        best_epoch: The pass whose weights were kept.
        stopped_because: Why it ended.
        seconds: How long the passes took.
    """

    model: "keras.Sequential"
    curve: tuple[EpochFigures, ...]
    best_epoch: int
    stopped_because: str
    seconds: float


def standard_architecture(shape: tuple[int, int, int], labels: int) -> Architecture:
    """The network for pictures of a shape: two convolutions with pooling and dropout, three dense layers, softmax.

    Args:
        shape: Height, width, channels.
        labels: How many categories.
    """
    layers: list[Layer] = []
    for filters in CONVOLUTION_FILTERS:
        layers += [
            Layer(LayerKind.CONVOLUTION, units=filters, window=(3, 3), activation="relu"),
            Layer(LayerKind.POOLING, window=(2, 2), strides=(2, 2)),
            Layer(LayerKind.DROPOUT, rate=DROPOUT),
        ]
    layers.append(Layer(LayerKind.FLATTEN))
    layers += [Layer(LayerKind.DENSE, units=units, activation="relu") for units in DENSE_UNITS]
    layers.append(Layer(LayerKind.DENSE, units=labels, activation="softmax"))
    return Architecture(shape, tuple(layers))


def compile_network(model: "keras.Sequential") -> None:
    """Make a network ready for training: Adam with a decaying rate, and cross-entropy.

    Keras 3 ignores the ``decay`` argument that optimizers once had: the schedule says the same.
    """
    keras = import_keras()
    rate = keras.optimizers.schedules.InverseTimeDecay(LEARNING_RATE, decay_steps=1, decay_rate=DECAY_PER_STEP)
    model.compile(keras.optimizers.Adam(rate), "categorical_crossentropy", metrics=["accuracy"])


def needed_memory_mb(architecture: Architecture, pictures: int) -> float:
    """About how much memory a training takes: pictures as bytes, weights with their gradients and moments."""
    return (architecture.parameters * _BYTES_PER_PARAMETER + pictures * math.prod(architecture.input_shape)) / 2**20


def split_held_out(truth: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of every category; one with a single picture keeps it for training.

    Args:
        truth: int, (n,): index of each picture's label.
        share: Part that is held out.
        seed: Of the choice.

    Returns:
        Indices of the pictures to train on and of those held out, each ascending.
    """
    random = np.random.default_rng(seed)
    held_out: list[int] = []
    for label in np.unique(truth):
        members = np.flatnonzero(truth == label)
        count = min(round(len(members) * share), len(members) - 1)
        held_out.extend(random.permutation(members)[:count].tolist())
    chosen = np.array(sorted(held_out), dtype=np.int64)
    return np.setdiff1d(np.arange(len(truth)), chosen), chosen


def class_weights(truth: np.ndarray, labels: int) -> dict[int, float]:
    """Weights by which every category counts the same, however many pictures it has."""
    counts = np.bincount(truth, minlength=labels)
    return {label: len(truth) / (labels * count) for label, count in enumerate(counts.tolist()) if count}


def train_network(
    pictures: np.ndarray,
    truth: np.ndarray,
    held_out_pictures: np.ndarray,
    held_out_truth: np.ndarray,
    *,
    architecture: Architecture,
    options: TrainingOptions,
    hooks: TrainingHooks,
) -> TrainedNetwork:
    """Train a new network. The same pictures, seed and libraries give the same predictions.

    Args:
        pictures: uint8 BGR, (n, height, width, 3).
        truth: int, (n,): index of each picture's label.
        held_out_pictures: As ``pictures``, possibly none: then the training loss decides when to end.
        held_out_truth: As ``truth``.
        architecture: The layers, as many outputs as labels.
        options: How to train.
        hooks: Whom to tell and to ask.

    Raises:
        TrainingStoppedError: ``hooks.should_stop`` said so.
    """
    keras = import_keras()
    import tensorflow as tf

    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    model = build_architecture(architecture)
    compile_network(model)
    labels = architecture.labels
    one_hot = np.eye(labels, dtype=np.float32)
    varied = _varied_batches(keras, pictures, one_hot[truth], class_weights(truth, labels), truth, options)
    held_out = (to_pixels(held_out_pictures), one_hot[held_out_truth]) if len(held_out_truth) else None
    watch = _watch(keras, labels, options, hooks)
    started = time.monotonic()
    model.fit(
        varied,
        validation_data=held_out,
        epochs=options.epochs,
        verbose=0,  # pyright: ignore[reportArgumentType] - Keras' annotation knows "auto" only
        callbacks=[watch],
    )
    seconds = time.monotonic() - started
    return TrainedNetwork(model, tuple(watch.curve), watch.best_epoch, watch.stopped_because, seconds)


def _varied_batches(
    keras: Any,  # noqa: ANN401 - the module
    pictures: np.ndarray,
    targets: np.ndarray,
    weights: dict[int, float],
    truth: np.ndarray,
    options: TrainingOptions,
) -> Any:  # noqa: ANN401 - a class that can only be made once Keras is imported
    """The training pictures in batches, in a new order and varied anew in each pass."""
    sample_weights = np.array([weights[label] for label in truth.tolist()], np.float32)

    class Batches(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__(workers=2)  # the next batches are varied while the network learns from one, in order
            self.epoch = 0
            self._order = self._shuffled()

        def __len__(self) -> int:
            return -(-len(pictures) // options.batch_size)

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            chosen = self._order[index * options.batch_size : (index + 1) * options.batch_size]
            random = np.random.default_rng([options.seed, self.epoch, index])
            return to_pixels(vary(pictures[chosen], random)), targets[chosen], sample_weights[chosen]

        def on_epoch_end(self) -> None:
            self.epoch += 1
            self._order = self._shuffled()

        def _shuffled(self) -> np.ndarray:
            return np.random.default_rng([options.seed, self.epoch]).permutation(len(pictures))

    return Batches()


def _watch(keras: Any, labels: int, options: TrainingOptions, hooks: TrainingHooks) -> Any:  # noqa: ANN401 - as above
    """Keeps the curve and the best weights, ends a training that makes no progress, asks whether to stop."""
    deadline = time.monotonic() + options.time_limit_s
    better_than_chance = 0.9 * math.log(labels)

    class Watch(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.curve: list[EpochFigures] = []
            self.best_epoch = 0
            self.stopped_because = "all epochs done"
            self._best = math.inf
            self._best_weights: list[np.ndarray] = []

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002 - Keras
            if hooks.should_stop():
                raise TrainingStoppedError("The training was stopped; nothing of it is kept.")
            if time.monotonic() > deadline:
                self._end("time limit")

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            logs = logs or {}
            figures = EpochFigures(
                epoch + 1, logs["loss"], logs["accuracy"], logs.get("val_loss"), logs.get("val_accuracy")
            )
            self.curve.append(figures)
            loss = figures.loss if figures.val_loss is None else figures.val_loss
            if not self.curve[:-1] or loss < self._best - MIN_PROGRESS:
                self._best, self.best_epoch, self._best_weights = loss, figures.epoch, self.model.get_weights()
            under_way = self._best < better_than_chance or figures.epoch >= options.warm_up
            if under_way and figures.epoch - self.best_epoch >= options.patience:
                self._end("no more progress")
            hooks.on_epoch(figures)

        def on_train_end(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002 - Keras
            self.model.set_weights(self._best_weights)

        def _end(self, why: str) -> None:
            self.stopped_because = why
            self.model.stop_training = True

    return Watch()
