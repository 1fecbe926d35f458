"""Temples' champions in the batch: one load a temple, `no_model` where there is none, and what a new champion ages."""

import json
from unittest import mock

import h5py
import numpy as np
import pytest

from imgpipe_dagster.catalogue.model_versions import Scope, old_temple_classifications
from imgpipe_dagster.catalogue.temple_models import champion, promote, versions
from imgpipe_dagster.models.temple_classifier import TempleClassifier
from imgpipe_dagster.store.local import LocalStore
from imgpipe_dagster.temples.logs import TempleLogs
from imgpipe_dagster.temples.training import ModelSettings, import_model

pytestmark = pytest.mark.native

ROWS = "image_id", "class_name", "confidence_score", "probabilities", "anomaly", "model_version"


@pytest.fixture
def install_model(pipeline, legacy_architecture):
    """Gives a temple a model with random weights: what it says is of no account, that it says it is."""

    def install(temple, seed):
        random = np.random.default_rng(seed)
        path = pipeline.settings.home / "model_weights.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"conv2d_1", b"dense_1"]
            shapes = {"conv2d_1": [(5, 5, 3, 20), (20,)], "dense_1": [(27 * 48 * 20, 2), (2,)]}
            for name, (kernel, bias) in shapes.items():
                group = file.create_group(name)
                group.attrs["weight_names"] = [f"{name}/{kind}:0".encode() for kind in ("kernel", "bias")]
                group.create_dataset(f"{name}/kernel:0", data=random.normal(0, 0.05, kernel).astype(np.float32))
                group.create_dataset(f"{name}/bias:0", data=random.normal(0, 1, bias).astype(np.float32))
        info = json.dumps({"class_labels": ["open", "closed"], "image_shape": [96, 54]}).encode()
        files = json.dumps(legacy_architecture).encode(), path.read_bytes(), info
        store, logs = LocalStore(pipeline.settings.home / "store"), TempleLogs(pipeline.settings.home / "logs")
        return import_model(pipeline.engine, store, temple, files, ModelSettings(), logs).version.version

    return install


@pytest.fixture
def batch(pipeline, make_jpeg, install_model):
    """Three images of the hall, two of the gate, one of a shed without a model, one of no temple, a broken one."""
    install_model("hall", 1)
    install_model("gate", 2)
    for number, temple in enumerate(["hall", "gate", "hall", "gate", "hall", "shed", None]):
        pipeline.write(f"{number}.jpg", make_jpeg(number))
        pipeline.add_files(f"{number}.jpg", temple_id=temple)
    pipeline.write("broken.jpg", b"nothing")
    pipeline.add_files("broken.jpg", temple_id="hall")
    return pipeline.claim()


def temple_rows(pipeline):
    rows = pipeline.rows("classifications WHERE classifier = 'temple_category'", *ROWS)
    return {row[0]: dict(zip(ROWS, row, strict=True)) for row in rows}


def old(pipeline):
    return [
        (row.batch_key, row.model_version, row.images) for row in old_temple_classifications(pipeline.engine, Scope())
    ]


def test_each_temples_champion_answers_for_its_images_and_is_loaded_once(pipeline, batch):
    loads = mock.Mock(side_effect=TempleClassifier.from_files)
    with mock.patch("imgpipe_dagster.temples.registry.TempleClassifier.from_files", loads):
        result = pipeline.run(batch)
    assert result.success
    assert loads.call_count == 2
    rows = temple_rows(pipeline)
    hall, gate = (champion(pipeline.engine, temple).version for temple in ("hall", "gate"))
    assert [rows[n]["model_version"] for n in (1, 2, 3, 4, 5, 6)] == [hall, gate, hall, gate, hall, None]
    assert set(rows) == {1, 2, 3, 4, 5, 6}, "neither the image without a temple nor the broken one"
    for number in range(1, 6):
        probabilities = json.loads(rows[number]["probabilities"])
        assert set(probabilities) == {"open", "closed"}
        assert rows[number]["confidence_score"] == pytest.approx(max(probabilities.values()), abs=1e-6)
        assert rows[number]["class_name"] == max(probabilities, key=probabilities.__getitem__)
    shed = rows[6]
    assert (shed["class_name"], shed["confidence_score"], shed["probabilities"]) == ("no_model", None, None)
    answers = pipeline.rows("image_predictions", "image_id", "status", "temple_category", "temple_version")
    assert answers[5] == (6, "predicted", "no_model", None)
    assert answers[0] == (1, "predicted", rows[1]["class_name"], hall)
    assert answers[6] == (7, "predicted", None, None)
    (told,) = result.asset_materializations_for_node("classifications")
    assert told.metadata["temple_images"].value == 6
    assert told.metadata["temple_models"].value == f"gate: {gate}, hall: {hall}"
    assert old(pipeline) == []


def test_a_new_champion_ages_the_images_of_its_temple_and_no_others(pipeline, batch, install_model):
    pipeline.run(batch)
    (hall,) = (version.version for version in versions(pipeline.engine, "hall"))
    newer = install_model("hall", 3)
    if champion(pipeline.engine, "hall").version != newer:
        promote(pipeline.engine, "hall", newer, by="test", why="test")
    assert old(pipeline) == [(batch.key, hall, 3)]
    install_model("shed", 4)
    assert old(pipeline) == [(batch.key, hall, 3), (batch.key, "no_model", 1)]
    pipeline.run(batch)
    assert old(pipeline) == []
    rows = temple_rows(pipeline)
    assert [rows[n]["model_version"] for n in (1, 3, 5)] == [newer] * 3
    assert rows[6]["class_name"] in ("open", "closed")


def test_a_champion_that_was_changed_on_disk_is_told_and_fails_nothing(pipeline, batch):
    entry = versions(pipeline.engine, "hall")[0].files["model.onnx"]
    (pipeline.settings.home / "store" / entry["object_key"]).write_bytes(b"changed")
    result = pipeline.run(batch)
    assert result.success
    rows = temple_rows(pipeline)
    assert [rows[n]["class_name"] for n in (1, 3, 5)] == ["no_model"] * 3
    assert rows[2]["model_version"] == champion(pipeline.engine, "gate").version
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks["every_champion_could_be_used"] is False
    assert "has changed since it was registered" in pipeline.rows("alerts", "subject", "body")[0][1]
