"""The shipped demo detector."""

import json
import re

import numpy as np
import pytest

from imgpipe_dagster.demo.render import CLASS_NAMES, Box, render_scene
from imgpipe_dagster.settings import DEMO_WEIGHTS

pytestmark = pytest.mark.native

UNSEEN_SEED = 6_000_000


def test_the_weights_are_small_and_hold_no_path_of_a_machine():
    content = DEMO_WEIGHTS.read_bytes()
    assert len(content) <= 6_000_000
    assert not re.search(rb"/(?:home|root|tmp|work|Users)/", content)


def test_the_figures_beside_the_weights_meet_the_promise():
    figures = json.loads(DEMO_WEIGHTS.with_suffix(".json").read_text())
    assert figures["map50"] >= 0.9
    assert set(figures["map50_per_class"]) == set(CLASS_NAMES)
    assert min(figures["map50_per_class"].values()) >= 0.8


@pytest.fixture(scope="module")
def found_and_made() -> list[tuple[np.ndarray, np.ndarray]]:
    """Found and true boxes of scenes that no training saw: rows of class, x1, y1, x2, y2."""
    from ultralytics import YOLO

    detector = YOLO(DEMO_WEIGHTS)
    pairs = []
    for seed in range(UNSEEN_SEED, UNSEEN_SEED + 12):
        scene = render_scene(seed, 640, 480)
        boxes = detector.predict(scene.image, device="cpu", verbose=False)[0].boxes
        found = np.column_stack([boxes.cls.numpy(), boxes.xyxy.numpy()])
        pairs.append((found, np.array([_row(box) for box in scene.boxes]).reshape(-1, 5)))
    return pairs


def _row(box: Box) -> tuple[float, ...]:
    return box.class_id, box.x1, box.y1, box.x2, box.y2


def _matched(wanted: np.ndarray, offered: np.ndarray) -> int:
    """How many wanted boxes have an offered one of their class at IoU 0.5."""
    corners = (
        np.minimum(wanted[:, None, 3:], offered[None, :, 3:]),
        np.maximum(wanted[:, None, 1:3], offered[None, :, 1:3]),
    )
    shared = np.clip(corners[0] - corners[1], 0, None).prod(axis=2)
    area_wanted, area_offered = (np.prod(boxes[:, 3:] - boxes[:, 1:3], axis=1) for boxes in (wanted, offered))
    iou = shared / (area_wanted[:, None] + area_offered[None, :] - shared)
    return int(((iou >= 0.5) & (wanted[:, None, 0] == offered[None, :, 0])).any(axis=1).sum())


def test_the_detector_finds_most_objects_of_unseen_scenes(found_and_made):
    recalled = sum(_matched(made, found) for found, made in found_and_made)
    assert recalled >= 0.8 * sum(len(made) for _, made in found_and_made)


def test_most_of_what_the_detector_finds_is_there(found_and_made):
    right = sum(_matched(found, made) for found, made in found_and_made)
    assert right >= 0.8 * sum(len(found) for found, _ in found_and_made)


def test_an_empty_room_has_next_to_nothing_in_it():
    from ultralytics import YOLO

    rng = np.random.default_rng(1)
    room = (rng.normal(0, 3, (480, 640, 1)) + np.linspace(90, 180, 640)[None, :, None]).repeat(3, axis=2)
    assert len(YOLO(DEMO_WEIGHTS).predict(room.astype(np.uint8), device="cpu", verbose=False)[0].boxes) == 0
