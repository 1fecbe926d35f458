"""The store as a resource: a local folder, or S3 through dagster-aws. No logic."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.keys import STORED_SCHEME
from imgpipe_dagster.store.opening import open_store
from imgpipe_dagster.store.own_images import own_bucket_reader, stored_image_reader


class ImageStoreResource(dg.ConfigurableResource):
    """Where bytes live."""

    url: str = Field(description="file:///folder or s3://bucket/prefix.")
    s3_endpoint_url: str | None = Field(default=None, description="Endpoint of an S3-compatible store.")
    s3_region: str | None = Field(default=None, description="Region of the bucket.")

    _store: ImageStore | None = PrivateAttr(default=None)

    @property
    def store(self) -> ImageStore:
        """The store; nothing is read or written until it is used."""
        if self._store is None:
            self._store = open_store(self.url, s3_client=self._s3_client() if self._is_s3 else None)
        return self._store

    def openers(self) -> Mapping[str, Callable[[str, int], bytes]]:
        """How images are read that are in the store already, or in the bucket that it is in."""
        openers = {STORED_SCHEME: stored_image_reader(self.store)}
        return {**openers, "s3": own_bucket_reader(self.url, self._s3_client())} if self._is_s3 else openers

    @property
    def _is_s3(self) -> bool:
        return self.url.startswith("s3:")

    def _s3_client(self) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
        from dagster_aws.s3 import S3Resource  # boto3 costs half a second, and local stores need none

        return S3Resource(endpoint_url=self.s3_endpoint_url, region_name=self.s3_region, max_attempts=5).get_client()
