"""The detector against Ultralytics itself, on weights made here, on the demo weights and on published ones."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imgpipe_dagster.demo.render import render_scene
from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.models.detector import Boxes, DetectorOptions, load_detector
from imgpipe_dagster.models.openvino_detector import OpenVinoDetector
from imgpipe_dagster.models.ultralytics_detector import UltralyticsDetector
from imgpipe_dagster.models.weights import WeightsError, sha256_of, ultralytics_environment
from imgpipe_dagster.settings import DEMO_WEIGHTS

pytestmark = pytest.mark.native

CPU = DetectorOptions(device="cpu")
SHAPES = [(960, 1280), (1280, 960), (333, 500), (640, 640), (97, 700), (719, 1279)]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def yolo(cache_dir: Path) -> Iterator[Any]:
    """Ultralytics' class, imported with its settings kept out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ultralytics_environment(cache_dir).items():
            patch.setenv(name, value)
        from ultralytics import YOLO

        yield YOLO


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Rendered scenes of several shapes, as JPEG files."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, (height, width) in enumerate(SHAPES):
        cv2.imwrite(str(folder / f"{seed}.jpg"), render_scene(seed, width, height).image)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def end2end_weights(yolo: Any, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with a head that suppresses by itself, scaled so that they find something on the pictures."""
    import torch

    torch.manual_seed(0)
    model = yolo("yolo26n.yaml")
    batch = np.stack([cv2.resize(decode_bgr(file.read_bytes()), (320, 320)) for file in pictures])
    tensor = torch.from_numpy(batch).permute(0, 3, 1, 2) / 255
    model.model.end2end = True
    head = model.model.model[-1]
    convolutions = [layer[-1] for layer in [*head.cv3, *head.one2one_cv3]]
    with torch.no_grad():
        for convolution in convolutions:
            convolution.bias.zero_()
        model.model.train()
        for _ in range(40):  # until the normalisation knows the pictures
            model.model(tensor)
        model.model.eval()
        scores = torch.logit(model.model(tensor)[0][..., 4])  # the best 300 of each picture
        for convolution in convolutions:
            convolution.weight.mul_(3 / scores.std())
            convolution.bias.fill_(float(-3 / scores.std() * scores.quantile(0.9)))
    weights = tmp_path_factory.mktemp("weights") / "random26n.pt"
    model.save(weights)
    return weights


def read(files: list[Path]) -> Iterator[tuple[Path, bytes]]:
    return ((file, file.read_bytes()) for file in files)


def assert_equal(ours: Boxes, theirs: Any) -> int:
    """The same boxes: each of ours has its own among theirs of its class, with IoU >= 0.99 and confidence within 0.01.

    In any order, because confidences that round differently swap places.
    """
    xyxy, confidence = theirs.boxes.xyxy.cpu().numpy(), theirs.boxes.conf.cpu().numpy()
    class_id = theirs.boxes.cls.cpu().numpy()
    left = np.ones(len(xyxy), bool)
    for box, score, kind in zip(ours.xyxy, ours.confidence, ours.class_id, strict=True):
        sides = np.minimum(box[2:], xyxy[:, 2:]) - np.maximum(box[:2], xyxy[:, :2])
        shared = np.clip(sides, 0, None).prod(axis=1)
        union = (box[2:] - box[:2]).prod() + (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1) - shared
        same = left & (class_id == kind) & (shared >= 0.99 * union) & (np.abs(confidence - score) <= 0.01)
        assert same.any(), f"{box} of class {kind} at {score} is not among theirs"
        left[same.argmax()] = False
    assert not left.any(), f"{left.sum()} of their boxes are not among ours"
    return len(ours)


def test_boxes_of_a_head_that_suppresses_itself_equal_those_of_ultralytics(
    yolo: Any, end2end_weights: Path, pictures: list[Path], cache_dir: Path
) -> None:
    with load_detector(end2end_weights, CPU, cache_dir=cache_dir) as detector:
        assert isinstance(detector, OpenVinoDetector)
        assert detector.model.end2end
        found = dict(detector.detect_all(read(pictures)))
    model = yolo(end2end_weights)
    assert model.model.end2end
    # Where the head gives out all that it can, rounding decides which of many alike are among them.
    below_limit = [file for file in pictures if len(found[file].xyxy) < 300]
    assert len(below_limit) > len(pictures) / 2
    assert sum(assert_equal(found[file], model.predict(file, verbose=False)[0]) for file in below_limit) > 20
    assert list(end2end_weights.parent.iterdir()) == [end2end_weights]


def test_boxes_of_the_demo_weights_equal_those_of_ultralytics(yolo: Any, pictures: list[Path], cache_dir: Path) -> None:
    with load_detector(DEMO_WEIGHTS, CPU, cache_dir=cache_dir) as detector:
        found = dict(detector.detect_all(read(pictures)))
    model = yolo(DEMO_WEIGHTS)
    assert sum(assert_equal(found[file], model.predict(file, verbose=False)[0]) for file in pictures) > 20


def test_boxes_of_published_int8_weights_on_real_photos_equal_those_of_ultralytics(
    yolo: Any, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "IMGPIPE_TEST_DATA" not in os.environ:
        pytest.skip("IMGPIPE_TEST_DATA names no folder with real photos and weights")
    import openvino as ov

    compile_model = ov.Core.compile_model

    def in_f32(core: ov.Core, model: ov.Model, device_name: str, config: dict) -> ov.CompiledModel:
        return compile_model(core, model, device_name, {**config, "INFERENCE_PRECISION_HINT": "f32"})

    data = Path(os.environ["IMGPIPE_TEST_DATA"])
    weights = data / "models" / "yolo11n_int8_openvino_model"
    folders = [data / "images" / name for name in ("bottle_photos", "background_removal")]
    photos = sorted(
        file for folder in folders for file in folder.rglob("*") if file.suffix in {".jpg", ".jpeg", ".png"}
    )
    with load_detector(weights, CPU, cache_dir=cache_dir) as detector:
        found = dict(detector.detect_all(read(photos)))
    # Ultralytics states no precision, and OpenVINO then takes bf16 where the CPU has it.
    monkeypatch.setattr(ov.Core, "compile_model", in_f32)
    model = yolo(weights, task="detect")
    assert sum(assert_equal(found[file], model.predict(file, verbose=False)[0]) for file in photos) > 50


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_onnx_export_finds_what_its_weights_find(
    dynamic: bool, yolo: Any, pictures: list[Path], cache_dir: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(DEMO_WEIGHTS.read_bytes())
    exported = yolo(weights).export(format="onnx", dynamic=dynamic, simplify=False, verbose=False)
    with load_detector(exported, CPU, cache_dir=cache_dir) as detector:
        found = dict(detector.detect_all(read(pictures)))
    model = yolo(weights)
    assert sum(assert_equal(found[file], model.predict(file, rect=dynamic, verbose=False)[0]) for file in pictures) > 20


def test_batches_of_mixed_shapes_give_the_boxes_of_single_predictions(
    yolo: Any, pictures: list[Path], cache_dir: Path
) -> None:
    options = DetectorOptions(batch_size=3)
    visited = {}
    items = [((file, turn), file.read_bytes()) for turn in range(3) for file in pictures]
    with UltralyticsDetector(
        DEMO_WEIGHTS, sha256_of(DEMO_WEIGHTS), options, device="cpu", cache_dir=cache_dir
    ) as detector:
        found = dict(detector.detect_all(items, visit=lambda key, image, _: visited.__setitem__(key, image.shape)))
        single = detector.detect(decode_bgr(pictures[0].read_bytes()))
    model = yolo(DEMO_WEIGHTS)
    expected = {file: model.predict(file, verbose=False)[0] for file in pictures}
    assert sorted(found) == sorted(visited) == sorted(key for key, _ in items)
    assert sum(assert_equal(boxes, expected[file]) for (file, _), boxes in found.items()) > 60
    assert_equal(single, expected[pictures[0]])


def test_a_second_process_finds_the_export_and_loads_neither_torch_nor_ultralytics(
    pictures: list[Path], cache_dir: Path
) -> None:
    load_detector(DEMO_WEIGHTS, CPU, cache_dir=cache_dir).close()
    script = f"""
import sys
from pathlib import Path
from imgpipe_dagster.models.detector import DetectorOptions, load_detector
detector = load_detector({str(DEMO_WEIGHTS)!r}, DetectorOptions(device="cpu"), cache_dir=Path({str(cache_dir)!r}))
found = list(detector.detect_all([("a", Path({str(pictures[0])!r}).read_bytes())]))
print(len(found), sorted({{"torch", "ultralytics", "dagster", "sqlalchemy"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "1 []\n"


def test_a_detector_that_another_thread_frees_leaves_signals_alone(cache_dir: Path) -> None:
    script = f"""
import faulthandler, gc, signal, threading
from pathlib import Path
from imgpipe_dagster.models.detector import DetectorOptions, load_detector
faulthandler.enable()  # from now on handlers run on the main thread's signal stack
detector = load_detector({str(DEMO_WEIGHTS)!r}, DetectorOptions(device="cpu"), cache_dir=Path({str(cache_dir)!r}))
detector.close()
detector.itself = detector
del detector
collector = threading.Thread(target=gc.collect)
collector.start()
collector.join()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_each_picture_is_visited_upright_with_its_boxes(pictures: list[Path], cache_dir: Path) -> None:
    visited = {}

    def visit(key: Path, image: np.ndarray, boxes: Boxes) -> None:
        visited[key] = (image.shape[:2], boxes)

    with load_detector(DEMO_WEIGHTS, CPU, cache_dir=cache_dir) as detector:
        found = dict(detector.detect_all(read(pictures), visit=visit))
    assert {key: shape for key, (shape, _) in visited.items()} == dict(zip(pictures, SHAPES, strict=True))
    assert all(visited[key][1] is boxes for key, boxes in found.items())


def test_a_file_that_cannot_be_decoded_is_named_in_the_error(cache_dir: Path) -> None:
    with load_detector(DEMO_WEIGHTS, CPU, cache_dir=cache_dir) as detector:
        with pytest.raises(DecodeError) as caught:
            list(detector.detect_all([("image 7", b"<html>")]))
    assert caught.value.__notes__ == ["while decoding 'image 7'"]


def test_the_version_changes_with_what_changes_answers_and_with_nothing_else(cache_dir: Path) -> None:
    def version(**changes: Any) -> str:
        options = DetectorOptions(device="cpu", **changes)
        with load_detector(DEMO_WEIGHTS, options, cache_dir=cache_dir) as detector:
            return detector.version

    plain = version()
    assert plain == version(streams=1) == version(image_size=320)
    assert plain.startswith("shelf_yolo11n-")
    assert len({plain, version(confidence=0.3), version(iou=0.6), version(image_size=640), version(max_boxes=9)}) == 5


def test_damaged_compiled_models_are_compiled_again(pictures: list[Path], tmp_path: Path) -> None:
    def confidences() -> list[float]:
        with load_detector(DEMO_WEIGHTS, CPU, cache_dir=tmp_path) as detector:
            return detector.detect(decode_bgr(pictures[0].read_bytes())).confidence.tolist()

    before = confidences()
    blobs = list((tmp_path / "compiled").glob("*.blob"))
    assert blobs
    for blob in blobs:
        blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    assert confidences() == pytest.approx(before)


def test_precisions_agree_and_int8_is_calibrated_once(pictures: list[Path], cache_dir: Path) -> None:
    pytest.importorskip("nncf")

    def found(precision: Any) -> tuple[str, dict[Path, Boxes]]:
        options = DetectorOptions(device="cpu", precision=precision, calibration_dir=pictures[0].parent)
        with load_detector(DEMO_WEIGHTS, options, cache_dir=cache_dir) as detector:
            return detector.version, dict(detector.detect_all(read(pictures)))

    exact_version, exact = found("fp32")
    version, quantised = found("int8")
    made = [file.stat().st_mtime_ns for file in (cache_dir / "int8").glob("*/*")]
    assert version != exact_version
    counts = [(len(exact[file]), len(quantised[file])) for file in pictures]
    assert sum(min(pair) for pair in counts) >= 0.9 * sum(max(pair) for pair in counts) > 0
    assert found("int8")[0] == version
    assert [file.stat().st_mtime_ns for file in (cache_dir / "int8").glob("*/*")] == made


def test_int8_without_pictures_to_calibrate_with_is_refused(cache_dir: Path, tmp_path: Path) -> None:
    for folder, message in ((None, "int8 needs a folder"), (tmp_path, "no pictures to calibrate int8 with")):
        options = DetectorOptions(device="cpu", precision="int8", calibration_dir=folder)
        with pytest.raises(WeightsError, match=message):
            load_detector(DEMO_WEIGHTS, options, cache_dir=cache_dir)


def test_bf16_is_refused_where_the_cpu_has_none(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino as ov

    monkeypatch.setattr(ov.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(ValueError, match=r"no bf16 \(it has FP32, INT8\): use fp32 or int8"):
        load_detector(DEMO_WEIGHTS, DetectorOptions(device="cpu", precision="bf16"), cache_dir=cache_dir)


def test_cuda_without_a_device_is_refused(cache_dir: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ValueError, match="No CUDA device was found"):
        load_detector(DEMO_WEIGHTS, DetectorOptions(device="cuda"), cache_dir=cache_dir)


def test_an_input_size_other_than_that_of_a_static_export_is_refused(cache_dir: Path) -> None:
    if "IMGPIPE_TEST_DATA" not in os.environ:
        pytest.skip("IMGPIPE_TEST_DATA names no folder with weights")
    weights = Path(os.environ["IMGPIPE_TEST_DATA"]) / "models" / "yolo11n_int8_openvino_model"
    with pytest.raises(ValueError, match=r"takes pictures of \(640, 640\) only, not 320"):
        load_detector(weights, DetectorOptions(device="cpu", image_size=320), cache_dir=cache_dir)


def test_a_checkpoint_that_is_damaged_or_for_another_task_is_refused(
    yolo: Any, cache_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "damaged.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="Could not export"):
        load_detector(tmp_path / "damaged.pt", CPU, cache_dir=cache_dir)
    yolo("yolo11n-cls.yaml").save(tmp_path / "classifier.pt")
    with pytest.raises(WeightsError, match="for the task classify, not a YOLO detector"):
        load_detector(tmp_path / "classifier.pt", CPU, cache_dir=cache_dir)
    assert not list(tmp_path.glob("*openvino*"))


def test_a_name_that_cannot_be_downloaded_is_refused(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="Ultralytics publishes no weights of this name: no_such_model"):
        load_detector("no_such_model.pt", CPU, cache_dir=cache_dir)
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    with pytest.raises(WeightsError, match=r"Could not download yolo11n\.pt"):
        load_detector("yolo11n.pt", CPU, cache_dir=cache_dir)
    assert not list((cache_dir / "weights").glob("*/*.pt"))


def test_memory_does_not_grow_with_the_number_of_pictures_or_of_shapes(cache_dir: Path) -> None:
    script = f"""
import re
from pathlib import Path
import cv2, numpy as np
from imgpipe_dagster.models.detector import DetectorOptions, load_detector
noise = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), np.uint8)
def items():
    for number in range(32):
        shape = (1000 - 25 * (number // 2), 1000) if number % 2 else (1000, 1000 - 25 * (number // 2))
        yield number, cv2.imencode(".jpg", noise[:shape[0], :shape[1]])[1].tobytes()
with load_detector({str(DEMO_WEIGHTS)!r}, DetectorOptions(device="cpu", image_size=640),
                   cache_dir=Path({str(cache_dir)!r})) as detector:
    assert len(list(detector.detect_all(items()))) == 32
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000 * 1024
