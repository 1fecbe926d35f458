"""A temple's life between catalogue, store and models: pictures in, models made and contested, and what goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import TempleImageOrigin, TempleSplit
from imgpipe_dagster.catalogue.temple_images import COMMON, TempleNameError, training_set
from imgpipe_dagster.catalogue.temple_models import (
    ModelExistsError,
    NoModelError,
    TempleBusyError,
    champion,
    take_lease,
    versions,
)
from imgpipe_dagster.imaging.validate import Validator
from imgpipe_dagster.models.temple_classifier import ModelFile
from imgpipe_dagster.models.temple_cnn import TrainingHooks, TrainingOptions, TrainingStoppedError
from imgpipe_dagster.models.temple_training import Stage, TrainingError
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.store.base import StoreError
from imgpipe_dagster.store.local import LocalStore
from imgpipe_dagster.temples.logs import ERROR_LOG, STATUS_LOG, TempleLogs
from imgpipe_dagster.temples.pictures import LabelledFile, add_files, find_labelled_files
from imgpipe_dagster.temples.prediction import FileToClassify, predict_files, sort_into
from imgpipe_dagster.temples.registry import ModelFileChangedError, load_classifier
from imgpipe_dagster.temples.training import ModelSettings, import_model, make_model

pytestmark = pytest.mark.native

TRAIN, TEST = TempleSplit.TRAIN, TempleSplit.TEST


class Site:
    """An installation in a folder: SQLite, a local store, logs, and how models are made in it."""

    def __init__(self, folder, encode, draw_temple):
        self.folder = folder
        self.engine = connect(Settings(home=folder).catalogue_url)
        schema.upgrade(self.engine)
        self.store = LocalStore(folder / "store")
        self.logs = TempleLogs(folder / "logs")
        self.model: Any = None  # of a site that has one
        self.stages: list[Stage] = []
        self._encode = lambda *arguments: encode(draw_temple(*arguments), "PNG")

    def picture(self, category, seed, *size):
        return self._encode(category, seed, *size)

    def add(self, temple, split, files):
        with Validator() as validator:
            labelled = [LabelledFile(name, category, lambda d=data: d) for name, category, data in files]
            return add_files(
                self.engine, self.store, validator, temple, split, labelled, origin=TempleImageOrigin.IMPORT
            )

    def fill(self, temple="hall", train=8, test=3):
        for split, each, first in ((TRAIN, train, 0), (TEST, test, 500)):
            files = [(f"{c}{n}", c, self.picture(c, first + n)) for c in ("left", "right") for n in range(each)]
            assert self.add(temple, split, files).added == 2 * each

    def make(self, temple="hall", *, forceful=False, epochs=1, seed=1, **hooks):
        options = TrainingOptions(epochs=epochs, seed=seed, batch_size=8)
        stage = hooks.pop("on_stage", lambda _stage: None)
        return make_model(
            self.engine,
            self.store,
            temple,
            ModelSettings(0.5, options=options),
            self.logs,
            forceful=forceful,
            hooks=TrainingHooks(**hooks),
            on_stage=stage,
        )

    def log(self, name=STATUS_LOG):
        return (self.folder / "logs" / name).read_text()

    def files(self):
        return sorted(info.key for info in self.store.list("models/"))


@pytest.fixture
def site(tmp_path, encode, draw_temple):
    made = Site(tmp_path, encode, draw_temple)
    yield made
    made.engine.dispose()


@pytest.fixture(scope="module")
def trained_site(tmp_path_factory, encode, draw_temple):
    """A site whose hall has a model; for tests that do not change it."""
    made = Site(tmp_path_factory.mktemp("site"), encode, draw_temple)
    made.fill(train=16, test=6)
    stages = []
    made.stages, made.model = stages, made.make(epochs=12, on_stage=stages.append)
    yield made
    made.engine.dispose()


def test_pictures_lie_where_the_design_says_and_come_in_once(site):
    files = [("a", "door open", site.picture("left", 1)), ("b", "north/door", site.picture("right", 2))]
    assert site.add("Hall 3/मंदिर", TRAIN, files).added == 2
    again = site.add("Hall 3/मंदिर", TRAIN, files)
    assert (again.added, again.known) == (0, 2)
    keys = [info.key for info in site.store.list("training/")]
    assert [key.rsplit("/", 1)[0] for key in keys] == [
        "training/Hall 3%2Fमंदिर/train/door open",
        "training/Hall 3%2Fमंदिर/train/north%2Fdoor",
    ]


def test_what_is_no_picture_and_what_would_leak_is_refused_and_reported(site):
    picture = site.picture("left", 1)
    site.add("hall", TEST, [("t", "left", picture)])
    report = site.add(
        "hall",
        TRAIN,
        [
            ("leak", "left", picture),
            ("page.png", "left", b"<html>"),
            ("cut.png", "left", site.picture("left", 2)[:200]),
            ("good", "left", site.picture("left", 3)),
            ("good again", "left", site.picture("left", 3)),
            ("good elsewhere", "right", site.picture("left", 3)),
        ],
    )
    assert (report.added, report.known) == (1, 1)
    assert {refused.name: refused.why.split(":")[0] for refused in report.refused} == {
        "leak": "It is a test picture",
        "page.png": "not_an_image",
        "cut.png": "truncated",
        "good elsewhere": "It is the same picture as good.",
    }
    assert len(list(site.store.list("training/"))) == 2, "nothing of what was refused is kept"


@pytest.mark.parametrize("temple", ["../x", "a/../../b", "", "/etc"])
def test_a_temple_id_that_leads_elsewhere_is_refused(site, temple):
    with pytest.raises(TempleNameError):
        site.add(temple, TRAIN, [("a", "x", site.picture("left", 1))])


def test_a_folder_of_folders_gives_categories_and_says_what_lies_about(tmp_path, site):
    (tmp_path / "in" / "open" / "deeper").mkdir(parents=True)
    (tmp_path / "in" / "closed").mkdir()
    (tmp_path / "in" / ".cache").mkdir()
    (tmp_path / "in" / "open" / "a.png").write_bytes(b"a")
    (tmp_path / "in" / "open" / "deeper" / "b.png").write_bytes(b"b")
    (tmp_path / "in" / "stray.png").write_bytes(b"c")
    (tmp_path / "in" / "two\nlines").mkdir()
    files, strays = find_labelled_files(tmp_path / "in", max_bytes=10)
    assert [(file.name, file.category, file.read()) for file in files] == [
        ("open/a.png", "open", b"a"),
        ("open/deeper/b.png", "open", b"b"),
    ]
    assert [(stray.name, stray.why) for stray in strays] == [
        ("closed/", "The category is empty."),
        ("stray.png", "It lies in no category's folder."),
        ("two\nlines/", "The category 'two\\nlines' has characters that cannot be printed."),
    ]


def test_a_model_is_made_tested_registered_and_serves(trained_site):
    made = trained_site.model
    assert made.serves
    assert made.report.accuracy == 1
    assert trained_site.stages == list(Stage)
    version = versions(trained_site.engine, "hall")[0]
    assert version.labels == ["left", "right"]
    assert (version.input_height, version.input_width) == (32, 40)
    assert (version.train_images, version.test_images) == (32, 12)
    assert len(version.data_fingerprint or "") == 64
    assert version.metrics["confusion"] == [[6, 0, 0], [0, 6, 0]]
    assert len(version.metrics["curve"]["val_loss"]) <= 12
    stored = {f"models/temples/hall/{version.version}/{name}" for name in version.files}
    assert set(trained_site.files()) >= stored
    assert len(stored) == len(ModelFile)
    assert "champion" in trained_site.log()


def test_an_existing_model_is_not_trained_over_by_accident(trained_site):
    with pytest.raises(ModelExistsError, match="force"):
        trained_site.make()
    assert "ModelExistsError" in trained_site.log(ERROR_LOG)
    assert "Traceback" in trained_site.log(ERROR_LOG)


def test_files_are_classified_logged_with_every_probability_and_sorted(trained_site, tmp_path):
    for number, category in enumerate(["left", "right", "none"]):
        (tmp_path / f"{category}.png").write_bytes(trained_site.picture(category, 900 + number))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    paths = [*sorted(tmp_path.glob("*.png")), tmp_path / "gone.png", tmp_path / "left.png"]
    classifier = load_classifier(trained_site.engine, trained_site.store, "hall")
    files = [FileToClassify(str(path), path.read_bytes) for path in paths]
    with Validator() as validator:
        answers = list(predict_files(classifier, validator, files, trained_site.logs, "hall"))
    assert sorted(answer.number for answer in answers) == list(range(6)), "a file that comes twice is answered twice"
    assert all(answer.file == str(paths[answer.number]) for answer in answers)
    found: dict[str, Any] = {Path(answer.file).stem: answer for answer in answers}
    assert [found[name].answer.image_class for name in ("left", "right")] == ["left", "right"]
    assert found["none"].answer.anomaly
    assert "not_an_image" in found["broken"].error
    assert "cannot be read" in found["gone"].error
    line = next(line for line in trained_site.log().splitlines() if "left.png" in line)
    probabilities = found["left"].answer.probabilities
    assert all(f"{label} {value:.6f}" in line for label, value in probabilities.items())
    assert found["left"].as_dict().keys() >= {"file", "image_class", "class_confidence", "probabilities", "anomaly"}
    out = tmp_path / "sorted"
    sorted_ = [sort_into(out, answer) for answer in answers if answer.answer]
    assert {str(path.relative_to(out)) for path in sorted_} == {
        "left/left.png",
        "right/right.png",
        "anomalies/none.png",
    }
    (tmp_path / "left.png").write_bytes(trained_site.picture("left", 950))
    assert sort_into(out, found["left"]).name == "left-2.png", "another picture of the same name keeps both"


def test_files_that_are_not_what_was_registered_are_not_loaded(trained_site):
    entry = trained_site.model.version.files["model.onnx"]
    onnx = trained_site.folder / "store" / entry["object_key"]
    original = onnx.read_bytes()
    try:
        onnx.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(ModelFileChangedError, match="changed since"):
            load_classifier(trained_site.engine, trained_site.store, "hall")
        onnx.unlink()
        with pytest.raises(ModelFileChangedError, match="gone"):
            load_classifier(trained_site.engine, trained_site.store, "hall")
    finally:
        onnx.write_bytes(original)


def test_a_model_that_is_worse_stays_a_challenger_and_says_why(trained_site):
    swapped = {"left": "right", "right": "left"}
    files = [(f"{c}{n}", swapped[c], trained_site.picture(c, 100 + n)) for c in swapped for n in range(60)]
    trained_site.add("hall", TRAIN, files)
    bad = trained_site.make(forceful=True, epochs=4)
    assert bad.report.correct < trained_site.model.report.correct, "most of what it was taught is wrong"
    assert not bad.serves
    serving = champion(trained_site.engine, "hall")
    assert serving
    assert serving.version == trained_site.model.version.version
    assert "worse" in bad.version.verdict
    assert "challenger" in trained_site.log()


def test_a_temple_without_a_model_says_what_to_do(site):
    with pytest.raises(NoModelError, match="imgpipe temple train hall"):
        load_classifier(site.engine, site.store, "hall")


def test_sizes_mix_common_categories_join_and_what_went_bad_takes_no_part(site):
    files = [(f"{n}", "left", site.picture("left", n, 80 + 7 * n, 64 + 9 * n)) for n in range(6)]
    assert site.add("hall", TRAIN, files).added == 6
    with pytest.raises(TrainingError, match="only 'left'"):
        site.make()
    site.add(COMMON, TRAIN, [(f"x{n}", "nothing", site.picture("none", 50 + n, 40, 90)) for n in range(4)])
    own = [picture for picture in training_set(site.engine, "hall").train if picture.category == "left"]
    (site.folder / "store" / own[0].object_key).write_bytes(b"rubbish")
    (site.folder / "store" / own[1].object_key).unlink()
    made = site.make()
    assert made.version.labels == ["left", "nothing"]
    assert made.version.train_images == 8
    assert [refused.why for refused in made.unreadable] == [
        "Its bytes in the store have changed.",
        "It is not in the store.",
    ]
    with pytest.raises(TempleNameError, match="no temple"):
        site.make(COMMON)


def test_a_training_that_is_stopped_leaves_nothing(site):
    site.fill(train=3, test=1)
    with pytest.raises(TrainingStoppedError):
        site.make(should_stop=lambda: True)
    assert (versions(site.engine, "hall"), site.files()) == ([], [])
    take_lease(site.engine, "hall")  # the one of the training was given back


class FullStore(LocalStore):
    """A disk with room for a few files of models."""

    def put(self, key, data, **options):
        if key.startswith("models/") and len(list(self.list("models/"))) >= 3:
            raise StoreError("The store is full: free some space.")
        super().put(key, data, **options)


def test_two_trainings_of_one_temple_do_not_meet_and_a_full_disk_registers_nothing(site):
    site.fill(train=3, test=1)
    site.store = FullStore(site.folder / "store")
    met = []

    def meet(_figures):
        with pytest.raises(TempleBusyError) as refused:
            site.make(forceful=True)
        met.append(str(refused.value))

    with pytest.raises(StoreError, match="full"):
        site.make(on_epoch=meet)
    assert "just now" in met[0]
    assert (versions(site.engine, "hall"), site.files()) == ([], [])
    assert champion(site.engine, "hall") is None


KILLED = """
import sys, time
from pathlib import Path
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.models.temple_classifier import ModelFile
from imgpipe_dagster.models.temple_cnn import TrainingOptions
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.store.local import LocalStore
from imgpipe_dagster.temples.logs import TempleLogs
from imgpipe_dagster.temples.training import ModelSettings, make_model

class SlowStore(LocalStore):
    def put(self, key, data, **options):
        super().put(key, data, **options)
        if key.startswith("models/"):
            print("stored", flush=True)
            time.sleep(60)

home = Path(sys.argv[1])
make_model(connect(Settings(home=home, _env_file=None).catalogue_url), SlowStore(home / "store"), "hall",
    ModelSettings(0.5, options=TrainingOptions(epochs=1)), TempleLogs(home / "logs"), forceful=False)
"""


def test_a_training_that_is_killed_while_it_saves_makes_no_champion(site, monkeypatch):
    site.fill(train=3, test=1)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(site.folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout
    assert process.stdout.readline() == "stored\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert versions(site.engine, "hall") == []
    assert champion(site.engine, "hall") is None
    assert len(site.files()) == 1
    with pytest.raises(TempleBusyError, match="wait a minute"):
        site.make()
    monkeypatch.setattr("imgpipe_dagster.catalogue.temple_models.LEASE_LIMIT_S", 0.5)
    time.sleep(1)
    take_lease(site.engine, "hall")  # the next training is not hindered


def test_a_model_of_the_older_system_is_taken_over_and_contested(site, trained_site, legacy_architecture):
    random = np.random.default_rng(0)
    shapes = [(5, 5, 3, 20), (20,), (27 * 48 * 20, 2), (2,)]
    path = site.folder / "model_weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv2d_1", b"dense_1"]
        for name, own in (("conv2d_1", shapes[:2]), ("dense_1", shapes[2:])):
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{kind}:0".encode() for kind in ("kernel", "bias")]
            for kind, shape in zip(("kernel", "bias"), own, strict=True):
                group.create_dataset(f"{name}/{kind}:0", data=random.normal(0, 0.05, shape).astype(np.float32))
    info = json.dumps({"class_labels": ["left", "right"], "image_shape": [96, 54]}).encode()
    files = (json.dumps(legacy_architecture).encode(), path.read_bytes(), info)
    first = import_model(site.engine, site.store, "hall", files, ModelSettings(), site.logs)
    assert (first.serves, first.version.origin) == (True, "imported")
    assert "Unknown scenes that it takes for left, right are not noticed" in first.version.verdict
    for wrong in ("../x", "Anomalies"):
        named = json.dumps({"class_labels": ["left", wrong]}).encode()
        with pytest.raises(TempleNameError):
            import_model(site.engine, site.store, "hall", (*files[:2], named), ModelSettings(), site.logs)
    assert load_classifier(site.engine, site.store, "hall").info.labels == ("left", "right")
    (site.folder / "store" / first.version.files["scenes.npz"]["object_key"]).write_bytes(b"changed")
    repaired = import_model(site.engine, site.store, "hall", files, ModelSettings(), site.logs)
    assert repaired.serves, "a champion that cannot be loaded does not stand in the way"
    assert "cannot be used" in repaired.version.verdict
    again = import_model(trained_site.engine, trained_site.store, "hall", files, ModelSettings(), trained_site.logs)
    assert again.report.pictures == 12
    assert not again.serves, "the older model is worse on the test pictures"


def test_logs_turn_over_and_keep_one_line_an_entry(tmp_path):
    logs = TempleLogs(tmp_path, max_bytes=200, kept=2)
    for number in range(12):
        logs.status(f"entry {number} with a\nline break")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".lock", "log.txt", "log.txt.1", "log.txt.2"]
    assert (tmp_path / "log.txt").read_text().endswith("entry 11 with a\\nline break\n")
    assert all(path.stat().st_size < 400 for path in tmp_path.iterdir())
