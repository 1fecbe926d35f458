"""The plan of every statement that runs per tick, per batch or per page, on a large catalogue.

Fills an empty database, calls the real functions, catches what they execute, and asks the database for the plan of each
SELECT, UPDATE and DELETE. Each is then run once more in a transaction that is rolled back, for the time it takes and
the rows it examines. "FULL SCAN" marks a plan that reads a whole table, "index scan" one that reads a whole index.

    python benchmarks/query_plans.py [--images 1000000] [--boxes 10000000] [--url sqlite:////tmp/plans.db]
"""

import argparse
import datetime as dt
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url

from imgpipe_dagster.catalogue import api_keys, batches, history, idempotency, images, overview, qc, qc_reports, schema
from imgpipe_dagster.catalogue.alert_mails import form_mails, lease_mail
from imgpipe_dagster.catalogue.alerts import write_alert
from imgpipe_dagster.catalogue.browse import ImageFilter, image_details, list_images, newest_enhanced
from imgpipe_dagster.catalogue.engine import connect, transact
from imgpipe_dagster.catalogue.feeds import feed_ages
from imgpipe_dagster.catalogue.frames import load_batch, replace_batch
from imgpipe_dagster.catalogue.imports import ImportRow, import_rows
from imgpipe_dagster.catalogue.jobs import last_training
from imgpipe_dagster.catalogue.publishing import publish_batch
from imgpipe_dagster.catalogue.pulse import take_pulse
from imgpipe_dagster.catalogue.tables import (
    BATCH_TABLES,
    Alert,
    AlertMail,
    ApiKey,
    BatchState,
    Claimant,
    Classification,
    DetectedImage,
    Detection,
    EnhancedImage,
    IdempotencyKey,
    ImageBatch,
    ImageMetric,
    ImagePrediction,
    ImageStatus,
    MetadataReport,
    ProcessingJob,
    ProductGroup,
    ProductImage,
    PublishedEnhancement,
    PublishedPrediction,
    QcReviewLog,
    QcStatus,
    RawImage,
    SensorTick,
    Sku,
    TempleChampion,
    TempleImage,
    TempleModelVersion,
    TempleSplit,
    User,
    ValidatedImage,
)
from imgpipe_dagster.catalogue.temple_images import count_pictures, list_pictures, pictures_of, temple_ids
from imgpipe_dagster.catalogue.temple_models import champion, versions
from imgpipe_dagster.catalogue.ticks import note_tick
from imgpipe_dagster.imaging.rework import RejectionReason

# A few rows, whatever comes.
SMALL_TABLES = frozenset({"alembic_version", "alert_conditions", "alert_mutes", "options", "feed_freshness"})
IMAGES_IN_ONE_GO = 50_000
MODEL = "shelf_yolo11n-0123456789"
TEMPLE_METRICS = {
    "accuracy": 0.95,
    "confusion": [[19, 1, 0], [1, 19, 0]],
    "curve": {"accuracy": [0.5, 0.7, 0.9, 0.95], "val_accuracy": [0.5, 0.6, 0.8, 0.9]},
    "mistakes": [{"id": 7, "category": "open", "image_class": "closed", "class_confidence": 0.7}],
}


@dataclass(frozen=True)
class Statement:
    """A statement as it was executed, and the call that executed it."""

    call: str
    sql: str
    parameters: Any


@dataclass(frozen=True)
class Plan:
    """What the database does for a statement.

    Attributes:
        statement: Which.
        steps: The database's own words, one for each table.
        full_scans: The steps that read a whole table.
        index_scans: The steps that read a whole index.
        rows: Rows read (MariaDB), or steps of the virtual machine in thousands (SQLite, which does not count rows).
        milliseconds: Of one execution, results fetched.
    """

    statement: Statement
    steps: tuple[str, ...]
    full_scans: tuple[str, ...]
    index_scans: tuple[str, ...]
    rows: int
    milliseconds: float


class Recorder:
    """Catches what an engine executes while a call is watched; inserts of values have no plan and are left out."""

    def __init__(self, engine: Engine) -> None:
        self.statements: list[Statement] = []
        self._call: str | None = None
        event.listen(engine, "before_cursor_execute", self._note)

    @contextmanager
    def watch(self, call: str) -> Iterator[None]:
        """Attribute what is executed in the block to ``call``."""
        self._call = call
        try:
            yield
        finally:
            self._call = None

    def _note(self, _conn: object, _cursor: object, sql: str, parameters: Any, _context: object, many: bool) -> None:
        if self._call is None or not sql.startswith(("SELECT", "UPDATE", "DELETE")):
            return
        statement = Statement(self._call, sql, parameters[0] if many else parameters)
        if not any((s.call, s.sql) == (statement.call, statement.sql) for s in self.statements):
            self.statements.append(statement)


def fill(engine: Engine, *, image_count: int, box_count: int, batch_size: int = 500) -> None:
    """Fill an empty catalogue.

    The last twentieth of the images waits; before it come four open batches, two that failed and two that are held;
    of the rest, one image in fifty was rejected. A thousand temples have a model each, and a labelled picture for every
    fifth image.
    """
    batch_count = image_count * 19 // 20 // batch_size
    claimed = batch_count * batch_size
    held, failed, is_open = batch_count - 8, batch_count - 6, batch_count - 4
    n = sa.literal_column("n", sa.Integer)

    def batch_key(number: sa.ColumnElement[int]) -> sa.ColumnElement[str]:
        return sa.literal("20261120-") + sa.cast(number + 100_000, sa.String(10))

    def insert(
        connection: Connection, table: type, columns: dict[str, Any], source: sa.FromClause, *where: Any
    ) -> None:
        query = sa.select(*(sa.literal(v) if isinstance(v, str | int | float) else v for v in columns.values()))
        connection.execute(sa.insert(table).from_select(list(columns), query.select_from(source).where(*where)))

    with engine.begin() as connection:
        state = sa.case((n > is_open, "claimed"), (n > failed, "failed"), (n > held, "held"), else_="enhanced")
        columns = {"batch_key": batch_key(n), "state": state, "image_count": batch_size}
        insert(connection, ImageBatch, columns, _numbers(engine, 1, batch_count))
        insert(connection, Sku, {"sku_id": _named("SKU", n)}, _numbers(engine, 0, image_count // 5))
        insert(connection, ProductGroup, {"product_group_id": _named("group", n)}, _numbers(engine, 0, 999))
        insert(connection, SensorTick, {"sensor_name": _named("sensor", n)}, _numbers(engine, 1, 10))
        mail = {"username": _named("user", n), "email": _named("user", n)}
        insert(connection, User, {"user_id": _named("user", n), **mail}, _numbers(engine, 1, 1000))
        key = {"name": _named("key", n), "key_sha256": _named("key", n), "scopes": sa.literal_column("'[]'")}
        insert(connection, ApiKey, key, _numbers(engine, 1, 1000))
        once = {"key_sha256": _named("key", n), "request_sha256": "asked"}
        insert(connection, IdempotencyKey, once, _numbers(engine, 1, 1000))
        columns = {
            "kind": "batch_failed",
            "subject": "s",
            "body": "b",
            "dedupe_key": _named("key", n),
            "state": sa.case((n > 990, "waiting"), else_="sent"),
            "mail_id": sa.case((n > 990, None), else_=n // 10 + 1),
        }
        insert(connection, Alert, columns, _numbers(engine, 1, 1000))
        columns = {
            "topic": sa.case((n % 20 == 0, "failures"), else_="disk_low"),
            "message_id": _named("mail", n),
            "accepted_at": "2026-11-20 10:00:00.000000",
            "closed_at": "2026-11-20 10:00:00.000000",
        }
        insert(connection, AlertMail, columns, _numbers(engine, 1, 100))
        columns = {"job_id": _named("job", n), "kind": "train", "parameters": sa.literal_column("'{}'")}
        insert(connection, ProcessingJob, columns, _numbers(engine, 1, 1000))
        _fill_temples(engine, connection, insert, image_count)
    for first in range(1, image_count + 1, IMAGES_IN_ONE_GO):
        numbers = _numbers(engine, first, min(first + IMAGES_IN_ONE_GO - 1, image_count))
        batch = (n - 1) // batch_size + 1
        rejected = sa.or_(n % 50 == 0, sa.and_(batch > failed, batch <= is_open))
        status = sa.case(
            (n > claimed, "pending"),
            (sa.or_(batch > is_open, sa.and_(batch > held, batch <= failed)), "processing"),
            (rejected, "failed"),
            else_="completed",
        )
        reason = sa.case((sa.and_(n <= claimed, n % 1000 == 0), "truncated"), (n % 50 == 0, "http_not_found"))
        mine = sa.and_(
            ProductImage.id.between(first, first + IMAGES_IN_ONE_GO - 1), ProductImage.batch_key.is_not(None)
        )
        image = {"batch_key": ProductImage.batch_key, "image_id": ProductImage.id}
        digest = ProductImage.source_key
        answer = sa.case((ProductImage.reason.is_(None), "predicted"), else_="rejected")
        with engine.begin() as connection:
            columns = {
                "id": n,
                "image_url": _named("https://cdn.example/", n),
                "source_key": _named("digest", n),
                "sku_id": _named("SKU", n % (image_count // 5)),
                "temple_id": _named("temple", n % 1000),
                "status": status,
                "qc_priority": n % 1009 / 1009.0,
                "qc_status": sa.case((n % 20 == 0, "needs_review"), (n % 20 == 1, "rejected"), else_="auto_approved"),
                "batch_key": sa.case((n <= claimed, batch_key(batch))),
                "reason": sa.case((status == "failed", sa.func.coalesce(reason, "batch_failed"))),
            }
            insert(connection, ProductImage, columns, numbers)
            for table, own in {
                RawImage: {"object_key": digest, "sha256": digest, "fetch_attempts": 1, "fetch_seconds": 0.05},
                ValidatedImage: {"object_key": digest, "sha256": digest, "width": 1280, "height": 960},
                DetectedImage: {"object_count": 10, "model_version": MODEL},
                ImagePrediction: {
                    "status": answer,
                    "object_count": 10,
                    "top_class": _class(ProductImage.id),
                    "top_confidence": 0.5,
                },
                MetadataReport: {
                    "object_key": sa.literal("metadata/") + digest + ".json",
                    "sha256": digest,
                    "byte_size": 4000,
                },
                PublishedPrediction: {"status": ProductImage.status},
                EnhancedImage: {"object_key": digest, "mode": "full", "model_version": MODEL},
                PublishedEnhancement: {"qc_status": ProductImage.qc_status, "qc_priority": 1, "audited": sa.false()},
                ImageMetric: {"phase": "before", "score": 70, "width": 1280, "height": 960, "byte_size": 240_000},
            }.items():
                insert(connection, table, {**image, **own}, ProductImage.__table__, mine)
            decided = {"reviewer_id": "ann", "previous_status": "needs_review", "status": ProductImage.qc_status}
            insert(
                connection,
                QcReviewLog,
                {
                    "image_id": ProductImage.id,
                    **decided,
                    "created_at": sa.literal_column("'2026-10-20 10:00:00.000000'"),
                },
                ProductImage.__table__,
                mine,
                ProductImage.qc_status == QcStatus.REJECTED,
            )
            name = ProductImage.batch_key + ":" + sa.cast(ProductImage.id, sa.String(20))
            whole = {"classification_id": name + ":bottle_status", "detection_id": None, "classifier": "bottle_status"}
            found = {"class_name": _status(ProductImage.id), "confidence_score": 0.9, "model_version": MODEL}
            insert(connection, Classification, {**image, **whole, **found}, ProductImage.__table__, mine)
            name = name + ":" + sa.cast(n, sa.String(4))
            box = {"class_id": n % 3, "class_name": _class(n), "confidence": 0.5, "x1": 1, "y1": 1, "x2": 9, "y2": 9}
            boxes = ProductImage.__table__.join(_numbers(engine, 1, max(1, box_count // claimed)), sa.true())
            insert(connection, Detection, {**image, **box, "detection_id": name, "model_version": MODEL}, boxes, mine)
    with engine.begin() as connection:
        for table in ProductImage.metadata.sorted_tables:
            connection.exec_driver_sql(f"ANALYZE TABLE {table.name}" if _is_mysql(engine) else f"ANALYZE {table.name}")


def _fill_temples(engine: Engine, connection: Connection, insert: Callable[..., None], image_count: int) -> None:
    n = sa.literal_column("n", sa.Integer)
    temple = _named("temple", n % 1000)
    version = {"version": "1", "number": 1, "origin": "trained", "files": "{}", "labels": '["open", "closed"]'}
    size = {"input_height": 32, "input_width": 40, "train_images": 160, "test_images": 40, "trained_seconds": 9}
    told = {"metrics": json.dumps(TEMPLE_METRICS), "verdict": "It is the first model of this temple."}
    insert(connection, TempleModelVersion, {"temple_id": temple, **version, **size, **told}, _numbers(engine, 0, 999))
    crown = {"version": "1", "promoted_by": "ann", "why": "It is the first model of this temple."}
    insert(connection, TempleChampion, {"temple_id": temple, **crown}, _numbers(engine, 0, 999))
    picture = {
        "id": n,
        "temple_id": temple,
        "split": sa.case((n / 1000 % 5 < 1, "test"), else_="train"),
        "category": sa.case((n / 1000 % 2 < 1, "open"), else_="closed"),
        "object_key": _named("digest", n),
        "sha256": _named("digest", n),
        "byte_size": 240_000,
        "origin": "import",
    }
    insert(connection, TempleImage, picture, _numbers(engine, 1, image_count // 5))


def calls(engine: Engine) -> Iterator[tuple[str, Callable[[], object]]]:
    """What runs per tick, per batch and per page, in an order in which it can run; a label and the call."""
    limits = batches.BatchLimits(max_wait_s=0)
    opened = batches.open_batches(engine)
    with engine.connect() as connection:
        done, failed, held = (
            connection.scalars(
                sa.select(ImageBatch.batch_key).where(ImageBatch.state == state).order_by(ImageBatch.id.desc()).limit(1)
            ).one()
            for state in (BatchState.ENHANCED, BatchState.FAILED, BatchState.HELD)
        )
    yield "tick: require_current", lambda: schema.require_current(engine)
    yield "tick: open_batches", lambda: batches.open_batches(engine)
    yield "tick: claim_batch", lambda: batches.claim_batch(engine, limits, Claimant.SENSOR)
    yield "tick: begin_attempt", lambda: batches.begin_attempt(engine, opened[0])
    yield "tick: hold_batch", lambda: batches.hold_batch(engine, opened[1], "canceled")
    yield "tick: fail_batch", lambda: batches.fail_batch(engine, opened[2], "lost")
    yield "tick: take_pulse", lambda: take_pulse(engine)
    yield "tick: form_mails", lambda: form_mails(engine, cool_down_s=0)
    yield "tick: lease_mail", lambda: lease_mail(engine, lease_s=60)
    yield "tick: note_tick", lambda: note_tick(engine, "sensor1", "nothing")
    yield "batch: get_batch", lambda: batches.get_batch(engine, done)
    yield "batch: note_heartbeat", lambda: batches.note_heartbeat(engine, done)
    yield "batch: images_of_batch", lambda: images.images_of_batch(engine, done)
    alert: dict[str, Any] = {"kind": "check_failed", "subject": "s", "body": "b", "dedupe_key": "new"}
    yield "batch: write_alert", lambda: transact(engine, lambda connection: write_alert(connection, **alert))
    for table in BATCH_TABLES:
        name = table.__tablename__
        frame = load_batch(engine, name, done)
        yield f"batch: load_batch({name})", lambda name=name: load_batch(engine, name, done)
        if name == PublishedPrediction.__tablename__:
            yield "batch: publish_batch", lambda name=name, frame=frame: publish_batch(engine, name, done, frame)
        else:
            yield (
                f"batch: replace_batch({name})",
                lambda name=name, frame=frame: replace_batch(engine, name, done, frame),
            )
    yield "batch: release_batch", lambda: batches.release_batch(engine, opened[3])
    yield "batch: summarize_batches", lambda: images.summarize_batches(engine, [done])
    yield "batch: count_stages", lambda: images.count_stages(engine, [done, failed])
    yield "import: import_rows", lambda: import_rows(engine, [_import_row(number) for number in range(1000)])
    yield "retry: by batch", lambda: batches.retry_images(engine, batch_key=held)
    yield "retry: by batch, in batches", lambda: batches.retry_images(engine, batch_key=failed, batch_size=100)
    yield "retry: by reason", lambda: batches.retry_images(engine, reason="truncated")
    yield "retry: all", lambda: batches.retry_images(engine)
    yield "status: longest_wait_s", lambda: batches.longest_wait_s(engine)
    yield "status: last_prediction_age_s", lambda: images.last_prediction_age_s(engine)
    yield "status: count_by_reason", lambda: images.count_by_reason(engine)
    yield "status: count_by_status", lambda: images.count_by_status(engine)
    yield "status: count_batches_by_state", lambda: images.count_batches_by_state(engine)
    yield from _review_calls(engine)
    yield from _api_calls(engine)
    yield from _dashboard_calls(engine)
    for name, query in pages().items():
        yield f"page: {name}", lambda query=query: _read(engine, query)


def _dashboard_calls(engine: Engine) -> Iterator[tuple[str, Callable[[], object]]]:
    far = {"seconds": 10**9, "interval": overview.Interval.DAY}
    yield "status: count_answers", lambda: overview.count_answers(engine, **far)
    yield "status: count_answers of a source", lambda: overview.count_answers(engine, **far, source="sql")
    yield "page: newest batches", lambda: overview.newest_batches(engine)
    yield "page: newest alerts", lambda: overview.newest_alerts(engine)
    yield "page: newest enhanced", lambda: newest_enhanced(engine)
    yield "page: newest enhanced of a SKU", lambda: newest_enhanced(engine, sku_id="SKU7")
    yield "page: feeds", lambda: feed_ages(engine)
    of_temple = {"split": TempleSplit.TRAIN, "category": "open", "before": 10**6, "at_most": 13}
    yield "status: temple_ids", lambda: temple_ids(engine)
    yield "page: champion of a temple", lambda: champion(engine, "temple7")
    yield "page: versions of a temple", lambda: versions(engine, "temple7")
    yield "page: counts of labelled pictures", lambda: count_pictures(engine, "temple7")
    yield "page: labelled pictures", lambda: list_pictures(engine, "temple7", **of_temple)
    yield "page: misclassified pictures", lambda: pictures_of(engine, range(7, 50_007, 1000))
    yield "page: last training", lambda: last_training(engine, "temple7")
    yield "page: history of an image", lambda: history.image_history(engine, 1001)
    yield "page: keys of a page", lambda: history.original_keys(engine, range(1001, 1025))
    filters = {
        "all": ImageFilter(),
        "by status": ImageFilter(status=ImageStatus.COMPLETED),
        "by status and confidence": ImageFilter(status=ImageStatus.COMPLETED, confidence=(0.4, 0.6)),
        "by class and confidence": ImageFilter(class_name="can", confidence=(0.4, 0.6)),
        "by reason": ImageFilter(reason="truncated"),
        "by time": ImageFilter(created_from=dt.datetime(2020, 1, 1)),  # noqa: DTZ001 - UTC, as the columns are
    }
    for name, which in filters.items():
        after = (dt.datetime(2100, 1, 1), 9000) if which.is_by_time else (9000,)  # noqa: DTZ001 - UTC, as the columns are
        for label, begin in ((name, None), (f"{name}, the next page", after)):
            yield (
                f"page: images backwards {label}",
                lambda which=which, begin=begin: list_images(engine, which, after=begin, at_most=24, newest_first=True),
            )


def _review_calls(engine: Engine) -> Iterator[tuple[str, Callable[[], object]]]:
    limits, ann = qc.ReviewLimits(), {"reviewer": "ann", "limits": qc.ReviewLimits()}
    first, second, third = qc.pending_reviews(engine, limits=limits, at_most=3)
    yield "review: a page", lambda: qc.pending_reviews(engine, limits=limits, reviewer="ann")
    yield "review: the next page", lambda: qc.pending_reviews(engine, limits=limits, after=(0.5, 10**6))
    yield "review: claim the most urgent", lambda: qc.claim_reviews(engine, reviewer="ann", limits=limits)
    yield "review: claim one", lambda: qc.claim_review(engine, first.image_id, **ann)
    yield "review: release", lambda: qc.release_review(engine, first.image_id, reviewer="ann")
    yield "review: approve", lambda: qc.approve(engine, second.image_id, url_of=str, **ann)
    dark = RejectionReason.TOO_DARK
    yield "review: reject", lambda: qc.reject(engine, third.image_id, reason=dark, **ann)
    yield "review: undo", lambda: qc.undo(engine, third.image_id, **ann)
    yield "status: review_progress", lambda: qc_reports.review_progress(engine, "ann")
    yield "status: review_figures", lambda: qc_reports.review_figures(engine)
    yield "export: published pictures", lambda: next(qc_reports.published_pictures(engine))


def _api_calls(engine: Engine) -> Iterator[tuple[str, Callable[[], object]]]:
    first, far = (dt.datetime(year, 1, 1) for year in (2020, 2100))  # noqa: DTZ001 - UTC, as the columns are
    filters = {
        "all": ImageFilter(),
        "by status": ImageFilter(status=ImageStatus.COMPLETED),
        "by SKU": ImageFilter(sku_id="SKU7"),
        "by temple and status": ImageFilter(temple_id="temple7", status=ImageStatus.COMPLETED),
        "by class": ImageFilter(class_name="can"),
        "by class that is not there": ImageFilter(class_name="nothing"),
        "by reason": ImageFilter(reason="truncated"),
        "by time": ImageFilter(created_from=first, created_to=far),
        "by status and time": ImageFilter(status=ImageStatus.FAILED, created_from=first),
    }
    for name, which in filters.items():
        after = (first, 1000) if which.is_by_time else (1000,)
        yield f"api: images {name}", lambda which=which: list_images(engine, which, after=None, at_most=50)
        yield (
            f"api: images {name}, the next page",
            lambda which=which, after=after: list_images(engine, which, after=after, at_most=50),
        )
    yield "api: one image", lambda: image_details(engine, 1001)
    yield "api: find_key", lambda: api_keys.find_key(engine, "imgpipe_x")
    yield "api: user_id_of", lambda: api_keys.user_id_of(engine, "ann@example.com")
    yield "api: idempotency", lambda: idempotency.begin(engine, "0" * 64, "1" * 64, abandoned_after_s=60)
    yield "api: idempotency, expiry", lambda: idempotency.expire(engine, dt.timedelta(days=1))


def pages() -> dict[str, sa.Select[Any]]:
    """What lists and detail pages ask for: fifty rows after a cursor, by what people filter."""
    image, boxes, answers = ProductImage, _view(Detection), _view(ImagePrediction)
    classes = _view(Classification)
    after = sa.select(image).where(image.id > 1000).order_by(image.id).limit(50)
    return {
        "images": after,
        "images by status": after.where(image.status == ImageStatus.COMPLETED),
        "images by status and reason": after.where(image.status == ImageStatus.FAILED, image.reason == "truncated"),
        "images by SKU": after.where(image.sku_id == "SKU7"),
        "images by temple": after.where(image.temple_id == "temple7"),
        "images by batch": after.where(image.batch_key == "20261120-100005"),
        "boxes of an image": sa.select(boxes).where(boxes.c.image_id == 1001),
        "boxes of a batch": sa.select(boxes).where(boxes.c.batch_key == "20261120-100005"),
        "boxes by class": sa.select(boxes)
        .where(boxes.c.class_name == "can", boxes.c.image_id > 1000)
        .order_by(boxes.c.image_id)
        .limit(50),
        "classifications of an image": sa.select(classes).where(classes.c.image_id == 1001),
        "opened bottles": sa.select(classes)
        .where(classes.c.classifier == "bottle_status", classes.c.class_name == "opened", classes.c.image_id > 1000)
        .order_by(classes.c.image_id)
        .limit(50),
        "answers of 50 images": sa.select(answers).where(answers.c.image_id.in_(range(1001, 1051))),
        "answers by top class": sa.select(answers)
        .where(answers.c.top_class == "can", answers.c.image_id > 1000)
        .order_by(answers.c.image_id)
        .limit(50),
        "newest answers": sa.select(answers)
        .where(answers.c.created_at < sa.literal_column("'2100-01-01'"))
        .order_by(answers.c.created_at.desc())
        .limit(50),
        "newest batches": sa.select(ImageBatch).where(ImageBatch.id < 2**62).order_by(ImageBatch.id.desc()).limit(50),
        "newest alerts": sa.select(Alert).where(Alert.id < 2**62).order_by(Alert.id.desc()).limit(50),
    }


def examine(engine: Engine) -> list[Plan]:
    """Make every call and ask for the plan of each statement that it executed."""
    recorder = Recorder(engine)
    plans: list[Plan] = []
    for label, call in calls(engine):
        with recorder.watch(label):
            call()
        plans += [explain(engine, statement) for statement in recorder.statements]
        recorder.statements.clear()
    return plans


def explain(engine: Engine, statement: Statement) -> Plan:
    """The plan of one statement, and what one more execution of it costs; its changes are rolled back."""
    with engine.connect().execution_options(imgpipe_writes=True) as connection, connection.begin() as transaction:
        words = "EXPLAIN" if _is_mysql(engine) else "EXPLAIN QUERY PLAN"
        rows = connection.exec_driver_sql(f"{words} {statement.sql}", statement.parameters).mappings().all()
        steps, full, index = _mariadb_steps(rows) if _is_mysql(engine) else _sqlite_steps(rows)
        read = _count_rows_mariadb if _is_mysql(engine) else _count_steps_sqlite
        with read(connection) as examined:
            started = time.perf_counter()
            result = connection.exec_driver_sql(statement.sql, statement.parameters)
            if result.returns_rows:
                result.all()
            seconds = time.perf_counter() - started
        transaction.rollback()
    return Plan(statement, steps, full, index, examined[0], seconds * 1000)


Steps = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def _sqlite_steps(rows: Any) -> Steps:
    details = [row["detail"] for row in rows]
    scans = [detail for detail in details if detail.startswith("SCAN ") and detail.split()[1] not in SMALL_TABLES]
    scans = [scan for scan in scans if not scan.startswith(("SCAN CONSTANT ROW", "SCAN anon_", "SCAN ("))]
    index = [scan for scan in scans if "USING" in scan]
    return tuple(details), tuple(scan for scan in scans if scan not in index), tuple(index)


def _mariadb_steps(rows: Any) -> Steps:
    steps, full, index = [], [], []
    for row in rows:
        extra = f" ({row['Extra']})" if row["Extra"] else ""
        step = f"{row['table']}: {row['type']} {row['key'] or ''}{extra}".replace("  ", " ")
        steps.append(step)
        if row["table"] is None or row["table"].startswith("<") or row["table"] in SMALL_TABLES:
            continue  # a constant, or rows that another step has found
        if row["type"] == "ALL":
            full.append(step)
        elif row["type"] == "index":
            index.append(step)
    return tuple(steps), tuple(full), tuple(index)


@contextmanager
def _count_rows_mariadb(connection: Connection) -> Iterator[list[int]]:
    def read() -> int:
        return sum(int(row[1]) for row in connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'"))

    before, found = read(), [0]
    asking = read() - before  # the question itself reads rows
    yield found
    found[0] = read() - before - 2 * asking


@contextmanager
def _count_steps_sqlite(connection: Connection) -> Iterator[list[int]]:
    found = [0]

    def count() -> int:
        found[0] += 1
        return 0

    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(count, 1000)
    yield found
    driver.set_progress_handler(None, 0)


def _numbers(engine: Engine, first: int, last: int) -> sa.FromClause:
    """The numbers from first to last, as column ``n``."""
    if _is_mysql(engine):
        return sa.text(f"SELECT seq AS n FROM seq_{first}_to_{last}").columns(sa.column("n")).subquery("numbers")
    numbers = sa.select(sa.literal(first).label("n")).cte("numbers", recursive=True)
    return numbers.union_all(sa.select(numbers.c.n + 1).where(numbers.c.n < last))


def _named(name: Any, number: Any) -> sa.ColumnElement[str]:
    return (sa.literal(name) if isinstance(name, str) else name) + sa.cast(number, sa.String(20))


def _class(number: Any) -> sa.ColumnElement[str]:
    return sa.case((number % 3 == 0, "bottle"), (number % 3 == 1, "can"), else_="gap")


def _status(number: Any) -> sa.ColumnElement[str]:
    return sa.case((number % 100 == 0, "opened"), (number % 2 == 0, "closed"), else_="background")


def _view(table: Any) -> sa.FromClause:
    return sa.table(f"current_{table.__tablename__}", *(sa.column(c.name, c.type) for c in table.__table__.c))


def _import_row(number: int) -> ImportRow:
    return ImportRow(f"https://cdn.example/new/{number}.jpg", sku_id=f"SKU{number % 300}", product_group_id="group5")


def _read(engine: Engine, query: sa.Select[Any]) -> None:
    with engine.connect() as connection:
        connection.execute(query).all()


def _is_mysql(engine: Engine) -> bool:
    return engine.dialect.name in ("mysql", "mariadb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--boxes", type=int, default=10_000_000)
    parser.add_argument("--url", help="an empty database; default: SQLite in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = connect(make_url(options.url or f"sqlite:///{folder}/catalogue.db"))
        if schema.current_revision(engine) is not None:
            raise SystemExit("The database is not empty, and this would change its rows: name another.")
        schema.upgrade(engine)
        started = time.perf_counter()
        fill(engine, image_count=options.images, box_count=options.boxes)
        filled = time.perf_counter() - started
        plans = examine(engine)
        engine.dispose()
    unit = "rows" if _is_mysql(engine) else "k steps"
    print(f"{engine.dialect.name}, {options.images:,} images, {options.boxes:,} boxes, filled in {filled:.0f} s\n")
    print(f"| call | plan | {unit} | ms | |\n|---|---|---|---|---|")
    for plan in plans:
        mark = "**FULL SCAN**" if plan.full_scans else "index scan" if plan.index_scans else ""
        call = f"{plan.statement.call}, {plan.statement.sql.split()[0]}"
        print(f"| {call} | {'; '.join(plan.steps)} | {plan.rows} | {plan.milliseconds:.1f} | {mark} |")


if __name__ == "__main__":
    main()
