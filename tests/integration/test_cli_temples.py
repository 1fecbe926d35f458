"""``imgpipe temple``: the life of a model from the command line, over one installation."""

import json
import re
import unicodedata
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import ProductImage, ValidatedImage
from imgpipe_dagster.cli import app, common

pytestmark = pytest.mark.native

TEMPLE = "hall 3/north, gat\u00e9"
PARTITION = "hall%203%2Fnorth%2C%20gat\u00e9"


class Commands:
    """Calls of ``imgpipe temple`` in a folder with pictures."""

    def __init__(self, folder, encode, draw_temple):
        self.folder = folder
        self.url = f"sqlite:///{folder}/catalogue.db"
        self.draw = lambda *arguments: encode(draw_temple(*arguments), "PNG")
        self.engine = connect(sa.make_url(self.url))
        schema.upgrade(self.engine)

    def write(self, name, *drawn):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.draw(*drawn))
        return path

    def __call__(self, *arguments, **environment):
        own = {
            "IMGPIPE_HOME": str(self.folder / "home"),
            "IMGPIPE_DATABASE_URL": self.url,
            "IMGPIPE_TEMPLE_SCALE_FACTOR": "0.5",
            "IMGPIPE_TEMPLE_EPOCHS": "12",
            "DAGSTER_HOME": None,
            "COLUMNS": "200",
        }
        typed = [unicodedata.normalize("NFD", str(argument)) for argument in arguments]  # as some keyboards do
        return CliRunner().invoke(app, ["temple", *typed], env={**own, **environment})


@pytest.fixture(scope="module")
def temple(tmp_path_factory, encode, draw_temple):
    """A temple that has pictures; the tests below are its life, one after the other."""
    made = Commands(tmp_path_factory.mktemp("site"), encode, draw_temple)
    for number in range(16):
        for category in ("left", "right"):
            made.write(f"train/{category}/{number}.png", category, number)
    for number in range(4):
        for category in ("left", "right", "none"):
            made.write(f"test/{category}/{number}.png", category, 500 + number)
    yield made
    made.engine.dispose()


def failed(result, *words):
    """The command ended with one clear line."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    return result.exit_code == 1


def test_pictures_come_in_with_a_report_and_the_temple_gets_its_partition(temple, monkeypatch):
    (temple.folder / "train" / "left" / "torn.png").write_bytes(b"\x89PNG")
    first = temple("add", TEMPLE, temple.folder / "train", "--split", "train")
    assert first.exit_code == 3
    assert "32 pictures added, 0 known already, 1 refused" in first.stdout
    assert "left/torn.png" in first.stderr
    (temple.folder / "train" / "left" / "torn.png").unlink()
    again = json.loads(temple("add", TEMPLE, temple.folder / "train", "--split", "train", "--json").stdout)
    assert again == {"added": 0, "known": 32, "refused": []}
    assert temple("add", TEMPLE, temple.folder / "test", "--split", "test").exit_code == 0
    leak = temple("add", TEMPLE, temple.folder / "train", "--split", "test")
    assert leak.exit_code == 3
    assert "a test with it would lie" in leak.stderr
    monkeypatch.setenv("DAGSTER_HOME", str(temple.folder / "home" / "dagster"))
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("temples") == [PARTITION]


def test_what_cannot_be_done_is_one_clear_line(temple):
    assert failed(temple("add", "../x", temple.folder / "train", "--split", "train"), "leads elsewhere")
    assert failed(temple("add", "x", temple.folder / "nowhere", "--split", "train"), "nowhere")
    assert temple("add", "x", temple.folder, "--split", "both").exit_code == 2
    assert failed(temple("train", "nowhere"), "at least two categories")
    assert failed(temple("predict", "nowhere", temple.folder), "imgpipe temple train nowhere")
    assert failed(temple("rollback", TEMPLE), "no earlier champion")
    assert failed(temple("import-model", temple.folder / "train"), "model_architecture.json")


def test_a_model_is_trained_contested_promoted_and_rolled_back(temple, monkeypatch):
    first = json.loads(temple("train", TEMPLE, "--json").stdout)
    assert (first["champion"], first["number"], first["labels"]) == (True, 1, ["left", "right"])
    again = temple("train", TEMPLE)
    assert failed(again, "--force")
    assert "passes" not in again.stderr, "a bar that never moved is not left behind"
    second = temple("train", TEMPLE, "--force", IMGPIPE_TEMPLE_EPOCHS="1")
    assert second.exit_code == 0, second.stderr
    (listed,) = json.loads(temple("list", "--json").stdout)
    assert listed["temple_id"] == TEMPLE
    assert (listed["train"], listed["test"]["left"]) == ({"left": 16, "right": 16}, 4)
    versions = json.loads(temple("list", TEMPLE, "--json").stdout)
    assert [version["number"] for version in versions] == [1, 2]
    assert [version["champion"] for version in versions] == [True, False], "one pass teaches nothing"
    assert "worse" in versions[1]["verdict"]
    promoted = temple("promote", TEMPLE, "2")
    assert "serves from now on. Promoted by hand." in promoted.stdout
    assert "It may be no better than guessing" in promoted.stderr
    assert f"{TEMPLE}: It may be no better than guessing" in temple("list").stdout
    assert failed(temple("promote", TEMPLE, "2"), "serves already")
    listed = " ".join(temple("list", TEMPLE).stdout.split())  # wherever its lines are broken
    assert "guessing" in listed.partition("2: It is worse")[2]
    assert re.search(r"Serving since .* UTC \(\w+\): 2-\w+\. Promoted by hand\.", listed)
    assert failed(temple("list", "nosuch"), "There is no temple nosuch")
    (weights,) = (temple.folder / "home" / "store").glob(f"models/**/{versions[0]['version']}/model.weights.h5")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert failed(temple("rollback", TEMPLE), "model.weights.h5", "has changed")
    assert failed(temple("predict", TEMPLE, str(weights), "--version", "1"), "model.weights.h5", "has changed")
    weights.write_bytes(whole)
    (changed,) = (temple.folder / "home" / "store").glob(f"models/**/{versions[0]['version']}/model.onnx")
    content = changed.read_bytes()
    changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert failed(temple("rollback", TEMPLE), "has changed")
    assert failed(temple("predict", TEMPLE, str(changed), "--version", "1"), "has changed")
    noted = next(temple.folder.rglob("error_log.txt")).read_text()
    assert "Promotion of 1-" in noted
    assert f"Prediction of {TEMPLE}" in noted
    changed.write_bytes(content)
    assert versions[0]["version"] in temple("rollback", TEMPLE).stdout
    changed.write_bytes(content[:-1])
    assert "has changed" in temple("list", TEMPLE).stderr, "the champion is damaged now"
    changed.write_bytes(content)
    assert failed(temple("rollback", TEMPLE), "no earlier champion")
    monkeypatch.setattr(common.out, "width", 80)
    for shown in (temple("list"), temple("list", TEMPLE)):
        assert versions[0]["version"] in shown.stdout
        assert "…" not in shown.stdout
        assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "guessing" not in temple("list").stdout
    monkeypatch.setenv("DAGSTER_HOME", str(temple.folder / "home" / "dagster"))
    with dg.DagsterInstance.get() as instance:
        events = instance.fetch_materializations(dg.AssetKey("temple_models"), limit=10).records
    assert [event.partition_key for event in events] == [PARTITION] * 2
    newest = events[0].asset_materialization
    assert newest
    assert newest.metadata["champion"].value is False
    assert "data:image/png" in str(newest.metadata["learning_curve"].value)
    assert "| **left** |" in str(newest.metadata["confusion"].value)


def test_files_get_a_line_each_and_are_sorted_into_folders(temple):
    for name, category in (("new/a.png", "left"), ("new/deep/b.png", "right"), ("new/c.png", "none")):
        temple.write(name, category, 900)
    (temple.folder / "new" / "torn.png").write_bytes(b"\x89PNG")
    out = temple.folder / "new" / "sorted"
    refused = temple("predict", TEMPLE, temple.folder / "new", "--sort-into", temple.folder / "new" / "a.png" / "deep")
    assert failed(refused, "a.png/deep: Not a directory")
    assert not refused.stdout, "it is refused before anything is predicted"
    for _ in range(2):
        result = temple("predict", TEMPLE, temple.folder / "new", "--json", "--sort-into", out)
        assert result.exit_code == 3
        lines = {Path(line["file"]).name: line for line in map(json.loads, result.stdout.splitlines())}
        assert set(lines) == {"a.png", "b.png", "c.png", "torn.png"}, "what was sorted is not read again"
        assert lines["a.png"]["image_class"] == "left"
        assert lines["a.png"]["class_confidence"] == max(lines["a.png"]["probabilities"].values())
        assert (lines["a.png"]["anomaly"], lines["c.png"]["anomaly"]) == (False, True)
        assert "not_an_image" in lines["torn.png"]["error"]
        found = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
        assert found == ["anomalies/c.png", "left/a.png", "right/b.png"]
    log = (temple.folder / "home" / "logs" / "temples" / "log.txt").read_text()
    assert "a.png: left; left 0." in log


def test_labels_of_people_join_the_training_and_never_the_test(temple, encode, draw_temple):
    store = temple.folder / "home" / "store"
    keys = {1: "images/aa/1.png", 2: "images/aa/2.png"}
    (store / "images" / "aa").mkdir(parents=True)
    (store / keys[1]).write_bytes(temple.draw("left", 3000))
    (store / keys[2]).write_bytes(temple.draw("left", 500))  # a test picture
    with temple.engine.begin() as connection:
        for image_id in (1, 2, 3):
            where = {"image_url": "http://cdn/a", "batch_key": "b"}
            own = None if image_id == 3 else TEMPLE
            connection.execute(sa.insert(ProductImage).values(id=image_id, temple_id=own, **where))
        for image_id, key in keys.items():
            row = {"image_id": image_id, "batch_key": "b", "object_key": key}
            connection.execute(sa.insert(ValidatedImage).values(**row))
    result = temple("label", "left", 1, 2, 3, 4)
    assert result.exit_code == 3
    assert "1 pictures added, 0 known already, 3 refused" in result.stdout
    assert all(word in result.stderr for word in ("It is a test picture", "temple_id is empty", "no image 4"))
    (listed,) = json.loads(temple("list", "--json").stdout)
    assert (listed["train"]["left"], listed["test"]["left"]) == (17, 4)


def test_a_folder_without_files_is_not_taken_for_success(temple, tmp_path):
    assert failed(temple("predict", TEMPLE, str(tmp_path)), "There is no file in")
