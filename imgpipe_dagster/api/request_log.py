"""Noting requests a little later and many at once, so that no client waits for the catalogue's disk."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.engine import describe_error
from imgpipe_dagster.catalogue.request_log import NewRequest

log = logging.getLogger(__name__)

_EVERY_S = 0.2
_TOGETHER = 500
_HELD_AT_MOST = 20_000  # while the catalogue is away

Note = Callable[[Sequence[NewRequest]], Awaitable[None]]


class RequestLog:
    """What is to be noted. Requests are kept while the catalogue is away, up to a limit; then the oldest go.

    Args:
        note: Writes requests into the catalogue.
    """

    def __init__(self, note: Note) -> None:
        self._note = note
        self._waiting: deque[NewRequest] = deque()
        self._ends = asyncio.Event()
        self._lost = 0

    def add(self, request: NewRequest) -> None:
        """Note a request soon."""
        if len(self._waiting) >= _HELD_AT_MOST:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(request)

    async def flush(self) -> None:
        """Note what waits, as far as the catalogue takes it."""
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
            try:
                await self._note(some)
            except SQLAlchemyError as error:
                self._waiting.extendleft(reversed(some))
                log.warning("%d requests cannot be noted yet: %s", len(self._waiting), describe_error(error))
                return
        if self._lost:
            log.error("%d requests were not noted: the catalogue was away for too long.", self._lost)
            self._lost = 0

    async def run(self) -> None:
        """Go on noting until the end, and then once more."""
        while not self._ends.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ends.wait(), _EVERY_S)
            await self.flush()

    def end(self) -> None:
        """Let `run` end. It is not cancelled: what is being written then would be neither waited for nor kept."""
        self._ends.set()


@asynccontextmanager
async def open_request_log(note: Note) -> AsyncIterator[RequestLog]:
    """A log that notes while the block runs, and what is left at its end."""
    requests = RequestLog(note)
    task = asyncio.create_task(requests.run())
    try:
        yield requests
    finally:
        requests.end()
        await task
