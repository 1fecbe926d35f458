"""The child process of a ``Validator``: files come on standard input, verdicts leave on standard output.

Pixels, where they are wanted, are left in memory that the parent shares.

It imports what decodes and nothing else, so that it starts in a fraction of a second and has little to lose.
"""

import json
import mmap
import os
import resource
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from imgpipe_dagster.imaging.examine import examine
from imgpipe_dagster.imaging.validate import WORKER_READY, ValidationLimits


def main() -> None:
    """Answer requests until standard input ends."""
    limits = ValidationLimits(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the parent, which then ends this
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    cv2.setNumThreads(1)
    Image.MAX_IMAGE_PIXELS = None  # our own limit comes at the same point and says the size
    shared = np.frombuffer(mmap.mmap(int(sys.argv[2]), 3 * limits.max_pixels), np.uint8)
    _limit_memory(limits.memory_mb)
    height = width = 0

    def take(image: np.ndarray) -> None:
        nonlocal height, width
        shared[: image.size] = image.ravel()
        height, width = image.shape[:2]

    answers.write(WORKER_READY)
    answers.flush()
    while head := sys.stdin.buffer.read(9):
        # Should the parent be gone, nobody else would end a decoder that hangs: SIGALRM does.
        signal.setitimer(signal.ITIMER_REAL, limits.timeout_s + 5)
        height = width = 0
        verdict = examine(sys.stdin.buffer.read(int.from_bytes(head[1:])), limits, take if head[0] else None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not verdict.ok:
            height = width = 0
        answers.write(b"%d %d %s\n" % (height, width, verdict.to_json().encode()))
        answers.flush()


def _limit_memory(megabytes: int) -> None:
    """Limit the address space to what is mapped now (hundreds of MB of libraries, hardly used) and so much more."""
    if sys.platform == "linux":  # elsewhere the limit is not kept
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
