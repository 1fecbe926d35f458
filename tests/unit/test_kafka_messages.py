"""What Kafka messages mean, and which are poison."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe_dagster.catalogue.import_files import ImportRow
from imgpipe_dagster.catalogue.kafka_positions import Position
from imgpipe_dagster.sources.kafka import KafkaConfig, recognise, security_options
from imgpipe_dagster.sources.messages import MAX_MESSAGE_BYTES, PoisonError, resolve_path, to_import_row


def row_of(value, store_url="s3://shop/imgpipe"):
    return to_import_row(value, source_ref="t/0/7", source_key="k" * 64, store_url=store_url)


def test_a_message_of_the_older_producer_becomes_an_image_in_the_store_with_its_name():
    row = row_of(b'{"image_path": "s3://shop/imgpipe/images/frame_000042.jpg", "timestamp": 1712.5}')
    assert (row.image_url, row.report_name) == ("store:images/frame_000042.jpg", "frame_000042")
    assert (row.source, row.source_ref, row.source_key) == ("kafka", "t/0/7", "k" * 64)


def test_what_else_a_message_says_is_taken_over():
    fields = {"sku_id": 12, "temple_id": "T", "product_group_id": "G", "mode": "full", "image_type": "side"}
    row = row_of(json.dumps({"image_url": "https://h/a b.jpg", **fields}).encode())
    assert (row.image_url, row.report_name) == ("https://h/a%20b.jpg", None)
    assert (row.sku_id, row.temple_id, row.product_group_id) == ("12", "T", "G")
    assert (row.enhancement_mode, row.image_type) == ("full", "side")


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("images/a.jpg", "store:images/a.jpg"),
        ("a.jpg", "store:images/a.jpg"),
        ("s3://shop/imgpipe/images/a%20b.jpg", "store:images/a b.jpg"),
        ("s3://shop/other/a.jpg", "s3://shop/other/a.jpg"),
        ("https://h/a.jpg", "https://h/a.jpg"),
    ],
)
def test_a_path_is_a_key_of_an_image_or_a_url(path, url):
    assert resolve_path(path, "s3://shop/imgpipe") == url


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "no value"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[" * 20_000, "not JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'["a.jpg"]', "it is a list, not an object"),
        (b"null", "it is null, not an object"),
        (b"{}", "neither image_path nor image_url"),
        (b'{"image_path": "  "}', "neither image_path nor image_url"),
        (b'{"image_path": "a.jpg", "image_url": "https://h/a.jpg"}', "two images"),
        (b'{"image_path": 5}', "image_path is a number, not a text"),
        (b'{"image_path": ["a.jpg"]}', "image_path is a list"),
        (b'{"image_path": "../metadata/1.json"}', "must be relative"),
        (b'{"image_path": "/etc/passwd"}', "must be relative"),
        (b'{"image_path": "s3://shop/imgpipe/images/../../x"}', "must be relative"),
        (b'{"image_path": "file:///etc/passwd"}', "begins with file"),
        (b'{"image_url": "file:///etc/passwd"}', "not an http or https URL"),
        (b'{"image_url": "http://"}', "no host"),
        (b'{"image_path": "a.jpg", "mode": "shiny"}', "mode 'shiny'"),
        (b'{"image_path": "a.jpg", "sku_id": true}', "sku_id is true or false, not a text"),
        (b'{"image_path": "a.jpg", "temple_id": {"a": 1}}', "temple_id is an object, not a text"),
        (json.dumps({"image_path": "a.jpg", "sku_id": "x" * 101}).encode(), "sku_id has 101 characters"),
        (b'{"image_path": "' + b"a" * MAX_MESSAGE_BYTES + b'"}', "are allowed"),
        (b"x" * 10_000_000, "it has 10000000 bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_poison_is_told_with_its_cause(value, why):
    with pytest.raises(PoisonError, match=why):
        row_of(value)


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(
        lambda value: json.dumps({"image_path": value, "sku_id": value}).encode()
    )
)
def test_any_bytes_are_a_row_or_poison(value):
    with contextlib.suppress(PoisonError):
        assert isinstance(row_of(value), ImportRow)


@pytest.mark.parametrize(
    ("stored", "high", "found", "goes_on"),
    [
        (Position(), 0, None, Position()),  # a new topic
        (Position(2, 9, 500), 10, 500, Position(2, 9, 500)),  # the same message is there
        (Position(2, 9, 500), 10, None, Position(2, 9, 500)),  # the group remembers it, or retention took it
        (Position(2, 9, 500), 9, None, Position(3)),  # shorter than what was read
        (Position(2, 9, 500), 0, None, Position(3)),
        (Position(2, 9, 500), 99, 501, Position(3)),  # another message where the last one was
    ],
)
def test_a_topic_that_was_made_anew_is_recognised(stored, high, found, goes_on):
    assert recognise(stored, high, found) == goes_on


def test_passwords_do_not_show_in_a_printed_configuration():
    security = security_options(protocol="SASL_SSL", sasl_username="me", sasl_password="canary")
    assert security == {"security.protocol": "SASL_SSL", "sasl.username": "me", "sasl.password": "canary"}
    assert "canary" not in repr(KafkaConfig("h:1", "t", "file:///store", security=security))
