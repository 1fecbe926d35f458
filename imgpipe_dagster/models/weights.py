"""Weights of models: found, checked, converted to what OpenVINO reads, each product made once. No inference here."""

import ast
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import yaml

from imgpipe_dagster.models.quiet_openvino import import_openvino, silence_openvino

Task = Literal["detect", "classify"]

ACCEPTED = (
    "a .pt file, an .onnx file, a folder that Ultralytics exported for OpenVINO, or the name of weights that "
    "Ultralytics publishes, such as yolo11n.pt or yolo11n-cls.pt"
)
_LOCK_LOOK_S = 0.05
_CALIBRATION_PICTURES = 300  # NNCF's own default; more change little
_KINDS: dict[Task, str] = {"detect": "detector", "classify": "classifier"}
_PICTURES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}


class WeightsError(ValueError):
    """The weights (or the pictures to calibrate them with) cannot be used; the message says why and what would do."""


@dataclass(frozen=True)
class ModelFile:
    """A model that OpenVINO reads, with the notes that its exporter left.

    Attributes:
        path: The ``.xml`` or ``.onnx``.
        names: Class id to class name.
        stride: Largest stride of the model.
        image_size: Height and width that it was exported for.
        end2end: Its output needs no suppression.
    """

    path: Path
    names: dict[int, str]
    stride: int
    image_size: tuple[int, int]
    end2end: bool


def find_weights(weights: str | Path, cache_dir: Path) -> Path:
    """The file or folder that ``weights`` means; a published name is downloaded by Ultralytics, once.

    Args:
        weights: See ``ACCEPTED``.
        cache_dir: Where downloads go.

    Raises:
        WeightsError: There is no such file, it is of another kind, or the download failed.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        if len(list(path.glob("*.xml"))) != 1 or not (path / "metadata.yaml").is_file():
            raise WeightsError(f"The folder {path} holds no OpenVINO export (one .xml, its .bin, metadata.yaml).")
        return path
    if path.is_file():
        if path.suffix not in {".pt", ".onnx"}:
            raise WeightsError(f"{path} is not what a model can be made from: that is {ACCEPTED}.")
        return path
    if str(weights) != path.name or path.suffix != ".pt":
        raise WeightsError(f"There are no weights at {weights}. A model takes {ACCEPTED}.")
    return (
        build_once(cache_dir / "weights" / path.stem, lambda folder: _convert(cache_dir, "download", path.name, folder))
        / path.name
    )


def sha256_of(weights: Path) -> str:
    """The SHA-256 that pins weights, in hex.

    Of a file it is the usual one. Of a folder it is that of ``sha256sum``'s output for its files sorted by name:
    ``(cd FOLDER && LC_ALL=C sha256sum -- * | sha256sum)``.
    """
    if weights.is_dir():
        files = sorted((file for file in weights.iterdir() if file.is_file()), key=lambda file: file.name)
        return hashlib.sha256("".join(f"{sha256_of(file)}  {file.name}\n" for file in files).encode()).hexdigest()
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_weights(weights: str | Path, cache_dir: Path, sha256: str | None) -> tuple[Path, str]:
    """Find weights, as ``find_weights`` does, and their digest.

    Raises:
        WeightsError: They are missing, or have another digest than ``sha256``: nothing has parsed them then.
    """
    path = find_weights(weights, cache_dir)
    digest = sha256_of(path)
    if sha256 is not None and digest != sha256.lower():
        raise WeightsError(f"The SHA-256 of {path} is {digest}, not {sha256.lower()} as stated: it was not loaded.")
    return path, digest


def fingerprint(weights: Path, digest: str, changes: Sequence[object]) -> str:
    """A model's version: the weights' name, and a digest of the weights and of the settings that change answers."""
    return f"{slug(weights)}-{hashlib.sha256(json.dumps([digest, *changes]).encode()).hexdigest()[:10]}"


def calibration_pictures(folder: Path | None) -> list[Path]:
    """The pictures that int8 is calibrated with: sorted by name, of many every n-th.

    Raises:
        WeightsError: No folder is given, or it holds no pictures.
    """
    if folder is None:
        raise WeightsError("int8 needs a folder of typical pictures to calibrate with (calibration_dir), 100 or more.")
    pictures = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _PICTURES) if folder.is_dir() else []
    if not pictures:
        raise WeightsError(f"There are no pictures to calibrate int8 with in {folder}.")
    return pictures[:: -(-len(pictures) // _CALIBRATION_PICTURES)]


def openvino_file(weights: Path, sha256: str, cache_dir: Path, *, task: Task) -> ModelFile:
    """The weights in a form that OpenVINO reads: themselves, or an export of a ``.pt`` made once.

    Args:
        weights: What ``find_weights`` gave.
        sha256: Their digest; the export is made from bytes that have it.
        cache_dir: Where exports are kept.
        task: What the model must be for.

    Raises:
        WeightsError: The file cannot be read, or is for another task.
    """
    if weights.suffix != ".pt":
        return read_model_file(weights, task=task)

    def export(folder: Path) -> None:
        copy = folder / "weights.pt"  # a copy: Ultralytics writes beside the file, and nobody can change it meanwhile
        shutil.copyfile(weights, copy)
        if sha256_of(copy) != sha256:
            raise WeightsError(f"{weights} changed while it was read.")
        _convert(cache_dir, "export", copy, folder, task)
        copy.unlink()

    folder = build_once(cache_dir / "openvino" / _key(sha256, "ultralytics", "openvino"), export)
    return read_model_file(folder, task=task)


def is_quantised(model: Path) -> bool:
    """Whether the model computes in INT8 already."""
    network = import_openvino().Core().read_model(model)
    return any(operation.get_type_name() == "FakeQuantize" for operation in network.get_ops())


def quantised_file(model: ModelFile, sha256: str, pictures: list[Path], cache_dir: Path) -> ModelFile:
    """A detector with INT8 weights and activations, calibrated by NNCF, made once.

    Args:
        model: The model in full precision.
        sha256: Digest of the model and of the pictures together.
        pictures: Typical pictures.
        cache_dir: Where quantised models are kept.

    Raises:
        WeightsError: nncf is not installed, or a picture cannot be read.
    """

    def quantise(folder: Path) -> None:
        notes = {"names": model.names, "stride": model.stride, "imgsz": list(model.image_size)}
        (folder / "metadata.yaml").write_text(yaml.safe_dump({**notes, "task": "detect", "end2end": model.end2end}))
        listing = folder / "pictures.txt"
        listing.write_text("\n".join(str(picture.absolute()) for picture in pictures), "utf-8")
        _convert(cache_dir, "quantise", model.path.absolute(), listing, folder)
        listing.unlink()

    try:
        key = _key(sha256, "nncf", "openvino")
    except importlib.metadata.PackageNotFoundError as error:
        raise WeightsError("int8 needs nncf: pip install 'imgpipe-dagster[int8]'.") from error
    return read_model_file(build_once(cache_dir / "int8" / key, quantise), task="detect")


def read_model_file(path: Path, *, task: Task) -> ModelFile:
    """Read the notes of an export.

    Args:
        path: An ``.onnx`` or a folder with an ``.xml`` and ``metadata.yaml``.
        task: What the model must be for.

    Raises:
        WeightsError: It was not exported by Ultralytics, or is for another task.
    """
    folder = path
    try:
        if folder.is_dir():
            path = next(folder.glob("*.xml"))
            notes = yaml.safe_load((folder / "metadata.yaml").read_text("utf-8"))
        else:
            notes = _onnx_notes(path)
        noted_task, names, stride, size = notes["task"], notes["names"], int(notes["stride"]), notes["imgsz"]
        arguments = notes.get("args", {})
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise WeightsError(f"{path} carries no notes of an Ultralytics export (task, names, stride, imgsz).") from error
    if noted_task != task:
        raise WeightsError(f"{path} is a model for the task {noted_task}, not a {_KINDS[task]}.")
    end2end = bool(notes.get("end2end") or arguments.get("nms"))
    return ModelFile(path, {int(key): str(name) for key, name in names.items()}, stride, (size[0], size[1]), end2end)


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Let ``build`` fill a folder, once for all processes; a crash leaves nothing that looks finished.

    Args:
        folder: Where the result shall be.
        build: Fills the empty folder that it is given.

    Returns:
        ``folder``.

    Raises:
        WeightsError: Another process was filling it when this one was to end.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        _lock(lock, folder)
        if not folder.is_dir():
            unfinished = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            try:
                build(unfinished)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def ultralytics_environment(cache_dir: Path) -> dict[str, str]:
    """The variables that keep Ultralytics quiet, safe and inside ``cache_dir``. It reads them when it is imported."""
    return {
        "YOLO_CONFIG_DIR": str(cache_dir.absolute()),
        "YOLO_VERBOSE": "false",
        "YOLO_AUTOINSTALL": "false",
        "ULTRALYTICS_SAFE_LOAD": "true",
    }


def end_conversions() -> None:
    """End the conversions that this process has begun or waits for; who waits gets a WeightsError."""
    global _endings
    _endings += 1
    for conversion in list(_conversions):
        conversion.terminate()


_conversions: set[subprocess.Popen[str]] = set()
_endings = 0


def _lock(lock: IO[str], folder: Path) -> None:
    """Wait for the lock, until ``end_conversions`` is called: the other process may take minutes."""
    before = _endings
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _endings != before:
                raise WeightsError(f"Another process was making {folder}; it is not waited for any longer.") from None
            time.sleep(_LOCK_LOOK_S)
        else:
            return


def _convert(cache_dir: Path, *arguments: object) -> None:
    # A process of its own: torch's memory goes with it, Ultralytics' prints and settings stay away from ours, and its
    # safe mode does not depend on who imported it first.
    with subprocess.Popen(  # noqa: S603 - our own module, and no shell
        [sys.executable, "-W", "ignore", "-m", "imgpipe_dagster.models.convert", *map(str, arguments)],
        env={**os.environ, **ultralytics_environment(cache_dir)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as conversion:
        _conversions.add(conversion)
        try:
            _, messages = conversion.communicate()
        except BaseException:
            conversion.kill()
            raise
        finally:
            _conversions.discard(conversion)
    if conversion.returncode != 0:
        raise WeightsError(f"Could not {arguments[0]} {arguments[1]}: {messages.strip()[-1500:]}")


def _key(sha256: str, *tools: str) -> str:
    versions = " ".join(f"{tool} {importlib.metadata.version(tool)}" for tool in tools)
    return hashlib.sha256(f"{sha256} {versions}".encode()).hexdigest()[:16]


def _onnx_notes(path: Path) -> dict[str, Any]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise WeightsError(f"{path} is not an ONNX file.") from error
    notes: dict[str, Any] = {entry.key: entry.value for entry in model.metadata_props}
    for key in notes.keys() & {"names", "imgsz", "args", "end2end"}:
        notes[key] = ast.literal_eval(notes[key])
    return notes


def load_yolo(weights: Path | str, task: Task, cache_dir: Path) -> Any:  # noqa: ANN401 - its annotations say too little
    """Load weights, or an architecture, with Ultralytics.

    Args:
        weights: What ``YOLO()`` takes; trusted.
        task: What it has to be for.
        cache_dir: Where Ultralytics may write.

    Raises:
        WeightsError: It is for another task.
    """
    for name, value in ultralytics_environment(cache_dir).items():
        os.environ.setdefault(name, value)
    silence_openvino()
    from ultralytics import YOLO

    model = YOLO(weights)
    require_task(model, task)
    return model


def require_task(model: Any, task: Task) -> None:  # noqa: ANN401 - Ultralytics is imported where it is needed only
    """Refuse a loaded Ultralytics model that is for another task.

    Raises:
        WeightsError: It is.
    """
    if model.task != task or type(model).__name__ != "YOLO":
        kind = type(model).__name__
        raise WeightsError(f"this is a {kind} model for the task {model.task}, not a YOLO {_KINDS[task]}")


def slug(weights: Path) -> str:
    """A short name for weights, of letters, digits and ``_.-``."""
    stem = weights.stem.removesuffix("_openvino_model")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem)[:40]
