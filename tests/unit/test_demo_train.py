"""How the demo detector is made, short of the training itself."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgpipe_dagster.demo.images import demo_files
from imgpipe_dagster.demo.render import CLASS_NAMES, render_scene
from imgpipe_dagster.demo.train import TEST_SEED, TRAIN_SEED, VAL_SEED, write_dataset, write_split
from imgpipe_dagster.models.checkpoint import release

pytestmark = pytest.mark.native


def test_labels_are_the_boxes_of_the_picture_beside_them(tmp_path):
    write_split(tmp_path, "train", [11])
    image = cv2.imread(str(tmp_path / "images" / "train" / "11.jpg"))
    assert image is not None
    height, width = image.shape[:2]
    labels = np.loadtxt(tmp_path / "labels" / "train" / "11.txt", ndmin=2)
    boxes = render_scene(11, width, height).boxes
    assert labels[:, 0].tolist() == [box.class_id for box in boxes]
    centres, sizes = labels[:, 1:3] * (width, height), labels[:, 3:5] * (width, height)
    expected = [(box.x1, box.y1, box.x2, box.y2) for box in boxes]
    np.testing.assert_allclose(np.hstack([centres - sizes / 2, centres + sizes / 2]), expected, atol=0.01)


def test_every_eighth_picture_is_clutter_without_labels(tmp_path):
    write_split(tmp_path, "train", range(8, 16))
    empty = [path.stem for path in (tmp_path / "labels" / "train").iterdir() if not path.read_text()]
    assert empty == ["15"]


def test_the_splits_and_the_demo_share_no_seed(tmp_path):
    description = json.loads(write_dataset(tmp_path, 20).read_text())
    seeds = {
        split: {int(path.stem) for path in (tmp_path / description[split]).iterdir()}
        for split in ("train", "val", "test")
    }
    assert {split: (min(found), len(found)) for split, found in seeds.items()} == {
        "train": (TRAIN_SEED, 20),
        "val": (VAL_SEED, 20),
        "test": (TEST_SEED, 20),
    }
    assert len(set().union(*seeds.values())) == 60
    assert {file.seed for file in demo_files(500)}.isdisjoint(set().union(*seeds.values()))
    assert description["names"] == {str(number): name for number, name in enumerate(CLASS_NAMES)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What Ultralytics leaves after a training: full of paths, and of the optimizer's state."""
    import torch
    from ultralytics import YOLO

    model = YOLO("yolo11n.yaml").model
    model.args = {"project": "/home/someone/secret", "imgsz": 64}
    model.pt_path = "/home/someone/first.pt"
    path = tmp_path / "best.pt"
    state = {
        "epoch": 3,
        "model": model,
        "ema": None,
        "optimizer": {"state": torch.zeros(2_000_000)},
        "train_args": {"data": "/home/someone/secret/data.yaml"},
        "date": "2020-01-02T03:04:05",
        "git": {"root": "/home/someone"},
        "version": "8",
    }
    torch.save(state, path)
    return path


def test_released_weights_hold_no_trace_of_the_machine_and_no_optimizer(checkpoint, tmp_path):
    import torch

    weights = tmp_path / "new" / "weights.pt"
    release(checkpoint, weights, 320)
    content = weights.read_bytes()
    assert len(content) <= 6_000_000
    assert b"someone" not in content
    assert b"2020-01-02" not in content
    state = torch.load(weights, map_location="cpu", weights_only=False)
    assert state["train_args"] == {"imgsz": 320, "task": "detect"}
    assert state["model"].args == state["train_args"]
    assert not any(parameter.requires_grad for parameter in state["model"].parameters())


def test_released_weights_predict_as_the_checkpoint_does(checkpoint, tmp_path):
    from ultralytics import YOLO

    weights = tmp_path / "weights.pt"
    release(checkpoint, weights, 64)
    picture = render_scene(5, 64, 64).image
    before, after = (
        YOLO(path).predict(picture, imgsz=64, conf=0.0, device="cpu", verbose=False)[0].boxes.data.numpy()
        for path in (checkpoint, weights)
    )
    np.testing.assert_allclose(after, before, atol=0.01)
