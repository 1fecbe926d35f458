"""The sensors of the alerts on a real catalogue and a real instance: what they write, what a tick costs."""

import datetime as dt
import mailbox

import dagster as dg
import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.batches import begin_attempt, get_batch, release_batch
from imgpipe_dagster.catalogue.tables import Alert, FeedFreshness, ImagePrediction, Option
from imgpipe_dagster.catalogue.types import utc_in
from imgpipe_dagster.resources.mailer import MailerResource
from imgpipe_dagster.sensors.alerts import job_title


@pytest.fixture
def tick(pipeline):
    """One tick of a sensor by name: what it says, and the cursor that it leaves."""

    def run(name, cursor=None, **resources):
        defs = pipeline.defs()
        resources = {"database": defs.resources["database"], **resources}
        with dg.build_sensor_context(instance=pipeline.instance, cursor=cursor, resources=resources) as context:
            skipped = defs.resolve_sensor_def(name)(context)
            assert isinstance(skipped, dg.SkipReason)
            return skipped.skip_message, context.cursor

    return run


@pytest.fixture
def mailbox_folder(tmp_path):
    return tmp_path / "mails"


@pytest.fixture
def mailer(pipeline, mailbox_folder):
    with pipeline.engine.begin() as connection:
        row = {"option_group": "error_alert", "option_key": "email", "option_value": "a@x.example"}
        connection.execute(sa.insert(Option).values(**row, option_meta="p@x.example"))
    return MailerResource(url=f"maildir://{mailbox_folder}")


def alerts(pipeline):
    with pipeline.engine.connect() as connection:
        return connection.execute(sa.select(Alert.kind, Alert.severity, Alert.subject, Alert.run_id)).all()


def fail_a_run(pipeline, **tags):
    @dg.op
    def broken():
        raise ValueError("the shelf fell down\nwith all its bottles")

    @dg.job(tags=tags)
    def shelf():
        broken()

    return shelf.execute_in_process(instance=pipeline.instance, raise_on_error=False).run_id


def predicted(pipeline, seconds_ago):
    with pipeline.engine.begin() as connection:
        connection.execute(sa.delete(ImagePrediction))
        connection.execute(
            sa.insert(ImagePrediction).values(
                batch_key="b", image_id=1, status="predicted", object_count=0, created_at=utc_in(-seconds_ago)
            )
        )


def test_stale_predictions_and_their_recovery_are_mailed_once_each(pipeline, tick, mailer, mailbox_folder):
    predicted(pipeline, 9999)
    for _ in range(2):
        tick("alerts_sensor", mailer=mailer)
    predicted(pipeline, 1)
    for _ in range(2):
        tick("alerts_sensor", mailer=mailer)
    assert sorted(message["Subject"] for message in mailbox.Maildir(mailbox_folder)) == [
        "[imgpipe] Predictions are fresh again",
        "[imgpipe] Predictions are stale: the newest is 2 h 46 min old",
    ]
    assert pipeline.rows("sensor_ticks", "sensor_name", "outcome") == [
        ("alerts_sensor", "Nothing new; no mail is due.")
    ]


def feed_ages(pipeline, **seconds):
    with pipeline.engine.begin() as connection:
        connection.execute(sa.delete(FeedFreshness))
        for name, age in seconds.items():
            kind, feed = name.split("_")
            row = {"kind": kind, "feed": feed, "last_prediction_at": utc_in(-age)}
            connection.execute(sa.insert(FeedFreshness).values(row))


def test_one_fresh_temple_does_not_hide_a_stale_one(pipeline):
    defs = pipeline.defs()
    sensor = defs.resolve_sensor_def("feeds_sensor")

    def tick(cursor=None):
        resources = {"database": defs.resources["database"]}
        with dg.build_sensor_context(instance=pipeline.instance, cursor=cursor, resources=resources) as context:
            return sensor(context)

    day = 86400
    feed_ages(pipeline, temple_7=2 * day, temple_8=10, temple_9=60 * day, source_kafka=10)
    told = tick()
    verdicts = {event.check_name: event for event in told.asset_events}
    assert {name: event.passed for name, event in verdicts.items()} == {
        "every_temple_is_fresh": False,
        "every_source_is_fresh": True,
    }
    assert "No prediction for: 7." in verdicts["every_temple_is_fresh"].description
    assert verdicts["every_temple_is_fresh"].metadata["expected"].value == 2, "one has been silent for months"
    assert isinstance(tick(told.cursor), dg.SkipReason), "what has not changed is not told again"
    feed_ages(pipeline, temple_7=10, temple_8=10)
    again = tick(told.cursor)
    assert all(event.passed for event in again.asset_events)
    feed_ages(pipeline, temple_7=10, temple_8=-2 * day)  # it died, and the clock was set back
    assert "No prediction for: 8." in tick(again.cursor).asset_events[0].description
    subjects = [row.subject for row in alerts(pipeline)]
    assert subjects == ["1 of 2 temples are stale", "Every temple is fresh again", "1 of 2 temples are stale"]


def test_a_published_batch_notes_its_feeds(pipeline, make_jpeg):
    pipeline.write("a.jpg", make_jpeg(1))
    pipeline.add_files("a.jpg", "a.jpg")
    with pipeline.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE product_images SET temple_id = id, source = 'kafka'")
    batch = pipeline.claim()
    pipeline.run(batch)
    assert pipeline.rows("feed_freshness", "kind", "feed") == [("source", "kafka"), ("temple", "1"), ("temple", "2")]
    before = pipeline.rows("feed_freshness", "feed", "last_prediction_at")
    pipeline.run(batch)
    assert pipeline.rows("feed_freshness", "feed", "last_prediction_at") == before, "a re-run is no new prediction"
    feed_ages(pipeline, temple_1=-86400, temple_2=86400, source_kafka=-86400)
    pipeline.run(batch)
    again = pipeline.rows("feed_freshness", "feed", "last_prediction_at")
    assert again == before, "times from before the clock was set back do not stay"


def test_without_a_mail_server_the_tick_says_so_and_the_alert_waits(pipeline, tick):
    predicted(pipeline, 9999)
    said, _ = tick("alerts_sensor", mailer=MailerResource())
    assert "IMGPIPE_SMTP_URL" in said
    assert pipeline.rows("alerts", "kind", "state") == [("predictions_stale", "waiting")]


def test_a_failed_run_is_noted_with_its_cause_and_only_once(pipeline, tick):
    run_id = fail_a_run(pipeline)
    _, cursor = tick("run_failures_sensor")
    tick("run_failures_sensor", cursor=cursor)
    tick("run_failures_sensor")
    ((kind, severity, subject, noted),) = alerts(pipeline)
    assert (kind, severity, noted) == ("run_failed", "error", run_id)
    assert "shelf" in subject
    ((body, _),) = pipeline.rows("alerts", "body", "id")
    assert "broken: ValueError: the shelf fell down" in body
    assert "bottles" not in body


def test_a_failed_run_of_a_backfill_says_how_it_is_done_again(pipeline, tick):
    fail_a_run(pipeline, **{"dagster/backfill": "abcdefgh"})
    tick("run_failures_sensor")
    ((body, _),) = pipeline.rows("alerts", "body", "id")
    assert "imgpipe backfill --resume abcdefgh" in body


@pytest.mark.parametrize(
    ("job", "assets", "title"),
    [
        ("__ASSET_JOB", ["detections"], "detections"),
        ("__ASSET_JOB", ["image_predictions", "detections"], "detections and 1 more"),
        ("__ASSET_JOB", [], "__ASSET_JOB"),
        ("enhance", ["enhanced_images"], "enhance"),
    ],
)
def test_a_run_is_named_by_its_assets_where_dagster_made_up_its_job(job, assets, title):
    assert job_title(dg.DagsterRun(job, asset_selection=frozenset(map(dg.AssetKey, assets)))) == title


def test_a_run_that_is_tried_again_by_itself_is_a_warning(pipeline, tick):
    fail_a_run(pipeline, **{"imgpipe/batch": "20261120-000001", "imgpipe/attempt": "1"})
    fail_a_run(pipeline, **{"imgpipe/batch": "20261120-000001", "imgpipe/attempt": "3"})
    fail_a_run(pipeline, **{"imgpipe/batch": "20261120-000001", "imgpipe/attempt": "4"})  # after a retry by hand
    tick("run_failures_sensor")
    assert sorted(row.severity for row in alerts(pipeline)) == ["error", "warning", "warning"]


def test_a_run_whose_batch_was_given_back_when_somebody_stopped_it_is_no_alert(pipeline, tick):
    pipeline.add("https://cdn.example.com/a.jpg")
    batch = pipeline.claim()
    fail_a_run(pipeline, **{"imgpipe/batch": batch.key, "imgpipe/attempt": "1"})
    assert begin_attempt(pipeline.engine, batch)
    batch = get_batch(pipeline.engine, batch.key)
    fail_a_run(pipeline, **{"imgpipe/batch": batch.key, "imgpipe/attempt": "2"})
    release_batch(pipeline.engine, batch)
    tick("run_failures_sensor")
    ((_, _, subject, _),) = alerts(pipeline)
    assert "attempt 1" in subject, "it failed by itself; the second was stopped"


def test_runs_that_fail_while_the_catalogue_is_away_are_found_afterwards(pipeline, tick):
    _, cursor = tick("run_failures_sensor")
    with pipeline.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE alerts RENAME TO away")
    fail_a_run(pipeline)
    said, kept = tick("run_failures_sensor", cursor=cursor)
    assert "The catalogue cannot be used" in said
    assert kept == cursor
    with pipeline.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO alerts")
    tick("run_failures_sensor", cursor=kept)
    assert len(alerts(pipeline)) == 1


def test_more_failures_than_a_tick_takes_are_taken_by_the_next(pipeline, tick, monkeypatch):
    monkeypatch.setattr("imgpipe_dagster.sensors.alerts.FAILURES_A_TICK", 2)
    for _ in range(5):
        fail_a_run(pipeline)
    cursor = None
    for _ in range(5):
        _, cursor = tick("run_failures_sensor", cursor=cursor)
    assert len(alerts(pipeline)) == 5
    assert dt.datetime.fromisoformat(cursor) > dt.datetime.now(dt.UTC) - dt.timedelta(minutes=2)


@pytest.mark.parametrize("name", ["alerts_sensor", "run_failures_sensor"])
def test_a_tick_with_nothing_new_costs_three_short_queries(pipeline, tick, mailer, name):
    predicted(pipeline, 1)
    resources = {"mailer": mailer} if name == "alerts_sensor" else {}
    _, cursor = tick(name, **resources)
    queries = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def note(_connection, _cursor, statement, *_rest):
        if not statement.startswith(("BEGIN", "PRAGMA")):
            queries.append(statement)

    try:
        tick(name, cursor=cursor, **resources)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    queries = [query for query in queries if "runs" not in query and "event_logs" not in query]  # Dagster's own storage
    assert 1 <= len(queries) <= 3, queries
