"""``imgpipe enhance`` and ``imgpipe score`` on files, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from imgpipe_dagster.cli import app
from imgpipe_dagster.demo.products import Backdrop, render_product
from imgpipe_dagster.demo.render import render_scene

IMGPIPE = str(Path(sys.executable).with_name("imgpipe"))


@pytest.fixture
def imgpipe(tmp_path):
    def call(*arguments, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("IMGPIPE_", "MYSQL_"))}
        return subprocess.run(
            [IMGPIPE, *map(str, arguments)],
            cwd=tmp_path,
            env={**clean, "COLUMNS": "120", **environment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return call


@pytest.fixture(scope="module")
def product() -> np.ndarray:
    return render_product(9003, width=480, height=400).image


@pytest.fixture
def photos(tmp_path, product) -> Path:
    """A folder with good files of the same names in several places, bad files, and what is not meant."""
    folder = tmp_path / "photos"
    for name in ("a.jpg", "a.png", "left/b.jpg", "right/b.jpg", ".hidden/c.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), product)
    whole = (folder / "a.jpg").read_bytes()
    (folder / "left" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "right" / "page.jpg").write_text("<html>not found</html>")
    (folder / "right" / "empty.png").write_bytes(b"")
    return folder


def lines(result) -> dict[str, dict]:
    """The lines of JSON, by file."""
    parsed = [json.loads(line) for line in result.stdout.splitlines()]
    assert len({line["file"] for line in parsed}) == len(parsed)
    return {line["file"]: line for line in parsed}


def test_a_folder_is_enhanced_with_a_line_for_every_file_good_or_bad(imgpipe, photos, tmp_path):
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    result = imgpipe("enhance", "photos", "-o", "photos/shop", "--mode", "full", "--target-kb", "60", "--json")
    assert result.returncode == 3, result.stderr
    found = lines(result)
    assert list(found) == sorted(found, key=lambda name: (name.count("/"), name))
    assert {name: line["reason"] for name, line in found.items() if "reason" in line} == {
        "photos/left/cut.jpg": "truncated",
        "photos/right/page.jpg": "not_an_image",
        "photos/right/empty.png": "empty_file",
    }
    good = {name: line for name, line in found.items() if "reason" not in line}
    assert {name: line["output"] for name, line in good.items()} == {
        "photos/a.jpg": "photos/shop/a.jpg.jpg",
        "photos/a.png": "photos/shop/a.png.jpg",
        "photos/left/b.jpg": "photos/shop/left/b.jpg",
        "photos/right/b.jpg": "photos/shop/right/b.jpg",
    }
    for line in good.values():
        written = tmp_path / line["output"]
        assert written.stat().st_size == line["bytes"] <= 60 * 1024
        assert cv2.imread(str(written)).shape == (line["height"], line["width"], 3) == (1500, 1500, 3)
        assert [step["step"] for step in line["steps"]][:2] == ["denoise", "background"]
        assert line["background_replaced"]
        assert 0 < line["before"]["score"] < line["after"]["score"] <= 100
    assert {path: path.read_bytes() for path in before} == before, "no input was touched"
    again = imgpipe("enhance", "photos", "-o", "photos/shop", "--mode", "full", "--target-kb", "60", "--json")
    assert lines(again) == found, "the results of the first call are not taken for pictures to enhance"


def test_a_cut_out_is_a_transparent_png_of_the_original_size(imgpipe, tmp_path, product):
    cv2.imwrite(str(tmp_path / "a.jpg"), product)
    result = imgpipe("enhance", "a.jpg", "-o", "cut", "--steps", "background", "--background", "transparent", "--json")
    assert result.returncode == 0, result.stderr
    cutout = cv2.imread(str(tmp_path / "cut" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert cutout.shape == (400, 480, 4)
    assert {0, 255} <= set(np.unique(cutout[..., 3]))
    assert lines(result)["a.jpg"]["review_reasons"] == []


def test_one_picture_may_go_into_a_named_file_whose_ending_is_its_format(imgpipe, tmp_path, product):
    cv2.imwrite(str(tmp_path / "a.png"), product)
    result = imgpipe("enhance", "a.png", "-o", "deep/b.webp", "--steps", "background", "--background", "#102030")
    assert result.returncode == 0, result.stderr
    assert "a.png: " in result.stdout
    written = tmp_path / "deep" / "b.webp"
    assert written.read_bytes()[8:12] == b"WEBP"
    assert np.abs(cv2.imread(str(written))[0, 0].astype(int) - (0x30, 0x20, 0x10)).max() <= 6


def test_what_is_not_asked_for_is_as_the_settings_say(imgpipe, tmp_path, product):
    cv2.imwrite(str(tmp_path / "a.jpg"), product)
    settings = {
        "DEFAULT_BACKGROUND_COLOR": "#00FF00",
        "TARGET_MIN_DIMENSION": "600",
        "IMGPIPE_ENHANCEMENT_MODE": "full",
    }
    line = lines(imgpipe("enhance", "a.jpg", "-o", "green", "--json", **settings))["a.jpg"]
    assert (line["width"], line["height"]) == (600, 600)
    assert cv2.imread(str(tmp_path / line["output"]))[2, 2].tolist() == pytest.approx([0, 255, 0], abs=6)
    asked = imgpipe("enhance", "a.jpg", "-o", "black", "--background", "black", "--json", **settings)
    assert cv2.imread(str(tmp_path / lines(asked)["a.jpg"]["output"]))[2, 2].max() <= 6
    kept = imgpipe("enhance", "a.jpg", "-o", "kept", "--json", ENABLE_BACKGROUND_REMOVAL="false")
    assert not lines(kept)["a.jpg"]["background_replaced"]


def test_a_colour_that_is_none_is_named_as_it_was_written(imgpipe, tmp_path):
    result = imgpipe("status", DEFAULT_BACKGROUND_COLOR="mau[v]e")
    assert result.returncode == 1
    assert "'mau[v]e' is no colour: use white, black, grey, #RRGGBB or transparent" in " ".join(result.stderr.split())


def test_what_has_its_result_can_be_left_out(imgpipe, photos, tmp_path):
    first = imgpipe("enhance", "photos", "-o", "shop", "--mode", "optimize", "--json")
    missing = tmp_path / lines(first)["photos/left/b.jpg"]["output"]
    missing.unlink()
    again = imgpipe("enhance", "photos", "-o", "shop", "--mode", "optimize", "--skip-existing", "--json")
    assert "3 files have their results already." in again.stderr
    bad = {name for name, line in lines(first).items() if "reason" in line}
    assert set(lines(again)) == bad | {"photos/left/b.jpg"}
    assert missing.exists()


def test_an_interrupted_folder_says_how_to_go_on(imgpipe, tmp_path, product):
    for number in range(40):
        cv2.imwrite(str(tmp_path / f"photos{number:02}.jpg"), product)
    command = ["env", "--default-signal=INT", IMGPIPE, "enhance", ".", "-o", "shop", "--mode", "full"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("shop/*.jpg")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command with --skip-existing goes on." in " ".join(said.split())
    assert "Traceback" not in said
    written = list((tmp_path / "shop").iterdir())
    assert 0 < len(written) < 40
    assert all(cv2.imread(str(path)) is not None for path in written)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "shop", "--mode", "magic"], "auto, full, sharpen, denoise, upscale, optimize"),
        (["-o", "shop", "--steps", "background,fly"], "denoise, background, light, upscale, sharpen, standardize"),
        (["-o", "shop", "--background", "whyte"], "white, transparent or keep"),
        (["-o", "shop", "--profile", "ebay"], "amazon_main, custom, web_square"),
        (["-o", "shop", "--mode", "full", "--steps", "denoise"], "one of the two"),
        (["-o", "shop", "--target-kb", "-1"], "target_kb must be from"),
        (["-o", "photos"], "another place"),
        (["-o", "photos/a.jpg"], "is a file"),
        (["-o", "shop.tiff"], "results are written as .jpg, .jpeg, .png, .webp, or into a folder"),
        (["-o", "/proc/shop"], "/proc/shop cannot be made"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_valid_choices(photos, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["enhance", "photos", *arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_target_that_cannot_be_reached_gives_the_smallest_file_and_says_so(imgpipe, tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), render_product(5, backdrop=Backdrop.CLUTTERED).image)
    line = lines(imgpipe("enhance", "a.jpg", "-o", "shop", "--mode", "optimize", "--target-kb", "5", "--json"))["a.jpg"]
    assert line["review_reasons"] == ["target_unreachable", "score_worse"]
    assert line["encoder_quality"] == 21  # at 20, JPEG turns white into grey
    assert line["bytes"] > 5 * 1024


def test_scores_come_in_the_order_of_the_files_with_components_and_issues(imgpipe, tmp_path, product):
    names = [f"{number}.jpg" for number in (3, 1, 2)]
    for name, sigma in zip(names, (0.1, 2, 5), strict=True):
        cv2.imwrite(str(tmp_path / name), cv2.GaussianBlur(product, (0, 0), sigma))
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    result = imgpipe("score", *names, "bad.jpg", "--json")
    assert result.returncode == 3
    found = lines(result)
    assert list(found) == [*names, "bad.jpg"]
    assert found["bad.jpg"]["reason"] == "truncated"
    values = [found[name]["score"] for name in names]
    assert values == sorted(values, reverse=True)
    assert set(found["3.jpg"]["components"]) == {
        *("sharpness", "exposure", "contrast", "noise", "resolution", "compression")
    }
    assert "blurry" in found["2.jpg"]["issues"]
    assert "sharpness 0." in imgpipe("score", "2.jpg").stdout


def test_a_file_that_may_not_be_read_has_a_reason_too(imgpipe, tmp_path, product):
    cv2.imwrite(str(tmp_path / "a.jpg"), product)
    (tmp_path / "b.jpg").symlink_to("nowhere.jpg")
    cv2.imwrite(str(tmp_path / "large.png"), product)
    result = imgpipe("score", ".", "--json", IMGPIPE_FETCH_MAX_BYTES="100000")
    assert result.returncode == 3
    found = lines(result)
    assert found["large.png"]["reason"] == "too_many_bytes"
    assert found["b.jpg"]["reason"] == "unreadable"
    assert "score" in found["a.jpg"]


def test_the_detectors_boxes_are_the_prior_where_it_is_asked(install, tmp_path):
    """The demo's own weights are not taken unasked: they know nothing but rendered shelves."""
    installation = install(f"sqlite:///{tmp_path}/catalogue.db")
    cv2.imwrite(str(installation.folder / "shelf.jpg"), render_scene(3, 640, 480).image)
    command = ("enhance", "shelf.jpg", "-o", "out", "--steps", "background", "--json")
    without, given = (lines(installation.run(*command, *more))["shelf.jpg"] for more in ([], ["--detect"]))
    assert (without["review_reasons"], without["after"]) != (given["review_reasons"], given["after"])
    missing = installation.run(*command, IMGPIPE_DETECTOR_WEIGHTS="/nowhere/best.pt")
    assert missing.returncode == 1
    assert "--no-detect" in missing.stderr
    assert "Traceback" not in missing.stderr
