"""URLs to answers: many through an event loop in a thread behind a generator, or one by one in a running loop."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice
from typing import Self

import aiohttp

from imgpipe_dagster.fetch.addresses import guarded_connector
from imgpipe_dagster.fetch.answers import FetchRequest, FetchResult
from imgpipe_dagster.fetch.budget import ByteBudget
from imgpipe_dagster.fetch.download import Downloader, Opener
from imgpipe_dagster.fetch.policy import FetchPolicy
from imgpipe_dagster.fetch.urls import normalise, scheme_of

__all__ = ["FetchRequest", "FetchResult", "Fetcher", "fetch_all", "open_fetcher"]


def fetch_all(
    requests: Iterable[FetchRequest],
    policy: FetchPolicy,
    *,
    base_url: str | None = None,
    openers: Mapping[str, Opener] | None = None,
) -> Iterator[FetchResult]:
    """Fetch files, many at once, and give the answers in the order in which they come.

    Every request is answered exactly once: with the file, or with the reason why there is none. Requests are taken from
    the iterable as answers are taken from here, in the caller's thread, and never more than ``2 * policy.connections``
    of them are under way or waiting for the caller, however many there are. Their files take no more memory than
    ``policy.memory_bytes`` and one file: beyond that, downloads wait. An answer's file counts until the next answer is
    asked for. Closing the iterator stops all downloads.

    Args:
        requests: What to fetch.
        policy: Limits and manners.
        base_url: Prefix of requests that are only a file name.
        openers: Functions for URLs of other schemes, such as ``{"s3": read_object}``. They are called in threads with
            the URL as it was given and with ``policy.max_bytes``: of a larger file, one byte more is enough. Redirects
            never lead to them. KeyError and FileNotFoundError mean that there is no such file, PermissionError that it
            may not be read, any other exception that it cannot be reached; openers retry for themselves.

    Returns:
        An iterator of answers. It is a generator: close it, or take it to its end.

    Raises:
        ValueError: The base URL is not an http or https URL.
    """
    if base_url is not None:
        if scheme_of(base_url) not in ("http", "https"):
            raise ValueError("the base URL must begin with http:// or https://")
        base_url = normalise(base_url)
    return _answers(iter(requests), _FetchThread(policy, base_url, openers or {}), 2 * policy.connections)


class Fetcher:
    """Fetches single files in an event loop that goes on with other things: what :func:`open_fetcher` gives."""

    def __init__(self, downloader: Downloader, budget: ByteBudget) -> None:
        self._downloader = downloader
        self._budget = budget

    async def fetch(self, url: str) -> FetchResult:
        """Fetch one file: the file, or the reason why there is none."""
        result = await self._downloader.answer(FetchRequest(0, url))
        if result.data is not None:
            self._budget.take(len(result.data))
        return result


@asynccontextmanager
async def open_fetcher(policy: FetchPolicy, *, base_url: str | None = None) -> AsyncIterator[Fetcher]:
    """A fetcher for this event loop, with the guards of :func:`fetch_all`; http and https only."""
    budget = ByteBudget(policy.memory_bytes)
    async with _open_downloader(policy, budget, base_url, {}) as downloader:
        yield Fetcher(downloader, budget)


@asynccontextmanager
async def _open_downloader(
    policy: FetchPolicy, budget: ByteBudget, base_url: str | None, openers: Mapping[str, Opener]
) -> AsyncIterator[Downloader]:
    threads = ThreadPoolExecutor(policy.connections, thread_name_prefix="fetch")
    session = aiohttp.ClientSession(
        connector=guarded_connector(policy.allow_networks, policy.connections, threads),
        cookie_jar=aiohttp.DummyCookieJar(),
        # Identity, because pictures are compressed already and the length is then known beforehand.
        headers={"User-Agent": policy.user_agent, "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None, connect=policy.connect_timeout_s),
    )
    try:
        async with session:
            yield Downloader(session, threads, budget, policy, base_url, openers)
    finally:
        # A name server or an opener that hangs must not hold up the end.
        threads.shutdown(wait=False, cancel_futures=True)


def _answers(requests: Iterator[FetchRequest], fetcher: "_FetchThread", window: int) -> Iterator[FetchResult]:
    pending = 0
    with fetcher:
        while True:
            for request in islice(requests, window - pending):
                fetcher.submit(request)
                pending += 1
            if not pending:
                return
            result = fetcher.next_result()
            pending -= 1
            yield result
            if result.data is not None:
                fetcher.note_taken(len(result.data))
            del result  # nothing here holds the file while the next answer is waited for


class _FetchThread:
    """A thread with an event loop that answers submitted requests, from ``with`` to the end of it."""

    def __init__(self, policy: FetchPolicy, base_url: str | None, openers: Mapping[str, Opener]) -> None:
        self._policy = policy
        self._base_url = base_url
        self._openers = openers
        self._budget = ByteBudget(policy.memory_bytes)
        self._inbox: asyncio.Queue[FetchRequest] = asyncio.Queue()
        self._outbox: queue.SimpleQueue[FetchResult | BaseException] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._serving = self._loop.create_task(self._serve())
        # A daemon, so that an iterator that nobody closed cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join()
        self._loop.close()

    def submit(self, request: FetchRequest) -> None:
        self._loop.call_soon_threadsafe(self._inbox.put_nowait, request)

    def next_result(self) -> FetchResult:
        result = self._outbox.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def note_taken(self, size: int) -> None:
        self._loop.call_soon_threadsafe(self._budget.take, size)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serving)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread, which waits for answers
            self._outbox.put(error)

    async def _serve(self) -> None:
        async with (
            _open_downloader(self._policy, self._budget, self._base_url, self._openers) as downloader,
            asyncio.TaskGroup() as workers,
        ):
            for _ in range(self._policy.connections):
                workers.create_task(self._work(downloader))
                # The first requests are on their way before the last connection is begun.
                await asyncio.sleep(0)

    async def _work(self, downloader: Downloader) -> None:
        while True:
            request = await self._inbox.get()
            self._outbox.put(await downloader.answer(request))
