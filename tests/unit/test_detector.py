"""The detector's parts that need no model: geometry, suppression, options, streaming, things made once."""

import fcntl
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from imgpipe_dagster.api.inference import LoadedOnce
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.models.decoding import stream
from imgpipe_dagster.models.detector import Boxes, DetectorOptions, load_detector
from imgpipe_dagster.models.letterbox import Letterbox, fitting_size
from imgpipe_dagster.models.nms import boxes_from_end2end, boxes_from_raw
from imgpipe_dagster.models.weights import WeightsError, build_once, find_weights, read_model_file, sha256_of


@pytest.mark.parametrize(
    ("source", "rectangular", "inner", "canvas", "top", "left"),
    [
        ((960, 1280), True, (480, 640), (480, 640), 0, 0),
        ((960, 1280), False, (480, 640), (640, 640), 80, 0),
        ((1280, 960), True, (640, 480), (640, 480), 0, 0),
        ((720, 1280), True, (360, 640), (384, 640), 12, 0),
        ((719, 1279), True, (360, 640), (384, 640), 12, 0),
        ((100, 101), True, (634, 640), (640, 640), 3, 0),
        ((320, 200), True, (640, 400), (640, 416), 0, 8),
        ((1, 3000), True, (1, 640), (32, 640), 15, 0),
        ((640, 640), False, (640, 640), (640, 640), 0, 0),
    ],
)
def test_a_picture_is_scaled_to_fit_and_centred(
    source: tuple[int, int],
    rectangular: bool,
    inner: tuple[int, int],
    canvas: tuple[int, int],
    top: int,
    left: int,
) -> None:
    letterbox = Letterbox.fit(source, (640, 640), 32, rectangular=rectangular)
    assert letterbox == Letterbox(source, inner, canvas, top, left)


def test_drawing_leaves_nothing_of_the_picture_before() -> None:
    letterbox = Letterbox.fit((50, 100), (64, 64), 32, rectangular=False)
    canvas = np.full((64, 64, 3), 7, np.uint8)
    letterbox.draw(np.full((50, 100, 3), 200, np.uint8), canvas)
    assert np.unique(canvas[16:48]).tolist() == [200]
    assert np.unique(canvas[:16]).tolist() == [114]
    assert np.unique(canvas[48:]).tolist() == [114]


def test_boxes_come_back_in_pixels_of_the_picture_and_clipped_to_it() -> None:
    letterbox = Letterbox.fit((720, 1280), (640, 640), 32, rectangular=True)
    boxes = letterbox.restore(np.array([[10, 22, 110, 122], [-5, 0, 700, 400]], np.float32))
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[20, 20, 220, 220], [0, 0, 1280, 720]]


@pytest.mark.parametrize(
    ("size", "fitted"), [(640, (640, 640)), (650, (672, 672)), ((480, 641), (480, 672)), (1, (32, 32))]
)
def test_an_input_size_is_rounded_up_to_the_stride(size: int | tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fitting_size(size, 32) == fitted


def raw(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).T.copy()


def test_of_two_boxes_that_overlap_too_much_the_weaker_goes() -> None:
    output = raw((50, 50, 20, 20, 0.6, 0.1), (51, 50, 20, 20, 0.9, 0.2), (80, 50, 20, 20, 0.7, 0.1))
    xyxy, confidence, class_id = boxes_from_raw(output, confidence=0.25, iou=0.7, max_boxes=300)
    assert xyxy.tolist() == [[41, 40, 61, 60], [70, 40, 90, 60]]
    assert confidence.tolist() == pytest.approx([0.9, 0.7])
    assert class_id.tolist() == [0, 0]


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    output = raw((50, 50, 20, 20, 0.6, 0.1), (50, 50, 20, 20, 0.2, 0.9))
    assert boxes_from_raw(output, confidence=0.25, iou=0.7, max_boxes=300)[2].tolist() == [1, 0]


def test_an_overlap_of_exactly_the_limit_keeps_both_boxes() -> None:
    output = raw((50, 50, 20, 20, 0.9), (50, 45, 20, 10, 0.8))
    assert len(boxes_from_raw(output, confidence=0.25, iou=0.5, max_boxes=300)[1]) == 2
    assert len(boxes_from_raw(output, confidence=0.25, iou=0.49, max_boxes=300)[1]) == 1


def test_a_suppressed_box_suppresses_nothing() -> None:
    output = raw((50, 50, 20, 20, 0.9), (54, 50, 20, 20, 0.8), (58, 50, 20, 20, 0.7))
    xyxy, _, _ = boxes_from_raw(output, confidence=0.25, iou=0.6, max_boxes=300)
    assert xyxy[:, 0].tolist() == [40, 48]


def test_a_confidence_of_exactly_the_limit_is_not_enough() -> None:
    output = raw((50, 50, 20, 20, 0.25), (90, 50, 20, 20, 0.26))
    assert boxes_from_raw(output, confidence=0.25, iou=0.7, max_boxes=300)[1].tolist() == pytest.approx([0.26])


def test_at_most_so_many_boxes_are_kept_and_they_are_the_most_confident() -> None:
    output = raw(*((100 * index, 0, 20, 20, 0.3 + index / 1000) for index in range(600)))
    _, confidence, _ = boxes_from_raw(output, confidence=0.25, iou=0.7, max_boxes=300)
    assert confidence.tolist() == pytest.approx([0.3 + index / 1000 for index in range(599, 299, -1)])


def test_boxes_are_suppressed_across_the_blocks_that_suppression_works_in() -> None:
    apart = [(100 * index, 0, 20, 20, 0.9 - index / 10_000) for index in range(500)]
    echoes = [(x + 1, y, w, h, c - 0.5) for x, y, w, h, c in apart]
    xyxy, _, _ = boxes_from_raw(raw(*apart, *echoes), confidence=0.25, iou=0.7, max_boxes=2000)
    assert xyxy[:, 0].tolist() == [100 * index - 10 for index in range(500)]


def test_a_picture_without_objects_gives_empty_boxes() -> None:
    found = boxes_from_raw(raw((50, 50, 20, 20, 0.1, 0.2)), confidence=0.25, iou=0.7, max_boxes=300)
    assert len(Boxes(*found)) == 0
    assert Boxes(*found).xyxy.shape == (0, 4)


def test_a_head_that_suppresses_itself_is_only_filtered_and_sorted() -> None:
    output = np.array([[1, 2, 3, 4, 0.3, 1], [1, 2, 3, 4, 0.8, 0], [0, 0, 0, 0, 0.1, 2]], np.float32)
    found = Boxes(*boxes_from_end2end(output, confidence=0.25, max_boxes=300))
    assert found.class_id.tolist() == [0, 1]
    assert found.confidence.tolist() == pytest.approx([0.8, 0.3])


@pytest.mark.parametrize(
    ("xyxy", "confidence", "class_id"),
    [
        (np.zeros((2, 4), np.float32), np.array([0.1, 0.2], np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 4), np.float64), np.array([0.2, 0.1], np.float32), np.zeros(2, np.int64)),
        (np.zeros((1, 4), np.float32), np.array([0.2, 0.1], np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 4), np.float32), np.array([0.2, 0.1], np.float32), np.zeros(2, np.int32)),
    ],
)
def test_boxes_of_the_wrong_order_type_or_shape_are_refused(
    xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"sorted|expected"):
        Boxes(xyxy, confidence, class_id)


@pytest.mark.parametrize(
    "options",
    [{"confidence": 1.5}, {"iou": -0.1}, {"precision": "fp16"}, {"device": "tpu"}, {"streams": 0}, {"image_size": 0}],
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"between|no precision|at least"):
        DetectorOptions(**options)


def test_streaming_answers_every_item_once_and_reads_only_a_little_ahead() -> None:
    read = []

    def items():
        for number in range(100):
            read.append(number)
            yield number, b"x"

    answers = stream(lambda item: (item[0], len(item[1])), items(), workers=2)
    assert next(answers) == (0, 1)
    assert len(read) <= 9
    assert [key for key, _ in answers] == list(range(1, 100))


def test_streaming_works_on_as_many_items_at_once_as_there_are_workers() -> None:
    meeting = threading.Barrier(2, timeout=5)
    assert list(stream(lambda number: (number, meeting.wait() >= 0), range(4), workers=2))


def test_an_error_in_a_stream_reaches_its_reader_and_stops_the_work() -> None:
    started = []

    def work(key: int) -> int:
        started.append(key)
        if key == 1:
            raise RuntimeError("broken")
        time.sleep(0.01)
        return key

    with pytest.raises(RuntimeError, match="broken"):
        list(stream(work, range(1000), workers=1))
    assert len(started) <= 3


def test_missing_weights_are_refused_with_a_list_of_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights at .*missing\.pt.*\.pt file.*\.onnx.*OpenVINO.*yolo11n\.pt"):
        load_detector(tmp_path / "missing.pt", cache_dir=tmp_path)


def test_a_folder_that_is_no_export_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no OpenVINO export"):
        find_weights(tmp_path, tmp_path)
    (tmp_path / "metadata.yaml").write_text("task: detect")
    with pytest.raises(WeightsError, match="holds no OpenVINO export"):
        find_weights(tmp_path, tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"weights\.h5 is not what a model can be made from"):
        find_weights(tmp_path / "weights.h5", tmp_path)


def test_weights_with_another_digest_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match=r"The SHA-256 of .* is 9143fcc5.*, not 0{64} as stated"):
        load_detector(tmp_path / "weights.pt", cache_dir=tmp_path / "cache", sha256="0" * 64)
    assert not (tmp_path / "cache").exists()


def test_a_folder_is_pinned_by_the_digest_of_its_files_digests(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"two")
    (tmp_path / "a.xml").write_bytes(b"one")
    # (cd FOLDER && LC_ALL=C sha256sum -- * | sha256sum)
    assert sha256_of(tmp_path) == "031440c4c68c00def33809c84e92df29e2b26b4ff26ba9c60615c3e82f3f3012"


def test_an_onnx_file_without_an_exporters_notes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match="carries no notes of an Ultralytics export"):
        read_model_file(tmp_path / "empty.onnx", task="detect")
    (tmp_path / "page.onnx").write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="is not an ONNX file"):
        read_model_file(tmp_path / "page.onnx", task="detect")


def test_a_model_for_another_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("<net/>")
    (tmp_path / "metadata.yaml").write_text("{task: segment, names: {0: a}, stride: 32, imgsz: [640, 640]}")
    with pytest.raises(WeightsError, match="for the task segment, not a detector"):
        read_model_file(tmp_path, task="detect")


def test_a_failed_build_leaves_nothing_and_the_next_one_starts_afresh(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("made")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        build_once(tmp_path / "model", fail)
    assert not (tmp_path / "model").exists()
    (tmp_path / "model.partial").mkdir()  # what a killed process leaves
    (tmp_path / "model.partial" / "half").write_text("made")
    build_once(tmp_path / "model", lambda folder: (folder / "whole").write_text("made") and None)
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["whole"]


def test_a_build_of_another_process_is_not_waited_for_when_this_one_ends(tmp_path: Path) -> None:
    model = LoadedOnce(lambda: build_once(tmp_path / "model", lambda _: None), "model", Mock())  # type: ignore[arg-type]
    refused: list[Refusal] = []

    def ask() -> None:
        try:
            model.get()
        except Refusal as refusal:
            refused.append(refusal)

    asking = threading.Thread(target=ask, daemon=True)
    with (tmp_path / "model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asking.start()
        while not model._lock.locked():
            time.sleep(0.001)
        closing = threading.Thread(target=model.close, daemon=True)
        closing.start()
        closing.join(30)
        asking.join(30)
        assert not closing.is_alive()
    assert [refusal.code for refusal in refused] == [Code.UNAVAILABLE]


def test_a_folder_that_many_ask_for_at_once_is_built_once(tmp_path: Path) -> None:
    builds = []

    def build(folder: Path) -> None:
        builds.append(folder)
        time.sleep(0.05)

    threads = [threading.Thread(target=build_once, args=(tmp_path / "model", build)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
