"""Reading many objects at once, with bounded memory. No implementation of a store."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.streams import map_unordered

K = TypeVar("K")


def read_all(store: ImageStore, items: Iterable[tuple[K, str]], *, threads: int = 4) -> Iterator[tuple[K, bytes]]:
    """Read the objects of ``(anything, key)`` pairs in a few threads: ``(anything, bytes)`` pairs, in no order.

    Raises:
        ObjectNotFoundError: an object is missing: the row that points at it is wrong.
        StoreError: the store cannot be read.
    """
    return map_unordered(lambda item: (item[0], store.get(item[1])), items, threads=threads)
