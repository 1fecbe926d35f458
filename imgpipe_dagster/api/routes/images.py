"""Reading: images by what is known of them, all about one, its report, and its pictures."""

import datetime as dt
import hashlib
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import AwareDatetime, BaseModel, Field

from imgpipe_dagster.api.content import file_response
from imgpipe_dagster.api.cursors import decode_cursor, encode_cursor
from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.api.guard import GuardedRoute, access, principal_of
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.services import Services, services_of
from imgpipe_dagster.api.times import naive_utc, utc
from imgpipe_dagster.catalogue.browse import ImageDetails, ImageFilter, image_details, list_images
from imgpipe_dagster.catalogue.tables import ImageStatus, QcStatus
from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.imaging.draw import draw_boxes
from imgpipe_dagster.imaging.formats import DecodeError, ImageFormat
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.store.base import ObjectNotFoundError

router = APIRouter(prefix="/api/v1/images", tags=["images"], route_class=GuardedRoute)

ImageId = Annotated[int, PathParameter(ge=1, le=2**63 - 1, description="The image's id.")]

_PUBLISHED = (QcStatus.AUTO_APPROVED, QcStatus.APPROVED)
_ANNOTATED_QUALITY = 88


class Image(BaseModel):
    """One image and its answer."""

    id: int
    product_group_id: str | None
    sku_id: str | None
    temple_id: str | None
    image_url: str | None
    image_type: str
    status: ImageStatus
    reason: str | None = Field(description="Why it could not be used, as a code.")
    qc_status: QcStatus
    enhanced_image_url: str | None = Field(description="Only of what is approved.")
    object_count: int | None = Field(description="Objects found; null before the first answer.")
    top_class: str | None
    top_confidence: float | None
    created_at: AwareDatetime
    updated_at: AwareDatetime


class ImageList(BaseModel):
    """A page of images. It may be shorter than asked for, and still have a next one."""

    images: list[Image]
    next_cursor: str | None = Field(description="Of the next page; null after the last one.")


class Box(BaseModel):
    """Corners in pixels of the upright picture."""

    x1: float
    y1: float
    x2: float
    y2: float


class FoundObject(BaseModel):
    """One object that was found."""

    class_id: int
    class_name: str
    confidence: float
    box: Box


class File(BaseModel):
    """The file as it was downloaded."""

    sha256: str | None
    byte_size: int | None
    format: str | None
    width: int | None
    height: int | None


class Prediction(BaseModel):
    """The answer."""

    status: str
    reason: str | None
    advice: str | None = Field(description="What the reason means and what to do about it.")
    object_count: int
    detector_version: str | None
    predicted_at: AwareDatetime = Field(description="The time of the image's first answer.")
    updated_at: AwareDatetime
    objects: list[FoundObject] = Field(description="The most confident first, at most 1,000.")


class Quality(BaseModel):
    """Quality of a picture."""

    score: float = Field(description="0 to 100, higher is better.")
    components: dict[str, float] | None
    issues: list[str] | None
    width: int
    height: int
    byte_size: int


class Step(BaseModel):
    """A change that was made."""

    step: str
    why: str


class Enhancement(BaseModel):
    """What enhancement made of it."""

    mode: str
    width: int | None
    height: int | None
    byte_size: int | None
    format: str | None
    steps: list[Step] | None
    background_replaced: bool | None
    review_reasons: list[str] | None = Field(description="Why a person has to look.")
    reason: str | None = Field(description="Why nothing was made.")
    model_version: str
    before: Quality | None
    after: Quality | None


class ImageWithAnswers(Image):
    """All that is known of one image."""

    file: File | None
    prediction: Prediction | None
    enhancement: Enhancement | None
    links: dict[str, str] = Field(description="What else there is of it.")


@router.get("")
@access(Scope.READ)
async def images(
    request: Request,
    status: Annotated[ImageStatus | None, Query(description="Where the image stands.")] = None,
    sku_id: Annotated[str | None, Query(max_length=100, description="The product that it shows.")] = None,
    temple_id: Annotated[str | None, Query(max_length=100, description="The site that it comes from.")] = None,
    class_name: Annotated[
        str | None, Query(alias="class", max_length=100, description="An object that was found in it.")
    ] = None,
    reason: Annotated[Reason | None, Query(description="Why it could not be used.")] = None,
    created_from: Annotated[AwareDatetime | None, Query(description="Not before this time.")] = None,
    created_to: Annotated[AwareDatetime | None, Query(description="Before this time.")] = None,
    cursor: Annotated[str | None, Query(max_length=500, description="The next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Images in a page.")] = 50,
) -> ImageList:
    """Images that fit all conditions, in an order that stays the same from page to page."""
    services = services_of(request)
    which = ImageFilter(
        status=status,
        sku_id=sku_id,
        temple_id=temple_id,
        class_name=class_name,
        reason=reason,
        created_from=naive_utc(created_from),
        created_to=naive_utc(created_to),
    )
    question = repr(which)
    kinds = (dt.datetime, int) if which.is_by_time else (int,)
    after = None if cursor is None else decode_cursor(question, cursor, kinds)
    page = await services.in_thread(list_images, services.engine, which, after=after, at_most=limit)
    return ImageList(
        images=[_image(row) for row in page.images],
        next_cursor=None if page.next is None else encode_cursor(question, page.next),
    )


@router.get("/{image_id}")
@access(Scope.READ)
async def image(request: Request, image_id: ImageId) -> ImageWithAnswers:
    """All that is known of one image: its file, its answer with every object, what enhancement made of it."""
    found = await _details(services_of(request), image_id)
    base = f"{router.prefix}/{image_id}"
    links = {
        "report": found.report is not None,
        "original": found.file.get("object_key") is not None,
        "annotated": found.prediction is not None and found.prediction["reason"] is None,
        "enhanced": found.enhanced is not None and found.enhanced["object_key"] is not None,
    }
    return ImageWithAnswers(
        **{
            **_image_values(found),
            "file": _file(found),
            "prediction": _prediction(found),
            "enhancement": _enhancement(found),
            "links": {name: f"{base}/{name}" for name, there in links.items() if there},
        }
    )


@router.get("/{image_id}/report", response_class=Response)
@access(Scope.READ)
async def report(request: Request, image_id: ImageId) -> Response:
    """The image's JSON report, as it lies in the store."""
    services = services_of(request)
    found = await _details(services, image_id)
    if found.report is None:
        raise Refusal(Code.NOT_FOUND, f"Image {image_id} has no report yet.")
    return await _stored(request, services, found.report, "application/json", f"image-{image_id}.json")


@router.get("/{image_id}/original", response_class=Response)
@access(Scope.READ)
async def original(request: Request, image_id: ImageId) -> Response:
    """The file as it was downloaded."""
    services = services_of(request)
    found = await _details(services, image_id)
    if found.file.get("object_key") is None:
        raise Refusal(Code.NOT_FOUND, f"Image {image_id} was not downloaded.")
    known = found.file.get("image_format")
    # What is no picture is handed out as bytes, never as a page.
    kind = ImageFormat(known) if known and found.file.get("reason") is None else None
    name = f"image-{image_id}.{kind.extension if kind else 'bin'}"
    return await _stored(request, services, found.file, kind.mime if kind else "application/octet-stream", name)


@router.get("/{image_id}/annotated", response_class=Response)
@access(Scope.READ)
async def annotated(request: Request, image_id: ImageId) -> Response:
    """The picture with the found objects drawn in, as JPEG."""
    services = services_of(request)
    found = await _details(services, image_id)
    if found.prediction is None or found.prediction["reason"] is not None:
        raise Refusal(Code.NOT_FOUND, f"Image {image_id} has no answer that could be drawn.")
    drawn_from = [found.file["sha256"], *(item["detection_id"] for item in found.objects)]
    etag = hashlib.sha256("\n".join([*drawn_from, str(found.prediction["updated_at"])]).encode()).hexdigest()

    async def load() -> bytes:
        data = await _read(services, found.file["object_key"])
        return await services.drawing.run(_draw, data, found.objects)

    return await file_response(request, load, etag=etag, media_type="image/jpeg", name=f"image-{image_id}-boxes.jpg")


@router.get("/{image_id}/enhanced", response_class=Response)
@access(Scope.READ)
async def enhanced(request: Request, image_id: ImageId) -> Response:
    """The enhanced picture, once it is approved; a key that may review as well as read sees it before."""
    services = services_of(request)
    found = await _details(services, image_id)
    made = found.enhanced
    if made is None or made["object_key"] is None:
        raise Refusal(Code.NOT_FOUND, f"Image {image_id} has no enhanced picture.")
    if found.image["qc_status"] not in _PUBLISHED and Scope.REVIEW not in principal_of(request).scopes:
        raise Refusal(Code.NOT_FOUND, f"The enhanced picture of image {image_id} is not approved.")
    name = f"image-{image_id}-enhanced.{made['image_format']}"
    return await _stored(request, services, made, f"image/{made['image_format']}", name)


async def _details(services: Services, image_id: int) -> ImageDetails:
    found = await services.in_thread(image_details, services.engine, image_id)
    if found is None:
        raise Refusal(Code.NOT_FOUND, f"There is no image {image_id}.")
    return found


async def _stored(request: Request, services: Services, row: Any, media_type: str, name: str) -> Response:  # noqa: ANN401 - any row that points at an object
    async def load() -> bytes:
        return await _read(services, row["object_key"])

    return await file_response(request, load, etag=row["sha256"], media_type=media_type, name=name)


async def _read(services: Services, object_key: str) -> bytes:
    try:
        return await services.in_thread(services.store.get, object_key)
    except ObjectNotFoundError as error:
        raise Refusal(Code.NOT_FOUND, "The file is no longer in the store.") from error


def _draw(data: bytes, objects: Any) -> bytes:  # noqa: ANN401 - rows of boxes
    try:
        image = decode_bgr(data)
    except DecodeError as error:
        raise Refusal(Code.UNDECODABLE_IMAGE, error.detail) from error
    boxes = np.array([[item[side] for side in ("x1", "y1", "x2", "y2")] for item in objects], float).reshape(-1, 4)
    names = {item["class_id"]: item["class_name"] for item in objects}
    drawn = draw_boxes(
        image, boxes, [item["class_id"] for item in objects], names, [item["confidence"] for item in objects]
    )
    _, jpeg = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _ANNOTATED_QUALITY])
    return jpeg.tobytes()


def _image(row: Any) -> Image:  # noqa: ANN401 - a row
    return Image(**{**row, "created_at": utc(row["created_at"]), "updated_at": utc(row["updated_at"])})


def _image_values(found: ImageDetails) -> dict[str, Any]:
    answer = found.prediction or {}
    values = {name: found.image.get(name, answer.get(name)) for name in Image.model_fields}
    return {**values, "created_at": utc(values["created_at"]), "updated_at": utc(values["updated_at"])}


def _file(found: ImageDetails) -> File | None:
    if found.file.get("sha256") is None:
        return None
    names = ("sha256", "byte_size", "width", "height")
    return File(**{name: found.file.get(name) for name in names}, format=found.file.get("image_format"))


def _prediction(found: ImageDetails) -> Prediction | None:
    answer = found.prediction
    if answer is None:
        return None
    return Prediction(
        status=answer["status"],
        reason=answer["reason"],
        advice=Reason(answer["reason"]).advice if answer["reason"] in list(Reason) else None,
        object_count=answer["object_count"],
        detector_version=answer["detector_version"],
        predicted_at=utc(answer["created_at"]),
        updated_at=utc(answer["updated_at"]),
        objects=[
            FoundObject(
                class_id=item["class_id"],
                class_name=item["class_name"],
                confidence=item["confidence"],
                box=Box(x1=item["x1"], y1=item["y1"], x2=item["x2"], y2=item["y2"]),
            )
            for item in found.objects
        ],
    )


def _enhancement(found: ImageDetails) -> Enhancement | None:
    made = found.enhanced
    if made is None:
        return None
    verdict = found.verdict or made
    own = ("mode", "width", "height", "byte_size", "steps", "background_replaced", "reason", "model_version")
    return Enhancement(
        **{name: made[name] for name in own},
        format=made["image_format"],
        review_reasons=verdict["review_reasons"],
        before=_quality(found, "before"),
        after=_quality(found, "after"),
    )


def _quality(found: ImageDetails, phase: str) -> Quality | None:
    row = found.quality.get(phase)
    return None if row is None else Quality(**{name: row[name] for name in Quality.model_fields})
