from pathlib import Path

import pytest

from imgpipe_dagster.store import LocalStore, S3Store, StoreError, open_store


def test_a_file_url_opens_a_folder_with_its_escapes_undone(tmp_path):
    store = open_store((tmp_path / "my store %41 é").as_uri())
    assert isinstance(store, LocalStore)
    assert store.root == tmp_path / "my store %41 é"


def test_opening_touches_nothing(tmp_path):
    open_store((tmp_path / "new").as_uri())
    assert not (tmp_path / "new").exists()


def test_localhost_may_be_written_out():
    store = open_store("file://localhost/srv/images")
    assert isinstance(store, LocalStore)
    assert store.root == Path("/srv/images").resolve()


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("s3://bucket", ""),
        ("s3://bucket/", ""),
        ("s3://bucket/team/imgpipe/", "team/imgpipe/"),
    ],
)
def test_an_s3_url_opens_a_bucket_with_its_prefix(url, prefix):
    store = open_store(url, s3_client=object())
    assert isinstance(store, S3Store)
    assert (store.bucket, store.prefix) == ("bucket", prefix)
    assert store.open_url("images/1.jpg") == f"s3://bucket/{prefix}images/1.jpg"


@pytest.mark.parametrize(
    "url",
    ["", "store", "/srv/store", "file://store/images", "file:store", "s3:///prefix", "gs://b", "http://h/x", "s3://["],
)
def test_other_urls_are_refused_with_what_to_write_instead(url):
    with pytest.raises(StoreError, match=r"file:///folder \(three slashes\) or s3://bucket/prefix"):
        open_store(url, s3_client=object())


def test_a_bucket_needs_a_client():
    with pytest.raises(StoreError, match="s3://bucket needs an S3 client"):
        open_store("s3://bucket/prefix")


def test_passwords_in_a_url_are_refused_and_not_repeated():
    with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY") as caught:
        open_store("s3://AKIACANARY:canary@bucket/prefix", s3_client=object())
    assert "canary" not in str(caught.value).lower()


def test_a_query_is_refused_rather_than_ignored():
    with pytest.raises(StoreError, match="%3F"):
        open_store("file:///srv/what?")
