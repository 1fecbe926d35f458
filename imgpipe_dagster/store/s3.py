"""A bucket as a store, on any service that speaks S3."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from imgpipe_dagster.store.base import ObjectInfo, ObjectNotFoundError, StoreError
from imgpipe_dagster.store.keys import check_key, check_prefix, is_key

RENEWED_AFTER = timedelta(hours=1)
"""An immutable object that is older is put again, so that it counts as new."""

_ADVICE = {
    "NoSuchBucket": "does not exist: create it or correct IMGPIPE_STORE_URL",
    "AccessDenied": "refuses access: check the permissions of these credentials",
    "403": "refuses access: check the credentials and their permissions",
    "InvalidAccessKeyId": "does not know the access key: check AWS_ACCESS_KEY_ID and IMGPIPE_S3_ENDPOINT_URL",
    "SignatureDoesNotMatch": "refuses the signature: check AWS_SECRET_ACCESS_KEY and the clock",
    "ExpiredToken": "says that the credentials have expired: renew them",
    "QuotaExceeded": "is full: free some space or raise the quota",
    "XMinioStorageFull": "is full: free some space",
    "SlowDown": "asks to slow down, after all retries: try again later",
}


_MAX_ATTEMPTS = 5


def s3_client(endpoint_url: str | None = None, region: str | None = None) -> Any:  # noqa: ANN401 boto3 makes its classes at run time
    """A boto3 S3 client for those who are no Dagster resource; credentials are boto3's own affair."""
    import boto3  # half a second, which local stores need not spend
    from botocore.config import Config

    retries: Any = {"max_attempts": _MAX_ATTEMPTS, "mode": "standard"}
    return boto3.client("s3", endpoint_url=endpoint_url, region_name=region, config=Config(retries=retries))


class S3Store:
    """Objects in a bucket, under an optional prefix.

    Args:
        client: A boto3 S3 client; endpoint, credentials and retries are its own.
        bucket: Name of an existing bucket.
        prefix: What all keys begin with, such as ``imgpipe``; a ``/`` is put between.
    """

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:  # noqa: ANN401 boto3 makes its classes at run time
        self._client = client
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def __repr__(self) -> str:
        return f"S3Store('s3://{self.bucket}/{self.prefix}')"

    def put(self, key: str, data: bytes, *, content_type: str | None = None, immutable: bool = False) -> None:
        """Store an object; see `ImageStore.put`. S3 is durable when it has answered."""
        name = self._name(key)
        if immutable and self._is_kept(key, len(data)):
            return
        extra = {"ContentType": content_type} if content_type else {}
        with self._errors(key):
            self._client.put_object(Bucket=self.bucket, Key=name, Body=data, **extra)

    def get(self, key: str, *, at_most: int | None = None) -> bytes:
        """Read an object; see `ImageStore.get`."""
        name = self._name(key)
        with self._errors(key), self._client.get_object(Bucket=self.bucket, Key=name)["Body"] as body:
            return body.read(at_most)

    def head(self, key: str) -> ObjectInfo:
        """Size and age of an object; see `ImageStore.head`."""
        name = self._name(key)
        with self._errors(key):
            answer = self._client.head_object(Bucket=self.bucket, Key=name)
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"])

    def exists(self, key: str) -> bool:
        """Whether an object has this key."""
        try:
            self.head(key)
        except ObjectNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there counts as deleted."""
        name = self._name(key)
        with self._errors(key):
            self._client.delete_object(Bucket=self.bucket, Key=name)

    def delete_if_older(self, key: str, limit: datetime) -> bool:
        """Delete an object unless it was put after ``limit``; see `ImageStore.delete_if_older`.

        S3 has no way to do both at once: a put in the milliseconds between the look and the deletion is lost.
        """
        try:
            if self.head(key).modified > limit:
                return False
        except ObjectNotFoundError:
            return False
        self.delete(key)
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with ``prefix``; see `ImageStore.list`."""
        check_prefix(prefix)
        paginator = self._client.get_paginator("list_objects_v2")
        with self._errors(prefix):
            for page in paginator.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self.prefix)
                    if is_key(key):  # consoles leave empty objects such as "images/"
                        yield ObjectInfo(key, item["Size"], item["LastModified"])

    def open_url(self, key: str) -> str:
        """The object's ``s3://`` URL."""
        return f"s3://{self.bucket}/{self._name(key)}"

    def _name(self, key: str) -> str:
        check_key(key)
        check_key(self.prefix + key)  # together they may be too long
        return self.prefix + key

    def _is_kept(self, key: str, size: int) -> bool:
        """Whether an object of that size is there and young; S3 can only make an older one new by a new put."""
        try:
            info = self.head(key)
        except ObjectNotFoundError:
            return False
        return info.size == size and datetime.now(UTC) - info.modified < RENEWED_AFTER

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn boto's errors into the store's, by code only: messages of a service may quote credentials."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code in {"NoSuchKey", "404"}:
                raise ObjectNotFoundError(f"There is no object {key!r} in {self!r}.") from None
            raise StoreError(
                f"The bucket of {self!r} {_ADVICE.get(code, f'answered with the error {code}')} (key {key!r})."
            ) from None
        except NoCredentialsError:
            raise StoreError(
                f"{self!r} has no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (key {key!r})."
            ) from None
        except BotoCoreError as error:
            raise StoreError(
                f"{self!r} cannot be reached: {type(error).__name__}; check the network and IMGPIPE_S3_ENDPOINT_URL "
                f"(key {key!r})."
            ) from None
