"""What the paths work with: settings, catalogue, store, threads. Opened when the app starts, closed when it ends."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from sqlalchemy.engine import Engine
from starlette.requests import Request

from imgpipe_dagster.api.metrics import Metrics
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.opening import open_store
from imgpipe_dagster.store.s3 import s3_client

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_IO_THREADS = 16


@dataclass
class Services:
    """What the paths share.

    Attributes:
        settings: This installation's settings.
        engine: The catalogue.
        store: Where bytes live.
        metrics: The figures of this process.
        draining: Set when the process is about to end: it is alive, and no longer ready.
    """

    settings: Settings
    engine: Engine
    store: ImageStore
    metrics: Metrics
    io_threads: ThreadPoolExecutor
    draining: bool = False

    async def in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do blocking work (SQL, the store) in a thread, so that the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self.io_threads, lambda: work(*args, **kwargs))


@asynccontextmanager
async def open_services(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """Open all that the settings describe; close it at the end."""
    engine = connect(settings.catalogue_url)
    url = settings.effective_store_url
    client = s3_client(settings.s3_endpoint_url, settings.s3_region) if url.startswith("s3:") else None
    threads = ThreadPoolExecutor(_IO_THREADS, thread_name_prefix="api-io")
    try:
        yield Services(settings, engine, open_store(url, s3_client=client), metrics, threads)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        engine.dispose()


def services_of(request: Request) -> Services:
    """The services of the app that a request came to."""
    return request.app.state.services
