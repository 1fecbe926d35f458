"""``imgpipe models train-bottle`` from pictures to settings that work, and what it refuses."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.model_registry import register_model
from imgpipe_dagster.catalogue.tables import ModelVersion
from imgpipe_dagster.cli import app
from imgpipe_dagster.models.classifier import ClassifierOptions, load_classifier
from imgpipe_dagster.settings import DEMO_BOTTLE_WEIGHTS

pytestmark = pytest.mark.native

IMGPIPE = str(Path(sys.executable).with_name("imgpipe"))


def call(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("IMGPIPE_", "MYSQL_"))}
    environment = {**clean, "COLUMNS": "160", "IMGPIPE_HOME": str(home), "IMGPIPE_BOTTLE_DEVICE": "cpu"}
    return subprocess.run(
        [IMGPIPE, *arguments], cwd=home, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


def write_pictures(folder: Path, *, each: int) -> None:
    """Reddish, greenish and bluish noise: classes that are learned in a few steps."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("background", "closed", "opened")):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            image = rng.integers(0, 120, (40, 48, 3), np.uint8)
            image[..., channel] += 110
            cv2.imwrite(str(folder / name / f"{number}.png"), image)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("set") / "bottles"
    write_pictures(data, each=24)
    (data / "opened" / "notes.jpg").write_text("<html>no picture</html>")
    (data / "closed" / "cut.png").write_bytes((data / "closed" / "0.png").read_bytes()[:200])
    config = data.parent / "config.yaml"
    config.write_text(
        "{image_size: 32, epochs: 5, batch: 6, val_share: 0.25, test_share: 0.25, hsv_h: 0.0, hsv_s: 0.0}"
    )
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    schema.upgrade(engine)
    engine.dispose()
    options = ("--config", str(config), "--weights", str(DEMO_BOTTLE_WEIGHTS))
    return home, data, call(home, "models", "train-bottle", str(data), *options)


def test_the_weights_are_kept_with_their_figures_and_artefacts(trained) -> None:
    home, data, done = trained
    assert done.returncode == 0, done.stderr
    assert re.search(r"closed/cut\.png: truncated", done.stderr)
    assert re.search(r"opened/notes\.jpg: not_an_image", done.stderr)
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    with engine.connect() as connection:
        row = connection.execute(sa.select(ModelVersion)).one()
    engine.dispose()
    store = home / "store"
    assert (row.kind, row.version) == ("bottle_status", f"bottle_status-{row.sha256[:10]}")
    assert hashlib.sha256((store / row.files["weights.pt"]).read_bytes()).hexdigest() == row.sha256
    split = {"train": 12, "val": 6, "test": 6}
    assert row.metrics["pictures"] == {"background": split, "closed": split, "opened": split}
    assert row.metrics["top1"] >= 0.8
    assert sum(sum(counts.values()) for counts in row.metrics["confusion"].values()) == 18
    expected = {"manifest.csv", "config.yaml", "skipped.json", "results.csv", "results.png", "confusion_matrix.png"}
    expected |= {"confusion_matrix_normalized.png", "test_confusion_matrix.png", "train_batch0.jpg", "weights.pt"}
    assert expected | {"val_batch0_labels.jpg", "val_batch0_pred.jpg"} <= set(row.files)
    assert all(key == f"models/bottle_status/{row.version}/{name}" for name, key in row.files.items())
    with (store / row.files["manifest.csv"]).open(newline="") as file:
        manifest = list(csv.DictReader(file))
    assert len(manifest) == 72
    for line in manifest:
        assert hashlib.sha256((data / line["path"]).read_bytes()).hexdigest() == line["sha256"]
    assert {file["path"] for file in json.loads((store / row.files["skipped.json"]).read_text())} == {
        "closed/cut.png",
        "opened/notes.jpg",
    }
    assert not list((home / "models").glob("training-*")), "nothing but what is kept is left behind"


def test_the_printed_settings_name_weights_that_classify(trained, tmp_path: Path) -> None:
    home, data, done = trained
    printed = dict(line.split("=", 1) for line in done.stdout.splitlines())
    weights, digest = Path(printed["IMGPIPE_BOTTLE_WEIGHTS"]), printed["IMGPIPE_BOTTLE_SHA256"]
    content = weights.read_bytes()
    assert len(content) < 4_000_000
    assert str(home).encode() not in content
    with load_classifier(weights, ClassifierOptions(device="cpu"), cache_dir=tmp_path, sha256=digest) as classifier:
        assert classifier.image_size == (32, 32)
        assert sorted(classifier.names.values()) == ["background", "closed", "opened"]
        right = 0
        for name in classifier.names.values():
            image = np.asarray(cv2.imread(str(data / name / "5.png")))
            right += classifier.names[classifier.classify(image).class_id] == name
    assert right >= 2


def test_without_weights_the_architecture_is_trained_from_nothing(trained, tmp_path: Path) -> None:
    home, _, _ = trained
    write_pictures(tmp_path / "few", each=3)
    (tmp_path / "config.yaml").write_text("{image_size: 32, epochs: 1, batch: 3}")
    done = call(home, "models", "train-bottle", str(tmp_path / "few"), "--config", str(tmp_path / "config.yaml"))
    assert done.returncode == 0, done.stderr
    assert "after 1 passes" in done.stderr
    assert done.stdout.startswith("IMGPIPE_BOTTLE_WEIGHTS=")


def test_what_cannot_be_trained_on_is_one_clear_line(trained, tmp_path: Path) -> None:
    home, data, _ = trained
    (tmp_path / "one" / "opened").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("epoch: 3")
    write_pictures(tmp_path / "few", each=2)
    for arguments, message in (
        ((str(tmp_path / "one"),), "at least two; there is only 'opened'"),
        ((str(tmp_path / "few"),), "has 2 different pictures"),
        ((str(data), "--config", str(tmp_path / "config.yaml")), "unknown keys: epoch"),
        ((str(data), "--weights", "/nowhere/best.pt"), "no weights at /nowhere/best.pt"),
    ):
        done = CliRunner().invoke(app, ["models", "train-bottle", *arguments], env={"IMGPIPE_HOME": str(home)})
        assert isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == 1
        assert message in done.stderr


def test_the_registry_only_grows(database_url: str) -> None:
    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    model = {"kind": "bottle_status", "version": "v1", "sha256": "a" * 64, "files": {"weights.pt": "models/x"}}
    assert register_model(engine, **model, metrics={"top1": 0.5})
    assert not register_model(engine, **model, metrics={"top1": 0.9})
    assert register_model(engine, **{**model, "version": "v2"}, metrics={"top1": 0.9})
    with engine.connect() as connection:
        rows = connection.execute(sa.select(ModelVersion.version, ModelVersion.metrics).order_by(ModelVersion.id)).all()
    engine.dispose()
    assert rows == [("v1", {"top1": 0.5}), ("v2", {"top1": 0.9})]
