"""From a URL to a store."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from imgpipe_dagster.store.base import ImageStore, StoreError
from imgpipe_dagster.store.local import LocalStore
from imgpipe_dagster.store.s3 import S3Store, s3_client

_NO_STORE = "A store URL is file:///folder (three slashes) or s3://bucket/prefix."


def open_store_at(url: str, *, endpoint_url: str | None = None, region: str | None = None) -> ImageStore:
    """Open the store that a URL names, with a client of its own where that is a bucket; for who is no Dagster resource.

    Args:
        url: ``file:///folder`` or ``s3://bucket/prefix``.
        endpoint_url: Endpoint of an S3-compatible store.
        region: Region of the bucket.

    Raises:
        StoreError: The URL names no store.
    """
    return open_store(url, s3_client=s3_client(endpoint_url, region) if url.startswith("s3:") else None)


def open_store(url: str, *, s3_client: Any = None) -> ImageStore:  # noqa: ANN401 boto3 makes its classes at run time
    """Open the store that a URL names. Nothing is read or written yet.

    Args:
        url: ``file:///folder`` or ``s3://bucket/prefix``.
        s3_client: A boto3 S3 client, for ``s3://``.

    Raises:
        StoreError: The URL names no store, or a client is missing. The message leaves out passwords.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise StoreError(_NO_STORE) from error
    if "@" in parts.netloc:
        raise StoreError("A store URL holds no user or password: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
    if "?" in url or "#" in url:
        raise StoreError("A store URL has no query and no fragment: write '?' and '#' in names as %3F and %23.")
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        if s3_client is None:
            raise StoreError(f"The store s3://{parts.netloc} needs an S3 client.")
        return S3Store(s3_client, parts.netloc, unquote(parts.path))
    raise StoreError(f"{_NO_STORE} Not {url!r}.")
