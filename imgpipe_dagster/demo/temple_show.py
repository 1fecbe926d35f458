"""The demo's temples: labelled pictures of two rendered halls, a model for each, and what their cameras show today."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import sqlalchemy as sa
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy.engine import Engine, RowMapping

from imgpipe_dagster.catalogue.imports import ImportRow, import_rows
from imgpipe_dagster.catalogue.tables import (
    TEMPLE_CATEGORY,
    Classification,
    ProductImage,
    TempleImageOrigin,
    TempleSplit,
    ValidatedImage,
)
from imgpipe_dagster.catalogue.temple_models import champions, get_version
from imgpipe_dagster.cli.progress import lines_without_terminal
from imgpipe_dagster.demo.cdn import DemoCdn
from imgpipe_dagster.demo.halls import HALLS, Door, render_hall
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.temples.pictures import LabelledFile, add_files

SIZE = 480, 270
"""Pixels of the labelled pictures; a tenth of them is what the networks take."""

TRAIN_EACH, TEST_EACH = 64, 10
TODAY = (Door.OPEN, Door.CLOSED, Door.OPEN, Door.CLOSED, Door.NONE)
_TEST_SEED, _TODAY_SEED = 10_000, 20_000
_TILE_WIDTH = 320


@dataclass(frozen=True)
class HallFile:
    """One picture of a hall's camera, for the CDN.

    Attributes:
        temple_id: The hall.
        door: What it shows.
        number: Which of the day's pictures.
    """

    temple_id: str
    door: Door
    number: int

    @property
    def name(self) -> str:
        """The file's name in the folder and in its URL."""
        return f"{self.temple_id}_{self.number:02d}-{self.door}.jpg"

    def read(self) -> bytes:
        """Make the file's bytes."""
        return _jpeg(render_hall(HALLS[self.temple_id], self.door, _TODAY_SEED + self.number))


def hall_files() -> Iterator[HallFile]:
    """What the cameras show today; nothing is rendered yet."""
    for temple in HALLS:
        for number, door in enumerate(TODAY):
            yield HallFile(temple, door, number)


def add_hall_rows(engine: Engine, cdn: DemoCdn, files: list[HallFile]) -> None:
    """Bring today's pictures into the catalogue."""
    import_rows(engine, (ImportRow(image_url=cdn.url_for(file.name), temple_id=file.temple_id) for file in files))


def train_temples(settings: Settings, engine: Engine, err: Console) -> None:
    """Add labelled pictures of each hall and train its model; a hall without its door is in the tests only."""
    from imgpipe_dagster.build import build_resources
    from imgpipe_dagster.models.temple_cnn import TrainingHooks
    from imgpipe_dagster.temple_events import note_model
    from imgpipe_dagster.temples.training import make_model

    resources = build_resources(settings)
    store, trainer = resources["image_store"].store, resources["temple_trainer"]
    with (
        Progress(console=err) as progress,
        lines_without_terminal(progress),
        resources["image_validator"].open() as validator,
    ):
        for temple in HALLS:
            task = progress.add_task(f"training {temple}", total=trainer.epochs)
            for split in TempleSplit:
                files = list(_labelled(temple, split))
                add_files(engine, store, validator, temple, split, files, origin=TempleImageOrigin.IMPORT)
            hooks = TrainingHooks(lambda _figures, task=task: progress.advance(task))
            made = make_model(
                engine, store, temple, trainer.settings, trainer.logs, forceful=True, by="demo", hooks=hooks
            )
            progress.update(task, completed=trainer.epochs)
            note_model(settings, made)


def print_temples(engine: Engine, out: Console) -> None:
    """A line for each hall: its champion, how it did on the frozen test pictures, and what it says of today's."""
    table = Table(box=None, title="Temples", title_justify="left")
    for name in ("temple", "champion", "trained on", "accuracy", "false alarms", "no door: flagged"):
        table.add_column(name, no_wrap=name in ("temple", "champion"))
    table.add_column("today")
    today = _answers(engine)
    for temple, champion in champions(engine).items():
        version = get_version(engine, temple, champion.version)
        rates = [version.metrics[name] for name in ("accuracy", "false_alarm_rate", "unknown_flagged_rate")]
        said = Counter(f"{row['class_name']}{' (anomaly)' if row['anomaly'] else ''}" for row in today[temple])
        told = ", ".join(f"{name} {count}" for name, count in sorted(said.items()))
        table.add_row(temple, version.version, str(version.train_images), *(f"{rate:.0%}" for rate in rates), told)
    out.print(table, soft_wrap=True)


def write_temple_sheet(settings: Settings, engine: Engine, path: Path) -> Path:
    """Draw today's pictures with what the champions say of them, as one picture on disk."""
    from imgpipe_dagster.imaging.decode import decode_bgr
    from imgpipe_dagster.imaging.draw import contact_sheet, thumbnail
    from imgpipe_dagster.store.opening import open_store

    store = open_store(settings.effective_store_url)
    tiles = []
    for rows in _answers(engine).values():
        for row in rows:
            picture = thumbnail(decode_bgr(store.get(row["object_key"])), _TILE_WIDTH, _TILE_WIDTH)
            mark = " (anomaly)" if row["anomaly"] else ""
            tiles.append((picture, f"{row['class_name']} {row['confidence_score']:.2f}{mark}"))
    path.write_bytes(contact_sheet(tiles, columns=len(TODAY), max_bytes=None))
    return path


def _answers(engine: Engine) -> dict[str, list[RowMapping]]:
    """What the champions say of today's pictures, by hall, in the order of their rows."""
    same = [
        sa.and_(table.image_id == ProductImage.id, table.batch_key == ProductImage.batch_key)
        for table in (Classification, ValidatedImage)
    ]
    query = (
        sa.select(
            ProductImage.temple_id,
            Classification.class_name,
            Classification.confidence_score,
            Classification.anomaly,
            ValidatedImage.object_key,
        )
        .join(Classification, same[0])
        .join(ValidatedImage, same[1])
        .where(ProductImage.temple_id.in_(HALLS), Classification.classifier == TEMPLE_CATEGORY)
        .order_by(ProductImage.id)
    )
    found: dict[str, list[RowMapping]] = {temple: [] for temple in HALLS}
    with engine.connect() as connection:
        for row in connection.execute(query).mappings():
            found[str(row["temple_id"])].append(row)
    return found


def _labelled(temple: str, split: TempleSplit) -> Iterator[LabelledFile]:
    doors = (Door.OPEN, Door.CLOSED) if split is TempleSplit.TRAIN else tuple(Door)
    each, first = (TRAIN_EACH, 0) if split is TempleSplit.TRAIN else (TEST_EACH, _TEST_SEED)
    for door in doors:
        for seed in range(first, first + each):
            yield LabelledFile(
                f"{door} {seed}",
                door.value,
                lambda door=door, seed=seed: _jpeg(render_hall(HALLS[temple], door, seed, *SIZE)),
            )


def _jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
