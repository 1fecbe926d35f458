"""A batch's heartbeat goes on while models are opened and while temples' champions answer, however long that takes."""

import time
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from imgpipe_dagster.assets import common, temple_classifications
from imgpipe_dagster.catalogue.tables import ImageBatch
from imgpipe_dagster.temples.batches import ImageAnswer


@pytest.fixture
def heartbeats(pipeline):
    """Forgets the last heartbeat, and tells whether one has come since."""

    class Heartbeats:
        def forget(self):
            with pipeline.engine.begin() as connection:
                connection.execute(sa.update(ImageBatch).values(heartbeat_at=sa.text("'2020-01-01 00:00:00.000000'")))

        def came(self):
            ((last, _),) = pipeline.rows("image_batches", "heartbeat_at", "id")
            return not last.startswith("2020")

        def come_within(self, seconds):
            self.forget()
            deadline = time.monotonic() + seconds
            while not (came := self.came()) and time.monotonic() < deadline:
                time.sleep(0.02)
            return came

    return Heartbeats()


@pytest.fixture
def batch(pipeline, make_jpeg):
    for number in range(3):
        pipeline.write(f"{number}.jpg", make_jpeg(number))
        pipeline.add_files(f"{number}.jpg", temple_id="hall")
    return pipeline.claim()


@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_a_model_that_takes_long_to_open_does_not_silence_the_batch(pipeline, batch, heartbeats, monkeypatch, kind):
    monkeypatch.setattr(common, "HEARTBEAT_EVERY_S", 0.05)
    defs = pipeline.defs()
    resource = type(defs.resources[kind])
    quick, heard = resource.open, []

    @contextmanager
    def slow(self):
        heard.extend(heartbeats.come_within(30) for _ in range(2))
        with quick(self) as model:
            yield model
            heartbeats.forget()

    monkeypatch.setattr(resource, "open", slow)
    assert pipeline.run(batch).success
    assert heard == [True, True]


def test_temples_that_take_long_to_answer_do_not_silence_the_batch(pipeline, batch, heartbeats, monkeypatch):
    heard = []

    def slow(_engine, _store, images):
        monkeypatch.setattr(common, "HEARTBEAT_EVERY_S", 0.0)
        for image in images:
            heartbeats.forget()
            yield ImageAnswer(image)
            heard.append(heartbeats.came())

    monkeypatch.setattr(temple_classifications, "classify_images", slow)
    result = pipeline.run(batch)
    assert heard == [True, True, True]
    (metadata,) = [m.metadata for m in result.asset_materializations_for_node("classifications")]
    assert metadata["images"].value == 3, "answers of temples are counted apart"


def test_no_heartbeat_comes_from_a_model_that_is_open(pipeline, batch, heartbeats, monkeypatch):
    """Only its answers tell that the stage is at work: one that hangs is found."""
    monkeypatch.setattr(common, "HEARTBEAT_EVERY_S", 0.05)
    resource = type(pipeline.defs().resources["detector"])
    quick, heard = resource.open, []

    @contextmanager
    def hangs(self):
        with quick(self) as model:
            yield model
            heard.append(heartbeats.come_within(0.3))

    monkeypatch.setattr(resource, "open", hangs)
    pipeline.run(batch)
    assert heard == [False]
