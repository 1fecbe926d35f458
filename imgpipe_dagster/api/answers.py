"""Answers that were given before, by content and model: in the memory of this process, or in Redis for all of them."""

import json
import logging
import time
from collections import OrderedDict
from typing import Any

from redis import RedisError
from redis.asyncio import Redis

log = logging.getLogger(__name__)

_KEY = "imgpipe-answer:"
_KEPT_S = 24 * 3600
_REDIS_PATIENCE_S = 0.5
_COMPLAIN_EVERY_S = 60.0


class AnswerCache:
    """Keeps small JSON objects. A cache that is away is a cache that knows nothing.

    Args:
        entries: How many are kept in memory, the latest used; 0 keeps none, in Redis neither.
        redis_url: ``redis://…``: kept there, for a day; None keeps them in memory.
    """

    def __init__(self, *, entries: int, redis_url: str | None) -> None:
        self._entries = entries
        self._memory: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._complained = float("-inf")
        self._redis = None
        if redis_url and entries:
            self._redis = Redis.from_url(
                redis_url, socket_timeout=_REDIS_PATIENCE_S, socket_connect_timeout=_REDIS_PATIENCE_S
            )

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._entries > 0

    async def get(self, key: str) -> dict[str, Any] | None:
        """The answer, if it is known."""
        if self._redis is not None:
            try:
                found = await self._redis.get(_KEY + key)
                return None if found is None else json.loads(found)
            except RedisError as error:
                self._complain(error)
                return None
        if (answer := self._memory.get(key)) is not None:
            self._memory.move_to_end(key)
        return answer

    async def put(self, key: str, answer: dict[str, Any]) -> None:
        """Keep an answer."""
        if self._redis is not None:
            try:
                await self._redis.set(_KEY + key, json.dumps(answer), ex=_KEPT_S)
            except RedisError as error:
                self._complain(error)
        elif self._entries:
            self._memory[key] = answer
            if len(self._memory) > self._entries:
                self._memory.popitem(last=False)

    async def close(self) -> None:
        """Leave Redis."""
        if self._redis is not None:
            await self._redis.aclose()

    def _complain(self, error: RedisError) -> None:
        if time.monotonic() - self._complained > _COMPLAIN_EVERY_S:
            self._complained = time.monotonic()
            log.warning("Redis is away (%s): answers are made anew.", type(error).__name__)
