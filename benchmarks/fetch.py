"""Fetching 500 images of 240 KB from a server that answers after 50 ms: fetch_all against requests.

The other sides are what people write first: 32 threads that share one requests session, and a serial loop of
requests.get. All sides alternate, the medians are compared. The server is a process of its own that writes one prepared
answer, so that it is not what is measured.

    python benchmarks/fetch.py [--rounds N] [--serial-images N]
"""

import argparse
import asyncio
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import requests

from imgpipe_dagster.fetch.answers import FetchRequest
from imgpipe_dagster.fetch.client import fetch_all
from imgpipe_dagster.fetch.policy import FetchPolicy

IMAGES = 500
BODY_BYTES = 240_000
DELAY_S = 0.05
THREADS = 32


class PreparedAnswer(asyncio.Protocol):
    """Answers each request on a connection with the same bytes, DELAY_S after it came."""

    answer = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES + os.urandom(
        BODY_BYTES
    )

    def connection_made(self, transport):
        self.transport = transport
        self.head = b""

    def data_received(self, data):
        self.head += data
        while b"\r\n\r\n" in self.head:
            _, self.head = self.head.split(b"\r\n\r\n", 1)
            asyncio.get_running_loop().call_later(DELAY_S, self.transport.write, self.answer)


def serve(ready: Connection) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(PreparedAnswer, "127.0.0.1", 0, backlog=256)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def with_fetch_all(urls: list[str]) -> int:
    policy = FetchPolicy(allow_networks=("127.0.0.0/8",))
    results = fetch_all((FetchRequest(key, url) for key, url in enumerate(urls)), policy)
    return sum(len(result.data or b"") for result in results)


def with_threads(urls: list[str]) -> int:
    with requests.Session() as session, ThreadPoolExecutor(THREADS) as pool:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=THREADS))
        return sum(pool.map(lambda url: len(session.get(url, timeout=30).content), urls))


def serially(urls: list[str]) -> int:
    return sum(len(requests.get(url, timeout=30).content) for url in urls)


def images_per_second(fetch: Callable[[list[str]], int], urls: list[str]) -> float:
    started = time.perf_counter()
    if fetch(urls) != len(urls) * BODY_BYTES:
        raise SystemExit(f"{fetch.__name__} lost bytes")
    return len(urls) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serial-images", type=int, default=100, help="images of the serial side, which is slow")
    options = parser.parse_args()

    ready, child_end = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(child_end,), daemon=True)
    server.start()
    port = ready.recv()
    urls = [f"http://127.0.0.1:{port}/images/{number}.jpg" for number in range(IMAGES)]

    sides = {
        "fetch_all, 64 connections": (with_fetch_all, urls),
        f"requests, session, {THREADS} threads": (with_threads, urls),
        "requests.get, serial": (serially, urls[: options.serial_images]),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for fetch, some in sides.values():
        fetch(some[:64])
    for _ in range(options.rounds):
        for name, (fetch, some) in sides.items():
            speeds[name].append(images_per_second(fetch, some))
    server.terminate()

    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{IMAGES} images of {BODY_BYTES:,} bytes, {DELAY_S * 1000:.0f} ms each, {options.rounds} rounds")
    ours = statistics.median(speeds["fetch_all, 64 connections"])
    for name, values in speeds.items():
        median = statistics.median(values)
        spread = f"{min(values):.0f}-{max(values):.0f}"
        print(f"{name:34} {median:7.1f} images/s ({spread})   fetch_all is {ours / median:.1f}x")


if __name__ == "__main__":
    main()
