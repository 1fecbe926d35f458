"""The demo's files: what is among them, and that the pipeline's own judge answers as expected."""

import io
import itertools
import struct
from collections import Counter
from collections.abc import Iterator

import pytest
from PIL import Image

from imgpipe_dagster.demo.images import BOMB_SIDE, DemoFile, Kind, demo_files, pixel_bomb, write_demo_images
from imgpipe_dagster.imaging.validate import Validator
from imgpipe_dagster.reasons import Reason


@pytest.fixture(scope="module")
def files() -> list[DemoFile]:
    return list(demo_files(120))


@pytest.fixture(scope="module")
def validator() -> Iterator[Validator]:
    with Validator(workers=1) as validator:
        yield validator


def of_kind(files: list[DemoFile], kind: Kind) -> DemoFile:
    return next(file for file in files if file.kind is kind)


@pytest.mark.parametrize("count", [10, 37, 120, 500])
def test_the_demo_has_as_many_files_as_asked_for_with_names_of_their_own(count):
    files = list(demo_files(count))
    assert len({file.name for file in files}) == count
    assert [file.expected_reason for file in files].count(None) == count - 7


def test_a_demo_without_room_for_the_bad_files_is_refused():
    with pytest.raises(ValueError, match="at least 10 files, not 9"):
        list(demo_files(9))


def test_the_demo_has_every_kind_of_file(files):
    kinds = Counter(file.kind for file in files)
    assert set(kinds) == set(Kind)
    assert kinds[Kind.JPEG] == 105
    assert kinds[Kind.TRUNCATED_JPEG] == 2
    assert set(kinds.values()) == {105, 2, 1}


def test_the_demo_has_every_awkward_character_in_names(files):
    assert set("🍾 %#?&+=;é") <= set("".join(file.name for file in files))


def test_the_expected_reasons_cover_the_file_and_the_network(files):
    assert Counter(file.expected_reason for file in files) == {
        None: 113,
        Reason.TRUNCATED: 3,
        Reason.NOT_AN_IMAGE: 1,
        Reason.HTTP_NOT_FOUND: 1,
        Reason.TOO_MANY_PIXELS: 1,
        Reason.EMPTY_FILE: 1,
    }


def test_bad_files_are_spread_over_the_rows(files):
    bad = [place for place, file in enumerate(files) if file.expected_reason]
    assert all(10 <= later - earlier <= 20 for earlier, later in itertools.pairwise(bad))


def test_the_last_file_is_a_copy_of_the_first_under_another_name(files):
    first, last = files[0], files[-1]
    assert first.name != last.name
    assert first.read() == last.read()


def test_a_missing_file_has_no_bytes(files):
    assert of_kind(files, Kind.MISSING).read() is None


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.MISSING])
def test_the_pipeline_answers_as_expected_to_a_file_of_kind(kind, files, validator):
    file = of_kind(files, kind)
    data = file.read()
    assert data is not None
    verdict = validator.validate(data)
    assert (verdict.reason, verdict.detail if not file.expected_reason else "") == (file.expected_reason, "")
    if not file.expected_reason:
        assert (verdict.width, verdict.height) == (file.width, file.height)


def test_the_unusual_files_are_what_they_are_called(files):
    opened = {
        kind: Image.open(io.BytesIO(of_kind(files, kind).read() or b""))
        for kind in (Kind.CMYK, Kind.GRAY, Kind.ANIMATED_GIF, Kind.ROTATED_BY_EXIF)
    }
    assert opened[Kind.CMYK].mode == "CMYK"
    assert opened[Kind.GRAY].mode == "L"
    assert getattr(opened[Kind.ANIMATED_GIF], "n_frames", 1) == 3
    assert opened[Kind.ROTATED_BY_EXIF].getexif()[0x0112] == 6
    assert opened[Kind.ROTATED_BY_EXIF].size == (600, 800)


def test_ordinary_pictures_are_as_heavy_as_those_of_a_camera():
    sizes = [len(file.read() or b"") for file in list(demo_files(120))[30:60:6] if file.width == 1280]
    assert 100_000 < sum(sizes) / len(sizes) < 400_000


def test_a_pixel_bomb_is_small_and_claims_to_be_huge():
    bomb = pixel_bomb()
    assert len(bomb) < 40_000
    assert struct.unpack(">II", bomb[16:24]) == (BOMB_SIDE, BOMB_SIDE)


def test_a_pixel_bomb_is_a_valid_picture():
    with Image.open(io.BytesIO(pixel_bomb(64))) as image:
        image.load()
        assert image.getextrema() == (0, 0)


def test_files_are_written_once_and_every_one_is_reported(tmp_path):
    folder = tmp_path / "cdn"
    reported: list[DemoFile] = []
    files = write_demo_images(folder, 10, reported.append)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        file.name for file in files if file.kind is not Kind.MISSING
    )
    assert sorted(file.name for file in reported) == sorted(file.name for file in files)
    kept, lost = folder / files[0].name, folder / files[-1].name
    kept.write_bytes(b"kept")
    lost.unlink()
    reported.clear()
    assert write_demo_images(folder, 10, reported.append) == files
    assert kept.read_bytes() == b"kept"
    assert lost.read_bytes() == files[-1].read()
    assert len(reported) == 10
