"""Training a classifier on labelled pictures, with Ultralytics: configuration, training, figures. No SQL, no store."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.models.checkpoint import release
from imgpipe_dagster.models.devices import Device
from imgpipe_dagster.models.labelled_folder import LabelledFolder, LabelledPicture, Split
from imgpipe_dagster.models.weights import load_yolo

_SHORTER_SIDE = 2  # of a training picture, in input sizes: enough for the closest crop
_RUN = "run"


class ConfigError(ValueError):
    """A training configuration that cannot be used; the message says why."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Names and meanings of the augmentations are those of Ultralytics.

    Attributes:
        architecture: Ultralytics' YAML that a training without weights starts from.
        image_size: Side of the model's input in pixels.
        epochs: Passes over the training pictures at most.
        patience: Ends earlier after so many passes without a better result on the validation pictures.
        batch: Pictures in one step.
        learning_rate: At the start; it falls along a cosine.
        seed: The same data and seed give the same weights on one machine.
        val_share: Part of each class for choosing the best pass.
        test_share: Part of each class for the figures that are reported.
        scale: A crop of 1 - scale to 1 of the picture's area. Keep it small where the cap is small.
        fliplr: Chance of mirroring.
        flipud: Chance of turning upside down.
        hsv_h: Jitter of hue.
        hsv_s: Jitter of saturation.
        hsv_v: Jitter of brightness and contrast.
        erasing: Chance of erasing a rectangle.
        auto_augment: randaugment, augmix, autoaugment, or none (then the jitters above count).

    Raises:
        ConfigError: A value is out of range or of another type.
    """

    architecture: str = "yolo11n-cls.yaml"
    image_size: int = 224
    epochs: int = 60
    patience: int = 15
    batch: int = 32
    learning_rate: float = 0.002
    seed: int = 0
    val_share: float = 0.15
    test_share: float = 0.15
    scale: float = 0.2
    fliplr: float = 0.5
    flipud: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.4
    hsv_v: float = 0.4
    erasing: float = 0.0
    auto_augment: str | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            *(("image_size", 32, 1024), ("epochs", 1, 10_000), ("patience", 1, 10_000), ("batch", 1, 4096)),
            *(("seed", 0, 2**31), ("val_share", 0.01, 0.5), ("test_share", 0.01, 0.5), ("learning_rate", 1e-6, 1.0)),
            *((name, 0.0, 1.0) for name in ("scale", "fliplr", "flipud", "hsv_h", "hsv_s", "hsv_v", "erasing")),
        ):
            value = getattr(self, name)
            whole = isinstance(low, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise ConfigError(f"{name} is a {'whole ' if whole else ''}number, not {value!r}.")
            if not low <= value <= high:
                raise ConfigError(f"{name} is between {low:g} and {high:g}, not {value}.")
        if self.auto_augment not in {None, "randaugment", "augmix", "autoaugment"}:
            raise ConfigError(f"There is no auto_augment {self.auto_augment!r}: randaugment, augmix, autoaugment.")
        if not isinstance(self.architecture, str) or not self.architecture.endswith("-cls.yaml"):
            raise ConfigError(f"{self.architecture} is no architecture of a classifier, such as yolo11n-cls.yaml.")

    @classmethod
    def read(cls, path: Path) -> "TrainingConfig":
        """Read a YAML file; what it leaves out keeps its default.

        Raises:
            ConfigError: It is no YAML mapping, has unknown keys, or a value is wrong.
        """
        try:
            found = yaml.safe_load(path.read_text("utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not a YAML file: {error}") from error
        if not isinstance(found, dict):
            raise ConfigError(f"{path} holds no settings: each line is a name, a colon and a value.")
        known = {field.name for field in fields(cls)}
        unknown = sorted(map(str, found.keys() - known))
        if unknown:
            raise ConfigError(f"{path} has unknown keys: {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")
        return cls(**found)


@dataclass(frozen=True)
class TrainedClassifier:
    """What a training gave.

    Attributes:
        weights: Half precision, no optimizer, nothing of the machine.
        metrics: ``top1`` on the test split, ``recall_by_class``, ``confusion`` (true class, then given class),
            ``epochs``, ``best_val_top1`` and the pictures of each split.
        artefacts: Files to keep beside the weights, by name: manifest, configuration, curves, confusion matrices and
            batches.
    """

    weights: Path
    metrics: dict[str, Any]
    artefacts: dict[str, Path]


def train_classifier(
    data: LabelledFolder,
    config: TrainingConfig,
    folder: Path,
    *,
    start: Path | None = None,
    device: Device = "auto",
    cache_dir: Path,
    on_epoch: Callable[[int, float], None] = lambda _epoch, _top1: None,
) -> TrainedClassifier:
    """Train on the training split, choose the best pass on the validation split, test on the test split.

    Args:
        data: The pictures.
        config: How.
        folder: An empty folder for pictures, checkpoints and artefacts; some gigabytes for 10,000 pictures.
        start: Weights of a classifier to start from; without them the architecture starts from random ones.
        device: ``auto`` takes CUDA where there is one.
        cache_dir: Where Ultralytics keeps its settings.
        on_epoch: Called after each pass with its number (from 1) and the share of right validation pictures.

    Raises:
        WeightsError: ``start`` is no classifier.
    """
    import torch

    chosen = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    pictures = folder / "pictures"
    _write_pictures(data, pictures, config.image_size)
    model = load_yolo(start or config.architecture, "classify", cache_dir)

    def tell(trainer: Any) -> None:  # noqa: ANN401 - Ultralytics' trainer
        if trainer.epoch < trainer.epochs:  # once more after the last pass, for the best one
            on_epoch(trainer.epoch + 1, float(trainer.metrics["metrics/accuracy_top1"]))

    model.add_callback("on_fit_epoch_end", tell)
    # Ultralytics leaves one core idle, which on two cores is half the machine.
    model.add_callback("on_train_start", lambda _: torch.set_num_threads(os.cpu_count() or 1))
    # Biases warm up from 0 like all else: from Ultralytics' 0.1, AdamW would throw away what the weights know.
    model.train(
        data=str(pictures), project=str(folder), name=_RUN, exist_ok=True, device=chosen, verbose=False, plots=True,
        workers=0 if chosen == "cpu" else min(8, os.cpu_count() or 1), amp=False, deterministic=True, seed=config.seed,
        imgsz=config.image_size, epochs=config.epochs, patience=config.patience, batch=config.batch, nbs=config.batch,
        optimizer="AdamW", lr0=config.learning_rate, momentum=0.9, cos_lr=True, warmup_epochs=1, warmup_bias_lr=0.0,
        scale=config.scale, fliplr=config.fliplr, flipud=config.flipud, hsv_h=config.hsv_h, hsv_s=config.hsv_s,
        hsv_v=config.hsv_v, erasing=config.erasing, auto_augment=config.auto_augment,
    )  # fmt: skip
    weights = folder / "weights.pt"
    release(folder / _RUN / "weights" / "best.pt", weights, config.image_size, "classify")
    trained = load_yolo(weights, "classify", cache_dir)
    trained.val(
        data=str(pictures), split="test", imgsz=config.image_size, device=chosen, workers=0, plots=True, verbose=False,
        project=str(folder), name="test", exist_ok=True,
    )  # fmt: skip
    confusion = _confusion(trained, data, pictures, chosen)
    curve = _curve(folder / _RUN / "results.csv")
    return TrainedClassifier(
        weights, _metrics(data, confusion, curve), {**_notes(data, config, folder), **_plots(folder)}
    )


def _write_pictures(data: LabelledFolder, folder: Path, image_size: int) -> None:
    """The pictures as Ultralytics wants them: ``<split>/<class>/<sha256>.jpg``, upright, no larger than is of use."""
    for split in Split:
        for name in data.classes:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
    for picture in data.pictures:
        image = decode_bgr((data.folder / picture.path).read_bytes())
        scale = _SHORTER_SIDE * image_size / min(image.shape[:2])
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(_written(folder, picture)), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


def _written(folder: Path, picture: LabelledPicture) -> Path:
    return folder / picture.split / picture.class_name / f"{picture.sha256}.jpg"


def _confusion(model: Any, data: LabelledFolder, pictures: Path, device: str) -> dict[str, dict[str, int]]:  # noqa: ANN401 - an Ultralytics model
    """What the model makes of the test split: for each true class, how many got each class."""
    counts = {true: dict.fromkeys(data.classes, 0) for true in data.classes}
    tested = {_written(pictures, picture): picture for picture in data.pictures if picture.split is Split.TEST}
    for path, picture in tested.items():
        found = model.predict(path, device=device, verbose=False)[0]
        counts[picture.class_name][found.names[found.probs.top1]] += 1
    return counts


def _metrics(data: LabelledFolder, confusion: dict[str, dict[str, int]], curve: list[float]) -> dict[str, Any]:
    totals = {true: sum(row.values()) for true, row in confusion.items()}
    right = {true: row[true] for true, row in confusion.items()}
    return {
        "top1": round(sum(right.values()) / sum(totals.values()), 4),
        "recall_by_class": {true: round(right[true] / totals[true], 4) for true in confusion},
        "confusion": confusion,
        "epochs": len(curve),
        "best_val_top1": round(float(np.max(curve)), 4),
        "pictures": data.counts(),
        "data": data.fingerprint,
    }


def _curve(results: Path) -> list[float]:
    """The share of right validation pictures after each pass."""
    with results.open(newline="") as file:
        return [float(row["metrics/accuracy_top1"]) for row in csv.DictReader(file, skipinitialspace=True)]


def _notes(data: LabelledFolder, config: TrainingConfig, folder: Path) -> dict[str, Path]:
    """The manifest and the configuration, written down."""
    manifest, used = folder / "manifest.csv", folder / "config.yaml"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "class", "split", "sha256"))
        writer.writerows((str(p.path), p.class_name, p.split.value, p.sha256) for p in data.pictures)
    used.write_text(yaml.safe_dump(asdict(config), sort_keys=False))
    skipped = folder / "skipped.json"
    skipped.write_text(json.dumps([{"path": str(file.path), "why": file.why} for file in data.skipped], indent=1))
    return {path.name: path for path in (manifest, used, skipped)}


def _plots(folder: Path) -> dict[str, Path]:
    """Ultralytics' curves, confusion matrices and pictures of batches, those of the test with ``test_`` before them."""
    found = {path.name: path for pattern in ("*.png", "*.jpg", "results.csv") for path in (folder / _RUN).glob(pattern)}
    tested = {f"test_{path.name}": path for pattern in ("*.png", "*.jpg") for path in (folder / "test").glob(pattern)}
    return {**found, **tested}
