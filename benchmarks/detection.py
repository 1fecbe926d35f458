"""Speed of detection, from JPEG files to rows of boxes, against the obvious loop and against the bare forward pass.

Every contender runs in a process of its own, loads and warms up first, and then takes turns with the others, so that a
noisy machine is noisy for all of them. The best round of each counts. CPU time, in ms per image, is that of all its
threads; where other programs compete for the cores it is the steadier figure. Files have to be decoded whatever the
network: "with decoding" compares with the bare network's time and that of decoding alone, one after the other.

    python benchmarks/detection.py [--images 300] [--weights PATH] [--imgsz 640] [--rounds 3]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from imgpipe_dagster.demo.render import render_scene
from imgpipe_dagster.models.decoding import decode, stream
from imgpipe_dagster.models.detector import DetectorOptions, load_detector
from imgpipe_dagster.models.memory import keep_freed_pictures
from imgpipe_dagster.models.openvino_detector import OpenVinoDetector
from imgpipe_dagster.models.weights import ultralytics_environment
from imgpipe_dagster.settings import DEMO_WEIGHTS

CALIBRATION_PICTURES = 64


def has_bf16() -> bool:
    import openvino as ov

    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


PRECISIONS = ("fp32", "bf16", "int8") if has_bf16() else ("fp32", "int8")


@dataclass(frozen=True)
class Job:
    weights: Path
    folder: Path
    image_size: int

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "pictures").iterdir())


def write_pictures(folder: Path, first_seed: int, count: int, kilobytes: int = 240) -> None:
    """Rendered scenes of 1280 x 960, each saved at the quality that comes closest to the size."""
    folder.mkdir(parents=True)
    for seed in range(first_seed, first_seed + count):
        scene = render_scene(seed).image
        files = [cv2.imencode(".jpg", scene, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for quality in range(70, 100, 4)]
        closest = min(files, key=lambda data: abs(len(data) - kilobytes * 1024))
        (folder / f"{seed:06}.jpg").write_bytes(closest.tobytes())


def prepare_torch(job: Job, threads: int | None) -> Callable[[], list]:
    import torch
    from ultralytics import YOLO

    model = YOLO(job.weights)

    def run() -> list:
        if threads is not None:
            torch.set_num_threads(threads)
        rows = []
        for file in job.files:
            boxes = model.predict(file, imgsz=job.image_size, verbose=False)[0].boxes
            rows += zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True)
        return rows

    model.predict(job.files[0], imgsz=job.image_size, verbose=False)
    return run


def load(job: Job, precision: str) -> OpenVinoDetector:
    options = DetectorOptions(
        precision=precision, image_size=job.image_size, device="cpu", calibration_dir=job.folder / "calibration"
    )
    detector = load_detector(job.weights, options, cache_dir=job.folder / "cache")
    assert isinstance(detector, OpenVinoDetector)
    return detector


def prepare_ours(job: Job, precision: str) -> Callable[[], list]:
    detector = load(job, precision)

    def run() -> list:
        rows = []
        for name, boxes in detector.detect_all((file.name, file.read_bytes()) for file in job.files):
            for row in zip(boxes.xyxy.tolist(), boxes.confidence.tolist(), boxes.class_id.tolist(), strict=True):
                rows.append((name, *row))
        return rows

    for file in job.files[:4]:
        detector.detect(cv2.imread(str(file)))
    return run


def prepare_bare(job: Job, precision: str) -> Callable[[], list]:
    """The same network on one random tensor: two streams, no files, no scaling, no suppression."""
    import openvino as ov

    core = ov.Core()
    network = core.read_model(load(job, precision).model.path)
    height, width = job.image_size * 3 // 4, job.image_size
    network.reshape([1, 3, height, width])
    hint = "f32" if precision == "fp32" or not has_bf16() else "bf16"
    config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": 2}
    jobs = ov.AsyncInferQueue(core.compile_model(network, "CPU", config), 2)
    tensors = [ov.Tensor(np.random.default_rng(0).random((1, 3, height, width), np.float32)) for _ in range(2)]
    for request, tensor in zip(jobs, tensors, strict=True):
        request.set_input_tensor(tensor)

    def run() -> list:
        for _ in job.files:
            jobs.start_async()
        jobs.wait_all()
        return []

    run()
    return run


def prepare_decoding(job: Job) -> Callable[[], list]:
    def run() -> list:
        files = ((file.name, file.read_bytes()) for file in job.files)
        return [image.shape for image in stream(lambda item: decode(*item), files, workers=2)]

    keep_freed_pictures()
    run()
    return run


CONTENDERS: dict[str, Callable[[Job], Callable[[], list]]] = {
    "loop": lambda job: prepare_torch(job, None),
    "loop2": lambda job: prepare_torch(job, 2),
    **{f"ours-{name}": lambda job, name=name: prepare_ours(job, name) for name in PRECISIONS},
    **{f"bare-{name}": lambda job, name=name: prepare_bare(job, name) for name in PRECISIONS},
    "decoding": prepare_decoding,
}


def serve(name: str, job: Job) -> None:
    """A contender's process: one run for each line on stdin, seconds and rows on stdout."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Ultralytics prints to stdout
    run = CONTENDERS[name](job)
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        start, start_cpu = time.perf_counter(), time.process_time()
        rows = run()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "rows": rows}), file=answers, flush=True)


def start(name: str, job: Job) -> "subprocess.Popen[str]":
    arguments = [name, "--weights", job.weights, "--folder", job.folder, "--imgsz", job.image_size]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--serve", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ultralytics_environment(job.folder)},
    )
    if read(process.stdout) != "ready\n":
        raise RuntimeError(f"{name} did not start")
    return process


def read(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def ask(process: "subprocess.Popen[str]") -> dict:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return json.loads(read(process.stdout))


def agreement(reference: list, other: list) -> str:
    """How many boxes of two lists match at IoU 0.5 and class, each at most once, and how far confidences are apart."""
    pictures = {row[0] for row in reference} | {row[0] for row in other}
    matched, differences = 0, []
    for picture in pictures:
        ours = [row for row in other if row[0] == picture]
        for _, box, confidence, class_id in (row for row in reference if row[0] == picture):
            rivals = [row for row in ours if row[3] == class_id]
            best = max(rivals, key=lambda row: overlap(box, row[1]), default=None)
            if best is not None and overlap(box, best[1]) >= 0.5:
                ours.remove(best)
                matched += 1
                differences.append(abs(confidence - best[2]))
    total = len(reference) + len(other) - matched
    apart = f"confidence apart by {np.mean(differences):.4f} on average, {np.max(differences):.4f} at most"
    return f"{matched} of {total} boxes match ({matched / total:.1%}); {apart}"


def overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def report(speeds: dict[str, float], cpu_ms: dict[str, float], rows: dict[str, list]) -> Iterator[str]:
    titles = ("images/s", "x loop", "x loop2", "of bare", "with decoding", "CPU ms", "of bare", "with decoding")
    yield f"{'contender':<12}" + "".join(f"{title:>15}" for title in titles)
    for name, speed in speeds.items():
        cells = [f"{speed:.1f}", f"{speed / speeds['loop']:.2f}", f"{speed / speeds['loop2']:.2f}", "", ""]
        cells += [f"{cpu_ms[name]:.1f}", "", ""]
        if name.startswith("ours"):
            bare = name.replace("ours", "bare")
            cells[3] = f"{speed / speeds[bare]:.0%}"
            cells[4] = f"{speed * (1 / speeds[bare] + 1 / speeds['decoding']):.0%}"
            cells[6] = f"{cpu_ms[bare] / cpu_ms[name]:.0%}"
            cells[7] = f"{(cpu_ms[bare] + cpu_ms['decoding']) / cpu_ms[name]:.0%}"
        yield f"{name:<12}" + "".join(f"{cell:>15}" for cell in cells)
    if "bf16" not in PRECISIONS:
        yield "bf16 is left out: this CPU has none."
    for name in (f"ours-{precision}" for precision in PRECISIONS[1:]):
        yield f"{name} against ours-fp32: {agreement(rows['ours-fp32'], rows[name])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--weights", type=Path, default=DEMO_WEIGHTS)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, Job(arguments.weights, arguments.folder, arguments.imgsz))
        return
    with tempfile.TemporaryDirectory() as folder:
        job = Job(arguments.weights.absolute(), Path(folder), arguments.imgsz)
        write_pictures(job.folder / "pictures", 1_000_000, arguments.images)
        write_pictures(job.folder / "calibration", 2_000_000, CALIBRATION_PICTURES)
        kilobytes = np.mean([file.stat().st_size for file in job.files]) / 1024
        print(
            f"{len(job.files)} JPEGs of {kilobytes:.0f} KB on average, {arguments.weights.name}, {os.cpu_count()} CPUs"
        )
        processes = {name: start(name, job) for name in CONTENDERS}
        speeds: dict[str, float] = dict.fromkeys(CONTENDERS, 0.0)
        cpu_ms: dict[str, float] = dict.fromkeys(CONTENDERS, float("inf"))
        rows: dict[str, list] = {}
        for number in range(arguments.rounds):
            for name, process in processes.items():
                answer = ask(process)
                rows[name] = answer["rows"]
                speeds[name] = max(speeds[name], len(job.files) / answer["seconds"])
                cpu_ms[name] = min(cpu_ms[name], 1000 * answer["cpu_seconds"] / len(job.files))
            print(f"round {number + 1}: load {os.getloadavg()[0]:.1f}", flush=True)
        for process in processes.values():
            process.communicate()
        print("\n".join(report(speeds, cpu_ms, rows)))


if __name__ == "__main__":
    main()
