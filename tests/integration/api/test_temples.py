"""The temples' service over HTTP with the client of `examples/`: pictures, a model, categories; and what is refused."""

import base64
import json
import subprocess
import sys
import time

import dagster as dg
import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.build import build_defs
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.jobs import (
    JobKind,
    create_training_job,
    end_training,
    following_training,
    get_job,
    open_jobs,
)
from imgpipe_dagster.catalogue.tables import TempleImage
from imgpipe_dagster.catalogue.ticks import note_tick
from imgpipe_dagster.instance import PROJECT_DIR
from imgpipe_dagster.sensors.training_jobs import TrainingAction, decide_training
from imgpipe_dagster.settings import Settings

pytestmark = pytest.mark.native

FLAGS = [
    *("got_training_data_flag", "got_testing_data_flag", "made_model_architecture_flag"),
    *("trained_model_flag", "tested_model_flag", "saved_model_flag"),
]
SMALL = {"temple_scale_factor": 0.5, "temple_epochs": 10, "temple_retrain_after": 0}


@pytest.fixture(scope="module")
def png(encode, draw_temple):
    return lambda category, seed: encode(draw_temple(category, seed), "PNG")


def text(data):
    return base64.b64encode(data).decode()


class Daemon:
    """What Dagster's daemon does about trainings, in this process."""

    def __init__(self, home, instance):
        self.defs = build_defs(Settings(_env_file=None, home=home, **SMALL))
        self.instance = instance

    def tick(self):
        sensor = self.defs.resolve_sensor_def("training_jobs_sensor")
        resources = {"database": self.defs.resources["database"]}
        with dg.build_sensor_context(instance=self.instance, resources=resources) as context:
            result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return []
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        return result.run_requests

    def run(self, request):
        return self.defs.resolve_job_def("training").execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            run_config=request.run_config,
            tags=request.tags,
            raise_on_error=False,
        )


@pytest.fixture
def daemon(home):
    with dg.DagsterInstance.ephemeral() as instance:
        yield Daemon(home, instance)


def test_pictures_become_a_model_that_tells_categories(serve, home, tmp_path, png, daemon, engine):
    for split, seeds in (("train", range(10)), ("test", range(500, 502))):
        for category in ("left", "right"):
            folder = tmp_path / split / category
            folder.mkdir(parents=True)
            for seed in seeds:
                (folder / f"{seed}.png").write_bytes(png(category, seed))
    names = {f"IMGPIPE_{name.upper()}": str(value) for name, value in SMALL.items()}
    served = serve(**names, IMGPIPE_API_RATE_LIMIT="off")

    def client(*arguments, **options):
        command = [sys.executable, str(PROJECT_DIR / "examples" / "temple_client.py"), "--server", served.url]
        return subprocess.Popen([*command, *map(str, arguments)], stdout=-1, stderr=-1, text=True, **options)

    for split in ("train", "test"):
        out, err = (process := client("save", tmp_path / split, "lakeside", split)).communicate(timeout=120)
        assert process.returncode == 0, err
    assert "4 of 4 pictures saved" in out
    again = httpx.post(
        f"{served.url}/api/save_data",
        json={"temple_id": "lakeside", "train_test": "train", "category": "left", "image": text(png("left", 0)),
              "image_type": "PNG", "image_name": "a"},
    )  # fmt: skip
    assert (again.status_code, again.json()) == (200, {"error_msg": "All OK"})

    daemon.tick()
    training = client("train", "lakeside")
    deadline = time.monotonic() + 60
    while not (requests := daemon.tick()):
        assert training.poll() is None, training.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert daemon.run(requests[0]).success
    out, err = training.communicate(timeout=60)
    answer = json.loads(out)
    assert (training.returncode, answer["error_msg"], {flag for flag in FLAGS if answer[flag]}) == (0, [], set(FLAGS))
    assert open_jobs(engine, JobKind.TRAIN) == []

    one = {"temple_id": "lakeside", "image": text(png("left", 900)), "image_name": "x.png", "image_type": "png"}
    answer = httpx.post(f"{served.url}/api/predict", json=one, timeout=60)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"error_msg", "image_class", "class_confidence"}
    assert answer.json()["image_class"] in ("left", "right", "No category (Anomaly)")
    assert 0 <= answer.json()["class_confidence"] <= 1
    many = {**one, "image": [one["image"], text(b"<?php"), text(png("right", 901))], "image_name": ["a", "b", "c"]}
    answer = httpx.post(f"{served.url}/api/predict", json=many, timeout=60)
    assert answer.status_code == 400
    assert [found is None for found in answer.json()["image_class"]] == [False, True, False]
    assert len(answer.json()["error_msg"]) == 1
    assert answer.json()["error_msg"][0].startswith("b: not_an_image")
    (tmp_path / "today.png").write_bytes(png("right", 902))
    out, err = (process := client("predict", "lakeside", tmp_path / "today.png")).communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    out, err = (process := client("predict", "lakeside", tmp_path / "nofile.jpg")).communicate(timeout=60)
    assert (process.returncode, "nofile.jpg" in err, "Traceback" in err) == (1, True, False)
    assert "x.png: " in (home / "logs" / "temples" / "log.txt").read_text(encoding="utf-8")

    taken = httpx.post(f"{served.url}/api/make_model", json={"temple_id": "lakeside"}, timeout=60)
    assert (taken.status_code, taken.json()["saved_model_flag"]) == (400, False)
    assert "forceful" in taken.json()["error_msg"][0]


@pytest.fixture
def api(make_api):
    return make_api(temple_training_limit_s=1)


GOOD = {"temple_id": "t", "train_test": "train", "category": "c", "image_type": "png", "image_name": "n"}


@pytest.mark.parametrize(
    "change",
    [
        {"temple_id": "../common"},
        {"temple_id": ""},
        {"temple_id": "a/../../b"},
        {"temple_id": {}},
        {"category": ""},
        {"category": "../x"},
        {"category": "a\0b"},
        {"train_test": "both"},
        {"image": "this is not base64!"},
        {"image": "data:image/png;base64,%%%"},
        {"image": text(b"<?php phpinfo();")},
        {"image": ""},
        {"image": []},
        {"image": [1]},
        {"image": ["QQ==", "QQ=="], "image_name": ["one"] * 3},
        {"image": None},
    ],
    ids=str,
)
def test_a_picture_that_cannot_be_saved_is_refused_with_a_message_and_leaves_nothing(api, engine, png, change):
    answer = api.post("/api/save_data", json={**GOOD, "image": text(png("left", 1)), **change})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error_msg"}
    assert isinstance(answer.json()["error_msg"], str)
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(TempleImage)) == 0


@pytest.mark.parametrize(
    "body", ["[1]", '"x"', "{", "{}", '{"temple_id": "t"}', '{"temple_id": "t", "image": 5}', "null"]
)
def test_json_of_the_wrong_shape_is_refused_in_the_shape_that_clients_know(api, body):
    answer = api.post("/api/predict", content=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error_msg", "image_class", "class_confidence"}
    assert isinstance(answer.json()["error_msg"], list)
    assert answer.json()["image_class"] is answer.json()["class_confidence"] is None
    made = api.post("/api/make_model", content=body if body != '{"temple_id": "t"}' else '{"forceful": 7}')
    assert made.status_code == 400
    assert set(made.json()) == {"error_msg", *FLAGS}


def test_without_a_model_nothing_is_predicted_and_it_says_what_to_do(api, png):
    answer = api.post("/api/predict", json={"temple_id": "t", "image": text(png("left", 1)), "image_name": "a"})
    assert (answer.status_code, answer.json()["image_class"]) == (400, None)
    assert "no model" in answer.json()["error_msg"][0]


def test_a_training_is_refused_at_once_where_nothing_would_train(api, engine, png):
    def make(temple="t"):
        return api.post("/api/make_model", json={"temple_id": temple, "forceful": True})

    assert (make().status_code, make("../common").status_code, make("common").status_code) == (400, 400, 400)
    for category in ("left", "right"):
        api.post("/api/save_data", json={**GOOD, "category": category, "image": [text(png(category, 1))]})
    started = time.monotonic()
    answer = make()
    assert (answer.status_code, time.monotonic() - started < 5) == (503, True)
    assert "daemon" in answer.json()["error_msg"][0]
    assert not any(answer.json()[flag] for flag in FLAGS)
    assert open_jobs(engine, JobKind.TRAIN) == []


def test_who_waits_for_a_training_hears_how_far_it_came_and_why_it_ended(api, engine, png, monkeypatch):
    for category in ("left", "right"):
        api.post("/api/save_data", json={**GOOD, "category": category, "image": text(png(category, 1))})
    note_tick(engine, "training_jobs_sensor", "")
    monkeypatch.setattr("imgpipe_dagster.api.routes.temples._START_S", 0.0)
    late = api.post("/api/make_model", json={"temple_id": "t", "forceful": "true"})
    assert (late.status_code, set(late.json())) == (504, {"error_msg", *FLAGS})
    (job,) = open_jobs(engine, JobKind.TRAIN)
    end_training(engine, job.job_id, error="gone")
    assert get_job(engine, job.job_id).status == "failed"


@pytest.fixture
def other_engine(database_url):
    from imgpipe_dagster.catalogue import schema

    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


def test_a_job_follows_its_training_on_both_databases(other_engine):
    job_id = create_training_job(other_engine, "t", forceful=True, by="a").job_id
    with following_training(other_engine, job_id) as note_stage:
        assert get_job(other_engine, job_id).status == "processing"
        note_stage("got_training_data_flag")
        note_stage("trained_model_flag")
    job = get_job(other_engine, job_id)
    assert (job.status, job.error, job.parameters["stages"]) == (
        "completed",
        None,
        ["got_training_data_flag", "trained_model_flag"],
    )
    end_training(other_engine, job_id, error="too late")
    assert get_job(other_engine, job_id).status == "completed"
    failing = create_training_job(other_engine, "t", forceful=True, by="a").job_id
    with pytest.raises(ValueError, match="no pictures"), following_training(other_engine, failing):
        raise ValueError("no pictures")
    assert (get_job(other_engine, failing).status, get_job(other_engine, failing).error) == ("failed", "no pictures")


@pytest.mark.parametrize("status", list(dg.DagsterRunStatus), ids=lambda status: status.value)
def test_a_job_whose_run_is_over_without_a_word_is_given_up(status):
    over = status.value in ("SUCCESS", "FAILURE", "CANCELED")
    assert decide_training(status) is (TrainingAction.GIVE_UP if over else TrainingAction.WAIT)
    assert decide_training(None) is TrainingAction.REQUEST
