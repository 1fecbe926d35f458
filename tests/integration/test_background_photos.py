"""The shared photographs: masks against reference alphas with COCO boxes, and the score under added defects."""

import os
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgpipe_dagster.imaging.background import remove_background
from imgpipe_dagster.imaging.enhance import enhance
from imgpipe_dagster.imaging.modes import EnhancementConfig, Mode
from imgpipe_dagster.imaging.quality import score

DATA = Path(os.environ.get("IMGPIPE_TEST_DATA", ""))
pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(
        not os.environ.get("IMGPIPE_TEST_DATA"), reason="IMGPIPE_TEST_DATA does not name the folder of shared test data"
    ),
]


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None, path
    return image


@pytest.fixture(scope="module")
def cutout_photos() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By name: BGR picture, reference alpha, boxes."""
    from ultralytics import YOLO

    detector = YOLO(DATA / "models" / "yolo11n_int8_openvino_model", task="detect")
    photos = {}
    for path in sorted((DATA / "images" / "background_removal").glob("*.jpg")):
        reference = cv2.imread(str(path.with_suffix("")) + ".mask_reference.png", cv2.IMREAD_UNCHANGED)
        image = read(path)
        boxes = detector.predict(image, verbose=False)[0].boxes.xyxy.numpy()
        photos[path.stem] = image, reference[..., 3], boxes
    assert photos
    return photos


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    paths = sorted((DATA / "images" / "bottle_photos").glob("*/*.jpg"))
    paths += sorted((DATA / "images" / "background_removal").glob("*.jpg"))
    assert paths
    return [read(path) for path in paths]


def test_masks_with_boxes_agree_with_the_reference(cutout_photos):
    overlaps = {}
    for name, (image, reference, boxes) in cutout_photos.items():
        cutout = remove_background(image, boxes=boxes)
        assert cutout.plausible, (name, cutout.fault)
        found, wanted = cutout.alpha > 127, reference > 127
        overlaps[name] = float((found & wanted).sum() / (found | wanted).sum())
    assert np.mean(list(overlaps.values())) >= 0.88, overlaps


def test_enhanced_photos_have_a_pure_background_and_a_better_score(cutout_photos):
    for image, _, boxes in cutout_photos.values():
        result = enhance(image, EnhancementConfig(mode=Mode.FULL, profile="amazon_main"), boxes=boxes)
        assert result.review_reasons == ()
        assert all(rule.passed for rule in result.rules)
        assert result.after.score > result.before.score


def test_whitening_the_background_of_a_photo_hardly_moves_its_score(cutout_photos):
    for image, reference, _ in cutout_photos.values():
        cover = (reference / 255)[..., None]
        white = (cover * image + 255 * (1 - cover)).astype(np.uint8)
        assert abs(score(image, reference).score - score(white, reference).score) < 2


def compressed(image: np.ndarray, *qualities: int) -> list[np.ndarray]:
    files = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for quality in qualities]
    return [cv2.imdecode(file, cv2.IMREAD_COLOR) for file in files]


def degraded(image: np.ndarray, defect: str) -> list[np.ndarray]:
    match defect:
        case "blur":
            return [cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (1, 2, 4, 7)]
        case "noise":
            draws = np.random.default_rng(0).normal(0, 1, image.shape)
            return [(image + sigma * draws).clip(0, 255).astype(np.uint8) for sigma in (6, 12, 25, 45)]
        case _:
            return compressed(image, 80, 60, 40, 20, 8)


@pytest.mark.parametrize("defect", ["blur", "noise", "jpeg"])
def test_the_score_falls_with_every_degree_of_a_defect(photos, defect):
    for number, image in enumerate(photos):
        values = [score(picture).score for picture in (image, *degraded(image, defect))]
        assert all(after < before for before, after in pairwise(values)), (number, values)


def rise(values: list[float]) -> float:
    """How far a score comes back above the lowest before it."""
    return float(np.max(np.array(values) - np.minimum.accumulate(values)))


def test_fine_steps_of_compression_hardly_ever_raise_the_score(photos):
    qualities = (100, 97, 95, 92, 90, 88, 85, 80, 75, 70, 60, 50, 40, 30, 20, 10, 5)
    rises = [rise([score(picture).score for picture in (image, *compressed(image, *qualities))]) for image in photos]
    assert np.mean([found <= 0.7 for found in rises]) >= 0.9, rises
    assert max(rises) < 2, "of one that was compressed before: a second, lighter compression hides the first one's grid"
