"""Frames in and out of the batch tables, the same on both databases."""

import threading

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.frames import load_batch, replace_batch
from imgpipe_dagster.catalogue.images import images_of_batch, last_prediction_age_s
from imgpipe_dagster.catalogue.publishing import publish_batch
from imgpipe_dagster.catalogue.tables import ImageBatch, ProductImage
from imgpipe_dagster.reasons import Reason


@pytest.fixture
def engine(database_url):
    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


def validated(**changed):
    columns = {
        "image_id": np.array([1, 2], np.int64),
        "object_key": ["images/ab/x.jpg", None],
        "width": [640, None],
        "reason": [None, Reason.TRUNCATED],
        "detail": [None, "It ends at ½ — 一半 🍾"],
    }
    return pd.DataFrame({**columns, **changed})


def test_what_comes_back_is_what_went_in_with_the_types_of_the_table(engine):
    assert replace_batch(engine, "validated_images", "b-1", validated()) == 2
    frame = load_batch(engine, "validated_images", "b-1")
    assert list(frame["image_id"]) == [1, 2]
    assert frame["image_id"].dtype == "int64"
    assert frame["width"].dtype == "Int64"
    assert frame["width"].isna().tolist() == [False, True]
    assert frame["reason"].isna().tolist() == [True, False]
    assert frame["reason"][1] == "truncated"
    assert frame["detail"][1] == "It ends at ½ — 一半 🍾"


def test_an_empty_batch_has_the_types_too(engine):
    frame = load_batch(engine, "detections", "nothing")
    assert len(frame) == 0
    assert frame["confidence"].dtype == "float64"
    assert replace_batch(engine, "detections", "nothing", frame) == 0


def test_a_second_frame_replaces_the_rows_of_its_batch_only(engine):
    replace_batch(engine, "validated_images", "b-1", validated())
    replace_batch(engine, "validated_images", "b-2", validated())
    replace_batch(engine, "validated_images", "b-1", validated().head(1))
    assert len(load_batch(engine, "validated_images", "b-1")) == 1
    assert len(load_batch(engine, "validated_images", "b-2")) == 2


def test_columns_that_do_not_fit_the_table_are_refused_and_nothing_is_changed(engine):
    replace_batch(engine, "validated_images", "b-1", validated())
    with pytest.raises(ValueError, match="colour"):
        replace_batch(engine, "validated_images", "b-1", validated(colour=["red", "blue"]))
    with pytest.raises(ValueError, match="image_id"):
        replace_batch(engine, "validated_images", "b-1", validated().drop(columns="image_id"))
    assert len(load_batch(engine, "validated_images", "b-1")) == 2
    with pytest.raises(KeyError, match="product_images"):
        load_batch(engine, "product_images", "b-1")


def test_a_failure_in_the_same_transaction_leaves_the_old_rows(engine):
    replace_batch(engine, "validated_images", "b-1", validated())

    def fail(_connection):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        replace_batch(engine, "validated_images", "b-1", validated().head(0), then=fail)
    assert len(load_batch(engine, "validated_images", "b-1")) == 2


def test_microseconds_of_the_first_answer_survive(engine):
    predictions = pd.DataFrame({"image_id": [1], "status": ["predicted"], "object_count": [0]})
    assert last_prediction_age_s(engine) is None
    replace_batch(engine, "image_predictions", "b-1", predictions)
    first = load_batch(engine, "image_predictions", "b-1")["created_at"][0]
    replace_batch(engine, "image_predictions", "b-2", predictions)
    again = load_batch(engine, "image_predictions", "b-2")
    assert again["created_at"][0] == first
    assert again["updated_at"][0] >= first
    assert 0 <= last_prediction_age_s(engine) < 60


def test_a_backfill_of_the_batch_that_an_image_has_left_does_not_forget_its_first_answer(engine):
    with engine.begin() as connection:
        for batch_key in ("b-1", "b-1"):
            connection.execute(sa.insert(ProductImage).values(image_url="u", status="completed", batch_key=batch_key))
    answers = pd.DataFrame({"image_id": [1, 2], "status": "predicted", "object_count": 0})
    replace_batch(engine, "image_predictions", "b-1", answers)
    first = load_batch(engine, "image_predictions", "b-1")["created_at"][0]

    with engine.begin() as connection:
        connection.execute(sa.update(ProductImage).where(ProductImage.id == 1).values(batch_key="b-2"))
    for left in (answers.tail(1), answers.head(0)):
        assert replace_batch(engine, "image_predictions", "b-1", left) == len(left)
        assert load_batch(engine, "image_predictions", "b-1", counting=True)["image_id"].tolist() == [2] * len(left)
    replace_batch(engine, "image_predictions", "b-1", answers)  # a run that began before the image moved
    replace_batch(engine, "image_predictions", "b-2", answers.head(1))
    assert load_batch(engine, "image_predictions", "b-2")["created_at"].tolist() == [first]


def test_runs_that_write_the_same_batch_at_once_leave_its_rows_once(engine):
    frame = pd.DataFrame({"image_id": range(200), "object_count": 1, "model_version": "m"})
    errors = []

    def write():
        try:
            for _ in range(5):
                replace_batch(engine, "detected_images", "b-1", frame)
        except sa.exc.SQLAlchemyError as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(load_batch(engine, "detected_images", "b-1")["image_id"]) == list(range(200))


def test_publishing_reaches_the_images_of_the_batch_that_do_not_wait_for_another(engine):
    with engine.begin() as connection:
        connection.execute(sa.insert(ImageBatch).values(batch_key="b-1", image_count=3))
        for status, batch_key in (("processing", "b-1"), ("pending", "b-1"), ("processing", "b-2")):
            connection.execute(sa.insert(ProductImage).values(image_url="u", status=status, batch_key=batch_key))
    answers = pd.DataFrame({"image_id": [1, 2, 3], "status": "failed", "reason": Reason.TIMEOUT})
    assert publish_batch(engine, "published_predictions", "b-1", answers) == 3
    with engine.connect() as connection:
        rows = connection.execute(sa.select(ProductImage.status, ProductImage.reason).order_by(ProductImage.id)).all()
        state = connection.scalar(sa.select(ImageBatch.state))
    assert rows == [("failed", "timeout"), ("pending", None), ("processing", None)]
    assert state == "enhanced"
    assert list(images_of_batch(engine, "b-1")["image_id"]) == [1, 2]
