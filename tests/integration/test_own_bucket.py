"""Images whose URL is in the store's own bucket, read through the fetch client from a real S3 server."""

import pytest

from imgpipe_dagster.fetch.client import FetchRequest, fetch_all
from imgpipe_dagster.fetch.policy import FetchPolicy
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.store.own_bucket import own_bucket_reader


@pytest.fixture
def fetch(s3_client, s3_bucket):
    s3_client.put_object(Bucket=s3_bucket, Key="incoming/a bottle.jpg", Body=b"bytes")
    reader = own_bucket_reader(f"s3://{s3_bucket}/imgpipe", s3_client)

    def get(url):
        (result,) = fetch_all([FetchRequest(1, url.format(s3_bucket))], FetchPolicy(), openers={"s3": reader})
        return result

    return get


def test_an_object_beside_the_stores_own_prefix_is_read(fetch):
    assert fetch("s3://{}/incoming/a%20bottle.jpg").data == b"bytes"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://{}/incoming/nothing.jpg", Reason.HTTP_NOT_FOUND),
        ("s3://{}/incoming//nothing.jpg", Reason.HTTP_NOT_FOUND),
        ("s3://somebody-elses/incoming/a.jpg", Reason.ADDRESS_NOT_ALLOWED),
    ],
)
def test_what_cannot_be_read_has_a_reason(fetch, url, reason):
    result = fetch(url)
    assert (result.data, result.reason) == (None, reason)
