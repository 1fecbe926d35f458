"""Answers kept for pictures that come again: bounded in memory, shared in Redis, and no harm when that is away."""

import asyncio

from imgpipe_dagster.api.answers import AnswerCache


def test_memory_keeps_the_latest_used_and_no_more():
    async def use():
        cache = AnswerCache(entries=2, redis_url=None)
        assert cache.keeps
        assert not AnswerCache(entries=0, redis_url=None).keeps
        await cache.put("a", {"n": 1})
        await cache.put("b", {"n": 2})
        assert await cache.get("a") == {"n": 1}
        await cache.put("c", {"n": 3})
        assert [await cache.get(key) for key in "abc"] == [{"n": 1}, None, {"n": 3}]
        none = AnswerCache(entries=0, redis_url=None)
        await none.put("a", {})
        assert await none.get("a") is None

    asyncio.run(use())


def test_redis_is_shared_by_all_processes_and_may_be_away(redis_url):
    async def use():
        first, second = (AnswerCache(entries=1, redis_url=redis_url) for _ in range(2))
        await first.put("a", {"n": 1})
        assert await second.get("a") == {"n": 1}
        assert await second.get("b") is None
        away = AnswerCache(entries=1, redis_url="redis://127.0.0.1:1/0")
        await away.put("a", {"n": 1})
        assert await away.get("a") is None
        for cache in (first, second, away):
            await cache.close()

    asyncio.run(use())
