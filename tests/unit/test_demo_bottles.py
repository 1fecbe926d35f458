"""The rendered bottles and how the demo classifier is made of them, short of the training itself."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from imgpipe_dagster.demo.bottles import BottleStatus, render_status
from imgpipe_dagster.demo.images import demo_files
from imgpipe_dagster.demo.props import draw_glass, draw_hand, draw_loose_cap
from imgpipe_dagster.demo.sprites import Sprite, View
from imgpipe_dagster.demo.train_bottle import TEST_SEED, TRAIN_SEED, VAL_SEED, write_dataset
from imgpipe_dagster.models.checkpoint import release
from imgpipe_dagster.settings import DEMO_BOTTLE_WEIGHTS

pytestmark = pytest.mark.native


@pytest.mark.parametrize("status", BottleStatus)
def test_a_picture_is_a_function_of_seed_status_and_size(status: BottleStatus) -> None:
    for seed in (1, 2, 3):
        np.testing.assert_array_equal(render_status(seed, status, 96, 80), render_status(seed, status, 96, 80))
    pictures = [render_status(seed, status, 96, 80) for seed in range(12)]
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 for picture in pictures)
    plain = [picture for picture in pictures if picture.shape == (80, 96, 3)]
    assert len(plain) >= 7, "the others are crops from shelves"
    assert all((first != second).mean() > 0.5 for first, second in itertools.pairwise(plain))


def test_statuses_of_one_seed_are_different_pictures() -> None:
    for seed in range(6):
        closed, opened = (render_status(seed, status, 96, 80) for status in (BottleStatus.CLOSED, BottleStatus.OPENED))
        assert closed.shape != opened.shape or (closed != opened).mean() > 0.01


@pytest.mark.parametrize("seed", range(4))
def test_props_are_sprites_of_sane_ranges(seed: int) -> None:
    rng = np.random.default_rng(seed)
    behind, front = draw_hand(rng, (120, 100), (50, 60), 15)
    for sprite in (behind, front, draw_loose_cap(rng, 30, View()), draw_glass(rng, 90, View())):
        assert isinstance(sprite, Sprite)
        assert sprite.image.shape == (*sprite.alpha.shape, 3)
        assert 0 <= sprite.image.min() <= sprite.image.max() <= 255
        assert 0 <= sprite.alpha.min() < sprite.alpha.max() <= 1
        assert sprite.coverage.max() > 0.9


def test_the_splits_and_the_demo_share_no_seed(tmp_path: Path) -> None:
    write_dataset(tmp_path, 30)
    seeds = {
        split: {int(path.stem) for path in (tmp_path / split).rglob("*.jpg")} for split in ("train", "val", "test")
    }
    assert {split: (min(found), len(found)) for split, found in seeds.items()} == {
        "train": (TRAIN_SEED, 30),
        "val": (VAL_SEED, 30),
        "test": (TEST_SEED, 30),
    }
    assert min(VAL_SEED - TRAIN_SEED, TEST_SEED - VAL_SEED) >= 1_000_000, "far more than anybody renders"
    assert {file.seed for file in demo_files(500)}.isdisjoint(set().union(*seeds.values()))
    counts = {status: len(list((tmp_path / "train" / status).iterdir())) for status in BottleStatus}
    assert set(counts.values()) == {10}


def test_released_classifier_weights_are_small_and_hold_no_trace_of_the_machine(tmp_path: Path) -> None:
    import torch
    from ultralytics import YOLO
    from ultralytics.data.augment import classify_transforms

    model = YOLO("yolo11n-cls.yaml").model
    model.reshape_outputs(model, 3)
    model.args, model.pt_path = {"project": "/home/someone"}, "/home/someone/first.pt"
    model.transforms = classify_transforms(64)
    torch.save({"model": model, "ema": None, "version": "8", "date": "2020"}, tmp_path / "best.pt")
    release(tmp_path / "best.pt", tmp_path / "weights.pt", 64, "classify")
    content = (tmp_path / "weights.pt").read_bytes()
    assert len(content) <= 4_000_000
    assert b"someone" not in content
    picture = render_status(1, BottleStatus.CLOSED, 80, 80)
    before, after = (
        YOLO(path).predict(picture, imgsz=64, device="cpu", verbose=False)[0].probs.data.numpy()
        for path in (tmp_path / "best.pt", tmp_path / "weights.pt")
    )
    np.testing.assert_allclose(after, before, atol=0.01)


def test_the_shipped_weights_are_small_and_hold_no_path_of_a_machine() -> None:
    content = DEMO_BOTTLE_WEIGHTS.read_bytes()
    assert len(content) <= 4_000_000
    assert not re.search(rb"/(?:home|root|tmp|work|Users)/", content)


def test_the_figures_beside_the_shipped_weights_meet_the_promise() -> None:
    figures = json.loads(DEMO_BOTTLE_WEIGHTS.with_suffix(".json").read_text())
    assert figures["top1"] >= 0.95
    assert set(figures["recall_per_class"]) == set(BottleStatus)
    assert min(figures["recall_per_class"].values()) >= 0.9


def test_the_shipped_classifier_is_right_about_pictures_that_it_never_saw(tmp_path: Path) -> None:
    from imgpipe_dagster.models.classifier import ClassifierOptions, load_classifier

    right = 0
    with load_classifier(DEMO_BOTTLE_WEIGHTS, ClassifierOptions(device="cpu"), cache_dir=tmp_path) as classifier:
        assert sorted(classifier.names.values()) == sorted(BottleStatus)
        for number in range(60):
            status = list(BottleStatus)[number % 3]
            found = classifier.classify(render_status(6_000_000 + number, status))
            right += classifier.names[found.class_id] == status
    assert right >= 52
