"""How many bytes of files may be in memory at once. Counting only: no network, no files."""

import asyncio
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Share:
    """What one file holds of a budget: bytes."""

    held: int = 0


class ByteBudget:
    """A limit on the bytes of all files that are being read, or are whole and not yet taken. For one event loop.

    One file at a time may go beyond the limit, and only while no whole file waits to be taken. So files get through
    however large they are, and never more is held than the limit and one file.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._untaken = 0
        self._beyond: Share | None = None
        self._changed = asyncio.Event()

    async def grow(self, share: Share, size: int) -> None:
        """Let a file hold so many bytes more, as soon as there is room for them."""
        while not self._has_room(share, size):
            await self._changed.wait()
        share.held += size
        self._free -= size

    def shrink(self, share: Share, size: int) -> None:
        """A file holds so many bytes only."""
        self._release(share.held - size)
        share.held = size

    def drop(self, share: Share) -> None:
        """A file is given up, or begun anew."""
        if self._beyond is share:
            self._beyond = None
        self.shrink(share, 0)

    def finish(self, share: Share) -> None:
        """A file is whole; it goes on holding its bytes until it is taken."""
        if self._beyond is share:
            self._beyond = None
        self._untaken += share.held

    def take(self, size: int) -> None:
        """A whole file of this size has been taken."""
        self._untaken -= size
        self._release(size)

    def _has_room(self, share: Share, size: int) -> bool:
        if size <= self._free:
            return True
        if self._beyond is None and not self._untaken:
            self._beyond = share
        return self._beyond is share

    def _release(self, size: int) -> None:
        self._free += size
        self._changed.set()
        self._changed = asyncio.Event()
