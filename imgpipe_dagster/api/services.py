"""What the paths work with: settings, catalogue, store, threads. Opened when the app starts, closed when it ends."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import aiohttp
from sqlalchemy.engine import Engine
from starlette.requests import Request

from imgpipe_dagster.api.answers import AnswerCache
from imgpipe_dagster.api.gate import Gate
from imgpipe_dagster.api.inference import IN_WORK, STREAMS, TRY_AGAIN_S, Inference, at_once
from imgpipe_dagster.api.metrics import Metrics
from imgpipe_dagster.api.problems import Refusal
from imgpipe_dagster.api.rates import RateLimiter
from imgpipe_dagster.api.request_log import RequestLog, open_request_log
from imgpipe_dagster.api.temple_cache import TempleClassifiers
from imgpipe_dagster.api.tokens import TokenVerifier
from imgpipe_dagster.api.work import WorkPool
from imgpipe_dagster.catalogue.api_keys import any_key_is_active, find_key, user_id_of
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.request_log import note_requests
from imgpipe_dagster.configured import fetch_policy, validation_limits
from imgpipe_dagster.fetch.client import Fetcher, open_fetcher
from imgpipe_dagster.imaging.threads import one_thread_a_picture
from imgpipe_dagster.imaging.validate import Validator
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.opening import open_store_at
from imgpipe_dagster.streams import processors

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_IO_THREADS = 16
_ISSUER_TIMEOUT_S = 5
_DRAWINGS_WAITING = 16
_ENHANCEMENTS_WAITING = 16
_FETCH_ATTEMPTS = 2


@dataclass
class Services:
    """What the paths share.

    Attributes:
        settings: This installation's settings.
        engine: The catalogue.
        store: Where bytes live.
        gate: Who may.
        validator: Examines and decodes files in child processes.
        inference: The models.
        request_log: Notes requests to classify pictures.
        fetcher: Gets pictures that clients name.
        enhancing: For pictures that are enhanced on request.
        drawing: For pictures that are drawn on request.
        polling: For reading the sources: one reading at a time.
        predicting: For pictures that temples' models look at.
        temple_classifiers: Those models.
        metrics: The figures of this process.
        loading: Set while the models are loaded at the start: the process is not ready yet.
        unloaded: Why a model could not be loaded at the start: the process is not ready either.
        draining: Set when the process is about to end: it is alive, and no longer ready.
    """

    settings: Settings
    engine: Engine
    store: ImageStore
    gate: Gate
    validator: Validator
    inference: Inference
    request_log: RequestLog
    fetcher: Fetcher
    enhancing: WorkPool
    drawing: WorkPool
    polling: WorkPool
    predicting: WorkPool
    temple_classifiers: TempleClassifiers
    metrics: Metrics
    io_threads: ThreadPoolExecutor
    loading: bool = False
    unloaded: str | None = None
    draining: bool = False

    async def in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do blocking work (SQL, the store) in a thread, so that the event loop goes on."""
        return await _in_thread(self.io_threads, work, *args, **kwargs)


@asynccontextmanager
async def open_services(settings: Settings, metrics: Metrics, *, warm: bool) -> AsyncIterator[Services]:
    """Open all that the settings describe; close it at the end.

    Args:
        settings: This installation's settings.
        metrics: Told of queues and models.
        warm: Load the models meanwhile, and not when they are first asked.
    """
    async with AsyncExitStack() as stack:
        engine = connect(settings.catalogue_url)
        stack.callback(engine.dispose)
        store = open_store_at(
            settings.effective_store_url, endpoint_url=settings.s3_endpoint_url, region=settings.s3_region
        )
        threads = ThreadPoolExecutor(_IO_THREADS, thread_name_prefix="api-io")
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        gate = await _open_gate(settings, engine, threads, stack)
        stack.enter_context(one_thread_a_picture())
        decoders = min(at_once(settings), max(IN_WORK, processors()))
        validator = stack.enter_context(Validator(validation_limits(settings), workers=decoders))
        pools = {
            "enhance": WorkPool("enhance", threads=processors(), queue_limit=_ENHANCEMENTS_WAITING),
            "draw": WorkPool("draw", threads=1, queue_limit=_DRAWINGS_WAITING),
            "poll": WorkPool("poll", threads=1, queue_limit=0),
            "predict": WorkPool("predict", threads=STREAMS, queue_limit=settings.api_queue_limit),
        }
        for name, pool in pools.items():
            stack.callback(pool.close)
            metrics.watch_queue(name, partial(getattr, pool, "in_flight"))
        policy = fetch_policy(settings, max_bytes=settings.api_max_upload_bytes, attempts=_FETCH_ATTEMPTS)
        fetcher = await stack.enter_async_context(open_fetcher(policy))
        cache = AnswerCache(entries=settings.api_cached_answers, redis_url=_redis_url(settings))
        stack.push_async_callback(cache.close)
        inference = Inference(settings, validator, cache, metrics)
        stack.callback(inference.close)
        request_log = await stack.enter_async_context(
            open_request_log(lambda requests: _in_thread(threads, note_requests, engine, requests))
        )
        services = Services(
            settings=settings,
            engine=engine,
            store=store,
            gate=gate,
            validator=validator,
            inference=inference,
            request_log=request_log,
            fetcher=fetcher,
            enhancing=pools["enhance"],
            drawing=pools["draw"],
            polling=pools["poll"],
            predicting=pools["predict"],
            temple_classifiers=TempleClassifiers(),
            metrics=metrics,
            io_threads=threads,
        )
        if warm:
            services.loading = True
            task = asyncio.create_task(_warm(services))
            stack.callback(task.cancel)
        yield services


async def _warm(services: Services) -> None:
    """Load the models; what cannot be loaded is tried again, as long as it takes. Other paths serve meanwhile."""
    services.unloaded = await _load(services)
    services.loading = False
    while services.unloaded is not None:
        await asyncio.sleep(TRY_AGAIN_S)
        services.unloaded = await _load(services)


async def _load(services: Services) -> str | None:
    """Load the models; why one of them cannot be loaded, or None."""
    try:
        await services.inference.warm()
    except Refusal as refusal:
        log.error("%s", refusal.detail)  # noqa: TRY400 - the traceback is there already
        return str(refusal.detail)
    return None


async def _open_gate(settings: Settings, engine: Engine, threads: ThreadPoolExecutor, stack: AsyncExitStack) -> Gate:
    tokens = None
    if settings.oidc_issuer and settings.oidc_audience:
        timeout = aiohttp.ClientTimeout(total=_ISSUER_TIMEOUT_S)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        tokens = TokenVerifier(settings.oidc_issuer, settings.oidc_audience, session)
    rate = None if settings.api_rate_limit == "off" else settings.api_rate_limit
    return Gate(
        settings,
        find_key=lambda key: _in_thread(threads, find_key, engine, key),
        user_id_of=lambda email: _in_thread(threads, user_id_of, engine, email),
        any_key=lambda: _in_thread(threads, any_key_is_active, engine),
        tokens=tokens,
        limiter=RateLimiter(rate, _redis_url(settings)),
        is_local=tokens is None and not settings.api_open_networks,
    )


def _redis_url(settings: Settings) -> str | None:
    return settings.redis_url.get_secret_value() if settings.redis_url else None


def is_closed(settings: Settings, engine: Engine) -> bool:
    """Whether nobody but this machine could get in: there is no key, no issuer and no open network."""
    return not (settings.oidc_issuer or settings.api_open_networks or any_key_is_active(engine))


async def _in_thread(threads: ThreadPoolExecutor, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: work(*args, **kwargs))


def services_of(request: Request) -> Services:
    """The services of the app that a request came to."""
    return request.app.state.services
