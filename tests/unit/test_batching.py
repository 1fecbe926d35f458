"""Questions of many threads in one batch, and models for CUDA that are asked one picture at a time by many."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from imgpipe_dagster.models import batching, ultralytics_classifier, ultralytics_detector
from imgpipe_dagster.models.batching import MicroBatcher
from imgpipe_dagster.models.classifier import ClassifierOptions
from imgpipe_dagster.models.detector import DetectorOptions
from imgpipe_dagster.models.ultralytics_classifier import UltralyticsClassifier
from imgpipe_dagster.models.ultralytics_detector import UltralyticsDetector

LONG_S = 30.0  # a batch that is full does not wait for it


@pytest.fixture
def threads():
    with ThreadPoolExecutor(6) as pool:
        yield pool


def test_questions_that_come_together_are_answered_together_and_each_gets_its_own(threads):
    sizes = []

    def double(numbers):
        sizes.append(len(numbers))
        return [2 * number for number in numbers]

    batcher = MicroBatcher(double, most=3, wait_s=LONG_S)
    assert list(threads.map(batcher.ask, range(6))) == [0, 2, 4, 6, 8, 10]
    assert sizes == [3, 3]
    batcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.ask(1)


def test_a_question_that_stays_alone_is_answered_alone():
    batcher = MicroBatcher(lambda numbers: numbers, most=3, wait_s=0.001)
    assert [batcher.ask(number) for number in range(3)] == [0, 1, 2]
    batcher.close()


def test_what_is_wrong_with_one_question_is_told_to_its_asker_only(threads):
    def divide(numbers):
        return [6 // number for number in numbers]

    batcher = MicroBatcher(divide, most=3, wait_s=LONG_S)
    asked = [threads.submit(batcher.ask, number) for number in (1, 0, 2)]
    assert [asked[0].result(), asked[2].result()] == [6, 3]
    with pytest.raises(ZeroDivisionError):
        asked[1].result()
    batcher.close()


class FakeYolo:
    """Plays Ultralytics: says how light pictures are, notes what it was asked together, and fails at white ones."""

    def __init__(self):
        self.batches = []
        self.overrides = {"imgsz": 32}
        self.names = {0: "light", 1: "dark"}
        self.model = SimpleNamespace(stride=np.array([8, 16, 32]))

    def predict(self, canvases, **_):
        self.batches.append([canvas.shape[:2] for canvas in canvases])
        if any((canvas == 255).all() for canvas in canvases):
            raise RuntimeError("a white picture")
        return [self.result(float(canvas[16, 16, 0]) / 255) for canvas in canvases]

    def result(self, light):
        values = Mock()
        values.cpu().numpy.return_value = np.array([light, 1 - light])
        found = SimpleNamespace(xyxy=np.zeros((1, 4)), conf=np.array([light]), cls=np.zeros(1))
        boxes = Mock()
        boxes.cpu().numpy.return_value = found
        return SimpleNamespace(probs=SimpleNamespace(data=values), boxes=boxes)


@pytest.fixture
def yolo(monkeypatch):
    fake = FakeYolo()
    monkeypatch.setattr(batching, "WAIT_S", LONG_S)
    for module in (ultralytics_classifier, ultralytics_detector):
        monkeypatch.setattr(module, "load_yolo", lambda *_: fake)
    return fake


def grey(value, height=32, width=32):
    return np.full((height, width, 3), value, np.uint8)


def test_a_classifier_on_cuda_is_asked_by_many_at_once_and_one_bad_picture_fails_alone(threads, yolo):
    options = ClassifierOptions(batch_size=3)
    with UltralyticsClassifier(Path("w.pt"), "0" * 64, options, device="cuda", cache_dir=Path()) as classifier:
        found = list(threads.map(classifier.classify, [grey(51 * step) for step in range(3)]))
        assert [round(answer.values[0], 1) for answer in found] == [0.0, 0.2, 0.4]
        assert list(map(len, yolo.batches)) == [3]
        asked = [threads.submit(classifier.classify, grey(value)) for value in (0, 255, 51)]
        assert [round(asked[place].result().values[0], 1) for place in (0, 2)] == [0.0, 0.2]
        with pytest.raises(RuntimeError, match="white"):
            asked[1].result()
    assert list(map(len, yolo.batches)) == [3, 3, 1, 1, 1]


def test_a_detector_on_cuda_puts_pictures_of_one_shape_together_and_keeps_them_apart(threads, yolo):
    options = DetectorOptions(batch_size=4, image_size=64)
    pictures = [grey(51, 64, 32), grey(102, 64, 64), grey(153, 64, 32), grey(204, 64, 64)]
    with UltralyticsDetector(Path("w.pt"), "0" * 64, options, device="cuda", cache_dir=Path()) as detector:
        found = list(threads.map(detector.detect, pictures))
    assert [round(float(boxes.confidence[0]), 1) for boxes in found] == [0.2, 0.4, 0.6, 0.8]
    assert sorted(yolo.batches) == [[(64, 32)] * 2, [(64, 64)] * 2]
