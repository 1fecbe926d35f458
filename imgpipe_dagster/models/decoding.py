"""Files to answers in worker threads: decoding with the file's name in the error, and streaming. No models."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from imgpipe_dagster.imaging.decode import decode_bgr

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # files that wait for each worker, so that none waits for the next file


def decode(key: object, data: bytes) -> np.ndarray:
    """Decode a file; a note on the error says whose it was."""
    try:
        return decode_bgr(data)
    except Exception as error:
        error.add_note(f"while decoding {key!r}")
        raise


def stream(work: Callable[[T], R], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """Do the work on each item in threads, in order, a few items ahead of whoever takes the results."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="model") as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > _AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
