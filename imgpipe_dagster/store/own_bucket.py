"""Reading images whose URL is in the bucket that the store itself is in."""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from imgpipe_dagster.store.base import InvalidKeyError, ObjectNotFoundError
from imgpipe_dagster.store.s3 import S3Store


def own_bucket_reader(store_url: str, s3_client: Any) -> Callable[[str], bytes]:  # noqa: ANN401 boto3 makes its classes at run time
    """A function that reads ``s3://`` URLs of one bucket, for :func:`imgpipe_dagster.fetch.client.fetch_all`.

    It raises PermissionError for any other bucket and FileNotFoundError where there is no object.
    """
    bucket = urlsplit(store_url).netloc
    store = S3Store(s3_client, bucket)

    def read(url: str) -> bytes:
        parts = urlsplit(url)
        if parts.netloc != bucket:
            raise PermissionError(f"Only the bucket {bucket} is read.")
        try:
            return store.get(unquote(parts.path.removeprefix("/")))
        except (InvalidKeyError, ObjectNotFoundError) as error:
            raise FileNotFoundError(str(error)) from error

    return read
