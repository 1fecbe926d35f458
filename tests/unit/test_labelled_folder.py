"""Data sets in folders: which files count, how they are split, what is refused."""

import shutil
from pathlib import Path

import pytest

from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.models.labelled_folder import DatasetError, LabelledFolder, Split, read_labelled_folder
from imgpipe_dagster.reasons import Reason


def trusting(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(b"picture"):
        raise DecodeError(Reason.NOT_AN_IMAGE, "no magic bytes")
    return data


def read(folder: Path, **shares: float) -> LabelledFolder:
    return read_labelled_folder(folder, read=trusting, **{"val_share": 0.2, "test_share": 0.1, **shares})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("opened", "closed"):
        (root / name).mkdir(parents=True)
        for number in range(20):
            (root / name / f"{number}.jpg").write_bytes(f"picture {name} {number}".encode())
    return root


def test_each_class_is_split_alike_and_by_content_alone(folder: Path, tmp_path: Path) -> None:
    data = read(folder)
    assert data.classes == ("closed", "opened")
    assert data.counts() == {key: {"train": 14, "val": 4, "test": 2} for key in ("closed", "opened")}
    for number, path in enumerate(sorted((folder / "opened").iterdir())):
        path.rename(path.with_name(f"renamed {20 - number}.jpeg"))
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    again = read(moved)
    assert again.fingerprint == data.fingerprint
    splits = {picture.sha256: picture.split for picture in data.pictures}
    assert {picture.sha256: picture.split for picture in again.pictures} == splits


def test_another_picture_changes_the_fingerprint(folder: Path) -> None:
    before = read(folder).fingerprint
    (folder / "opened" / "new.jpg").write_bytes(b"picture new")
    assert read(folder).fingerprint != before


def test_equal_pictures_of_a_class_are_in_one_split(folder: Path) -> None:
    for number in range(20):
        shutil.copy(folder / "opened" / f"{number}.jpg", folder / "opened" / f"copy {number}.jpg")
    data = read(folder)
    splits: dict[str, set[Split]] = {}
    for picture in data.pictures:
        splits.setdefault(picture.sha256, set()).add(picture.split)
    assert {len(found) for found in splits.values()} == {1}


def test_a_file_that_is_no_picture_or_is_in_two_classes_is_left_out_and_told(folder: Path) -> None:
    (folder / "opened" / "notes.txt").write_bytes(b"hello")
    (folder / "opened" / ".DS_Store").write_bytes(b"hidden")
    shutil.copy(folder / "closed" / "0.jpg", folder / "opened" / "wrong.jpg")
    data = read(folder)
    assert [(str(file.path), file.why) for file in data.skipped] == [
        ("closed/0.jpg", "the same picture is in closed and opened"),
        ("opened/notes.txt", "not_an_image: no magic bytes"),
        ("opened/wrong.jpg", "the same picture is in closed and opened"),
    ]
    assert len(data.pictures) == 39


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root / "opened"), "at least two; there is only 'closed'"),
        (lambda root: [shutil.rmtree(path) for path in root.iterdir()], "at least two; there is none"),
        (lambda root: (root / "empty").mkdir(), "The class empty has 0 different pictures"),
        (lambda root: [(root / "closed" / f"{n}.jpg").unlink() for n in range(18)], "The class closed has 2 different"),
        (lambda root: [(root / n).rename(root / m) for n, m in (("opened", "train"), ("closed", "val"))], "is split"),
    ],
)
def test_a_folder_that_cannot_be_learned_from_is_refused(folder: Path, change, message: str) -> None:
    change(folder)
    with pytest.raises(DatasetError, match=message):
        read(folder)


def test_three_pictures_of_a_class_give_one_to_each_split_whatever_the_shares(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(f"picture {name}{number}".encode())
    assert read(tmp_path, val_share=0.5, test_share=0.5).counts()["a"] == {"train": 1, "val": 1, "test": 1}
