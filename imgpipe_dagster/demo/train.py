"""Trains the demo detector from nothing on scenes rendered here: ``python -m imgpipe_dagster.demo.train --out FOLDER``.

Seeds of the three splits never meet, and the demo pictures use others again. The weights are written without the
optimizer and without a trace of the machine that made them.
"""

import argparse
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from imgpipe_dagster.demo.render import CLASS_NAMES, Scene, render_clutter, render_scene
from imgpipe_dagster.models.checkpoint import release
from imgpipe_dagster.settings import DEMO_WEIGHTS

if TYPE_CHECKING:
    from ultralytics.utils.metrics import DetMetrics

_log = logging.getLogger(__name__)

TRAIN_SEED, VAL_SEED, TEST_SEED = 1_000_000, 2_000_000, 3_000_000
_SIZES = ((640, 480), (640, 480), (640, 480), (480, 640), (640, 640))


@dataclass(frozen=True)
class Figures:
    """How weights were made, and how they do on rendered scenes that they never saw.

    Attributes:
        scenes: In the training split.
        epochs: Passes over it: on small pictures, at the full size.
        image_size: The full size: the longer side in pixels.
        test_scenes: In the test split.
        map50: Mean average precision on the test split at IoU 0.5, at the full size.
        map50_95: The same, averaged over IoU 0.5 to 0.95.
        map50_per_class: ``map50`` of each class.
        map50_at_640: ``map50`` at 640 pixels, for which the weights were not trained.
    """

    scenes: int
    epochs: tuple[int, int]
    image_size: int
    test_scenes: int
    map50: float
    map50_95: float
    map50_per_class: dict[str, float]
    map50_at_640: float


def write_split(folder: Path, split: str, seeds: Iterable[int]) -> None:
    """Render scenes as an Ultralytics data set: ``images/<split>/*.jpg`` and ``labels/<split>/*.txt`` under ``folder``.

    Args:
        folder: Root of the data set.
        split: train, val or test.
        seeds: One scene each; every eighth is clutter with nothing to find.
    """
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        render = render_clutter if seed % 8 == 7 else render_scene
        scene = render(seed, *_SIZES[seed % len(_SIZES)])
        cv2.imwrite(str(images / f"{seed}.jpg"), scene.image, [cv2.IMWRITE_JPEG_QUALITY, 60 + seed % 37])
        (labels / f"{seed}.txt").write_text(_label_lines(scene))


def _label_lines(scene: Scene) -> str:
    """One line per box: class, then centre and size in parts of the picture."""
    height, width = scene.image.shape[:2]
    return "".join(
        f"{box.class_id} {(box.x1 + box.x2) / 2 / width:.6f} {(box.y1 + box.y2) / 2 / height:.6f} "
        f"{(box.x2 - box.x1) / width:.6f} {(box.y2 - box.y1) / height:.6f}\n"
        for box in scene.boxes
    )


def write_dataset(folder: Path, scenes: int) -> Path:
    """Render all splits and return the data set's YAML file.

    Args:
        folder: Root of the data set.
        scenes: In the training split; a tenth as many validate and a fifth test, at least 20 each.
    """
    validating, testing = max(scenes // 10, 20), max(scenes // 5, 20)
    for split, first, count in (
        ("train", TRAIN_SEED, scenes),
        ("val", VAL_SEED, validating),
        ("test", TEST_SEED, testing),
    ):
        write_split(folder, split, range(first, first + count))
    description = folder / "data.yaml"
    splits = {split: f"images/{split}" for split in ("train", "val", "test")}
    # JSON is YAML.
    description.write_text(
        json.dumps({"path": str(folder.absolute()), **splits, "names": dict(enumerate(CLASS_NAMES))})
    )
    return description


def train(data: Path, out: Path, *, epochs: int, image_size: int, hours: float | None) -> Path:
    """Train YOLO11n from random weights on the CPU and return its best checkpoint.

    Most of the learning is done on small pictures, which cost a third; the last part is done at the full size.

    Args:
        data: The data set's YAML file.
        out: Folder for all of Ultralytics' output.
        epochs: Passes over the training split on small pictures; a quarter as many follow at the full size.
        image_size: Length of the longer side in pixels, a multiple of 32.
        hours: If given, Ultralytics fits the numbers of epochs into this time instead.
    """
    small = max(image_size * 6 // 10 // 32 * 32, 32)
    time_each = (hours * 0.6, hours * 0.4) if hours else (None, None)
    first = _run(data, out, "yolo11n.yaml", "small", imgsz=small, epochs=epochs, time=time_each[0], lr0=0.002)
    return _run(
        data, out, str(first), "full", imgsz=image_size, epochs=max(epochs // 4, 1), time=time_each[1], lr0=0.0008
    )


def _run(data: Path, out: Path, start: str, name: str, **options: float | None) -> Path:
    import torch
    from ultralytics import YOLO

    model = YOLO(start)
    # Ultralytics leaves one core idle, which on two cores is half the machine.
    model.add_callback("on_train_start", lambda _: torch.set_num_threads(os.cpu_count() or 1))
    # nbs equals batch: by default Ultralytics steps once in 64 images, too seldom for so short a training.
    model.train(
        data=str(data), project=str(out), name=name, exist_ok=True, device="cpu", workers=0, plots=False, amp=False,
        batch=16, nbs=16, cache="ram", seed=0, optimizer="AdamW", momentum=0.9, cos_lr=True, lrf=0.05, warmup_epochs=1,
        mosaic=0.3, close_mosaic=0, scale=0.5, translate=0.1, save_period=5, **options,
    )  # fmt: skip
    return out / name / "weights" / "best.pt"


def measure(weights: Path, data: Path, out: Path, image_size: int) -> Figures:
    """Test weights on the data set's test split; ``out`` holds the training's output."""
    from ultralytics import YOLO

    def test(size: int) -> "DetMetrics":
        return YOLO(weights).val(
            data=str(data), split="test", imgsz=size, device="cpu", workers=0, plots=False, project=str(out),
            name="test", exist_ok=True,
        )  # fmt: skip

    box, box_at_640 = test(image_size).box, test(640).box
    images = data.parent / "images"
    return Figures(
        scenes=len(list((images / "train").iterdir())),
        epochs=(_epochs_done(out / "small"), _epochs_done(out / "full")),
        image_size=image_size,
        test_scenes=len(list((images / "test").iterdir())),
        map50=round(float(box.map50), 4),
        map50_95=round(float(box.map), 4),
        map50_per_class={
            CLASS_NAMES[index]: round(float(value), 4)
            for index, value in zip(box.ap_class_index, box.ap50, strict=True)
        },
        map50_at_640=round(float(box_at_640.map50), 4),
    )


def _epochs_done(run: Path) -> int:
    return len((run / "results.csv").read_text().splitlines()) - 1


def main(arguments: list[str] | None = None) -> None:
    """Render, train, measure, and write the weights and their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the data set and all training output")
    parser.add_argument("--scenes", type=int, default=900, help="training scenes (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=24, help="passes over small pictures of them (default: %(default)s)"
    )
    parser.add_argument("--imgsz", type=int, default=320, help="longer side in pixels (default: %(default)s)")
    parser.add_argument("--hours", type=float, help="fit the epochs into this time")
    parser.add_argument(
        "--weights", type=Path, default=DEMO_WEIGHTS, help="where the weights go (default: the package)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    out = options.out.absolute()
    os.environ.setdefault("YOLO_CONFIG_DIR", str(out))

    data = write_dataset(out / "scenes", options.scenes)
    best = train(data, out, epochs=options.epochs, image_size=options.imgsz, hours=options.hours)
    release(best, options.weights, options.imgsz)
    figures = measure(options.weights, data, out, options.imgsz)
    options.weights.with_suffix(".json").write_text(json.dumps(asdict(figures), indent=2) + "\n")
    _log.info("%s: %s", options.weights, figures)


if __name__ == "__main__":
    main()
