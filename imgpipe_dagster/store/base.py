"""What every store can do, and how it fails. No implementation here."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class StoreError(Exception):
    """The store could not do what was asked: the message names the store and the key, and says what to do."""


class ObjectNotFoundError(StoreError):
    """There is no object under the key."""


class InvalidKeyError(StoreError, ValueError):
    """The key is one that no store takes; see :func:`imgpipe_dagster.store.keys.check_key`."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object without reading it.

    Attributes:
        key: The object's key.
        size: Bytes.
        modified: When it was written, in UTC, zone-aware.
    """

    key: str
    size: int
    modified: datetime


class ImageStore(Protocol):
    """A place for bytes, by key. Safe to use from several threads; every method may raise :class:`StoreError`."""

    def put(self, key: str, data: bytes, *, content_type: str | None = None, immutable: bool = False) -> None:
        """Store an object, replacing the one under the key as a whole: readers see the old bytes or the new ones.

        The object is durable when this returns, so a database row may point at it.

        Args:
            key: Where; see :func:`imgpipe_dagster.store.keys.check_key`.
            data: The bytes.
            content_type: MIME type, for stores that keep one.
            immutable: The key names the content (it holds its hash): an object of the same size that is already there
                is kept. It counts as new from now on, as a row is about to point at it: see ``delete_if_older``.
        """
        ...

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        """Read an object.

        Args:
            key: Which.
            at_most: Only so many of its first bytes.

        Raises:
            ObjectNotFoundError: No object has this key.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """Size and age of an object.

        Raises:
            ObjectNotFoundError: No object has this key.
        """
        ...

    def exists(self, key: str) -> bool:
        """Whether an object has this key."""
        ...

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there counts as deleted."""
        ...

    def delete_if_older(self, key: str, limit: datetime) -> bool:
        """Delete an object unless it was put after ``limit``, which includes being put again as immutable.

        Returns:
            Whether it was deleted; False also if it is not there.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with ``prefix``, in the order of their keys' UTF-8 bytes, read as needed."""
        ...

    def open_url(self, key: str) -> str:
        """Where a person finds the object: a ``file://`` or ``s3://`` URL."""
        ...
