"""Peak memory of a run, for batches from 100 to 5,000 images of 1280 x 960 from a local server.

Each batch is run by `imgpipe run --once` in a process of its own, whose resident memory is sampled with that of the
decoding children that it starts. Pages that they share are counted once for each, so the sum is an upper limit.

    python benchmarks/memory.py [--sizes 100 500 2000 5000] [--image-size 640]
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
from _setup import Installation, pictures, serving

SAMPLE_EVERY_S = 0.1
LIMIT_MB = 2048


def peak_memory_mb(run: psutil.Popen) -> tuple[float, float]:
    """Peak resident memory of a process, and of it and its children together, until it ends."""
    peak_alone = peak_together = 0
    while run.poll() is None:
        alone = together = 0
        try:
            alone = run.memory_info().rss
            together = alone + sum(child.memory_info().rss for child in run.children(recursive=True))
        except psutil.NoSuchProcess:  # a child has just ended
            continue
        peak_alone, peak_together = max(peak_alone, alone), max(peak_together, together)
        time.sleep(SAMPLE_EVERY_S)
    if run.returncode:
        raise SystemExit(f"The run ended with status {run.returncode}.")
    return peak_alone / 2**20, peak_together / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 500, 2000, 5000])
    parser.add_argument("--image-size", type=int, default=640, help="the detector's input")
    options = parser.parse_args()
    print(f"The detector's input: {options.image_size} pixels\n")
    print("| images in the batch | run, MB | run and decoding children, MB |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder, serving(pictures(500), delay_s=0) as cdn:
        urls = (f"{cdn}/{number}" for number in range(10**9))
        models = Path(folder, "models")
        for size in options.sizes:
            home = Path(folder, str(size))
            installation = Installation(home, batch_size=size, detector_image_size=str(options.image_size))
            models.mkdir(exist_ok=True)
            (home / "models").symlink_to(models)  # exported once
            installation.add(next(urls) for _ in range(20))
            installation.run_once()
            installation.add(next(urls) for _ in range(size))
            quiet = subprocess.DEVNULL
            run = psutil.Popen(installation.run_once_command, env=installation.environment, stdout=quiet, stderr=quiet)
            alone, together = peak_memory_mb(run)
            print(f"| {size} | {alone:.0f} | {together:.0f} |", flush=True)
            if together > LIMIT_MB:
                raise SystemExit(f"More than {LIMIT_MB} MB.")


if __name__ == "__main__":
    main()
