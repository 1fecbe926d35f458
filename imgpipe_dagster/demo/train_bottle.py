"""Trains the demo's bottle classifier: ``python -m imgpipe_dagster.demo.train_bottle --out FOLDER``.

It learns from photographs that are rendered here. Seeds of the three splits never meet, nor those of the detector and
of the demo pictures. The weights are written without the optimizer and without a trace of the machine that made them.
"""

import argparse
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from imgpipe_dagster.demo.bottles import BottleStatus, render_status
from imgpipe_dagster.models.checkpoint import release
from imgpipe_dagster.models.framing import cover
from imgpipe_dagster.settings import DEMO_BOTTLE_WEIGHTS, DEMO_WEIGHTS

_log = logging.getLogger(__name__)

TRAIN_SEED, VAL_SEED, TEST_SEED = 7_000_000, 8_000_000, 9_000_000
_SIDE = 176  # of the written pictures, in pixels
_SIZES = ((224, 224), (256, 224), (288, 216))
_RUN = "training"


@dataclass(frozen=True)
class Figures:
    """How weights were made, and how they do on pictures that they never saw.

    Attributes:
        pictures: In the training split.
        epochs: Passes over it.
        image_size: Side of the input in pixels.
        test_pictures: Rendered, in the test split.
        top1: Share of them whose class is right.
        recall_per_class: The same for each class.
        photos: Real photographs, if a folder of them was given.
        photos_top1: Share of those whose class is right.
        photos_confusion: For each true class, how many were given each class.
    """

    pictures: int
    epochs: int
    image_size: int
    test_pictures: int
    top1: float
    recall_per_class: dict[str, float]
    photos: int = 0
    photos_top1: float | None = None
    photos_confusion: dict[str, dict[str, int]] | None = None


def write_split(folder: Path, seeds: Iterable[int]) -> None:
    """Render pictures as an Ultralytics data set: ``<folder>/<class>/<seed>.jpg``, the classes in turn."""
    statuses = list(BottleStatus)
    for status in statuses:
        (folder / status).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        status = statuses[seed % len(statuses)]
        file = folder / status / f"{seed}.jpg"
        if file.exists():  # of a training that was broken off
            continue
        image = render_status(seed, status, *_SIZES[seed // len(statuses) % len(_SIZES)])
        seen = np.empty((_SIDE, _SIDE, 3), np.uint8)
        cover(image, seen)  # what the classifier sees of it
        cv2.imwrite(str(file), seen, [cv2.IMWRITE_JPEG_QUALITY, 60 + seed % 37])


def write_dataset(folder: Path, pictures: int) -> Path:
    """Render all splits under a folder and return it.

    Args:
        folder: Root of the data set.
        pictures: In the training split; a tenth as many validate and a fifth test, at least 30 each.
    """
    validating, testing = max(pictures // 10, 30), max(pictures // 5, 30)
    for split, first, count in (
        ("train", TRAIN_SEED, pictures),
        ("val", VAL_SEED, validating),
        ("test", TEST_SEED, testing),
    ):
        write_split(folder / split, range(first, first + count))
    return folder


def train(data: Path, out: Path, *, epochs: int, image_size: int, threads: int) -> Path:
    """Train YOLO11n-cls on the CPU and return its best checkpoint.

    It starts from its architecture and the first layers of the demo's shelf detector, which has learned from nothing on
    scenes of the same renderer: that saves most of the passes.

    Args:
        data: The data set's folder.
        out: Folder for all of Ultralytics' output.
        epochs: Passes over the training split.
        image_size: Side of the input in pixels.
        threads: For torch: on a machine that is busy with other work, one is faster than several that wait.
    """
    import torch
    from ultralytics import YOLO

    model = YOLO("yolo11n-cls.yaml").load(DEMO_WEIGHTS)
    model.add_callback("on_train_start", lambda _: torch.set_num_threads(threads))
    # A crop must not lose the cap that a picture is about: scale stays small, and nothing is erased. Biases warm up
    # from 0 like all else: from Ultralytics' 0.1, AdamW would throw away what the first layers know.
    model.train(
        data=str(data), project=str(out), name=_RUN, exist_ok=True, device="cpu", workers=0, plots=False, amp=False,
        imgsz=image_size, epochs=epochs, batch=32, nbs=32, cache="ram", seed=0, optimizer="AdamW", lr0=0.0015,
        momentum=0.9, cos_lr=True, lrf=0.02, warmup_epochs=1, warmup_bias_lr=0.0, scale=0.05, auto_augment=None,
        erasing=0.0, hsv_h=0.0, hsv_s=0.4, hsv_v=0.25,
    )  # fmt: skip
    return out / _RUN / "weights" / "best.pt"


def confusion(weights: Path, folder: Path) -> dict[str, dict[str, int]]:
    """What the weights make of the pictures in ``<folder>/<class>/``: for each true class, how many got each class."""
    from ultralytics import YOLO

    model: Any = YOLO(weights)  # its annotations say too little
    counts = {str(true): dict.fromkeys(map(str, BottleStatus), 0) for true in BottleStatus}
    for true in BottleStatus:
        for file in sorted((folder / true).iterdir()):
            found = model.predict(file, device="cpu", verbose=False)[0]
            counts[true][found.names[found.probs.top1]] += 1
    return counts


def measure(weights: Path, data: Path, out: Path, image_size: int, photos: Path | None) -> Figures:
    """Test weights on the data set's test split and on photographs; ``out`` holds the training's output."""
    rendered = confusion(weights, data / "test")
    real = confusion(weights, photos) if photos else None
    totals = {true: sum(row.values()) for true, row in rendered.items()}
    return Figures(
        pictures=len(list((data / "train").rglob("*.jpg"))),
        epochs=len((out / _RUN / "results.csv").read_text().splitlines()) - 1,
        image_size=image_size,
        test_pictures=sum(totals.values()),
        top1=_accuracy(rendered),
        recall_per_class={true: round(row[true] / totals[true], 4) for true, row in rendered.items()},
        photos=0 if real is None else int(np.sum([list(row.values()) for row in real.values()])),
        photos_top1=None if real is None else _accuracy(real),
        photos_confusion=real,
    )


def _accuracy(counts: dict[str, dict[str, int]]) -> float:
    return round(sum(counts[true][true] for true in counts) / sum(sum(row.values()) for row in counts.values()), 4)


def main(arguments: list[str] | None = None) -> None:
    """Render, train, measure, and write the weights and their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the data set and all training output")
    parser.add_argument("--pictures", type=int, default=3840, help="training pictures (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="passes over them (default: %(default)s)")
    parser.add_argument("--imgsz", type=int, default=128, help="side of the input in pixels (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch's (default: %(default)s)")
    parser.add_argument("--photos", type=Path, help="folder of real photographs by class, for their figure")
    parser.add_argument(
        "--weights", type=Path, default=DEMO_BOTTLE_WEIGHTS, help="where the weights go (default: the package)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    out = options.out.absolute()
    cv2.setNumThreads(1)  # the pictures are small: threads would only wait for each other
    os.environ.setdefault("YOLO_CONFIG_DIR", str(out))

    data = write_dataset(out / "pictures", options.pictures)
    best = train(data, out, epochs=options.epochs, image_size=options.imgsz, threads=options.threads)
    release(best, options.weights, options.imgsz, "classify")
    figures = measure(options.weights, data, out, options.imgsz, options.photos)
    options.weights.with_suffix(".json").write_text(json.dumps(asdict(figures), indent=2) + "\n")
    _log.info("%s: %s", options.weights, figures)


if __name__ == "__main__":
    main()
