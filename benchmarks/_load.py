"""Load on a service, from a process of its own: ``python _load.py '{"url": …}'`` prints figures as JSON.

Closed loop: so many clients, each asks as soon as it has its answer. Open loop: so many requests a second, whatever
becomes of them; the time of a request counts from when it was due. It speaks HTTP by itself, because it shares the
processors with what is measured: a common client takes four times as long for each upload.
"""

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

PATIENCE_S = 120
BOUNDARY = b"----load"
FILE = b'--%b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'


def field(named: tuple[str, str]) -> bytes:
    head = f'--{BOUNDARY.decode()}\r\nContent-Disposition: form-data; name="{named[0]}"'
    return f"{head}\r\n\r\n{named[1]}\r\n".encode()


class Connection:
    """One connection at a time, made anew when the server has ended it."""

    def __init__(self, host: str, port: int) -> None:
        self.address = host, port
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, parts: list[bytes | memoryview]) -> tuple[int, bytes]:
        """Send a request; its status and body."""
        is_new = self.writer is None
        try:
            return await self._exchange(parts)
        except (OSError, EOFError):
            self.close()
            if is_new:
                return 0, b""
        try:  # a kept connection may end before it is used again
            return await self._exchange(parts)
        except (OSError, EOFError):
            self.close()
            return 0, b""

    async def _exchange(self, parts: list[bytes | memoryview]) -> tuple[int, bytes]:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(*self.address)
        self.writer.writelines(parts)
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines if b": " in line)
        body = await self.reader.readexactly(int(headers[b"content-length"]))
        if headers.get(b"connection") == b"close" or first.startswith(b"http/1.0"):
            self.close()
        return int(first.split(b" ", 2)[1]), body

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class Load:
    def __init__(self, wanted: dict) -> None:
        self.wanted = wanted
        url = urlsplit(wanted["url"])
        self.address = url.hostname or "", url.port or 80
        self.request_line = f"{'POST' if 'folder' in wanted else 'GET'} {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n"
        folder = wanted.get("folder")
        self.files = [path.read_bytes() for path in sorted(Path(folder).iterdir())] if folder else []
        self.fields = b"".join(map(field, wanted.get("fields", {}).items()))
        self.truth = wanted.get("truth")
        self.answers: list[tuple[int, float]] = []
        self.idle: list[Connection] = []
        self.wrong = 0
        self.sent = 0

    def request(self, number: int) -> list[bytes | memoryview]:
        if not self.files:
            return [f"{self.request_line}\r\n".encode()]
        file = self.files[number % len(self.files)]
        # A comment in the JPEG's head makes each body another one.
        stamp = b"\xff\xd8\xff\xfe\x00\x12%08d%08d" % (number, random.randrange(10**8))
        before, after = self.fields + FILE % BOUNDARY + stamp, b"\r\n--%b--\r\n" % BOUNDARY
        head = (
            f"{self.request_line}Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
            f"Content-Length: {len(before) + len(file) - 2 + len(after)}\r\n\r\n"
        )
        return [head.encode() + before, memoryview(file)[2:], after]

    async def ask(self, connection: Connection, due: float) -> None:
        number = self.sent
        self.sent += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, body = await connection.ask(self.request(number))
        except TimeoutError:
            connection.close()
            status, body = 0, b""
        if time.perf_counter() <= self.ends:
            self.answers.append((status, time.perf_counter() - due))
        if status == 200 and self.truth and json.loads(body)["bottle_status"] != self.truth[number % len(self.truth)]:
            self.wrong += 1

    async def ask_once(self, due: float) -> None:
        connection = self.idle.pop() if self.idle else Connection(*self.address)
        await self.ask(connection, due)
        self.idle.append(connection)

    async def run(self) -> dict:
        seconds, rate = self.wanted["seconds"], self.wanted.get("rate")
        self.began = time.perf_counter()
        self.ends = self.began + seconds
        if rate is None:
            await asyncio.gather(*(self.client() for _ in range(self.wanted["clients"])))
        else:
            tasks = set()
            for number in range(int(rate * seconds)):
                due = self.began + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                task = asyncio.create_task(self.ask_once(due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            if tasks:
                await asyncio.wait(tasks, timeout=PATIENCE_S)
        return self.figures(seconds)

    async def client(self) -> None:
        connection = Connection(*self.address)
        while time.perf_counter() < self.ends:
            await self.ask(connection, time.perf_counter())

    def figures(self, seconds: float) -> dict:
        def quantile(times: list[float], share: float) -> float | None:
            return sorted(times)[min(len(times) - 1, int(share * len(times)))] if times else None

        good = [spent for status, spent in self.answers if status == 200]
        refused = [spent for status, spent in self.answers if status in (429, 503)]
        return {
            "sent": self.sent,
            "answered": len(good),
            "per_second": len(good) / seconds,
            "p50": quantile(good, 0.5),
            "p95": quantile(good, 0.95),
            "p99": quantile(good, 0.99),
            "refused": len(refused),
            "refused_p95": quantile(refused, 0.95),
            "failed": len(self.answers) - len(good) - len(refused),
            "wrong": self.wrong,
            "own_cpu_ms": 1000 * time.process_time() / max(1, self.sent),
        }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(Load(json.loads(sys.argv[1])).run())))
