"""Images for the pipeline, and jobs about them: taking rows over, asking for enhancement, asking how far it is."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import AwareDatetime, BaseModel, Field

from imgpipe_dagster.api.cursors import decode_cursor, encode_cursor
from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.api.guard import Body, GuardedRoute, access
from imgpipe_dagster.api.options import EnhanceOptions, overrides
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.services import services_of
from imgpipe_dagster.api.times import utc
from imgpipe_dagster.catalogue.imports import BadRow, ImportRow, import_rows
from imgpipe_dagster.catalogue.jobs import (
    Job,
    JobResult,
    NothingToDoError,
    TooManyImagesError,
    create_enhance_job,
    get_job,
    job_results,
)
from imgpipe_dagster.catalogue.tables import ImageStatus
from imgpipe_dagster.configured import enhancement_defaults

router = APIRouter(prefix="/api/v1", tags=["batches"], route_class=GuardedRoute)

MOST_ROWS = 10_000
"""Rows in one request."""


class NewImage(BaseModel):
    """An image to take over."""

    image_url: str = Field(examples=["https://cdn.example.com/img1.jpg"])
    sku_id: str | None = Field(default=None, examples=["SKU-001"])
    product_group_id: str | None = Field(default=None, examples=["PG-001"])
    image_type: str | None = Field(default=None, examples=["primary"])
    temple_id: str | None = None


class NewImages(BaseModel):
    """Images to take over."""

    images: list[NewImage] = Field(min_length=1, max_length=MOST_ROWS)


class RefusedImage(BaseModel):
    """An image that was not taken over."""

    index: int = Field(description="Its place in the request, from 0.")
    reason: str


class Imported(BaseModel):
    """What became of the images."""

    imported: int = Field(description="New ones.")
    known: int = Field(description="Those that were there before.")
    rejected: int
    errors: list[RefusedImage]


class NewBatch(EnhanceOptions):
    """Which images to enhance, and how. What is given must all fit."""

    sku_id: str | None = Field(default=None, max_length=100, examples=["SKU-001"])
    product_group_id: str | None = Field(default=None, max_length=100, examples=["PG-001"])
    image_ids: list[Annotated[int, Field(ge=1, le=2**63 - 1)]] | None = Field(
        default=None, min_length=1, max_length=MOST_ROWS
    )


class JobState(BaseModel):
    """How far a job is."""

    job_id: str
    status: ImageStatus
    total_images: int
    processed_images: int = Field(description="Done, failed ones included.")
    failed_images: int
    error: str | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    completed_at: AwareDatetime | None


class ImageResult(BaseModel):
    """What became of one image of a job."""

    image_id: int
    status: ImageStatus
    reason: str | None = Field(description="Why it failed, as a code.")
    qc_status: str | None
    score: float | None = Field(description="Quality of its enhanced picture, 0 to 100.")
    enhanced_image_url: str | None = Field(description="Only of what is approved.")
    links: dict[str, str]


class JobWithResults(JobState):
    """How far a job is, and a page of what became of its images."""

    parameters: dict[str, Any] = Field(description="What was asked for.")
    results: list[ImageResult]
    next_cursor: str | None = Field(description="Of the next page; null after the last one.")


JobId = Annotated[str, PathParameter(max_length=36, description="The job's id.")]


@router.post("/import")
@access(Scope.WRITE, body=Body.JSON)
async def import_images(request: Request, wanted: NewImages) -> Imported:
    """Take images over. Those that are known already change nothing, so a request may be sent again."""
    services = services_of(request)
    rows = [_row(index, image) for index, image in enumerate(wanted.images)]
    report = await services.in_thread(import_rows, services.engine, rows)
    return Imported(
        imported=report.inserted,
        known=report.known,
        rejected=report.rejected,
        errors=[RefusedImage(index=bad.line - 1, reason=bad.reason) for bad in report.bad],
    )


@router.post("/batch", status_code=202)
@access(Scope.WRITE, body=Body.JSON)
async def create_batch(request: Request, response: Response, wanted: NewBatch) -> JobState:
    """Ask for the enhancement of many images. The answer's Location says how far it is.

    Dagster's daemon does it, or where none runs the next `imgpipe run --once`.
    """
    services = services_of(request)
    config = overrides(wanted, services.settings)
    try:
        enhancement_defaults(services.settings).overridden(config)
        job = await services.in_thread(
            create_enhance_job,
            services.engine,
            sku_id=wanted.sku_id,
            product_group_id=wanted.product_group_id,
            image_ids=wanted.image_ids,
            parameters=wanted.model_dump(mode="json", exclude_none=True),
            config=config,
        )
    except (NothingToDoError, TooManyImagesError, ValueError) as error:
        raise Refusal(Code.INVALID_REQUEST, str(error)) from error
    response.headers["Location"] = f"{router.prefix}/batch/{job.job_id}"
    return _state(job)


@router.get("/batch/{job_id}")
@access(Scope.READ)
async def batch(
    request: Request,
    job_id: JobId,
    cursor: Annotated[str | None, Query(max_length=500, description="The next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Images in a page.")] = 100,
) -> JobWithResults:
    """How far a job is, and what became of its images so far, by their ids."""
    services = services_of(request)
    question = f"job {job_id}"
    (after,) = (0,) if cursor is None else decode_cursor(question, cursor, (int,))
    job = await services.in_thread(get_job, services.engine, job_id)
    if job is None:
        raise Refusal(Code.NOT_FOUND, f"There is no job {job_id}.")
    found = await services.in_thread(job_results, services.engine, job_id, after=after, at_most=limit + 1)
    shown = found[:limit]
    return JobWithResults(
        **_state(job).model_dump(),
        parameters={name: value for name, value in job.parameters.items() if name != "config"},
        results=[_result(result) for result in shown],
        next_cursor=encode_cursor(question, (shown[-1].image_id,)) if len(found) > limit else None,
    )


def _row(index: int, image: NewImage) -> ImportRow | BadRow:
    try:
        return ImportRow(
            image_url=image.image_url,
            sku_id=image.sku_id,
            product_group_id=image.product_group_id,
            image_type=image.image_type or "",
            temple_id=image.temple_id,
        )
    except ValueError as error:
        return BadRow(index + 1, str(error))


def _state(job: Job) -> JobState:
    return JobState(
        job_id=job.job_id,
        status=job.status,
        total_images=job.total_images,
        processed_images=job.processed_images,
        failed_images=job.failed_images,
        error=job.error,
        created_at=utc(job.created_at),
        started_at=None if job.started_at is None else utc(job.started_at),
        completed_at=None if job.completed_at is None else utc(job.completed_at),
    )


def _result(result: JobResult) -> ImageResult:
    return ImageResult(
        image_id=result.image_id,
        status=result.status,
        reason=result.reason,
        qc_status=result.qc_status,
        score=result.score,
        enhanced_image_url=result.enhanced_image_url,
        links={"image": f"{router.prefix}/images/{result.image_id}"},
    )
