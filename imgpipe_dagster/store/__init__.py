"""Where bytes live: a local folder or an S3 bucket behind one small interface. No dagster, no SQL."""

from imgpipe_dagster.store.base import ImageStore, InvalidKeyError, ObjectInfo, ObjectNotFoundError, StoreError
from imgpipe_dagster.store.local import LocalStore
from imgpipe_dagster.store.opening import open_store
from imgpipe_dagster.store.s3 import S3Store

__all__ = [
    "ImageStore",
    "InvalidKeyError",
    "LocalStore",
    "ObjectInfo",
    "ObjectNotFoundError",
    "S3Store",
    "StoreError",
    "open_store",
]
