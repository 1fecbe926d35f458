"""Streaming a long iterable through a few threads with bounded memory. No knowledge of what flows."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of ``size``; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def map_unordered(work: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int = 0) -> Iterator[R]:
    """Apply ``work`` to every item in ``threads`` threads and give the results as they come.

    At most twice ``threads`` items, or ``ahead`` if that is more, are under way or waiting to be taken, however long
    ``items`` is: a caller who takes many results and then works for a while leaves the threads enough to do. The first
    exception of ``work`` or ``items`` is raised here; what is under way then ends, and nothing new is begun. Lines that
    the threads log are about the same as those of the caller.
    """
    source = iter(items)
    window = max(ahead, threads * 2)
    with ThreadPoolExecutor(threads) as pool:
        pending: set[Future[R]] = {pool.submit(copy_context().run, work, item) for item in islice(source, window)}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    pending.update(pool.submit(copy_context().run, work, item) for item in islice(source, 1))
        finally:
            for future in pending:
                future.cancel()
