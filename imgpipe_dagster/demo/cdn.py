"""The local server that plays the CDN: ``python -m imgpipe_dagster.demo.cdn FOLDER`` serves it, as late as asked.

It listens on 127.0.0.1 only, so the pipeline must be allowed to fetch from there (``IMGPIPE_FETCH_ALLOW_NETWORKS``).
"""

import argparse
import asyncio
import itertools
import logging
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from aiohttp import web

from imgpipe_dagster.demo.images import DemoFile

_log = logging.getLogger(__name__)
_HOST = "127.0.0.1"


class DemoCdn:
    """Serves the files of a folder from a thread of its own, while the ``with`` block lasts.

    Attributes:
        folder: What is served; files added later are found too.
        port: The port; where 0 was asked for, the one that was free.
    """

    def __init__(self, folder: Path, port: int = 0, delay_s: float = 0.0) -> None:
        """Prepare a server; it starts with the ``with`` block.

        Args:
            folder: What to serve.
            port: TCP port on 127.0.0.1; 0 takes a free one.
            delay_s: Seconds that every answer waits, as over a long line.
        """
        self.folder = folder.resolve()
        self.port = port
        self._delay_s = delay_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="demo-cdn", daemon=True)
        self._runner: web.AppRunner | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._call(self._start())
        except BaseException:
            self._stop_loop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner:
            self._call(self._runner.cleanup())
        self._stop_loop()

    @property
    def base_url(self) -> str:
        """Where it serves, without a slash at the end."""
        return f"http://{_HOST}:{self.port}"

    def url_for(self, name: str) -> str:
        """The URL of a file, whatever characters its name has."""
        return f"{self.base_url}/{quote(name)}"

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/{name:.+}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, _HOST, self.port, backlog=1024).start()
        self.port = self._runner.addresses[0][1]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(self._delay_s)
        path = (self.folder / request.match_info["name"]).resolve()
        if not path.is_relative_to(self.folder) or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path)

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def iter_new_rows(
    cdn: DemoCdn, files: Sequence[DemoFile], interval_s: float = 2.0, wait: Callable[[float], object] = time.sleep
) -> Iterator[tuple[str, DemoFile]]:
    """New catalogue rows for ever, one each interval: the files in turn, under a URL that never came before.

    Args:
        cdn: What serves them.
        files: What to offer, such as what ``write_demo_images`` returned.
        interval_s: Seconds between two rows.
        wait: How to wait; the ``wait`` of a ``threading.Event`` lets another thread cut it short.

    Yields:
        The URL and the file behind it.
    """
    begun = time.time_ns() // 1_000_000  # the catalogue may know the rows of an earlier start
    for number, file in enumerate(itertools.cycle(files), begun):
        yield f"{cdn.url_for(file.name)}?upload={number}", file
        wait(interval_s)


def main(arguments: list[str] | None = None) -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a folder of images on 127.0.0.1, as a CDN would.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8077, help="TCP port; 0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--delay-ms", type=float, default=0.0, help="how long every answer waits (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"there is no folder {options.folder}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with DemoCdn(options.folder, options.port, options.delay_ms / 1000) as cdn:
        _log.info("%s serves %s", cdn.base_url, cdn.folder)
        stopped.wait()


if __name__ == "__main__":
    main()
