"""How OpenCV's threads and ours get along. Nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def one_thread_a_picture() -> Iterator[None]:
    """While the block runs, OpenCV works on each picture with the thread that called it.

    Pictures are worked on side by side, as OpenCV lets go of Python's lock: threads of its own would only get in each
    other's way. Process-wide.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
