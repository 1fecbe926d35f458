import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe_dagster.store import InvalidKeyError, LocalStore
from imgpipe_dagster.store.keys import (
    check_key,
    enhanced_key,
    image_key,
    is_key,
    models_key,
    report_key,
    report_name,
    safe_name,
    training_key,
)

SHA = "0123456789abcdef" * 4
TRICKY = st.text(st.sampled_from("./\\.. %\0é中😀ab-_\x7f\ud800"), max_size=12)
ANY_NAME = st.text(min_size=1, max_size=300) | TRICKY.filter(bool)


def test_keys_are_those_of_the_documented_layout():
    assert image_key(SHA, ".JPG") == f"images/01/{SHA}.jpg"
    assert report_key(42) == "metadata/42.json"
    assert report_key("frame_000001") == "metadata/frame_000001.json"
    assert enhanced_key(7, "9f8e", "webp") == "enhanced/7/9f8e.webp"
    assert training_key("T1", "train", "common", "घंटी 1.jpg") == "training/T1/train/common/घंटी 1.jpg"
    assert models_key("temple", 12, "extra_info.json") == "models/temple/12/extra_info.json"


@pytest.mark.parametrize("sha256", ["", SHA[:-1], SHA.upper(), SHA + "0", "../" + SHA[3:]])
def test_what_is_no_sha256_makes_no_image_key(sha256):
    with pytest.raises(InvalidKeyError, match="SHA-256"):
        image_key(sha256, "jpg")


@pytest.mark.parametrize("extension", ["", ".", "jpg/../..", "tar.gz", "j p", "x" * 11])
def test_what_is_no_extension_makes_no_key(extension):
    with pytest.raises(InvalidKeyError, match="extension"):
        image_key(SHA, extension)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("shelf 1 (left).jpg", "shelf 1 (left).jpg"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        (".incoming", "%2Eincoming"),
        ("..", "%2E."),
        ("a\\b", "a%5Cb"),
        ("50%", "50%25"),
        ("nul\0", "nul%00"),
        (7, "7"),
    ],
)
def test_unsafe_characters_of_a_name_are_escaped(text, name):
    assert safe_name(text) == name


@pytest.mark.parametrize("text", ["", "\ud800", "a\udfff"])
def test_a_name_that_cannot_be_written_is_refused(text):
    with pytest.raises(InvalidKeyError):
        safe_name(text)


def test_long_names_are_cut_and_stay_different():
    one, two = (safe_name("क" * 200 + end) for end in "12")
    assert one != two
    assert len(one.encode()) <= 200
    assert one.startswith("कक")


@given(ANY_NAME, ANY_NAME)
def test_names_are_always_valid_and_different_texts_get_different_names(one, two):
    try:
        names = safe_name(one), safe_name(two)
    except InvalidKeyError:
        assert re.search("[\ud800-\udfff]", one + two)
        return
    for text, name in zip((one, two), names, strict=True):
        key = training_key(text, "test", text, text)
        assert is_key(key)
        assert key.count("/") == 4
        if len(name.encode()) < 200:
            assert unquote(name) == text
    assert (names[0] == names[1]) == (one == two)


@given(st.lists(TRICKY, min_size=1, max_size=5).map("/".join))
def test_a_key_that_is_accepted_stays_inside_the_folder(tmp_path_factory, key):
    root = tmp_path_factory.getbasetemp() / "store"
    try:
        url = LocalStore(root).open_url(key)
    except InvalidKeyError:
        assert not is_key(key)
        return
    path = unquote(url.removeprefix("file://"))
    assert path == f"{root.resolve()}/{key}"
    assert not {"", ".", ".."} & set(key.split("/"))
    assert "\0" not in key


@pytest.mark.parametrize(
    "key", ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a\\b", "a\nb", "\0", ".incoming/a", "a\ud800"]
)
def test_keys_that_lead_astray_are_refused(key):
    with pytest.raises(InvalidKeyError):
        check_key(key)


@pytest.mark.parametrize(
    "key", ["a", "a b/c%20d", "...", ".a/b", "a/.incoming/b", "é/中/😀", "x" * 255, "ab/" * 341 + "a"]
)
def test_ordinary_keys_are_accepted(key):
    check_key(key)


@pytest.mark.parametrize("key", ["x" * 256, "é" * 128, "ab/" * 341 + "ab"])
def test_keys_too_long_for_a_file_system_or_for_s3_are_refused(key):
    with pytest.raises(InvalidKeyError, match="too long"):
        check_key(key)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("images/frame_000042.jpg", "frame_000042"),
        ("images/a.b.jpg", "a.b"),
        ("images/plain", "plain"),
        ("images/.jpg", ".jpg"),
        ("images/42.jpg", None),  # image 42 has this name
        ("images/ab/abcd.jpg", None),
        ("metadata/frame_000042.json", None),
    ],
)
def test_images_with_a_name_of_their_own_give_it_to_their_report(key, name):
    assert report_name(key) == name
