"""The whole path of 500 images, from rows to published predictions, against the serial script it replaces.

Ours is `imgpipe run --once` with SQLite and a local store: the clock runs from the claim to the published statuses, by
the database's own times. The other side does what such scripts do: `requests.get` one by one, a file each,
`cv2.imread` to see whether it can be read, `model.predict(path)`, INSERT, UPDATE and commit per image. Same pictures,
weights and input size, a local server that answers after 50 ms; the sides alternate, each in a fresh process whose
start is left out and printed. Exports and compiled models are warm, as in steady operation. The script knows no bottle
status; ours gives that of each picture but, so that both do nearly the same work, not that of each bottle in it. A
line of its own tells the figures without that stage: fetch, validate, detect, store and SQL, as the script does them.

    python benchmarks/whole_path.py [--images 500] [--rounds 3] [--precision fp32] [--delay-ms 50]
"""

import argparse
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imgpipe_dagster.settings import DEMO_WEIGHTS

IMAGE_SIZE = 640
TABLES = """
CREATE TABLE images (id INTEGER PRIMARY KEY, image_url TEXT, processed INTEGER DEFAULT 0);
CREATE TABLE image_predictions (id INTEGER PRIMARY KEY, image_id INTEGER, boxes TEXT, created_at TEXT);
"""


@dataclass(frozen=True)
class Round:
    """One side's turn.

    Attributes:
        seconds: From the claim of the rows to the last answer written.
        start_seconds: The rest of the process: its start and its end.
        cpu_seconds: Of the whole process and its children; unlike the others hardly troubled by a busy machine.
    """

    seconds: float
    start_seconds: float
    cpu_seconds: float


def time_process(run: Callable[[], float]) -> Round:
    """Time a call that runs one process, waits for it, and gives the seconds that count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    seconds = run()
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Round(seconds, wall - seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def is_image_corrupted(path: str) -> bool:
    import cv2

    if not os.path.exists(path) or os.path.getsize(path) == 0:  # noqa: PTH110, PTH202 - as such scripts do
        return True
    image = cv2.imread(path)
    return image is None or image.shape[0] == 0 or image.shape[1] == 0


def run_serial_script(database: str, folder: str) -> float:
    """The script that is replaced, and the seconds it took without its imports."""
    import cv2  # noqa: F401 - its import is not what is measured
    import requests
    from ultralytics import YOLO

    started = time.perf_counter()
    connection = sqlite3.connect(database)
    cursor = connection.cursor()
    rows = cursor.execute("SELECT id, image_url FROM images WHERE processed = 0 ORDER BY id").fetchall()
    for image_id, url in rows:
        response = requests.get(url, timeout=30)
        if response.status_code == 200:
            Path(folder, f"{image_id}.jpg").write_bytes(response.content)
    model: Any = YOLO(DEMO_WEIGHTS)
    for image_id, _ in rows:
        path = os.path.join(folder, f"{image_id}.jpg")  # noqa: PTH118 - as such scripts do
        if is_image_corrupted(path):
            cursor.execute("UPDATE images SET processed = 2 WHERE id = ?", (image_id,))
            connection.commit()
            continue
        found = model.predict(path, imgsz=IMAGE_SIZE, verbose=False)[0].boxes
        boxes = json.dumps({"xyxy": found.xyxy.tolist(), "conf": found.conf.tolist(), "cls": found.cls.tolist()})
        cursor.execute(
            "INSERT INTO image_predictions (image_id, boxes, created_at) VALUES (?, ?, datetime('now'))",
            (image_id, boxes),
        )
        cursor.execute("UPDATE images SET processed = 1 WHERE id = ?", (image_id,))
        connection.commit()
    return time.perf_counter() - started


def take_serial_turn(urls: Iterable[str]) -> Round:
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder, "script.db")
        with sqlite3.connect(database) as connection:
            connection.executescript(TABLES)
            connection.executemany("INSERT INTO images (image_url) VALUES (?)", [(url,) for url in urls])
        connection.close()
        Path(folder, "files").mkdir()
        command = [sys.executable, "-W", "ignore", __file__, "--serial-script", str(database), f"{folder}/files"]
        return time_process(
            lambda: float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--delay-ms", type=float, default=50)
    parser.add_argument("--serial-images", type=int, help="fewer images for the serial side, whose time is linear")
    parser.add_argument("--serial-script", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serial_script:
        print(run_serial_script(*options.serial_script))
        return

    from _setup import Installation, pictures, serving

    shown = pictures(500)
    with tempfile.TemporaryDirectory() as folder, serving(shown, options.delay_ms / 1000) as cdn:
        installation = Installation(
            Path(folder),
            batch_size=options.images,
            detector_image_size=str(IMAGE_SIZE),
            detector_precision=options.precision,
            detector_calibration_dir=str(shown),
            bottle_crop_classes="[]",
        )
        urls = (f"{cdn}/{number}" for number in range(10**9))  # each file of each round has bytes of its own
        installation.add(next(urls) for _ in range(20))
        installation.run_once()

        def take_our_turn() -> float:
            installation.run_once()
            return installation.last_batch_seconds()

        ours: list[Round] = []
        theirs: list[Round] = []
        steps: list[dict[str, float]] = []
        for number in range(options.rounds):
            installation.add(next(urls) for _ in range(options.images))
            ours.append(time_process(take_our_turn))
            steps.append(installation.last_run_steps())
            theirs.append(take_serial_turn(next(urls) for _ in range(options.serial_images or options.images)))
            print(f"round {number + 1}: {ours[-1]} {theirs[-1]} load {os.getloadavg()[0]:.1f}", file=sys.stderr)

    serial_images = options.serial_images or options.images
    serial_speed = serial_images / statistics.median(turn.seconds for turn in theirs)
    print(f"{options.images} images at {options.delay_ms:g} ms, {options.precision}, {os.cpu_count()} CPUs\n")
    print("| side | images/s | ratio | CPU ms an image | process start, s |\n|---|---|---|---|---|")
    same_work = [
        replace(turn, seconds=turn.seconds - taken["classifications"]) for turn, taken in zip(ours, steps, strict=True)
    ]
    for name, turns, images in (
        ("imgpipe run --once", ours, options.images),
        ("the same without the stage `classifications` (CPU with it)", same_work, options.images),
        ("serial script", theirs, serial_images),
    ):
        speed = images / statistics.median(turn.seconds for turn in turns)
        cpu_ms = statistics.median(turn.cpu_seconds for turn in turns) / images * 1000
        start = statistics.median(turn.start_seconds for turn in turns)
        print(f"| {name} | {speed:.1f} | {speed / serial_speed:.1f} | {cpu_ms:.0f} | {start:.1f} |")
    print("\n| stage | seconds |\n|---|---|")
    for step in steps[0]:
        print(f"| {step} | {statistics.median(turn[step] for turn in steps):.2f} |")


if __name__ == "__main__":
    main()
