"""Assets and sensor of temples, on drawn walls with a window: partitions, metadata, checks, and when to train."""

import dagster as dg
import pytest
import sqlalchemy as sa

from imgpipe_dagster.build import build_defs
from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import TempleImageOrigin, TempleSplit
from imgpipe_dagster.catalogue.temple_models import (
    TrainingState,
    champions,
    end_lease,
    take_lease,
    training_states,
    versions,
)
from imgpipe_dagster.imaging.validate import Validator
from imgpipe_dagster.partitions import temple_of_partition, temple_partition
from imgpipe_dagster.sensors.temple_training import plan_trainings
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.store.opening import open_store
from imgpipe_dagster.temples.pictures import LabelledFile, add_files

pytestmark = pytest.mark.native

HALL, GATE = "hall", "gate 2/मंदिर"


class Site:
    """An installation with two temples, and an instance of Dagster's."""

    def __init__(self, folder, instance, draw):
        own = {"temple_scale_factor": 0.5, "temple_epochs": 10, "temple_retrain_after": 20}
        self.settings = Settings.model_validate({"home": folder, **own})
        self.engine = connect(self.settings.catalogue_url)
        schema.upgrade(self.engine)
        self.store = open_store(self.settings.effective_store_url)
        self.instance = instance
        self.defs = build_defs(self.settings)
        self._draw = draw

    def add(self, temple, split, category, seeds):
        files = [LabelledFile(f"{n}", category, lambda n=n: self._draw(category, n)) for n in seeds]
        with Validator() as validator:
            return add_files(
                self.engine, self.store, validator, temple, split, files, origin=TempleImageOrigin.IMPORT
            ).added

    def tick(self):
        sensor = self.defs.resolve_sensor_def("temple_training_sensor")
        resources = {"database": (self.defs.resources or {})["database"]}
        with dg.build_sensor_context(instance=self.instance, resources=resources) as context:
            result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return dg.SensorResult()
        assert isinstance(result, dg.SensorResult)
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        return result

    def train(self, temple, **options):
        return self.defs.resolve_job_def("training").execute_in_process(
            instance=self.instance, partition_key=temple_partition(temple), **options
        )

    def backfill(self, temple):
        """The run that a backfill of the two assets from Dagster's UI launches for a temple."""
        return self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            partition_key=temple_partition(temple),
            asset_selection=[dg.AssetKey("temple_training_sets"), dg.AssetKey("temple_models")],
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory, encode, draw_temple):
    """Two temples with pictures; the tests below are their life, one after the other."""
    with dg.DagsterInstance.ephemeral() as instance:
        made = Site(tmp_path_factory.mktemp("site"), instance, lambda c, n: encode(draw_temple(c, n), "PNG"))
        for temple, each in ((HALL, 16), (GATE, 4)):
            for category in ("left", "right"):
                assert made.add(temple, TempleSplit.TRAIN, category, range(each)) == each
                assert made.add(temple, TempleSplit.TEST, category, range(500, 504)) == 4
        yield made
        made.engine.dispose()


def test_a_new_temple_gets_its_partition_and_its_first_training_by_itself(site):
    result = site.tick()
    assert site.instance.get_dynamic_partitions("temples") == [temple_partition(GATE), HALL]
    assert [(request.partition_key, request.run_key) for request in result.run_requests] == [
        (HALL, "hall:training:0+20")
    ]
    assert site.tick().dynamic_partitions_requests in (None, [])


@pytest.mark.parametrize("temple", ["hall", GATE, "a,b", "x...y", "50%", "%41", "😀", "கோவில்/ஒன்று"], ids=repr)
def test_a_temple_and_its_partition_stand_for_each_other(temple):
    key = temple_partition(temple)
    assert temple_of_partition(key) == temple
    assert not {",", ".", "/", "\n", "[", " "} & set(key)


def test_letters_with_signs_of_their_own_stay_readable():
    assert temple_partition("கோவில்/cafe\u0301") == "கோவில்%2Fcafe\u0301"


def test_a_backfill_from_the_ui_trains_a_temple_and_shows_what_people_want_to_see(site):
    site.add(HALL, TempleSplit.TEST, "none", range(600, 603))
    result = site.backfill(HALL)
    (of_set,) = result.asset_materializations_for_node("temple_training_sets")
    assert of_set.partition == HALL
    assert of_set.metadata["train_images"].value == 32
    assert of_set.metadata["pictures_by_category"].value.records[0].data == {"category": "left", "train": 16, "test": 4}
    (of_model,) = result.asset_materializations_for_node("temple_models")
    told = {name: value.value for name, value in of_model.metadata.items()}
    (version,) = versions(site.engine, HALL)
    assert told["model_version"] == version.version == champions(site.engine)[HALL].version
    assert told["champion"] is True
    assert told["test_accuracy"] == version.metrics["accuracy"]
    assert told["learning_curve"].count("data:image/png;base64,") == 2
    assert "| **right** |" in told["confusion"]
    assert "pictures of none, which it was never shown" in told["confusion"]
    assert told["misclassified"].startswith(("![Test pictures", "None of the test"))
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert set(checks) == {
        "two_categories_have_pictures",
        "no_test_picture_is_trained_on",
        "champion_is_as_registered",
        "false_alarms_are_rare",
        "champion_is_better_than_guessing",
    }
    assert checks["champion_is_as_registered"]
    assert checks["champion_is_better_than_guessing"] is (told["doubt"] == "none")
    assert champions(site.engine)[HALL].promoted_by.startswith("run ")


def test_one_category_stops_the_run_with_an_alert_before_anything_is_trained(site):
    site.add("shed", TempleSplit.TRAIN, "left", range(3))
    site.tick()
    result = site.train("shed", raise_on_error=False)
    assert not result.success
    assert not result.asset_materializations_for_node("temple_models")
    with site.engine.connect() as connection:
        subjects = connection.scalars(sa.text("SELECT subject FROM alerts")).all()
    assert "temple_training_sets: two_categories_have_pictures failed in temple shed" in subjects


def test_new_labels_train_a_temple_again_and_one_training_at_a_time(site):
    assert not site.tick().run_requests, "the hall was trained on all it has; the others have too few labels"
    site.add(HALL, TempleSplit.TRAIN, "left", range(100, 112))
    site.add("common", TempleSplit.TRAIN, "none", range(200, 208))
    (request,) = site.tick().run_requests
    assert (request.partition_key, request.run_key) == (HALL, "hall:training:32+20")
    owner = take_lease(site.engine, HALL)
    assert not site.tick().run_requests, "a command is training it"
    end_lease(site.engine, HALL, owner)
    tags = {"dagster/partition": HALL}
    run = site.instance.create_run_for_job(site.defs.resolve_job_def("training"), tags=tags)
    assert not site.tick().run_requests, "a run is training it"
    site.instance.report_run_canceled(run)
    site.add(HALL, TempleSplit.TRAIN, "left", range(112, 114))
    (again,) = site.tick().run_requests
    assert again.run_key == request.run_key, "what failed is not tried again with every label"
    states = {state.temple_id: state for state in training_states(site.engine)}
    assert states[HALL] == TrainingState(HALL, labels=54, seen=32, busy=False)
    assert states[GATE] == TrainingState(GATE, labels=16, seen=0, busy=False)


@pytest.mark.parametrize(
    ("labels", "seen", "busy", "under_way", "retrain_after", "due"),
    [
        (60, 10, False, [], 50, True),
        (59, 10, False, [], 50, False),
        (60, 10, True, [], 50, False),
        (60, 10, False, ["t"], 50, False),
        (60, 10, False, ["other"], 50, True),
        (10_000, 0, False, [], 0, False),
        (1, 0, False, [], 1, True),
    ],
)
def test_when_a_temple_is_trained(labels, seen, busy, under_way, retrain_after, due):
    state = TrainingState("t", labels, seen, busy)
    assert plan_trainings([state], under_way, retrain_after) == ([state] if due else [])
