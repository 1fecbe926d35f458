"""Conversions that need Ultralytics, torch or NNCF: run as ``python -m``, in a process of their own, by ``weights``."""

import contextlib
import re
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np

from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.models.letterbox import Letterbox
from imgpipe_dagster.models.quiet_openvino import silence_openvino
from imgpipe_dagster.models.weights import Task, WeightsError, read_model_file, require_task


def download(name: str, folder: Path) -> None:
    """Let Ultralytics download published weights into a folder."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    if name not in GITHUB_ASSETS_NAMES:
        raise WeightsError(f"there is no such file, and Ultralytics publishes no weights of this name: {name}")
    with contextlib.chdir(folder):
        found = Path(attempt_download_asset(name)).absolute()
    if found.parent != folder:  # Ultralytics had them already
        shutil.copyfile(found, folder / name)


def export(weights: Path, folder: Path, task: Task) -> None:
    """Export a model to OpenVINO, with a dynamic input and the head that the weights use for prediction."""
    from ultralytics import YOLO

    model = YOLO(weights)
    require_task(model, task)
    if task == "classify":
        _require_usual_transforms(model)
    exported = model.export(
        format="openvino",
        dynamic=True,
        imgsz=model.overrides.get("imgsz", 640 if task == "detect" else 224),
        # Without nms=False the exporter swaps an end-to-end head for one that leaves suppression to its user.
        nms=False if getattr(model.model, "end2end", False) else None,
        device="cpu",
    )
    for file in Path(exported).iterdir():
        file.rename(folder / file.name)
    Path(exported).rmdir()


def _require_usual_transforms(model: Any) -> None:  # noqa: ANN401 - an Ultralytics model
    """Refuse a classifier whose checkpoint carries preprocessing of its own, which an export leaves behind."""
    from ultralytics.data.augment import classify_transforms

    own = getattr(model.model, "transforms", None)
    if own is not None and repr(own) != repr(classify_transforms(own.transforms[0].size)):
        raise WeightsError(f"it was trained with preprocessing of its own, which is not supported: {own}")


def quantise(model: Path, pictures: list[Path], folder: Path) -> None:
    """Quantise a detector to INT8, as Ultralytics does: mixed preset, the detection head left in floating point."""
    import nncf
    import openvino as ov

    notes = read_model_file(folder_of(model), task="detect")
    network = ov.Core().read_model(model)
    height, width = network.input(0).partial_shape[2:]
    fixed = height.is_static and width.is_static

    def tensor(picture: Path) -> np.ndarray:
        image = decode_bgr(picture.read_bytes())
        letterbox = Letterbox.fit(image.shape[:2], notes.image_size, notes.stride, rectangular=not fixed)
        canvas = np.empty((*letterbox.canvas, 3), np.uint8)
        letterbox.draw(image, canvas)
        return canvas[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255

    names = [operation.get_friendly_name() for operation in network.get_ordered_ops()]
    sigmoids = [op.get_friendly_name() for op in network.get_ordered_ops() if op.get_type_name() == "Sigmoid"]
    quantised = nncf.quantize(
        network,
        nncf.Dataset(pictures, tensor),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(pictures),
        ignored_scope=nncf.IgnoredScope(names=sorted({*sigmoids, *_decoding(names, last=sigmoids[-1])})),
    )
    ov.save_model(quantised, folder / "model.xml", compress_to_fp16=False)


def _decoding(names: list[str], last: str) -> list[str]:
    """The operations of the detection head that turn its convolutions' output into boxes.

    Args:
        names: All operations.
        last: The last sigmoid, which is part of the head.
    """
    head = re.match(r"/?(__module\.)?model\.\d+", last)
    if head is None:
        raise WeightsError(f"no detection head was found: the last sigmoid is {last}")
    # Traced modules are called model.23.cv2.0/…, those that came through ONNX /model.23/cv2.0/….
    inside = r"/(dfl/|[^/]*$)" if last.startswith("/") else r"(/|\.dfl)"
    return [name for name in names if re.match(re.escape(head.group()) + inside, name)]


def folder_of(model: Path) -> Path:
    """What ``read_model_file`` takes for a model: the folder of an ``.xml``, an ``.onnx`` itself."""
    return model.parent if model.suffix == ".xml" else model


def main(command: str, *arguments: str) -> None:
    """Run one conversion; a failure goes to stderr and ends the process with status 1."""
    silence_openvino()
    paths = [Path(argument).absolute() for argument in arguments]
    try:
        match command:
            case "download":
                download(arguments[0], paths[1])
            case "export":
                export(paths[0], paths[1], cast(Task, arguments[2]))
            case "quantise":
                listing = paths[1].read_text("utf-8").splitlines()
                quantise(paths[0], [Path(line) for line in listing], paths[2])
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
