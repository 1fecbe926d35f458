"""The classifier against Ultralytics itself."""

import re
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
from imgpipe_dagster.models.classifier import ClassifierOptions, Probabilities, load_classifier
from imgpipe_dagster.models.framing import fit
from imgpipe_dagster.models.openvino_classifier import OpenVinoClassifier
from imgpipe_dagster.models.ultralytics_classifier import UltralyticsClassifier
from imgpipe_dagster.models.weights import WeightsError, sha256_of, ultralytics_environment
from imgpipe_dagster.settings import DEMO_WEIGHTS

pytestmark = pytest.mark.native

CPU = ClassifierOptions(device="cpu")
SHAPES = [(960, 1280), (1280, 960), (333, 500), (640, 640), (97, 700), (719, 1279), (50, 40)]
BOXES = np.array([[10, 5, 30, 45], [-3, 2, 12, 20]], np.float32)


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
        image = render_scene(seed, max(width, 64), max(height, 64)).image[:height, :width]
        cv2.imwrite(str(folder / f"{seed}.jpg"), image)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def random_weights(yolo: Any, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for 224 pixels whose answers differ from picture to picture."""
    import torch

    torch.manual_seed(0)
    model = yolo("yolo11n-cls.yaml")
    batch = np.stack([cv2.resize(decode_bgr(file.read_bytes()), (224, 224)) for file in pictures])
    tensor = torch.from_numpy(batch).permute(0, 3, 1, 2) / 255
    model.model.reshape_outputs(model.model, 5)
    model.model.names = {number: f"class {number}" for number in range(5)}
    model.ckpt = {"train_args": {"imgsz": 224, "task": "classify"}}
    with torch.no_grad():
        model.model.train()
        for _ in range(40):  # until the normalisation knows the pictures
            model.model(tensor)
        head = model.model.model[-1].linear
        model.model.eval()
        head.weight.mul_(3 / model.model(tensor)[1].std(dim=0).mean())
        head.bias.sub_(model.model(tensor)[1].mean(dim=0))
    weights = tmp_path_factory.mktemp("weights") / "random11n-cls.pt"
    model.save(weights)
    return weights


def read(files: list[Path]) -> Iterator[tuple[Path, bytes]]:
    return ((file, file.read_bytes()) for file in files)


def assert_equal(ours: Probabilities, theirs: Any) -> None:
    expected = theirs.probs.data.cpu().numpy()
    np.testing.assert_allclose(ours.values, expected, atol=0.01)
    assert ours.class_id == theirs.probs.top1
    assert ours.confidence == pytest.approx(float(theirs.probs.top1conf), abs=0.01)


@pytest.mark.parametrize("form", ["pt", "onnx", "static onnx"])
def test_probabilities_of_files_and_crops_equal_those_of_ultralytics(
    form: str, yolo: Any, random_weights: Path, pictures: list[Path], cache_dir: Path, tmp_path: Path
) -> None:
    weights = random_weights
    if form != "pt":
        copy = tmp_path / "weights.pt"
        copy.write_bytes(random_weights.read_bytes())
        weights = Path(
            yolo(copy).export(format="onnx", imgsz=224, dynamic=form == "onnx", simplify=False, verbose=False)
        )
    with load_classifier(weights, CPU, cache_dir=cache_dir) as classifier:
        assert isinstance(classifier, OpenVinoClassifier)
        assert classifier.image_size == (224, 224)
        found = dict(classifier.classify_all(read(pictures), boxes_of=lambda _: BOXES))
    model = yolo(random_weights)
    for file in pictures:
        whole, *crops = found[file]
        assert_equal(whole, model.predict(file, verbose=False)[0])
        image = decode_bgr(file.read_bytes())
        for crop, box in zip(crops, BOXES, strict=True):
            canvas = np.empty((224, 224, 3), np.uint8)
            fit(image, box, canvas)
            assert_equal(crop, model.predict(canvas, verbose=False)[0])
    assert len({values[0].class_id for values in found.values()}) > 2
    assert list(random_weights.parent.iterdir()) == [random_weights]


def test_batches_give_the_probabilities_of_single_predictions(
    yolo: Any, random_weights: Path, pictures: list[Path], cache_dir: Path
) -> None:
    options = ClassifierOptions(batch_size=3)
    visited = {}
    items = [((file, turn), file.read_bytes()) for turn in range(3) for file in pictures]
    with UltralyticsClassifier(
        random_weights, sha256_of(random_weights), options, device="cpu", cache_dir=cache_dir
    ) as classifier:
        found = dict(
            classifier.classify_all(
                items,
                boxes_of=lambda key: BOXES[: key[1]],
                visit=lambda key, image, values: visited.__setitem__(key, (image.shape[:2], values)),
            )
        )
        single = classifier.classify(decode_bgr(pictures[0].read_bytes()))
        version = classifier.version
    with load_classifier(random_weights, CPU, cache_dir=cache_dir) as other:
        assert other.version == version
        assert other.names == yolo(random_weights).names
    model = yolo(random_weights)
    expected = {file: model.predict(file, verbose=False)[0] for file in pictures}
    assert sorted(found) == sorted(visited) == sorted(key for key, _ in items)
    for (file, turn), values in found.items():
        assert_equal(values[0], expected[file])
        assert len(values) == 1 + turn
        assert visited[file, turn][1] is values
    assert_equal(single, expected[pictures[0]])


def test_each_picture_is_visited_upright_with_its_probabilities(
    random_weights: Path, pictures: list[Path], cache_dir: Path
) -> None:
    visited = {}

    def visit(key: Path, image: np.ndarray, values: list[Probabilities]) -> None:
        visited[key] = (image.shape[:2], values)

    with load_classifier(random_weights, CPU, cache_dir=cache_dir) as classifier:
        found = dict(classifier.classify_all(read(pictures), visit=visit))
    assert {key: shape for key, (shape, _) in visited.items()} == dict(zip(pictures, SHAPES, strict=True))
    assert all(visited[key][1] is values for key, values in found.items())


def test_a_file_that_cannot_be_decoded_is_named_in_the_error(random_weights: Path, cache_dir: Path) -> None:
    with load_classifier(random_weights, CPU, cache_dir=cache_dir) as classifier:
        with pytest.raises(DecodeError) as caught:
            list(classifier.classify_all([("image 7", b"<html>")]))
    assert caught.value.__notes__ == ["while decoding 'image 7'"]


def test_the_version_changes_with_what_changes_answers_and_with_nothing_else(
    random_weights: Path, cache_dir: Path
) -> None:
    def version(**changes: Any) -> str:
        with load_classifier(
            random_weights, ClassifierOptions(device="cpu", **changes), cache_dir=cache_dir
        ) as classifier:
            return classifier.version

    plain = version()
    assert plain == version(streams=1) == version(image_size=224)
    assert plain.startswith("random11n-cls-")
    assert version(image_size=128) != plain


def test_weights_that_are_no_classifier_are_refused(yolo: Any, cache_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="for the task detect, not a YOLO classifier"):
        load_classifier(DEMO_WEIGHTS, CPU, cache_dir=cache_dir)
    with pytest.raises(WeightsError, match=r"The SHA-256 of .* not 0{64} as stated"):
        load_classifier(DEMO_WEIGHTS, CPU, cache_dir=tmp_path / "other", sha256="0" * 64)
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_with_preprocessing_of_its_own_is_refused(
    yolo: Any, random_weights: Path, cache_dir: Path, tmp_path: Path
) -> None:
    from ultralytics.data.augment import classify_transforms

    model = yolo(random_weights)
    model.model.transforms = classify_transforms(224)
    model.save(tmp_path / "usual.pt")
    load_classifier(tmp_path / "usual.pt", CPU, cache_dir=cache_dir).close()
    model.model.transforms = classify_transforms(224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    model.save(tmp_path / "unusual.pt")
    with pytest.raises(WeightsError, match="preprocessing of its own"):
        load_classifier(tmp_path / "unusual.pt", CPU, cache_dir=cache_dir)


def test_a_second_process_loads_neither_torch_nor_ultralytics_and_its_memory_stays_bounded(
    random_weights: Path, pictures: list[Path], cache_dir: Path
) -> None:
    load_classifier(random_weights, CPU, cache_dir=cache_dir).close()
    script = f"""
import re, sys
from pathlib import Path
from imgpipe_dagster.models.classifier import ClassifierOptions, load_classifier
data = Path({str(pictures[0])!r}).read_bytes()
peaks = []
with load_classifier({str(random_weights)!r}, ClassifierOptions(device="cpu"),
                     cache_dir=Path({str(cache_dir)!r})) as classifier:
    for count in (20, 200):
        assert len(list(classifier.classify_all((n, data) for n in range(count)))) == count
        peaks.append(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
print(peaks, sorted({{"torch", "ultralytics", "dagster", "sqlalchemy"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second = map(int, re.findall(r"\d+", done.stdout))
    assert done.stdout.endswith("[]\n")
    assert second - first < 30 * 1024, "kilobytes"


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"device": "tpu"}, {"streams": 0}, {"image_size": 0}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"no precision|at least"):
        ClassifierOptions(**options)
