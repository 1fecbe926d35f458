"""Where the commands find pictures and where they put results."""

import os
from pathlib import Path

import pytest

from imgpipe_dagster.cli.picture_files import files_below, printable, result_paths, work_in_order, write_whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.png", "a.jpg", "sub/a.jpg", "sub/deep/x.tiff", ".git/x.jpg", "sub/.x.jpg", "out/old.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    os.mkfifo(tmp_path / "pipe.jpg")
    return tmp_path


def names(root: Path, paths: list[Path]) -> list[str]:
    return [str(path.relative_to(root)) for path in paths]


def test_files_come_by_name_without_hidden_ones_pipes_and_the_place_of_results(folder):
    found = names(folder, files_below(folder, without=folder / "sub" / ".." / "out"))
    assert found == ["a.jpg", "a.png", "b.jpg", "sub/a.jpg", "sub/deep/x.tiff"]
    assert files_below(folder / "a.png") == [folder / "a.png"]


def test_results_keep_the_relative_path_and_never_meet(folder):
    files = files_below(folder, without=folder / "out")
    results = result_paths(files, folder, folder / "out", "jpg")
    assert {k.relative_to(folder).as_posix(): v.relative_to(folder).as_posix() for k, v in results.items()} == {
        "a.jpg": "out/a.jpg.jpg",
        "a.png": "out/a.png.jpg",
        "b.jpg": "out/b.jpg",
        "sub/a.jpg": "out/sub/a.jpg",
        "sub/deep/x.tiff": "out/sub/deep/x.jpg",
    }


def test_results_never_meet_whatever_the_names(tmp_path):
    files = [tmp_path / name for name in ("x.jpg", "x.png", "x.jpg.jpg", "x.jpg.png", "x.jpg.jpg.jpg", "x")]
    results = result_paths(files, tmp_path, tmp_path / "out", "jpg")
    assert len(set(results.values())) == len(files)


@pytest.mark.parametrize("place", [".", "sub/..", "link"])
def test_a_result_is_never_one_of_the_files_to_read(folder, place):
    (folder / "link").symlink_to(folder)
    with pytest.raises(FileExistsError, match="another place"):
        result_paths([folder / "b.jpg"], folder, folder / place, "jpg")


def test_a_result_is_no_other_name_of_a_file_to_read(folder):
    os.link(folder / "b.jpg", folder / "out" / "b.jpg")
    with pytest.raises(FileExistsError):
        result_paths([folder / "b.jpg"], folder, folder / "out", "jpg")


def test_a_file_is_written_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "new" / ("ä" * 120 + ".jpg")
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_results_of_work_come_in_the_order_of_the_files():
    waits = {Path(str(n)): (0.05 if n % 5 == 0 else 0) for n in range(20)}

    def work(path: Path) -> Path:
        import time

        time.sleep(waits[path])
        return path

    assert list(work_in_order(work, waits)) == list(waits)


def test_a_name_that_is_no_text_can_be_printed():
    assert printable(Path(os.fsdecode(b"a\xff.jpg"))) == "a�.jpg"
