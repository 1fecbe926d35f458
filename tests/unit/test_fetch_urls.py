"""From what a row says to a valid URL."""

import string
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from imgpipe_dagster.fetch.urls import complete, normalise, redact, scheme_of


@pytest.mark.parametrize(
    ("written", "valid"),
    [
        ("http://h.example/a b.jpg", "http://h.example/a%20b.jpg"),
        ("http://h.example/a%20b.jpg", "http://h.example/a%20b.jpg"),
        ("http://h.example/50%.jpg", "http://h.example/50%25.jpg"),
        ("http://h.example/50%zz%41.jpg", "http://h.example/50%25zz%41.jpg"),
        ("http://h.example/ürn🍾.jpg", "http://h.example/%C3%BCrn%F0%9F%8D%BE.jpg"),
        ("http://h.example/a.jpg?w=1 2&s=a%2Fb%2Bc+d#top", "http://h.example/a.jpg?w=1%202&s=a%2Fb%2Bc+d"),
        ("http://h.example", "http://h.example/"),
        ("  HTTP://H.Example:8080/A.jpg\n", "http://h.example:8080/A.jpg"),
        ("http://münchen.example/", "http://xn--mnchen-3ya.example/"),
        ("http://us er:p%40w@h.example/", "http://us%20er:p%40w@h.example/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://0177.0.0.1/", "http://127.0.0.1/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://127.0.0.1./", "http://127.0.0.1/"),
        ("http://①②⑦.0.0.1/", "http://127.0.0.1/"),
        ("http://127。0。0。1/", "http://127.0.0.1/"),
        ("http://[::FFFF:7f00:1]:80/x", "http://[::ffff:7f00:1]:80/x"),
    ],
)
def test_a_written_url_becomes_valid_without_double_encoding(written, valid):
    assert normalise(written) == valid


@pytest.mark.parametrize(
    "garbage",
    [
        "http://",
        "http:/h.example/x",
        "http:///x",
        "http://h.example:99999/",
        "http://h.example:port/",
        "http://[::1/",
        "http://[nonsense]/",
        "http://256.256.256.256/",
        "http://1.2.3.4.5/",
        "http://a b/",
        "http://%31%32%37.0.0.1/",
        "http://a%41.example/",
        "http://good.example\\@evil.example/",
        "http://h.example/a\x00.jpg",
        "http://h.example/a\r\nHost: x",
        "http://h.example/\ud800.jpg",
    ],
)
def test_garbage_is_not_a_url(garbage):
    with pytest.raises(ValueError, match=r".+"):
        normalise(garbage)


def test_the_message_about_a_bad_url_does_not_show_its_password():
    with pytest.raises(ValueError, match="not a valid URL") as caught:
        normalise("http://user:hunter2/x@h.example/")
    assert "hunter2" not in str(caught.value)


@given(st.text(alphabet=string.printable + "äß漢🍾%#?&=+ ", max_size=40))
def test_normalising_twice_changes_nothing_more(rest):
    try:
        once = normalise("http://h.example/" + rest)
    except ValueError:
        return
    assert normalise(once) == once
    assert once.isascii()
    assert urlsplit(once).hostname == "h.example"
    assert str(URL(once, encoded=True)) == once


@given(st.text(alphabet=string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@/", min_size=1, max_size=40))
def test_a_valid_path_is_not_touched(path):
    assert normalise(f"http://h.example/{path}?{path}") == f"http://h.example/{path}?{path}"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: not name.startswith("/")))
def test_a_bare_name_comes_back_from_its_completed_url(name):
    url = complete(name, "http://h.example/images")
    assert unquote(url.removeprefix("http://h.example/images/")) == name
    assert normalise(url) == url


def test_a_bare_name_is_put_behind_the_base_with_one_slash():
    assert complete("/a#1 50%.jpg", "http://h.example/i/") == "http://h.example/i/a%231%2050%25.jpg"
    assert complete("a.jpg", "http://h.example/get?name=") == "http://h.example/get?name=a.jpg"


@pytest.mark.parametrize(
    ("text", "scheme"),
    [("HTTPS://x", "https"), ("data:,x", "data"), ("a.jpg", None), ("IMG 12:30.jpg", None), ("12:30.jpg", None)],
)
def test_the_scheme_is_told_from_a_file_name(text, scheme):
    assert scheme_of(text) == scheme


def test_credentials_are_redacted_and_nothing_else():
    assert redact("at http://u:p@h/x?m=a@b and s3://b/k@2x") == "at http://***@h/x?m=a@b and s3://b/k@2x"
