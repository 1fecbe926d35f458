"""How often one client may call: counted in this process, or in Redis for all processes and over restarts."""

import logging
import time

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

log = logging.getLogger(__name__)

_REDIS_PATIENCE_S = 1.0
_COMPLAIN_EVERY_S = 60.0


class RateLimiter:
    """Counts requests by client.

    While Redis is away, each process counts for itself: nobody is locked out, and nobody is let loose.

    Args:
        rate: Such as ``600/minute``; None for no limit.
        redis_url: ``redis://…``; None counts in memory.
    """

    def __init__(self, rate: str | None, redis_url: str | None) -> None:
        self._item = parse(rate) if rate else None
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = SlidingWindowCounterRateLimiter(_redis(redis_url)) if redis_url else None
        self._complained = float("-inf")

    async def wait_s(self, client: str) -> float | None:
        """Count a request; None if it may go on, else the seconds after which the client should come again."""
        return None if self._item is None else await self.wait_under(self._item, client)

    async def wait_under(self, item: RateLimitItem, client: str) -> float | None:
        """As `wait_s`, under another rate than the usual."""
        if self._shared is not None:
            try:
                return await _hit(self._shared, item, client)
            except StorageError as error:
                if time.monotonic() - self._complained > _COMPLAIN_EVERY_S:
                    self._complained = time.monotonic()
                    log.warning("Redis is away (%s): this process counts requests for itself.", type(error).__name__)
        return await _hit(self._own, item, client)


async def _hit(limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, client: str) -> float | None:
    if await limiter.hit(item, client):
        return None
    return max(0.0, (await limiter.get_window_stats(item, client)).reset_time - time.time())


def _redis(url: str) -> RedisStorage:
    return RedisStorage(
        f"async+{url}",
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix="imgpipe-rate",
        socket_timeout=_REDIS_PATIENCE_S,
        socket_connect_timeout=_REDIS_PATIENCE_S,
    )
