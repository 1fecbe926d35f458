"""``imgpipe models``: weights for the detector and the bottle classifier, downloaded or trained."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from imgpipe_dagster.catalogue.tables import BOTTLE_STATUS
from imgpipe_dagster.cli.common import err, fail, open_catalogue, out, read_settings
from imgpipe_dagster.cli.progress import lines_without_terminal
from imgpipe_dagster.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from imgpipe_dagster.models.classifier_training import TrainedClassifier, TrainingConfig
    from imgpipe_dagster.models.labelled_folder import LabelledFolder

_SHOWN_SKIPPED = 10

app = typer.Typer(help="Weights of the detector and the bottle classifier.", no_args_is_help=True)


@app.command("download")
def models_download(
    name: Annotated[str, typer.Argument(help="A name of Ultralytics' weights: yolo11n.pt, yolo11n-cls.pt.")],
    sha256: Annotated[str | None, typer.Option(help="Refuse the file if its SHA-256 is another.")] = None,
) -> None:
    """Download weights through Ultralytics into the home folder, and say how to use them.

    Example: `imgpipe models download yolo11n.pt`
    """
    from imgpipe_dagster.models.weights import WeightsError, find_weights, sha256_of

    try:
        path = find_weights(name, read_settings().home / "models")
    except WeightsError as error:
        fail(str(error))
    digest = sha256_of(path)
    if sha256 not in (None, digest):
        fail(f"{path} has the SHA-256 {digest}, not {sha256}: it is not used.")
    which = "BOTTLE" if path.stem.endswith("-cls") else "DETECTOR"
    out.print(f"IMGPIPE_{which}_WEIGHTS={path}\nIMGPIPE_{which}_SHA256={digest}", soft_wrap=True)


@app.command("train-bottle")
def models_train_bottle(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET_DIR", help="A folder of pictures for each class.", exists=True, file_okay=False
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(help="Settings and augmentation as YAML. Default: docs/models/bottle-training.yaml.", exists=True),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of a classifier to start from: a .pt file or a name. Default: random ones."),
    ] = None,
) -> None:
    """Train a bottle-status classifier on your own pictures, keep it with its figures, and say how to use it.

    Each class is split into training, validation and test pictures by their contents, the same way each time; the
    manifest is kept. Files that are no pictures, or are in two classes, are left out and told.

    Example: `imgpipe models train-bottle photos --config bottle.yaml --weights yolo11n-cls.pt`
    """
    from imgpipe_dagster.cli.picture_files import TrustedFiles
    from imgpipe_dagster.models.cache import TRAINING_PREFIX
    from imgpipe_dagster.models.classifier_training import ConfigError, TrainingConfig, train_classifier
    from imgpipe_dagster.models.labelled_folder import DatasetError, read_labelled_folder
    from imgpipe_dagster.models.weights import WeightsError, find_weights

    settings = read_settings()
    cache_dir = settings.home / "models"
    with open_catalogue(current=True) as engine:
        try:
            plan = TrainingConfig.read(config) if config else TrainingConfig()
            start = find_weights(weights, cache_dir) if weights else None
            with TrustedFiles(settings) as files:
                data = read_labelled_folder(
                    dataset, read=files.read, val_share=plan.val_share, test_share=plan.test_share
                )
        except (ConfigError, DatasetError, WeightsError) as error:
            fail(str(error))
        _tell_data(data)
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TRAINING_PREFIX, dir=cache_dir) as work, _epoch_bar(plan) as on_epoch:
            try:
                trained = train_classifier(
                    data,
                    plan,
                    Path(work),
                    start=start,
                    device=settings.bottle_device,
                    cache_dir=cache_dir,
                    on_epoch=on_epoch,
                )
            except WeightsError as error:
                fail(str(error))
            kept = _keep(settings, engine, trained)
    _tell_figures(trained)
    digest = hashlib.sha256(kept.read_bytes()).hexdigest()
    out.print(f"IMGPIPE_BOTTLE_WEIGHTS={kept}\nIMGPIPE_BOTTLE_SHA256={digest}", soft_wrap=True)


def _keep(settings: Settings, engine: "Engine", trained: "TrainedClassifier") -> Path:
    """Put weights and artefacts into the store, note them in the catalogue, and keep the weights on this machine."""
    from imgpipe_dagster.build import build_resources
    from imgpipe_dagster.catalogue.model_registry import register_model
    from imgpipe_dagster.store.keys import models_key

    content = trained.weights.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    version = f"{BOTTLE_STATUS}-{digest[:10]}"
    store = build_resources(settings)["image_store"].store
    keys: dict[str, str] = {}
    for name, path in {"weights.pt": trained.weights, **trained.artefacts}.items():
        keys[name] = models_key(BOTTLE_STATUS, version, name)
        store.put(keys[name], path.read_bytes())
    register_model(engine, kind=BOTTLE_STATUS, version=version, sha256=digest, files=keys, metrics=trained.metrics)
    kept = settings.home / "models" / "trained" / f"{version}.pt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    shutil.copyfile(trained.weights, partial)
    partial.replace(kept)
    return kept


def _tell_data(data: "LabelledFolder") -> None:
    """How many pictures each class has in each split, and which files are left out."""
    counts = data.counts()
    table = Table("class", *next(iter(counts.values())), box=None)
    for name, row in counts.items():
        table.add_row(name, *map(str, row.values()))
    err.print(table)
    for file in data.skipped[:_SHOWN_SKIPPED]:
        err.print(f"left out: {file.path}: {file.why}", style="yellow", soft_wrap=True)
    if len(data.skipped) > _SHOWN_SKIPPED:
        err.print(f"left out: {len(data.skipped) - _SHOWN_SKIPPED} more; skipped.json names them", style="yellow")


@contextmanager
def _epoch_bar(config: "TrainingConfig") -> Iterator[Callable[[int, float], None]]:
    """A bar of the passes; call what it gives after each."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), console=err) as progress, lines_without_terminal(progress):
        task = progress.add_task("", total=config.epochs)
        yield lambda epoch, top1: progress.update(task, completed=epoch, description=f"right on validation: {top1:.3f}")


def _tell_figures(trained: "TrainedClassifier") -> None:
    """The figures on the test split."""
    metrics = trained.metrics
    err.print(f"right on the test pictures: {metrics['top1']:.3f}, after {metrics['epochs']} passes")
    table = Table("true class", *(f"as {name}" for name in metrics["confusion"]), box=None)
    for name, row in metrics["confusion"].items():
        table.add_row(name, *map(str, row.values()))
    err.print(table)
