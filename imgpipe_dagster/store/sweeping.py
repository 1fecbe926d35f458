"""Objects that nothing points at, and pointers to objects that are gone. Decides on keys; deletes nothing."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from datetime import datetime

import numpy as np

from imgpipe_dagster.store.base import ImageStore, InvalidKeyError, ObjectInfo
from imgpipe_dagster.store.keys import stored_image_url

SWEPT_PREFIXES = ("images/", "metadata/", "enhanced/", "annotated/", "uploads/")
"""Where objects lie whose names this system itself gives."""

_OURS = re.compile(
    r"images/(?P<first>[0-9a-f]{2})/(?P=first)[0-9a-f]{62}\.[a-z0-9]+"
    r"|metadata/[0-9]+\.json"
    r"|enhanced/[0-9]+/[^/]+"
    r"|annotated/[0-9]+\.[a-z0-9]+"
    r"|uploads/[0-9]{4}-[0-9]{2}-[0-9]{2}/[0-9a-f-]{36}\.[a-z0-9]+"
)


_RESULT = re.compile(r"results/[0-9a-f]{64}\.[a-z0-9]+")


class KeySet:
    """Many texts, of which only 64-bit hashes are kept: 8 bytes each.

    Of those that are not in it one in 10^12 or so seems to be: an object more is kept then.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._hashes = np.fromiter(map(_hash, texts), dtype=np.uint64)
        self._hashes.sort()

    def __contains__(self, text: object) -> bool:
        """Whether the text is in it."""
        wanted = np.uint64(_hash(str(text)))
        place = int(np.searchsorted(self._hashes, wanted))
        return place < len(self._hashes) and bool(self._hashes[place] == wanted)

    def __len__(self) -> int:
        """How many texts, each as often as it was given."""
        return len(self._hashes)


def is_ours(key: str) -> bool:
    """Whether this system gave the object its name, and so may take it away.

    An upload of another program, whose message may still be on its way, a numbered frame, a model or a training picture
    is not: no object of those is ever an orphan.
    """
    return _OURS.fullmatch(key) is not None


def orphans(store: ImageStore, pointed_at: KeySet, limit: datetime) -> Iterator[ObjectInfo]:
    """The objects of ours that were put before ``limit`` and that nothing points at, by key or by URL.

    Args:
        store: Where to look.
        pointed_at: Every key and every URL in a row, read before this is called. What is pointed at later was put, or
            put again, later than ``limit``.
        limit: Younger objects may belong to a run that has not written its rows yet.
    """
    for prefix in SWEPT_PREFIXES:
        for info in store.list(prefix):
            if info.modified <= limit and is_ours(info.key) and not _is_pointed_at(store, info.key, pointed_at):
                yield info


def old_results(store: ImageStore, limit: datetime) -> Iterator[ObjectInfo]:
    """The pictures that were enhanced for callers and last made before ``limit``. No row points at them."""
    return (info for info in store.list("results/") if info.modified <= limit and _RESULT.fullmatch(info.key))


def missing(pointers: Iterable[tuple[int, str]], present: KeySet) -> Iterator[tuple[int, str]]:
    """Of pointers from an image to a key, those whose object is not among those present."""
    return ((image_id, key) for image_id, key in pointers if key not in present)


def _is_pointed_at(store: ImageStore, key: str, pointed_at: KeySet) -> bool:
    if key in pointed_at or store.open_url(key) in pointed_at:
        return True
    try:
        return stored_image_url(key) in pointed_at
    except InvalidKeyError:  # no image
        return False


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
