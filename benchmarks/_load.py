"""Load on a service, from a process of its own: ``python _load.py '{"url": …}'`` prints figures as JSON.

Closed loop: so many clients, each asks as soon as it has its answer. Open loop: so many requests a second, whatever
becomes of them; the time of a request counts from when it was due.
"""

import asyncio
import json
import random
import sys
import time
from pathlib import Path

import aiohttp


class Load:
    def __init__(self, wanted: dict) -> None:
        self.wanted = wanted
        self.files = [path.read_bytes() for path in sorted(Path(wanted["folder"]).iterdir())]
        self.truth = wanted.get("truth")
        self.answers: list[tuple[int, float]] = []
        self.wrong = 0
        self.sent = 0

    async def ask(self, session: aiohttp.ClientSession, due: float) -> None:
        number = self.sent
        self.sent += 1
        file = self.files[number % len(self.files)]
        # A comment in the JPEG's head makes each body another one.
        data = file[:2] + b"\xff\xfe\x00\x12%08d%08d" % (number, random.randrange(10**8)) + file[2:]
        form = aiohttp.FormData()
        form.add_field("file", data, filename="a.jpg", content_type="image/jpeg")
        try:
            async with session.post(self.wanted["url"], data=form) as answer:
                body = await answer.read()
                status = answer.status
        except aiohttp.ClientError:
            body, status = b"", 0
        if time.perf_counter() <= self.ends:
            self.answers.append((status, time.perf_counter() - due))
        if status == 200 and self.truth and json.loads(body)["bottle_status"] != self.truth[number % len(self.truth)]:
            self.wrong += 1

    async def run(self) -> dict:
        seconds, rate = self.wanted["seconds"], self.wanted.get("rate")
        timeout = aiohttp.ClientTimeout(total=120)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            self.began = time.perf_counter()
            self.ends = self.began + seconds
            if rate is None:
                await asyncio.gather(*(self.client(session) for _ in range(self.wanted["clients"])))
            else:
                tasks = []
                for number in range(int(rate * seconds)):
                    due = self.began + number / rate
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    tasks.append(asyncio.create_task(self.ask(session, due)))
                await asyncio.wait(tasks, timeout=120)
        return self.figures(seconds)

    async def client(self, session: aiohttp.ClientSession) -> None:
        while time.perf_counter() < self.ends:
            await self.ask(session, time.perf_counter())

    def figures(self, seconds: float) -> dict:
        def quantile(times: list[float], share: float) -> float | None:
            return sorted(times)[min(len(times) - 1, int(share * len(times)))] if times else None

        good = [spent for status, spent in self.answers if status == 200]
        refused = [spent for status, spent in self.answers if status in (429, 503)]
        return {
            "sent": self.sent,
            "per_second": len(good) / seconds,
            "p50": quantile(good, 0.5),
            "p95": quantile(good, 0.95),
            "refused": len(refused),
            "refused_p95": quantile(refused, 0.95),
            "failed": len(self.answers) - len(good) - len(refused),
            "wrong": self.wrong,
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Load(json.loads(sys.argv[1])).run())))
