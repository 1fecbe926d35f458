"""Images in the store, or in its own bucket, read through the fetch client from a folder and a real S3 server."""

import pytest

from imgpipe_dagster.fetch.client import FetchRequest, fetch_all
from imgpipe_dagster.fetch.policy import FetchPolicy
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.store.local import LocalStore
from imgpipe_dagster.store.own_images import own_bucket_reader, stored_image_reader
from imgpipe_dagster.store.s3 import S3Store


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


def test_of_an_object_that_is_too_large_no_more_is_read_than_shows_it(s3_client, s3_bucket):
    s3_client.put_object(Bucket=s3_bucket, Key="incoming/video.mp4", Body=bytes(100_000))
    reader = own_bucket_reader(f"s3://{s3_bucket}/imgpipe", s3_client)
    assert len(reader(f"s3://{s3_bucket}/incoming/video.mp4", 1000)) == 1001


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return S3Store(request.getfixturevalue("s3_client"), request.getfixturevalue("s3_bucket"), "imgpipe")


def fetch_stored(store, url):
    (result,) = fetch_all([FetchRequest(1, url)], FetchPolicy(), openers={"store": stored_image_reader(store)})
    return result


def test_an_image_of_the_store_is_read_by_its_key(store):
    store.put("images/a 50%.jpg", b"bytes")
    assert fetch_stored(store, "store:images/a 50%.jpg").data == b"bytes"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("store:images/nothing.jpg", Reason.HTTP_NOT_FOUND),
        ("store:metadata/1.json", Reason.ADDRESS_NOT_ALLOWED),
        ("store:images/../metadata/1.json", Reason.ADDRESS_NOT_ALLOWED),
        ("store:images/%2e%2e/metadata/1.json", Reason.HTTP_NOT_FOUND),
        ("store:/images/a.jpg", Reason.ADDRESS_NOT_ALLOWED),
        ("store://images/a.jpg", Reason.ADDRESS_NOT_ALLOWED),
        ("store:images/", Reason.ADDRESS_NOT_ALLOWED),
        ("store:", Reason.ADDRESS_NOT_ALLOWED),
    ],
)
def test_nothing_but_images_is_read_from_the_store(store, url, reason):
    store.put("metadata/1.json", b"{}")
    result = fetch_stored(store, url)
    assert (result.data, result.reason) == (None, reason)
