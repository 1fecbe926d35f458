"""Reading images that are in the store already, or in the bucket that it is in, by their URL."""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from imgpipe_dagster.store.base import ImageStore, InvalidKeyError, ObjectNotFoundError
from imgpipe_dagster.store.keys import stored_image_key
from imgpipe_dagster.store.s3 import S3Store


def stored_image_reader(store: ImageStore) -> Callable[[str, int], bytes]:
    """A function that reads ``store:images/…`` URLs, for :func:`imgpipe_dagster.fetch.client.fetch_all`.

    It raises PermissionError for keys of anything but images and FileNotFoundError where there is no object.
    """

    def read(url: str, max_bytes: int) -> bytes:
        try:
            return store.get(stored_image_key(url), at_most=max_bytes + 1)
        except InvalidKeyError as error:
            raise PermissionError(str(error)) from error
        except ObjectNotFoundError as error:
            raise FileNotFoundError(str(error)) from error

    return read


def own_bucket_reader(store_url: str, s3_client: Any) -> Callable[[str, int], bytes]:  # noqa: ANN401 boto3 makes its classes at run time
    """A function that reads ``s3://`` URLs of one bucket, for :func:`imgpipe_dagster.fetch.client.fetch_all`.

    It raises PermissionError for any other bucket and FileNotFoundError where there is no object.
    """
    bucket = urlsplit(store_url).netloc
    store = S3Store(s3_client, bucket)

    def read(url: str, max_bytes: int) -> bytes:
        parts = urlsplit(url)
        if parts.netloc != bucket:
            raise PermissionError(f"Only the bucket {bucket} is read.")
        try:
            return store.get(unquote(parts.path.removeprefix("/")), at_most=max_bytes + 1)
        except (InvalidKeyError, ObjectNotFoundError) as error:
            raise FileNotFoundError(str(error)) from error

    return read
