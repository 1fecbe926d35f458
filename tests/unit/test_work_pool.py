"""The bounded queue before the API's threads: long for what comes at once, short for what does not end."""

import asyncio
import itertools
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from imgpipe_dagster.api import work
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.work import WorkPool


def test_a_queue_that_was_full_is_kept_short_until_hardly_anyone_is_refused(monkeypatch):
    clock = Mock(return_value=100.0)
    monkeypatch.setattr(work, "time", SimpleNamespace(monotonic=clock, perf_counter=time.perf_counter))

    async def use():
        pool = WorkPool("test", threads=1, queue_limit=4)
        ends = threading.Semaphore(0)
        asked = []

        async def let_in():
            """How many find room."""
            count = 0
            while True:
                try:
                    pool.require_room()
                except Refusal:
                    return count
                asked.append(asyncio.create_task(pool.run(ends.acquire)))
                await asyncio.sleep(0)
                count += 1

        async def work_off(left):
            ends.release(pool.in_flight - left)
            while pool.in_flight > left:
                await asyncio.sleep(0.001)

        assert await let_in() == 5
        with pytest.raises(Refusal) as refused:
            pool.require_room()
        assert (refused.value.code, refused.value.headers) == (Code.OVERLOADED, {"Retry-After": "5"})
        assert not any(pool.has_room() for _ in range(100)), "asking counts nobody as refused"
        await work_off(left=2)
        assert await let_in() == 0
        await work_off(left=1)
        assert await let_in() == 1
        await work_off(left=0)
        clock.return_value = 102.0  # four were refused while five were done
        assert await let_in() == 2
        clock.return_value = 104.0  # nobody was done
        assert await let_in() == 0
        await work_off(left=0)
        clock.return_value = 106.0  # one was refused while two were done
        assert await let_in() == 2
        await work_off(left=1)
        await work_off(left=0)
        for _ in range(3):
            asked.append(asyncio.create_task(pool.run(ends.acquire)))
            await asyncio.sleep(0)
            await work_off(left=0)
        clock.return_value = 108.0  # one for five
        assert await let_in() == 5
        await work_off(left=0)
        await asyncio.gather(*asked)
        pool.close()

    asyncio.run(use())


def test_in_an_overload_as_many_wait_as_are_done_soon(monkeypatch):
    ticks = itertools.count(0, 0.009)  # each piece of work takes 9 ms
    monkeypatch.setattr(work, "time", SimpleNamespace(monotonic=lambda: 100.0, perf_counter=lambda: next(ticks)))

    async def use():
        pool = WorkPool("test", threads=2, queue_limit=30)
        for _ in range(150):
            await pool.run(int)
        end = threading.Event()
        asked = [asyncio.create_task(pool.run(end.wait)) for _ in range(32)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal):
            pool.require_room()
        pool.in_flight = 3  # as if the others were done: two in work, and one of two that take a thread 9 ms each
        assert pool.has_room()
        pool.in_flight = 4
        assert not pool.has_room()
        pool.in_flight = 32
        end.set()
        await asyncio.gather(*asked)
        pool.close()

    asyncio.run(use())


def test_a_place_is_kept_while_a_body_comes_but_not_for_long(monkeypatch):
    clock = Mock(return_value=100.0)
    monkeypatch.setattr(work, "time", SimpleNamespace(monotonic=clock, perf_counter=time.perf_counter))

    async def use():
        pool = WorkPool("test", threads=1, queue_limit=0)
        with pool.place():
            with pytest.raises(Refusal), pool.place():
                pass
            assert await pool.run(lambda: "done") == "done"
            with pool.place():
                pass
        with pytest.raises(ValueError, match="mine"), pool.place():
            raise ValueError("mine")
        others_turn = asyncio.Event()

        async def send_slowly():
            with pool.place():
                clock.return_value = 102.0
                others_turn.set()
                await asyncio.sleep(0)
                with pytest.raises(Refusal):
                    await pool.run(int)

        async def come_later():
            await others_turn.wait()
            with pool.place():
                await slow
                return await pool.run(lambda: "done")

        slow = asyncio.create_task(send_slowly())
        assert await come_later() == "done"
        assert pool.has_room()
        pool.close()

    asyncio.run(use())


def test_threads_give_way_by_so_much_more_than_the_process_does():
    program = (
        "import asyncio, os, threading\n"
        "from imgpipe_dagster.api.work import WorkPool\n"
        "def own(): return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())\n"
        "async def main(): return await WorkPool('test', threads=1, queue_limit=0).run(own)\n"
        "print(asyncio.run(main()) - own())\n"
    )
    done = subprocess.run(["nice", "-n", "7", sys.executable, "-c", program], check=True, stdout=subprocess.PIPE)
    assert int(done.stdout) == 10
