"""What the paths work with: settings, catalogue, store, threads. Opened when the app starts, closed when it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import aiohttp
from sqlalchemy.engine import Engine
from starlette.requests import Request

from imgpipe_dagster.api.gate import Gate
from imgpipe_dagster.api.metrics import Metrics
from imgpipe_dagster.api.rates import RateLimiter
from imgpipe_dagster.api.tokens import TokenVerifier
from imgpipe_dagster.api.work import WorkPool
from imgpipe_dagster.catalogue.api_keys import any_key_is_active, find_key, user_id_of
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.opening import open_store
from imgpipe_dagster.store.s3 import s3_client

P = ParamSpec("P")
R = TypeVar("R")

_IO_THREADS = 16
_ISSUER_TIMEOUT_S = 5
_DRAWINGS_WAITING = 16


@dataclass
class Services:
    """What the paths share.

    Attributes:
        settings: This installation's settings.
        engine: The catalogue.
        store: Where bytes live.
        gate: Who may.
        drawing: For pictures that are drawn on request.
        metrics: The figures of this process.
        draining: Set when the process is about to end: it is alive, and no longer ready.
    """

    settings: Settings
    engine: Engine
    store: ImageStore
    gate: Gate
    drawing: WorkPool
    metrics: Metrics
    io_threads: ThreadPoolExecutor
    draining: bool = False

    async def in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do blocking work (SQL, the store) in a thread, so that the event loop goes on."""
        return await _in_thread(self.io_threads, work, *args, **kwargs)


@asynccontextmanager
async def open_services(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """Open all that the settings describe; close it at the end."""
    async with AsyncExitStack() as stack:
        engine = connect(settings.catalogue_url)
        stack.callback(engine.dispose)
        url = settings.effective_store_url
        client = s3_client(settings.s3_endpoint_url, settings.s3_region) if url.startswith("s3:") else None
        threads = ThreadPoolExecutor(_IO_THREADS, thread_name_prefix="api-io")
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        gate = await _open_gate(settings, engine, threads, stack)
        drawing = WorkPool("draw", threads=1, queue_limit=_DRAWINGS_WAITING)
        stack.callback(drawing.close)
        yield Services(settings, engine, open_store(url, s3_client=client), gate, drawing, metrics, threads)


async def _open_gate(settings: Settings, engine: Engine, threads: ThreadPoolExecutor, stack: AsyncExitStack) -> Gate:
    tokens = None
    if settings.oidc_issuer and settings.oidc_audience:
        timeout = aiohttp.ClientTimeout(total=_ISSUER_TIMEOUT_S)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        tokens = TokenVerifier(settings.oidc_issuer, settings.oidc_audience, session)
    rate = None if settings.api_rate_limit == "off" else settings.api_rate_limit
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    return Gate(
        settings,
        find_key=lambda key: _in_thread(threads, find_key, engine, key),
        user_id_of=lambda email: _in_thread(threads, user_id_of, engine, email),
        any_key=lambda: _in_thread(threads, any_key_is_active, engine),
        tokens=tokens,
        limiter=RateLimiter(rate, redis_url),
        is_local=tokens is None and not settings.api_open_networks,
    )


def is_closed(settings: Settings, engine: Engine) -> bool:
    """Whether nobody but this machine could get in: there is no key, no issuer and no open network."""
    return not (settings.oidc_issuer or settings.api_open_networks or any_key_is_active(engine))


async def _in_thread(threads: ThreadPoolExecutor, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: work(*args, **kwargs))


def services_of(request: Request) -> Services:
    """The services of the app that a request came to."""
    return request.app.state.services
