"""Work that takes processor time: few threads behind a bounded queue, so that the event loop goes on answering."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from imgpipe_dagster.api.problems import Code, Refusal

P = ParamSpec("P")
R = TypeVar("R")

_NICER = 10  # of 40 steps; a step less is a quarter more of the processor's time
_SMOOTHING = 0.1
_WAIT_WHEN_OVERLOADED_S = 0.01
"""How long the last one in the queue may have to wait then; one may wait in any case."""

_PLACE_KEPT_S = 0.05
"""How long a place is kept for a body that is still coming, if a piece of work does not take longer.

Slow senders, or an event loop that is late itself, must not leave the threads without work.
"""

_JUDGED_EVERY_S = 1.0
_MORE_THAN_CAN_BE_DONE = 0.25
"""An overload goes on as long as so many are refused for each one that is done."""

_own_place: ContextVar[object] = ContextVar("own_place", default=None)


class WorkPool:
    """Threads for one kind of work. A request that would wait too long is refused at once.

    The queue takes in many that come at once. When it is full, more comes than can be done, and a long queue would only
    make everyone late: it is kept short from then on, until hardly anyone has been refused for a second.

    The threads give way to the thread of the event loop, which has little to do and should do it soon.

    Args:
        name: Of the threads.
        threads: How many work at once.
        queue_limit: How many may wait.
    """

    def __init__(self, name: str, *, threads: int, queue_limit: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=give_way)
        self._threads = threads
        self._queue_limit = queue_limit
        self._seconds = 1.0  # of a piece of work, smoothed
        self._places: dict[object, float] = {}  # kept, and until when
        self._overloaded = False
        self._refused = self._finished = 0  # since the last judgement
        self._judged_at = time.monotonic()
        self.in_flight = 0

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the work in a thread.

        Raises:
            Refusal: 503 with Retry-After, at once, where too many wait.
        """
        if self._places.pop(_own_place.get(), None) is None:
            self.require_room()
        self.in_flight += 1
        future = self._pool.submit(self._timed, work, *args, **kwargs)
        # Not when the request ends: one that is cancelled at its deadline leaves its thread at work.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _tell(loop, self._done))
        return await asyncio.wrap_future(future)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Keep a place for what the block will run, or refuse: before a body is read, it spares both sides that.

        Without it, all that arrive while the body of the next one is read would find the same place free.

        Raises:
            Refusal: 503 with Retry-After.
        """
        self.require_room()
        own = object()
        self._places[own] = time.monotonic() + max(_PLACE_KEPT_S, self._seconds)
        before = _own_place.set(own)
        try:
            yield
        finally:
            _own_place.reset(before)
            self._places.pop(own, None)

    def require_room(self) -> None:
        """Refuse where too many wait.

        Raises:
            Refusal: 503 with Retry-After.
        """
        if not self.has_room():
            self._overloaded = True
            self._refused += 1
            wait_s = self.in_flight * self._seconds / self._threads
            raise Refusal(Code.OVERLOADED, "Too many requests wait for this already.", retry_after_s=wait_s)

    def has_room(self) -> bool:
        """Whether one more would be taken; asking does not count."""
        self._judge()
        waiting = self._queue_limit
        if self._overloaded:
            soon = int(self._threads * _WAIT_WHEN_OVERLOADED_S / self._seconds)
            waiting = min(waiting, max(1, soon))
        return self.in_flight + self._kept_places() < self._threads + waiting

    def close(self) -> None:
        """Drop what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _kept_places(self) -> int:
        now = time.monotonic()
        for place in [place for place, until in self._places.items() if until <= now]:
            del self._places[place]
        return len(self._places)

    def _done(self) -> None:
        self.in_flight -= 1
        self._finished += 1

    def _judge(self) -> None:
        now = time.monotonic()
        if now - self._judged_at > _JUDGED_EVERY_S:
            if self._refused <= _MORE_THAN_CAN_BE_DONE * self._finished:
                self._overloaded = False
            self._refused = self._finished = 0
            self._judged_at = now

    def _timed(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        started = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            self._seconds += _SMOOTHING * (time.perf_counter() - started - self._seconds)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)


def give_way() -> None:
    """Let this thread, and all that it starts, give way to the thread of the event loop."""
    thread = threading.get_native_id()
    own = os.getpriority(os.PRIO_PROCESS, thread)  # on Linux, of this thread alone
    os.setpriority(os.PRIO_PROCESS, thread, own + _NICER)
