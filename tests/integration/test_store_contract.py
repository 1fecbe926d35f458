"""What every store promises, tried on a folder and on a bucket of a real S3 server."""

import os
import time
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.config import Config

from imgpipe_dagster.store import InvalidKeyError, LocalStore, ObjectNotFoundError, S3Store, StoreError, open_store
from imgpipe_dagster.store.keys import image_key, training_key


@pytest.fixture(params=["folder", "bucket", "bucket with a prefix"])
def store(request, tmp_path):
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    prefix = "team/imgpipe" if request.param == "bucket with a prefix" else ""
    return S3Store(request.getfixturevalue("s3_client"), request.getfixturevalue("s3_bucket"), prefix)


def test_what_was_put_is_read_back_byte_by_byte(store):
    data = bytes(range(256)) * 4000
    store.put("images/ab/x.jpg", data, content_type="image/jpeg")
    assert store.get("images/ab/x.jpg") == data
    assert store.get("images/ab/x.jpg", at_most=300) == data[:300]


def test_an_empty_object_is_an_object(store):
    store.put("empty", b"")
    assert store.exists("empty")
    assert store.get("empty") == b""
    assert store.get("empty", at_most=2) == b""


def test_head_tells_size_and_time_in_utc(store):
    store.put("metadata/1.json", b"12345")
    info = store.head("metadata/1.json")
    assert (info.key, info.size) == ("metadata/1.json", 5)
    assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_second_put_replaces_the_object(store):
    store.put("metadata/1.json", b"old and longer")
    store.put("metadata/1.json", b"new")
    assert store.get("metadata/1.json") == b"new"


def test_an_immutable_object_of_the_same_size_is_kept(store):
    store.put("images/aa/1.jpg", b"first")
    store.put("images/aa/1.jpg", b"other", immutable=True)
    assert store.get("images/aa/1.jpg") == b"first"


def test_only_what_was_not_put_since_is_deleted_by_age(store):
    store.put("images/aa/1.jpg", b"first")
    written = store.head("images/aa/1.jpg").modified
    assert not store.delete_if_older("images/aa/1.jpg", written - timedelta(seconds=1))
    assert store.get("images/aa/1.jpg") == b"first"
    assert store.delete_if_older("images/aa/1.jpg", written + timedelta(seconds=1))
    assert not store.exists("images/aa/1.jpg")
    assert not store.delete_if_older("images/aa/1.jpg", written + timedelta(seconds=1))


def test_putting_an_immutable_object_again_makes_it_count_as_new(store, monkeypatch):
    monkeypatch.setattr("imgpipe_dagster.store.s3.RENEWED_AFTER", timedelta(0))
    store.put("images/aa/1.jpg", b"first", immutable=True)
    time.sleep(1.1)  # S3 counts in seconds
    limit = datetime.now(UTC)
    time.sleep(1.1)
    store.put("images/aa/1.jpg", b"first", immutable=True)
    assert not store.delete_if_older("images/aa/1.jpg", limit)
    assert store.get("images/aa/1.jpg") == b"first"


def test_what_is_deleted_by_age_in_the_middle_of_being_renewed_is_written_again(tmp_path, monkeypatch):
    """The system looks a path up and then sets the time of the file that it has found, wherever that is by then."""
    store = LocalStore(tmp_path)
    store.put("images/aa/1.jpg", b"first", immutable=True)
    old = datetime.now(UTC) - timedelta(hours=1)
    os.utime(tmp_path / "images/aa/1.jpg", (old.timestamp(), old.timestamp()))
    utime = os.utime

    def delete_in_between(path):
        with path.open("rb") as found:
            assert store.delete_if_older("images/aa/1.jpg", old + timedelta(minutes=1))
            utime(found.fileno())

    monkeypatch.setattr(os, "utime", delete_in_between)
    store.put("images/aa/1.jpg", b"first", immutable=True)
    assert store.get("images/aa/1.jpg") == b"first"


def test_what_is_put_again_while_it_is_deleted_by_age_is_there_afterwards(tmp_path):
    store = LocalStore(tmp_path)
    for _ in range(300):
        store.put("images/aa/1.jpg", b"first", immutable=True)
        old = datetime.now(UTC) - timedelta(hours=1)
        os.utime(tmp_path / "images/aa/1.jpg", (old.timestamp(), old.timestamp()))
        with ThreadPoolExecutor(2) as pool:
            pool.submit(store.delete_if_older, "images/aa/1.jpg", old + timedelta(minutes=1))
            pool.submit(store.put, "images/aa/1.jpg", b"first", immutable=True).result()
        assert store.get("images/aa/1.jpg") == b"first"


def test_an_immutable_object_of_another_size_is_mended(store):
    store.put("images/aa/1.jpg", b"trunc")
    store.put("images/aa/1.jpg", b"truncated no more", immutable=True)
    assert store.get("images/aa/1.jpg") == b"truncated no more"


def test_an_immutable_object_that_is_missing_is_written(store):
    store.put("images/aa/2.jpg", b"first", immutable=True)
    assert store.get("images/aa/2.jpg") == b"first"


@pytest.mark.parametrize("key", ["images/no.jpg", "images", "images/ab/x.jpg/below"])
def test_reading_what_is_not_there_says_so_with_the_key(store, key):
    store.put("images/ab/x.jpg", b"1")
    assert not store.exists(key)
    for read in (store.get, store.head):
        with pytest.raises(ObjectNotFoundError, match=key):
            read(key)


def test_a_deleted_object_is_gone_and_may_be_deleted_again(store):
    store.put("annotated/1.jpg", b"1")
    store.delete("annotated/1.jpg")
    store.delete("annotated/1.jpg")
    assert not store.exists("annotated/1.jpg")


@pytest.mark.parametrize("name", ["मंदिर घंटी.jpg", "a+b %41 100%.png", "🍾&=?#.webp", "e\u0301.jpg", "ü'\"<>;:*|.jpg"])
def test_names_in_all_languages_are_read_listed_and_deleted(store, name):
    key = training_key("टेम्पल", "train", "common", name)
    store.put(key, name.encode())
    assert [info.key for info in store.list("training/")] == [key]
    assert store.get(key) == name.encode()
    store.delete(key)
    assert list(store.list()) == []


@pytest.mark.parametrize(
    "key", ["../up", "/etc/passwd", "a//b", "a/./b", "a/", "", "nul\0", "a\\b", ".incoming/x", "\ud800"]
)
def test_keys_that_lead_astray_are_refused_by_every_method(store, key):
    for call in (
        lambda: store.put(key, b"1"),
        lambda: store.get(key),
        lambda: store.delete(key),
        lambda: store.head(key),
    ):
        with pytest.raises(InvalidKeyError):
            call()
    with pytest.raises(InvalidKeyError):
        store.open_url(key)
    assert list(store.list()) == []


def test_a_prefix_that_leads_astray_is_refused(store):
    with pytest.raises(InvalidKeyError):
        list(store.list("../other/"))


def test_objects_are_listed_by_prefix_in_the_order_of_their_bytes(store):
    keys = ["a-b/1", "a.json", "a/1", "a/b/2", "a/b.json", "ab", "é/1", "z", "😀"]
    for key in reversed(keys):
        store.put(key, key.encode())
    assert [info.key for info in store.list()] == sorted(keys, key=str.encode)
    assert [info.key for info in store.list("a/")] == ["a/1", "a/b.json", "a/b/2"]
    assert [(info.key, info.size) for info in store.list("a/b")] == [("a/b.json", 8), ("a/b/2", 5)]
    assert list(store.list("nothing/here")) == []


def test_more_objects_than_one_answer_holds_are_all_listed(store):
    keys = [f"metadata/{number}.json" for number in range(1005)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: store.put(key, b"{}"), keys))
    assert [info.key for info in store.list("metadata/")] == sorted(keys)


def test_threads_that_put_one_key_leave_one_whole_object(store):
    key = image_key("ab" * 32, "jpg")
    versions = [bytes([number]) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        writes = [threads.submit(store.put, key, data) for data in versions]
        while not all(write.done() for write in writes):
            if store.exists(key):
                assert store.get(key) in versions
        for write in writes:
            write.result()
    assert store.get(key) in versions
    assert len(list(store.list())) == 1


def test_a_bucket_keeps_the_content_type(s3_client, s3_bucket):
    S3Store(s3_client, s3_bucket, "p").put("metadata/1.json", b"{}", content_type="application/json")
    assert s3_client.head_object(Bucket=s3_bucket, Key="p/metadata/1.json")["ContentType"] == "application/json"


def test_a_prefix_keeps_two_stores_in_one_bucket_apart(s3_client, s3_bucket):
    one, two = S3Store(s3_client, s3_bucket, "one"), S3Store(s3_client, s3_bucket, "one-more/")
    one.put("x", b"1")
    two.put("x", b"2")
    assert (one.get("x"), two.get("x")) == (b"1", b"2")
    assert [info.key for info in one.list()] == ["x"]


def test_a_missing_bucket_is_named_with_what_to_do(s3_client):
    store = open_store(f"s3://no-such-{uuid.uuid4().hex}/p", s3_client=s3_client)
    with pytest.raises(StoreError, match=r"no-such-.*does not exist: create it or correct IMGPIPE_STORE_URL.*'k'"):
        store.put("k", b"1")
    with pytest.raises(StoreError, match="does not exist"):
        list(store.list())


def test_a_server_that_is_away_is_named_without_the_credentials(s3_server):
    client = boto3.client(
        "s3",
        endpoint_url="http://127.0.0.1:9",
        region_name="us-east-1",
        aws_access_key_id="AKIACANARY",
        aws_secret_access_key="canary-secret",
        config=Config(retries={"max_attempts": 0}),
    )
    with pytest.raises(
        StoreError, match=r"cannot be reached: EndpointConnectionError.*IMGPIPE_S3_ENDPOINT_URL"
    ) as caught:
        S3Store(client, "bucket").put("k", b"1")
    assert "canary" not in "".join(traceback.format_exception(caught.value)).lower()


def test_a_bucket_without_credentials_says_which_to_set(s3_server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    client = boto3.session.Session().client("s3", endpoint_url=s3_server.endpoint_url, region_name="us-east-1")
    with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        S3Store(client, "bucket").get("k")
