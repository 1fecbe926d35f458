"""What the dashboard's first page counts, and an image's history, on both databases."""

import datetime as dt

import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.history import image_history, original_keys
from imgpipe_dagster.catalogue.overview import Interval, count_answers, newest_batches
from imgpipe_dagster.catalogue.tables import (
    ImageBatch,
    ImagePrediction,
    ProductImage,
    QcReviewLog,
    RawImage,
    ValidatedImage,
)

NOW = dt.datetime.now(dt.UTC).replace(tzinfo=None, minute=30, second=0, microsecond=0)
DAY_S = 86_400


def hours_ago(hours):
    return NOW - dt.timedelta(hours=hours)


@pytest.fixture
def engine(empty_engine):
    """Five images: two of an hour, one rejected, one superseded answer that does not count, one of last week."""
    answers = [
        (1, "new", 3, None, "bottle"),
        (2, "new", 3, None, None),
        (3, "new", 5, "truncated", None),
        (4, "new", 5, None, "can"),
        (4, "old", 5, None, "bottle"),
        (5, "new", 24 * 7, None, "can"),
    ]
    with empty_engine.begin() as connection:
        images = [{"id": n, "batch_key": "new", "source": "sql" if n < 3 else None} for n in range(1, 6)]
        connection.execute(sa.insert(ProductImage), images)
        connection.execute(
            sa.insert(ImagePrediction),
            [
                {
                    "image_id": image_id,
                    "batch_key": batch,
                    "created_at": hours_ago(hours),
                    "status": "rejected" if reason else "predicted",
                    "reason": reason,
                    "top_class": name,
                    "object_count": int(name is not None),
                }
                for image_id, batch, hours, reason, name in answers
            ],
        )
    return empty_engine


def test_answers_are_counted_once_an_image_by_hour_reason_and_class(engine):
    counts = count_answers(engine, seconds=DAY_S, interval=Interval.HOUR)
    hour = [hours_ago(h).replace(minute=0) for h in (3, 5)]
    assert counts.predicted == {hour[0]: 2, hour[1]: 1}
    assert counts.rejected == {hour[1]: 1}
    assert counts.by_reason == {"truncated": 1}
    assert counts.by_class == {"bottle": 1, None: 1, "can": 1}
    assert (counts.answers, counts.is_partial) == (4, False)


@pytest.mark.parametrize("interval", list(Interval))
def test_every_interval_begins_where_its_first_moment_is(engine, interval):
    begun = set(count_answers(engine, seconds=30 * DAY_S, interval=interval).predicted)
    zero = {Interval.DAY: {"hour": 0, "minute": 0}, Interval.HOUR: {"minute": 0}, Interval.MINUTE: {}}[interval]
    assert begun == {hours_ago(h).replace(**zero) for h in (3, 5, 24 * 7)}


def test_only_images_of_the_source_are_counted(engine):
    assert count_answers(engine, seconds=30 * DAY_S, interval=Interval.DAY, source="sql").answers == 2
    assert count_answers(engine, seconds=30 * DAY_S, interval=Interval.DAY, source="kafka").answers == 0


def test_what_is_too_much_to_count_is_said(engine):
    counts = count_answers(engine, seconds=DAY_S, interval=Interval.HOUR, at_most=2)
    assert (counts.answers, counts.is_partial) == (2, True)


def test_the_history_of_an_image_tells_batches_and_decisions_the_latest_first(engine):
    with engine.begin() as connection:
        connection.execute(
            sa.insert(ImageBatch),
            [{"batch_key": "new", "image_count": 5, "created_at": hours_ago(4), "analysed_at": hours_ago(3)}],
        )
        row = {"image_id": 1, "batch_key": "new", "fetch_attempts": 1, "fetch_seconds": 0.1, "object_key": "images/a"}
        connection.execute(sa.insert(RawImage), [row])
        valid = [
            {"image_id": 1, "batch_key": "new", "object_key": "images/a"},
            {"image_id": 2, "batch_key": "old", "object_key": "images/b"},
            {"image_id": 3, "batch_key": "new", "object_key": "images/c", "reason": "corrupt"},
        ]
        for values in valid:
            connection.execute(sa.insert(ValidatedImage), [values])
        log = {"image_id": 1, "previous_status": "needs_review", "reviewer_id": "ann"}
        for values in (
            {"id": 1, "status": "pending", "reason": "too_dark", "notes": "n", "created_at": hours_ago(2)},
            {"id": 2, "status": "needs_review", "undoes_id": 1, "created_at": hours_ago(1)},
        ):
            connection.execute(sa.insert(QcReviewLog).values({**log, **values}))
        connection.execute(sa.update(ProductImage).values(created_at=hours_ago(9)))
    events = [(event.what, event.by) for event in image_history(engine, 1)]
    assert events == [
        ("decision undone: needs_review", "ann"),
        ("needs_review → pending (too_dark)", "ann"),
        ("analysed", "new"),
        ("claimed", "new"),
        ("came into the catalogue", None),
    ]
    assert [row["batch_key"] for row in newest_batches(engine)] == ["new"]
    assert original_keys(engine, [1, 2, 3, 4]) == {1: "images/a"}
