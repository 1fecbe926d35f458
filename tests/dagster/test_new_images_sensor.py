"""The sensor: the decision as tables of cases, the tick against a real catalogue and a real instance."""

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from imgpipe_dagster.catalogue import batches
from imgpipe_dagster.catalogue.batches import Batch, BatchLimits, retry_enhancement, retry_images
from imgpipe_dagster.catalogue.tables import Alert, BatchState, Claimant, ImageBatch, ProductImage, TempleLease
from imgpipe_dagster.catalogue.temple_models import end_lease, take_lease
from imgpipe_dagster.catalogue.ticks import note_tick
from imgpipe_dagster.catalogue.types import utc_in
from imgpipe_dagster.partitions import temple_partition
from imgpipe_dagster.sensors import new_images
from imgpipe_dagster.sensors.new_images import Action, AttemptLimits, RunView, decide, run_key, tick, view_of

LIMITS = AttemptLimits(max_attempts=3, heartbeat_limit_s=60)


def batch(attempt=1, claimed_by=Claimant.SENSOR, silent_s=0.0, state=BatchState.CLAIMED):
    return Batch("20261120-000001", state, attempt, claimed_by, 10, silent_s)


def get_batch(engine, key) -> Batch:
    found = batches.get_batch(engine, key)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("row", "run", "expected"),
    [
        (batch(), RunView.NONE, Action.REQUEST_RUN),
        (batch(silent_s=9999), RunView.NONE, Action.REQUEST_RUN),
        (batch(claimed_by=Claimant.CLI), RunView.NONE, Action.LEAVE),
        (batch(claimed_by=Claimant.CLI, silent_s=61), RunView.NONE, Action.REQUEST_RUN),
        (batch(silent_s=9999), RunView.QUEUED, Action.LEAVE),
        (batch(silent_s=59), RunView.STARTED, Action.LEAVE),
        (batch(silent_s=61), RunView.STARTED, Action.ACCUSE_RUN),
        (batch(attempt=3, silent_s=61), RunView.STARTED, Action.ACCUSE_RUN),
        # The clock was set back: a heartbeat from the future must not protect a dead run until then.
        (batch(silent_s=-59), RunView.STARTED, Action.LEAVE),
        (batch(silent_s=-61), RunView.STARTED, Action.ACCUSE_RUN),
        (batch(attempt=1), RunView.FAILED, Action.NEXT_ATTEMPT),
        (batch(attempt=2), RunView.FAILED, Action.NEXT_ATTEMPT),
        (batch(attempt=3), RunView.FAILED, Action.GIVE_UP),
        (batch(attempt=1), RunView.SUCCEEDED, Action.NEXT_ATTEMPT),
        (batch(attempt=3), RunView.SUCCEEDED, Action.GIVE_UP),
        (batch(), RunView.CANCELED, Action.HOLD),
        (batch(attempt=3), RunView.CANCELED, Action.HOLD),
        # A retry by hand goes on counting, and gives as many attempts again.
        (batch(attempt=4), RunView.FAILED, Action.NEXT_ATTEMPT),
        (batch(attempt=6), RunView.FAILED, Action.GIVE_UP),
    ],
)
@pytest.mark.parametrize("state", [BatchState.CLAIMED, BatchState.ANALYSED])
def test_each_case_has_its_action_whichever_job_the_batch_needs(row, run, expected, state):
    assert decide(replace(row, state=state), run, LIMITS) is expected


@pytest.mark.parametrize("state", BatchState)
def test_each_state_needs_its_job_or_none(state):
    jobs = {BatchState.CLAIMED: "analyse", BatchState.ANALYSED: "enhance"}
    assert batch(state=state).job == jobs.get(state)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], RunView.NONE),
        (["QUEUED"], RunView.QUEUED),
        (["STARTING"], RunView.QUEUED),
        (["CANCELING"], RunView.STARTED),
        (["FAILURE", "STARTED"], RunView.STARTED),
        (["FAILURE", "SUCCESS"], RunView.SUCCEEDED),
        (["CANCELED", "FAILURE"], RunView.CANCELED),
    ],
)
def test_several_runs_of_one_attempt_count_as_one(statuses, expected):
    runs: list[Any] = [SimpleNamespace(status=dg.DagsterRunStatus(status)) for status in statuses]
    assert view_of(runs) is expected


@pytest.fixture
def sensor(pipeline):
    pipeline.settings.batch_max_wait_s = 0
    pipeline.settings.heartbeat_limit_s = 60

    def evaluate():
        defs = pipeline.defs()
        with dg.build_sensor_context(
            instance=pipeline.instance, resources={"database": defs.resources["database"]}
        ) as context:
            return defs.resolve_sensor_def("new_images_sensor")(context)

    return evaluate


def note_run(pipeline, batch, status):
    """Leave a run of the batch's current attempt in Dagster's storage."""
    run = pipeline.instance.create_run_for_job(
        pipeline.defs().resolve_job_def(batch.job),
        status=status,
        tags={"dagster/run_key": run_key(batch)},
    )
    return run.run_id


def test_new_rows_become_one_batch_one_partition_one_run(pipeline, sensor):
    pipeline.add("http://127.0.0.1/a.jpg", "http://127.0.0.1/b.jpg")
    result = sensor()
    (request,) = result.run_requests
    (added,) = result.dynamic_partitions_requests
    assert request.run_key == f"{request.partition_key}:analyse:1"
    assert request.tags["imgpipe/batch"] == request.partition_key
    assert added.partition_keys == [request.partition_key]
    assert get_batch(pipeline.engine, request.partition_key).image_count == 2
    assert pipeline.rows("sensor_ticks", "sensor_name", "outcome") == [("new_images_sensor", "1 runs requested")]


def test_a_request_that_got_lost_is_made_again_under_the_same_key(pipeline, sensor):
    pipeline.add("http://127.0.0.1/a.jpg")
    first, second = sensor(), sensor()
    assert [r.run_key for r in first.run_requests] == [r.run_key for r in second.run_requests]


def test_nothing_new_is_said_so(sensor):
    assert isinstance(sensor(), dg.SkipReason)


def test_the_sensor_claims_no_more_than_the_open_batches_it_may_have(pipeline, sensor):
    pipeline.settings.batch_size = 1
    pipeline.add(*(f"http://127.0.0.1/{n}.jpg" for n in range(9)))
    assert sensor() is not None
    assert pipeline.count("image_batches") <= pipeline.settings.max_concurrent_batches


def test_a_failed_run_leads_to_the_next_attempt(pipeline, sensor):
    pipeline.add("http://127.0.0.1/a.jpg")
    key = sensor().run_requests[0].partition_key
    note_run(pipeline, get_batch(pipeline.engine, key), dg.DagsterRunStatus.FAILURE)
    pipeline.instance.delete_dynamic_partition("image_batches", key)
    again = sensor()
    assert [r.run_key for r in again.run_requests] == [f"{key}:analyse:2"]
    assert again.dynamic_partitions_requests[0].partition_keys == [key], "somebody may have deleted it"


def test_after_the_last_attempt_the_batch_fails_with_an_alert(pipeline, sensor):
    pipeline.add("http://127.0.0.1/a.jpg")
    key = sensor().run_requests[0].partition_key
    last = None
    for _ in range(pipeline.settings.max_attempts):
        note_run(pipeline, get_batch(pipeline.engine, key), dg.DagsterRunStatus.FAILURE)
        last = sensor()
    assert isinstance(last, dg.SkipReason)
    assert get_batch(pipeline.engine, key).state is BatchState.FAILED
    assert pipeline.rows("product_images", "status", "reason") == [("failed", "batch_failed")]
    with pipeline.engine.connect() as connection:
        assert connection.scalars(sa.select(Alert.kind)).all() == ["batch_failed"]


def test_a_silent_run_is_reported_as_failed_and_tried_again(pipeline, sensor):
    pipeline.add("http://127.0.0.1/a.jpg")
    key = sensor().run_requests[0].partition_key
    run_id = note_run(pipeline, get_batch(pipeline.engine, key), dg.DagsterRunStatus.STARTED)
    assert isinstance(sensor(), dg.SkipReason), "a run that has just begun is left alone"
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ImageBatch).values(heartbeat_at=sa.text("'2020-01-01 00:00:00.000000'")))
    assert isinstance(sensor(), dg.SkipReason)
    assert pipeline.instance.get_run_by_id(run_id).status is dg.DagsterRunStatus.FAILURE
    assert [r.run_key for r in sensor().run_requests] == [f"{key}:analyse:2"]


def test_a_lost_run_that_no_open_batch_waits_for_frees_its_slot(pipeline):
    def look(limit_s):
        tick(pipeline.instance, pipeline.engine, BatchLimits(), AttemptLimits(3, limit_s), max_open_batches=2)
        return {run.job_name: run.status.value for run in pipeline.instance.get_runs()}

    pipeline.add("http://127.0.0.1/a.jpg")
    batch = pipeline.claim()
    owner = take_lease(pipeline.engine, "7")
    for job, partition in (("enhance", batch.key), ("__ASSET_JOB", batch.key), ("training", temple_partition("7"))):
        run = dg.DagsterRun(job_name=job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": partition})
        pipeline.instance.add_run(run)
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ImageBatch).values(state="enhanced"))
    started = dict.fromkeys(["enhance", "__ASSET_JOB", "training"], "STARTED")
    assert look(60) == started, "the batch was heard of a moment ago"
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ImageBatch).values(heartbeat_at=sa.text("'2020-01-01 00:00:00.000000'")))
    assert look(60) == started, "the runs have just begun"
    assert look(0.001) == started | {"enhance": "FAILURE", "__ASSET_JOB": "FAILURE"}, "a model is being made"
    end_lease(pipeline.engine, "7", owner)
    assert look(0.001)["training"] == "STARTED", "it tells of the model that it has made"
    take_lease(pipeline.engine, "7")
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(TempleLease).values(heartbeat_at=sa.text("'2020-01-01 00:00:00.000000'")))
    assert look(0.001) == dict.fromkeys(started, "FAILURE")


def test_a_lost_run_is_found_although_the_clock_was_set_back_since_it_began(pipeline, monkeypatch):
    pipeline.add("http://127.0.0.1/a.jpg")
    tags = {"dagster/partition": pipeline.claim().key}
    run = pipeline.instance.add_run(dg.DagsterRun(job_name="x", status=dg.DagsterRunStatus.STARTED, tags=tags))
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ImageBatch).values(state="enhanced", heartbeat_at=utc_in(86400)))
    monkeypatch.setattr(new_images, "time", SimpleNamespace(time=lambda: time.time() - 86400))
    tick(pipeline.instance, pipeline.engine, BatchLimits(), LIMITS, max_open_batches=2)
    assert pipeline.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE


def test_a_run_that_a_person_canceled_holds_its_batch(pipeline, sensor):
    pipeline.add("http://127.0.0.1/a.jpg")
    key = sensor().run_requests[0].partition_key
    note_run(pipeline, get_batch(pipeline.engine, key), dg.DagsterRunStatus.CANCELED)
    assert isinstance(sensor(), dg.SkipReason)
    assert get_batch(pipeline.engine, key).state is BatchState.HELD


def test_a_catalogue_that_cannot_be_read_is_not_an_empty_source(pipeline, sensor):
    with pipeline.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE image_batches")
    skipped = sensor()
    assert isinstance(skipped, dg.SkipReason)
    assert "imgpipe db upgrade" in str(skipped.skip_message)


def test_a_tick_with_nothing_to_do_costs_three_short_queries(pipeline):
    queries = []

    @event.listens_for(pipeline.engine, "before_cursor_execute")
    def note(_connection, _cursor, statement, *_rest):
        if not statement.startswith("BEGIN"):
            queries.append(statement)

    tick(pipeline.instance, pipeline.engine, BatchLimits(), AttemptLimits(), max_open_batches=2)
    note_tick(pipeline.engine, "new_images_sensor", "first")
    queries.clear()
    tick(pipeline.instance, pipeline.engine, BatchLimits(), AttemptLimits(), max_open_batches=2)
    note_tick(pipeline.engine, "new_images_sensor", "second")
    assert len(queries) == 3, queries


def test_waiting_in_the_queue_is_not_silence(pipeline, sensor):
    pipeline.add("http://127.0.0.1/a.jpg")
    key = sensor().run_requests[0].partition_key
    note_run(pipeline, get_batch(pipeline.engine, key), dg.DagsterRunStatus.STARTING)
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ImageBatch).values(heartbeat_at=sa.text("'2020-01-01 00:00:00.000000'")))
    assert isinstance(sensor(), dg.SkipReason)
    assert get_batch(pipeline.engine, key).heartbeat_age_s < 60, "silence counts from the start of the work"


def analysed(pipeline, sensor):
    """A batch whose predictions are published: the key."""
    pipeline.add("http://127.0.0.1/a.jpg", sku_id="SKU-1")
    key = sensor().run_requests[0].partition_key
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ProductImage).values(status="completed"))
        connection.execute(sa.update(ImageBatch).values(state=BatchState.ANALYSED, attempt=1))
    return key


def test_an_analysed_batch_gets_a_run_of_the_enhance_job(pipeline, sensor):
    key = analysed(pipeline, sensor)
    (request,) = sensor().run_requests
    assert (request.job_name, request.run_key, request.partition_key) == ("enhance", f"{key}:enhance:1", key)
    note_run(pipeline, get_batch(pipeline.engine, key), dg.DagsterRunStatus.FAILURE)
    assert [request.run_key for request in sensor().run_requests] == [f"{key}:enhance:2"]


def test_batches_that_wait_for_enhancement_keep_no_new_one_from_being_claimed(pipeline, sensor):
    pipeline.settings.batch_size = 1
    pipeline.settings.batch_max_size = 1
    pipeline.add(*(f"http://127.0.0.1/{n}.jpg" for n in range(4)))
    assert len(sensor().run_requests) == 2
    with pipeline.engine.begin() as connection:
        connection.execute(sa.update(ImageBatch).values(state=BatchState.ANALYSED))
    assert sorted(request.job_name for request in sensor().run_requests) == ["analyse", "analyse", "enhance", "enhance"]


def test_an_enhancement_that_is_given_up_leaves_the_answers_and_can_be_retried(pipeline, sensor):
    key = analysed(pipeline, sensor)
    for _ in range(pipeline.settings.max_attempts):
        sensor()
        note_run(pipeline, get_batch(pipeline.engine, key), dg.DagsterRunStatus.FAILURE)
    assert isinstance(sensor(), dg.SkipReason)
    assert get_batch(pipeline.engine, key).state is BatchState.ENHANCEMENT_FAILED
    assert pipeline.rows("product_images", "status", "reason") == [("completed", None)]
    ((kind, body),) = pipeline.rows("alerts", "kind", "body")
    assert kind == "enhancement_failed"
    assert "keep their answers" in body
    assert f"imgpipe retry --batch {key}" in body

    assert retry_images(pipeline.engine, batch_key=key) == 0
    assert retry_enhancement(pipeline.engine, batch_key=key) == 1
    assert [request.run_key for request in sensor().run_requests] == [f"{key}:enhance:4"], "Dagster drops used keys"


def test_an_enhancement_that_a_person_canceled_is_held_until_a_retry(pipeline, sensor):
    key = analysed(pipeline, sensor)
    note_run(pipeline, get_batch(pipeline.engine, key), dg.DagsterRunStatus.CANCELED)
    assert isinstance(sensor(), dg.SkipReason)
    assert get_batch(pipeline.engine, key).state is BatchState.ENHANCEMENT_HELD
    assert retry_enhancement(pipeline.engine) == 1
    assert [request.run_key for request in sensor().run_requests] == [f"{key}:enhance:2"]
