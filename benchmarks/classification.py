"""Speed of classification, from JPEG files of 1280 x 960 to probabilities, against the obvious loop.

Whole pictures, whole pictures with a crop of every bottle in them, and what decoding alone costs. The sides take turns;
the best round of each counts. CPU time, of all threads, is the steadier figure on a machine that others use.

    python benchmarks/classification.py [--images 100] [--weights PATH] [--rounds 3]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from imgpipe_dagster.demo.render import BOTTLE, render_scene
from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.models.classifier import Classifier, ClassifierOptions, load_classifier
from imgpipe_dagster.models.weights import ultralytics_environment
from imgpipe_dagster.settings import DEMO_BOTTLE_WEIGHTS

FIRST_SEED = 5_500_000


def write_pictures(folder: Path, count: int) -> tuple[list[Path], dict[Path, np.ndarray]]:
    """Rendered shelves as files, and the boxes of the bottles in each."""
    boxes = {}
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        scene = render_scene(seed)
        path = folder / f"{seed}.jpg"
        cv2.imwrite(str(path), scene.image, [cv2.IMWRITE_JPEG_QUALITY, 88])
        found = [(box.x1, box.y1, box.x2, box.y2) for box in scene.boxes if box.class_id == BOTTLE]
        boxes[path] = np.array(found, np.float32).reshape(-1, 4)
    return sorted(boxes), boxes


def classify(classifier: Classifier, files: list[Path], boxes: dict[Path, np.ndarray] | None) -> list:
    items = ((file, file.read_bytes()) for file in files)
    return list(classifier.classify_all(items, boxes_of=None if boxes is None else boxes.__getitem__))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--weights", type=Path, default=DEMO_BOTTLE_WEIGHTS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(ultralytics_environment(folder))
        from ultralytics import YOLO

        pictures = folder / "pictures"
        pictures.mkdir()
        files, boxes = write_pictures(pictures, options.images)
        model = YOLO(options.weights)
        sides: dict[str, Callable[[], object]] = {
            "loop": lambda: [model.predict(file, device="cpu", verbose=False)[0].probs.top1 for file in files],
            "decode": lambda: [decode_bgr(file.read_bytes()) for file in files],
        }
        for precision in ("fp32", "bf16"):
            try:
                classifier = load_classifier(
                    options.weights, ClassifierOptions(precision=precision, device="cpu"), cache_dir=folder
                )
            except ValueError as error:
                print(f"{precision}: {error}")
                continue
            sides[precision] = partial(classify, classifier, files, None)
            sides[f"{precision}, crops"] = partial(classify, classifier, files, boxes)
        for run in sides.values():
            run()  # warm
        best: dict[str, tuple[float, float]] = {}
        for _ in range(options.rounds):
            for side, run in sides.items():
                start, start_cpu = time.perf_counter(), time.process_time()
                run()
                took = time.perf_counter() - start, time.process_time() - start_cpu
                best[side] = tuple(map(min, zip(took, best.get(side, took), strict=True)))
    crops = sum(len(found) for found in boxes.values())
    print(f"{len(files)} pictures, {crops / len(files):.1f} bottles in each\n")
    print("| side | images/s | x loop | CPU ms an image |\n|---|---|---|---|")
    for side, (seconds, cpu) in best.items():
        ratio, each = best["loop"][0] / seconds, 1000 * cpu / len(files)
        print(f"| {side} | {len(files) / seconds:.1f} | {ratio:.2f} | {each:.1f} |")


if __name__ == "__main__":
    main()
