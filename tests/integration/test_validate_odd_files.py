"""A table of odd and broken files, each with the answer that it must get."""

import csv
import os
from pathlib import Path

import pytest

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.validate import ValidationLimits, Validator, Verdict
from imgpipe_dagster.reasons import Reason

CORRUPT, TRUNCATED, DISAGREE = Reason.CORRUPT, Reason.TRUNCATED, Reason.DECODERS_DISAGREE
TOO_MANY, UNSUPPORTED = Reason.TOO_MANY_PIXELS, Reason.UNSUPPORTED_FORMAT

# By the number that the file name starts with. None: trusted.
EXPECTED: dict[str, Reason | None] = {
    "00": UNSUPPORTED, "01": UNSUPPORTED, "02": TRUNCATED, "04": CORRUPT,
    "03": TRUNCATED,  # 88 bytes whose first directory points behind them
    "05": UNSUPPORTED, "09": UNSUPPORTED, "22": UNSUPPORTED,  # floating point samples
    "06": CORRUPT, "07": UNSUPPORTED, "08": UNSUPPORTED,
    "10": TRUNCATED, "11": TRUNCATED, "12": TRUNCATED, "13": CORRUPT, "14": TRUNCATED, "15": CORRUPT,
    "16": UNSUPPORTED, "17": TRUNCATED, "18": UNSUPPORTED, "19": TRUNCATED, "20": CORRUPT, "21": UNSUPPORTED,
    "23": CORRUPT,
    **dict.fromkeys((f"{number}" for number in range(24, 48)), None),  # all that are valid, odd ones included
    "48": TOO_MANY, "50": TOO_MANY,
    "49": UNSUPPORTED, "51": UNSUPPORTED,  # bombs in formats (BLP, DDS) that are not looked into
    "52": UNSUPPORTED, "53": UNSUPPORTED, "54": UNSUPPORTED, "55": UNSUPPORTED, "56": UNSUPPORTED, "57": UNSUPPORTED,
    "58": DISAGREE, "59": DISAGREE, "60": DISAGREE, "61": DISAGREE, "63": DISAGREE,
    "62": UNSUPPORTED,  # 12-bit samples, which Pillow reads and OpenCV names as the reason to refuse
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> Path:
    folder = os.environ.get("IMGPIPE_TEST_DATA")
    if not folder:
        pytest.skip("IMGPIPE_TEST_DATA names no folder with test pictures")
    return Path(folder) / "images"


@pytest.fixture(scope="module")
def table(pictures: Path) -> list[dict[str, str]]:
    with (pictures / "odd_and_broken" / "verdicts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def verdicts(pictures: Path, table: list[dict[str, str]]) -> dict[str, Verdict]:
    """What the children say, by the file's number."""
    files = ((row["file"][:2], (pictures / "odd_and_broken" / row["file"]).read_bytes()) for row in table)
    with Validator(ValidationLimits(timeout_s=10)) as validator:
        return dict(validator.validate_all(files))


def test_every_file_gets_the_answer_that_is_written_down(table, verdicts: dict[str, Verdict]):
    assert {number: verdict.reason for number, verdict in verdicts.items()} == EXPECTED
    assert len(verdicts) == len(table) == 64


def test_answers_agree_with_what_two_decoders_think(table, verdicts: dict[str, Verdict]):
    for row in table:
        trusted = verdicts[row["file"][:2]].ok
        assert trusted == (row["verdict"] in ("valid", "valid_odd")), row["file"]


def test_trusted_files_have_the_size_and_frames_of_the_table(table, verdicts: dict[str, Verdict]):
    for row in table:
        verdict = verdicts[row["file"][:2]]
        if verdict.ok:
            found = (verdict.width, verdict.height, verdict.frames, verdict.format)
            assert found == (int(row["width"]), int(row["height"]), int(row["frames"]), row["format"]), row["file"]


def test_trusted_files_decode_to_the_size_that_the_verdict_says(pictures: Path, table, verdicts: dict[str, Verdict]):
    for row in table:
        verdict = verdicts[row["file"][:2]]
        if verdict.ok:
            image = decode_bgr((pictures / "odd_and_broken" / row["file"]).read_bytes())
            assert image.shape == (verdict.height, verdict.width, 3), row["file"]


def test_each_rejection_says_what_was_found(verdicts: dict[str, Verdict]):
    assert all(bool(verdict.detail) != verdict.ok for verdict in verdicts.values())


def test_all_photographs_are_trusted(pictures: Path):
    photos = [*(pictures / "bottle_photos").rglob("*.jpg"), *(pictures / "background_removal").glob("*.jpg")]
    with Validator() as validator:
        verdicts = dict(
            validator.validate_all((photo.name + photo.parent.name, photo.read_bytes()) for photo in photos)
        )
    assert len(verdicts) == 34
    assert {verdict.reason for verdict in verdicts.values()} == {None}
    assert {verdict.notes for verdict in verdicts.values()} == {()}
