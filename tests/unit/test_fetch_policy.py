"""The limits of fetching, and how long a server may make us wait."""

from datetime import UTC, datetime

import pytest

from imgpipe_dagster.fetch.client import fetch_all
from imgpipe_dagster.fetch.download import parse_retry_after
from imgpipe_dagster.fetch.policy import FetchPolicy

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "values",
    [
        {"connections": 0},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"connect_timeout_s": -1},
        {"attempts": 0},
        {"max_bytes": 0},
        {"max_redirects": -1},
        {"backoff_s": -0.1},
        {"max_retry_after_s": -1},
        {"allow_networks": ("10.0.0.1/8",)},
        {"allow_networks": ("intranet",)},
        {"user_agent": "me\r\nX-Evil: 1"},
    ],
)
def test_a_policy_out_of_range_is_refused(values):
    with pytest.raises(ValueError, match=r".+"):
        FetchPolicy(**values)


@pytest.mark.parametrize("base_url", ["", "images/", "file:///images", "ftp://h.example/", "http://"])
def test_a_base_url_that_is_not_http_is_refused_at_once(base_url):
    with pytest.raises(ValueError, match=r".+"):
        fetch_all([], FetchPolicy(), base_url=base_url)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("7", 7),
        (" 120 ", 120),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30),
        ("Fri, 20 Nov 2026 12:00:30 -0000", 30),
        ("Fri, 20 Nov 2026 11:59:00 GMT", 0),
        ("-5", 0),
        ("soon", 0),
        ("²", 0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header, seconds):
    assert parse_retry_after(header, NOW) == seconds
