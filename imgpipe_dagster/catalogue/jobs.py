"""Jobs that clients ask for: which images they are about, how far they are, what became of each image.

A job's images are fixed when it is made. Later its images are moved, some at a time, into batches of their own, and
from then on everything that holds for batches holds for them. ``product_images.job_id`` names the last job that took
an image; an image that a retry or an interruption moves to another batch goes on counting for that job.
"""

import datetime as dt
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.batches import Batch, form_batch
from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import (
    BatchState,
    EnhancedImage,
    ImageBatch,
    ImageMetric,
    ImageStatus,
    ProcessingJob,
    ProcessingJobImage,
    ProductImage,
    PublishedEnhancement,
    PublishedPrediction,
    Sku,
)
from imgpipe_dagster.catalogue.types import utc_now
from imgpipe_dagster.streams import chunks

MOST_IMAGES = 100_000
"""Images of one job."""

_LOOK_FOR_S = 5.0
_CHUNK = 1000
_LOOKED_AT = 100
_OPEN = (ImageStatus.PENDING, ImageStatus.PROCESSING)
_OPEN_BATCHES = (BatchState.CLAIMED, BatchState.ANALYSED, BatchState.HELD, BatchState.ENHANCEMENT_HELD)


class JobKind(StrEnum):
    """What a job is about."""

    ENHANCE = "enhance"
    TRAIN = "train"


class NothingToDoError(ValueError):
    """No image fits what the job is about."""


class TooManyImagesError(ValueError):
    """The job would be about more images than one job may be."""


@dataclass(frozen=True)
class Job:
    """A job as it stands. Times are UTC without a zone.

    Attributes:
        job_id: Its id.
        kind: What it is about.
        status: ``pending``, ``processing``, ``completed`` or ``failed``.
        parameters: What was asked for.
        total_images: Images that it is about.
        processed_images: Those that are done, failed ones included.
        failed_images: Those that came to nothing.
        error: Why the whole job failed.
        created_at: When it was asked for.
        started_at: When its work began.
        completed_at: When it ended.
    """

    job_id: str
    kind: JobKind
    status: ImageStatus
    parameters: Mapping[str, Any]
    total_images: int
    processed_images: int
    failed_images: int
    error: str | None
    created_at: dt.datetime
    started_at: dt.datetime | None
    completed_at: dt.datetime | None

    @property
    def is_open(self) -> bool:
        """Whether it is not over yet."""
        return self.status in _OPEN


@dataclass(frozen=True)
class JobResult:
    """What became of one image of a job.

    Attributes:
        image_id: The image.
        status: ``pending``, ``processing``, ``completed`` or ``failed``.
        reason: Why it failed, as a code; also where only its enhancement did.
        batch_key: The batch that it is in for the job.
        qc_status: The verdict on its enhanced picture, or the decision of a person since.
        score: Quality of its enhanced picture.
        enhanced_image_url: Where that may be had, once it is approved.
    """

    image_id: int
    status: ImageStatus
    reason: str | None
    batch_key: str | None
    qc_status: str | None
    score: float | None
    enhanced_image_url: str | None


@dataclass(frozen=True)
class JobProgress:
    """How many images of a job stand where.

    Attributes:
        waiting: In no batch yet.
        free: Those of them that nobody works on now.
        open: In a batch that is not done.
        done: Done, failed ones included.
        failed: Came to nothing.
        batches: Batches of the job that are not done.
    """

    waiting: int
    free: int
    open: int
    done: int
    failed: int
    batches: int


def create_enhance_job(
    engine: Engine,
    *,
    sku_id: str | None = None,
    product_group_id: str | None = None,
    image_ids: Sequence[int] | None = None,
    parameters: Mapping[str, Any],
    config: Mapping[str, Any],
    at_most: int = MOST_IMAGES,
) -> Job:
    """Ask for the enhancement of the images that fit all that is given; only images with a SKU are enhanced.

    Args:
        engine: The catalogue.
        sku_id: Images of this SKU.
        product_group_id: Images of the SKUs of this group.
        image_ids: These images.
        parameters: What was asked for, to be told again.
        config: Settings that are laid over those of the group and the SKU.
        at_most: Images of the job.

    Raises:
        NothingToDoError: No image fits.
        TooManyImagesError: More than ``at_most`` do.
    """
    if sku_id is None and product_group_id is None and not image_ids:
        raise NothingToDoError("Say which images: sku_id, product_group_id or image_ids.")
    fitting = sa.select(ProductImage.id).where(ProductImage.sku_id.is_not(None))
    if sku_id is not None:
        fitting = fitting.where(ProductImage.sku_id == sku_id)
    if product_group_id is not None:
        of_group = sa.select(Sku.sku_id).where(Sku.product_group_id == product_group_id)
        fitting = fitting.where(ProductImage.sku_id.in_(of_group))

    def create(connection: Connection) -> str:
        if image_ids is None:
            ids = connection.scalars(fitting.order_by(ProductImage.id).limit(at_most + 1)).all()
        else:
            wanted = sorted(set(image_ids))
            ids = [
                image_id
                for some in chunks(wanted, _CHUNK)
                for image_id in connection.scalars(fitting.where(ProductImage.id.in_(some)))
            ]
        if not ids:
            raise NothingToDoError("No image with a SKU fits.")
        if len(ids) > at_most:
            raise TooManyImagesError(f"More than {at_most} images fit: ask for fewer at a time.")
        job_id = str(uuid.uuid4())
        asked = {**parameters, "config": dict(config)}
        job = {"job_id": job_id, "kind": JobKind.ENHANCE.value, "parameters": asked, "total_images": len(ids)}
        connection.execute(sa.insert(ProcessingJob), [job])
        for some in chunks(ids, _CHUNK):
            rows = [{"job_id": job_id, "image_id": image_id} for image_id in some]
            connection.execute(sa.insert(ProcessingJobImage), rows)
        return job_id

    job_id = transact(engine, create, retry_for_s=_LOOK_FOR_S)
    job = get_job(engine, job_id)
    if job is None:
        raise NothingToDoError("The job was deleted as it was made.")
    return job


def get_job(engine: Engine, job_id: str) -> Job | None:
    """The job of that id, or None."""
    found = transact(
        engine,
        lambda connection: _jobs(connection, ProcessingJob.job_id == job_id),
        writes=False,
        retry_for_s=_LOOK_FOR_S,
    )
    return found[0] if found else None


def open_jobs(engine: Engine, kind: JobKind) -> list[Job]:
    """The jobs of a kind that are not done, oldest first."""

    def look(connection: Connection) -> list[Job]:
        # A query for each status, so that each uses its index in its order.
        jobs = [job for status in _OPEN for job in _jobs(connection, ProcessingJob.status == status)]
        return sorted((job for job in jobs if job.kind is kind), key=lambda job: (job.created_at, job.job_id))

    return transact(engine, look, writes=False, retry_for_s=_LOOK_FOR_S)


def last_training(engine: Engine, temple_id: str) -> Job | None:
    """The training of a temple that was asked for last; None if it is not among the newest jobs of its status."""

    def look(connection: Connection) -> list[Job]:
        newest = [_jobs(connection, ProcessingJob.status == status, newest=_LOOKED_AT) for status in ImageStatus]
        return [job for jobs in newest for job in jobs if job.kind is JobKind.TRAIN]

    trainings = transact(engine, look, writes=False, retry_for_s=_LOOK_FOR_S)
    mine = [job for job in trainings if job.parameters.get("temple_id") == temple_id]
    return max(mine, key=lambda job: (job.created_at, job.job_id), default=None)


def job_results(engine: Engine, job_id: str, *, after: int = 0, at_most: int = 100) -> list[JobResult]:
    """What became of a job's images, by id, from an id on."""
    members = _members(job_id).where(ProcessingJobImage.image_id > after)
    page = members.order_by(ProcessingJobImage.image_id).limit(at_most).subquery()
    score = sa.and_(
        ImageMetric.batch_key == page.c.batch_key, ImageMetric.image_id == page.c.image_id, ImageMetric.phase == "after"
    )
    query = (
        sa.select(
            page,
            PublishedPrediction.reason.label("rejected_because"),
            PublishedEnhancement.qc_status.label("verdict"),
            PublishedEnhancement.enhanced_image_url.label("verdict_url"),
            ImageMetric.score,
        )
        .outerjoin(PublishedPrediction, _of_batch(PublishedPrediction, page))
        .outerjoin(PublishedEnhancement, _of_batch(PublishedEnhancement, page))
        .outerjoin(ImageMetric, score)
        .order_by(page.c.image_id)
    )
    rows = transact(
        engine, lambda connection: connection.execute(query).mappings().all(), writes=False, retry_for_s=_LOOK_FOR_S
    )
    return [_result(row) for row in rows]


def job_progress(engine: Engine, job_id: str) -> JobProgress:
    """How far an enhancement job is."""
    members = _members(job_id).subquery()
    query = sa.select(members.c.standing, members.c.is_free, sa.func.count()).group_by(
        members.c.standing, members.c.is_free
    )
    open_batches = sa.select(sa.func.count(members.c.batch_key.distinct())).where(members.c.standing == _IN_WORK)

    def look(connection: Connection) -> JobProgress:
        counts: dict[tuple[str, int], int] = {}
        for standing, is_free, count in connection.execute(query):
            counts[standing, int(is_free)] = count

        def sum_of(*standings: str) -> int:
            return sum(count for (standing, _), count in counts.items() if standing in standings)

        return JobProgress(
            waiting=sum_of(_WAITS),
            free=counts.get((_WAITS, 1), 0),
            open=sum_of(_IN_WORK),
            done=sum_of(_DONE, _FAILED),
            failed=sum_of(_FAILED),
            batches=connection.scalar(open_batches) or 0,
        )

    return transact(engine, look, writes=False, retry_for_s=_LOOK_FOR_S)


def take_into_batch(engine: Engine, job_id: str, *, at_most: int) -> Batch | None:
    """Move images of a job that nobody works on into a batch of their own; None if there are none."""

    def take(connection: Connection) -> Batch | None:
        waiting = (
            sa.select(ProductImage.id)
            .join(ProcessingJobImage, ProcessingJobImage.image_id == ProductImage.id)
            .where(
                ProcessingJobImage.job_id == job_id,
                ProcessingJobImage.batch_key.is_(None),
                ProductImage.status != ImageStatus.PROCESSING,
            )
            .order_by(ProcessingJobImage.image_id)
            .limit(at_most)
            .with_for_update(skip_locked=True, of=ProductImage)
        )
        ids = connection.scalars(waiting).all()
        if not ids:
            return None
        batch = form_batch(connection, ids)
        for some in chunks(ids, _CHUNK):
            # What a reviewer asked for earlier is not what this job asks for.
            fresh = {"job_id": job_id, "rework_config": None, "rework_count": 0}
            connection.execute(sa.update(ProductImage).where(ProductImage.id.in_(some)).values(**fresh))
            mine = sa.update(ProcessingJobImage).where(
                ProcessingJobImage.job_id == job_id, ProcessingJobImage.image_id.in_(some)
            )
            connection.execute(mine.values(batch_key=batch.key))
        begun = sa.update(ProcessingJob).where(ProcessingJob.job_id == job_id, ProcessingJob.started_at.is_(None))
        connection.execute(begun.values(status=ImageStatus.PROCESSING, started_at=utc_now()))
        return batch

    return transact(engine, take)


def note_progress(engine: Engine, job_id: str, progress: JobProgress, *, is_done: bool) -> None:
    """Keep a job's counts, and its end: a job fails where every image failed."""
    values: dict[str, Any] = {"processed_images": progress.done, "failed_images": progress.failed}
    if is_done:
        all_failed = progress.done > 0 and progress.failed == progress.done
        values |= {
            "status": ImageStatus.FAILED if all_failed else ImageStatus.COMPLETED,
            "completed_at": utc_now(),
            "error": "Every image failed: see the results." if all_failed else None,
        }
    keep = sa.update(ProcessingJob).where(ProcessingJob.job_id == job_id, ProcessingJob.status.in_(_OPEN))
    transact(engine, lambda connection: connection.execute(keep.values(**values)))


def create_training_job(engine: Engine, temple_id: str, *, forceful: bool, by: str) -> Job:
    """Ask for the training of a temple's model."""
    job_id = str(uuid.uuid4())
    asked = {"temple_id": temple_id, "forceful": forceful, "by": by, "stages": []}
    row = {"job_id": job_id, "kind": JobKind.TRAIN.value, "parameters": asked}
    transact(engine, lambda connection: connection.execute(sa.insert(ProcessingJob), [row]), retry_for_s=_LOOK_FOR_S)
    job = get_job(engine, job_id)
    if job is None:
        raise NothingToDoError("The job was deleted as it was made.")
    return job


@contextmanager
def following_training(engine: Engine, job_id: str | None) -> Iterator[Callable[[str], None]]:
    """Keep in a job's row how its training goes while the block runs: that it began, its stages, how it ended.

    Args:
        engine: The catalogue.
        job_id: The job; None for a training that nobody waits for.

    Yields:
        What is to be told of each stage that is done.
    """
    if job_id is None:
        yield lambda _stage: None
        return
    _change_training(engine, job_id, status=ImageStatus.PROCESSING, started_at=utc_now())

    def note_stage(stage: str) -> None:
        _change_training(engine, job_id, stage=stage)

    try:
        yield note_stage
    except Exception as error:
        end_training(engine, job_id, error=str(error) or type(error).__name__)
        raise
    end_training(engine, job_id, error=None)


def end_training(engine: Engine, job_id: str, *, error: str | None) -> None:
    """Note that a training is over, if that was not noted before.

    Args:
        engine: The catalogue.
        job_id: The job.
        error: Why there is no model; None if there is one.
    """
    status = ImageStatus.COMPLETED if error is None else ImageStatus.FAILED
    _change_training(engine, job_id, status=status, error=error, completed_at=utc_now())


def _change_training(engine: Engine, job_id: str, *, stage: str | None = None, **values: Any) -> None:  # noqa: ANN401 - columns
    which = sa.and_(ProcessingJob.job_id == job_id, ProcessingJob.status.in_(_OPEN))

    def change(connection: Connection) -> None:
        known = connection.execute(sa.select(ProcessingJob.parameters).where(which).with_for_update()).first()
        if known is None:
            return
        if stage is not None:
            asked = known.parameters or {}
            values["parameters"] = {**asked, "stages": [*asked.get("stages", ()), stage]}
        connection.execute(sa.update(ProcessingJob).where(which).values(**values))

    transact(engine, change)


_WAITS, _IN_WORK, _DONE, _FAILED = "waits", "in_work", "done", "failed"


def _members(job_id: str) -> sa.Select[*tuple[Any, ...]]:
    """The images of a job with where they stand: ``standing``, ``is_free``, and the batch that counts."""
    mine = ProductImage.job_id == job_id
    batch_key = sa.case((mine, ProductImage.batch_key), else_=ProcessingJobImage.batch_key)
    # In this order: who waits, who is at work, and of the rest, who came to nothing.
    standing = sa.case(
        (ProcessingJobImage.batch_key.is_(None), _WAITS),
        (ImageBatch.state.in_(_OPEN_BATCHES), _IN_WORK),
        (sa.and_(mine, ProductImage.status.in_(_OPEN)), _IN_WORK),
        (ImageBatch.state.in_([BatchState.FAILED, BatchState.ENHANCEMENT_FAILED]), _FAILED),
        (EnhancedImage.object_key.is_(None), _FAILED),
        else_=_DONE,
    )
    return (
        sa.select(
            ProcessingJobImage.image_id,
            sa.case((ProcessingJobImage.batch_key.is_not(None), batch_key)).label("batch_key"),
            standing.label("standing"),
            sa.case((ProductImage.status == ImageStatus.PROCESSING, 0), else_=1).label("is_free"),
            ImageBatch.state.label("batch_state"),
            EnhancedImage.reason.label("not_enhanced_because"),
            sa.case((mine, 1), else_=0).label("is_mine"),
            ProductImage.qc_status.label("qc_status"),
            ProductImage.enhanced_image_url.label("enhanced_image_url"),
        )
        .outerjoin(ProductImage, ProductImage.id == ProcessingJobImage.image_id)
        .outerjoin(ImageBatch, ImageBatch.batch_key == batch_key)
        .outerjoin(
            EnhancedImage,
            sa.and_(EnhancedImage.batch_key == batch_key, EnhancedImage.image_id == ProcessingJobImage.image_id),
        )
        .where(ProcessingJobImage.job_id == job_id)
    )


def _of_batch(table: Any, page: sa.Subquery) -> sa.ColumnElement[bool]:  # noqa: ANN401 - a table class
    return sa.and_(table.batch_key == page.c.batch_key, table.image_id == page.c.image_id)


def _result(row: Mapping[Any, Any]) -> JobResult:
    reason = row["rejected_because"] or row["not_enhanced_because"]
    match row["standing"]:
        case "waits":
            return JobResult(row["image_id"], ImageStatus.PENDING, None, None, None, None, None)
        case "in_work":
            return JobResult(row["image_id"], ImageStatus.PROCESSING, None, row["batch_key"], None, None, None)
        case "failed":
            status = ImageStatus.FAILED
            reason = reason or ("batch_failed" if row["batch_state"] == BatchState.FAILED else "enhancement_failed")
        case _:
            status = ImageStatus.COMPLETED
    # As long as the image is this job's, a person's decision counts and not the verdict before it.
    is_latest = row["verdict"] is not None and row["is_mine"]
    return JobResult(
        image_id=row["image_id"],
        status=status,
        reason=reason,
        batch_key=row["batch_key"],
        qc_status=row["qc_status"] if is_latest else row["verdict"],
        score=row["score"],
        enhanced_image_url=row["enhanced_image_url"] if is_latest else row["verdict_url"],
    )


def _jobs(connection: Connection, which: sa.ColumnElement[bool], *, newest: int | None = None) -> list[Job]:
    fields = list(Job.__dataclass_fields__)
    columns = [getattr(ProcessingJob, field) for field in fields]
    query = sa.select(*columns).where(which).order_by(ProcessingJob.created_at)
    if newest is not None:
        query = query.order_by(None).order_by(ProcessingJob.created_at.desc()).limit(newest)
    rows = connection.execute(query).mappings()
    return [
        Job(
            **{
                **row,
                "kind": JobKind(row["kind"]),
                "status": ImageStatus(row["status"]),
                "parameters": row["parameters"] or {},
            }
        )
        for row in rows
    ]
