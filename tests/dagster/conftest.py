"""A small pipeline: a local CDN, SQLite, a local folder, and a detector that answers at once."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import dagster as dg
import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from imgpipe_dagster.build import build_defs
from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.batches import Batch, BatchLimits, claim_batch
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import Claimant, ProductImage
from imgpipe_dagster.demo.cdn import DemoCdn
from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.models.classifier import Probabilities
from imgpipe_dagster.models.detector import Boxes
from imgpipe_dagster.resources.classifier import ClassifierResource
from imgpipe_dagster.resources.detector import DetectorResource
from imgpipe_dagster.settings import Settings


class StubDetector:
    """Finds one bottle in the middle of every picture that is not dark."""

    def __init__(self, version):
        self.names = {0: "bottle"}
        self.version = version

    def detect_all(self, items, *, visit=None):
        for key, data in items:
            image = decode_bgr(data)
            height, width = image.shape[:2]
            found = [[width / 4, height / 4, width / 2, height / 2]] if image.mean() > 40 else []
            boxes = Boxes(
                np.array(found, np.float32).reshape(-1, 4),
                np.full(len(found), 0.9, np.float32),
                np.zeros(len(found), np.int64),
            )
            if visit:
                visit(key, image, boxes)
            yield key, boxes


class StubDetectorResource(DetectorResource):
    """A detector resource without a model."""

    @contextmanager
    def open(self):
        yield StubDetector(f"stub-{self.weights}")


class StubClassifier:
    """Sees a closed bottle in every picture that is not dark, and an opened one in every crop."""

    names: ClassVar = {0: "background", 1: "closed", 2: "opened"}

    def __init__(self, version):
        self.version = version

    def classify_all(self, items, *, boxes_of=None, visit=None):
        for key, data in items:
            image = decode_bgr(data)
            whole = [0.1, 0.8, 0.1] if image.mean() > 40 else [0.9, 0.05, 0.05]
            found = [whole, *([0.2, 0.1, 0.7] for _ in boxes_of(key))]
            found = [Probabilities(np.array(values, np.float32)) for values in found]
            if visit:
                visit(key, image, found)
            yield key, found


class StubClassifierResource(ClassifierResource):
    """A classifier resource without a model."""

    @contextmanager
    def open(self):
        yield StubClassifier(f"stub-{self.weights}")


@dataclass
class Pipeline:
    """Everything that a test of the Dagster layer needs."""

    settings: Settings
    engine: Engine
    cdn: DemoCdn
    instance: dg.DagsterInstance

    def write(self, name, data):
        (self.cdn.folder / name).write_bytes(data)

    def add(self, *urls, **columns):
        with self.engine.begin() as connection:
            connection.execute(sa.insert(ProductImage), [{"image_url": url, **columns} for url in urls])

    def add_files(self, *names, **columns):
        self.add(*(self.cdn.url_for(name) for name in names), **columns)

    def claim(self) -> Batch:
        batch = claim_batch(self.engine, BatchLimits(max_wait_s=0), Claimant.CLI)
        self.instance.add_dynamic_partitions("image_batches", [batch.key])
        return batch

    def defs(self, weights="one"):
        models = {"weights": weights, "cache_dir": str(self.settings.home)}
        stubs = {
            "detector": StubDetectorResource(**models),
            "classifier": StubClassifierResource(**models, crop_classes=self.settings.bottle_crop_classes),
        }
        return build_defs(self.settings, resource_overrides=stubs)

    def run(self, batch, weights="one", selection=None, raise_on_error=True, job="analyse"):
        return (
            self.defs(weights)
            .resolve_job_def(job)
            .execute_in_process(
                instance=self.instance,
                partition_key=batch.key,
                asset_selection=selection,
                raise_on_error=raise_on_error,
            )
        )

    def rows(self, table, *columns):
        with self.engine.connect() as connection:
            return connection.execute(sa.text(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2")).all()

    def count(self, table):
        with self.engine.connect() as connection:
            return connection.scalar(sa.text(f"SELECT COUNT(*) FROM {table}"))


def jpeg(seed=0, shade=128, width=64, height=48):
    rng = np.random.default_rng(seed)
    image = np.clip(rng.normal(shade, 10, (height, width, 3)), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


@pytest.fixture
def make_jpeg():
    return jpeg


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path / "home", fetch_allow_networks=["127.0.0.0/8"], fetch_attempts=1)
    engine = connect(settings.catalogue_url)
    schema.upgrade(engine)
    folder = Path(tmp_path / "cdn")
    folder.mkdir()
    with DemoCdn(folder) as cdn, dg.DagsterInstance.ephemeral() as instance:
        yield Pipeline(settings, engine, cdn, instance)
    engine.dispose()
