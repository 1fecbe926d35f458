"""The bottle status service: its upload page, ``POST /classify`` as its clients know it, and the log of requests."""

import datetime as dt
import time
import uuid
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from imgpipe_dagster.api.bodies import Upload, read_form
from imgpipe_dagster.api.content import file_response
from imgpipe_dagster.api.cursors import decode_cursor, encode_cursor
from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.api.guard import Body, GuardedRoute, access, is_known, principal_of
from imgpipe_dagster.api.inference import Seen, SeenObject
from imgpipe_dagster.api.middleware import CLIENT_GONE
from imgpipe_dagster.api.pages import page
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.services import Services, services_of
from imgpipe_dagster.api.times import naive_utc, utc
from imgpipe_dagster.catalogue.request_log import KnownRequest, NewRequest, find_request, list_requests
from imgpipe_dagster.imaging.formats import ImageFormat, sniff
from imgpipe_dagster.store.base import ObjectNotFoundError
from imgpipe_dagster.store.keys import upload_key

router = APIRouter(tags=["bottle status"], route_class=GuardedRoute)

_EXTENSIONS = frozenset({"png", "jpg", "jpeg"})
_FORMATS = frozenset({ImageFormat.JPEG, ImageFormat.PNG})
_UNNOTED = frozenset({Code.RATE_LIMITED.status, Code.OVERLOADED.status})
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary", "description": "JPEG or PNG."}},
                }
            }
        },
    }
}


class BottleStatus(BaseModel):
    """The answer."""

    bottle_status: str = Field(description="opened, closed or background.", examples=["opened"])
    confidence: float = Field(ge=0, le=1, examples=[0.95])
    width: int | None = Field(default=None, description="Of the upright picture; only with objects=true.")
    height: int | None = Field(default=None, description="Of the upright picture; only with objects=true.")
    objects: list[SeenObject] | None = Field(default=None, description="What was found in it; only with objects=true.")


class ClassifyError(BaseModel):
    """Why there is no answer."""

    error: str = Field(examples=["No file provided."])


class LoggedRequest(BaseModel):
    """A request that was made. The address that it came from is not told."""

    request_id: str
    image_id: str
    user_id: str | None
    model_version: str | None
    timestamp: AwareDatetime
    class_name: str | None = Field(description="Null where there was no answer.")
    confidence_score: float | None
    metrics: dict[str, Any] | None
    image: str | None = Field(description="Where the picture is, if pictures are kept.")


class RequestList(BaseModel):
    """A page of requests."""

    requests: list[LoggedRequest]
    next_cursor: str | None = Field(description="Of the next page; null after the last one.")


ImageUuid = Annotated[uuid.UUID, PathParameter(description="The id that the request's picture got.")]


@router.get("/", response_class=Response, include_in_schema=False)
@access(None)
async def upload_page(request: Request) -> Response:
    """A page to upload a picture with."""
    return page("upload.html", source_url=services_of(request).settings.source_url)


def _note(request: Request, **metrics: object) -> NewRequest:
    state = request.scope["state"]
    if "upload_bytes" in state:
        metrics["bytes"] = state["upload_bytes"]
    return NewRequest(
        image_id=str(uuid.uuid4()),
        user_id=principal_of(request).user_id,
        model_version=None,
        ip_address=request.client.host if request.client else None,
        metrics={**metrics, "http_request_id": state["request_id"]},
        object_key=None,
        answer=None,
    )


def _note_refusal(request: Request, error: Exception) -> None:
    """Note a request that gets no answer, whatever stood in its way.

    But not those of strangers (401), and not those that came too often (429) or when there was no room (503): whoever
    sends enough of them could fill the catalogue. The figures count them, and the server's log has their lines.
    """
    match error:
        case HTTPException():
            status = error.status_code
        case RequestValidationError():
            status = Code.INVALID_REQUEST.status
        case ClientDisconnect():
            status = CLIENT_GONE
        case _:
            status = Code.INTERNAL_ERROR.status
    if is_known(request) and status not in _UNNOTED:
        services_of(request).request_log.add(_note(request, status=status))


@router.post(
    "/classify",
    openapi_extra=_FORM,
    response_model_exclude_none=True,
    responses={status: {"model": ClassifyError} for status in (400, 413, 429, 500, 503)},
)
@access(
    Scope.READ,
    body=Body.UPLOAD,
    is_old_path=True,
    pool=lambda services: services.inference.pool,
    refused=_note_refusal,
)
async def classify(
    request: Request,
    objects: Annotated[bool, Query(description="Tell the objects in the picture too, with a status each.")] = False,
) -> BottleStatus:
    """Whether the bottle in a picture is opened or closed, or whether there is none (background)."""
    services = services_of(request)
    upload = await _read_upload(request, services.settings.api_max_upload_bytes)
    seen = await _look(services, request, upload, with_objects=objects)
    answer = BottleStatus(bottle_status=seen.class_name, confidence=seen.confidence)
    if objects:
        answer.width, answer.height, answer.objects = seen.width, seen.height, seen.objects
    return answer


@router.get("/api/v1/requests")
@access(Scope.READ)
async def requests(
    request: Request,
    since: Annotated[AwareDatetime | None, Query(description="Not before this time.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before this time.")] = None,
    cursor: Annotated[str | None, Query(max_length=500, description="The next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Requests in a page.")] = 50,
) -> RequestList:
    """Requests to classify pictures by date, the oldest first."""
    services = services_of(request)
    first, last = naive_utc(since), naive_utc(until)
    question = f"requests {first} {last}"
    after: Any = None if cursor is None else decode_cursor(question, cursor, (dt.datetime, str))
    found = await services.in_thread(
        list_requests, services.engine, since=first, until=last, after=after, at_most=limit + 1
    )
    shown = found[:limit]
    return RequestList(
        requests=[_logged(item) for item in shown],
        next_cursor=encode_cursor(question, shown[-1].position) if len(found) > limit else None,
    )


@router.get("/api/v1/requests/{image_id}")
@access(Scope.READ)
async def request_of_image(request: Request, image_id: ImageUuid) -> LoggedRequest:
    """The request that a picture came with, by the picture's id."""
    return _logged(await _find(services_of(request), image_id))


@router.get("/api/v1/requests/{image_id}/image", response_class=Response)
@access(Scope.READ)
async def image_of_request(request: Request, image_id: ImageUuid) -> Response:
    """The picture of a request, where pictures are kept (IMGPIPE_API_KEEP_UPLOADS)."""
    services = services_of(request)
    found = await _find(services, image_id)
    key = found.object_key
    if key is None:
        raise Refusal(Code.NOT_FOUND, "The picture was not kept.")

    async def load() -> bytes:
        try:
            return await services.in_thread(services.store.get, key)
        except ObjectNotFoundError as error:
            raise Refusal(Code.NOT_FOUND, "The file is no longer in the store.") from error

    extension = key.rpartition(".")[2]
    kind = next((known.mime for known in ImageFormat if known.extension == extension), "application/octet-stream")
    return await file_response(request, load, etag=str(image_id), media_type=kind, name=f"{image_id}.{extension}")


async def _read_upload(request: Request, max_bytes: int) -> Upload:
    try:
        upload, _ = await read_form(request, "file", max_bytes=max_bytes)
    except Refusal as refusal:
        if refusal.code is not Code.UNSUPPORTED_MEDIA_TYPE:
            raise
        upload = None  # no form at all
    if upload is None or not (upload.name or upload.data):
        raise Refusal(Code.MALFORMED_REQUEST, "No file provided.")
    if not upload.data:
        raise Refusal(Code.MALFORMED_REQUEST, "The file is empty.")
    if upload.name.rpartition(".")[2].lower() not in _EXTENSIONS:
        raise Refusal(Code.MALFORMED_REQUEST, "Incorrect file format: .png, .jpg and .jpeg are taken.")
    if sniff(upload.data) not in _FORMATS:
        raise Refusal(Code.MALFORMED_REQUEST, "Incorrect file format: the content is no JPEG and no PNG.")
    return upload


async def _look(services: Services, request: Request, upload: Upload, *, with_objects: bool) -> Seen:
    """Ask the models, and note the request with its answer."""
    started = time.perf_counter()
    request.scope["state"]["upload_bytes"] = len(upload.data)
    try:
        seen, known = await services.inference.classify(upload.data, with_objects=with_objects)
    except Refusal as refusal:
        raise _as_documented(refusal) from refusal
    note = _note(request, status=200, seconds=round(time.perf_counter() - started, 4), known=known)
    key = None
    if services.settings.api_keep_uploads:
        key = upload_key(dt.datetime.now(dt.UTC).date(), note.image_id, ImageFormat(seen.format).extension)
        await services.in_thread(services.store.put, key, upload.data)
    answer = (seen.class_name, seen.confidence)
    services.request_log.add(replace(note, model_version=seen.model_version, object_key=key, answer=answer))
    return seen


def _as_documented(refusal: Refusal) -> Refusal:
    """The service's clients know 400 for all that is wrong with a file but its size."""
    if refusal.code in (Code.UNSUPPORTED_MEDIA_TYPE, Code.UNDECODABLE_IMAGE):
        return Refusal(Code.MALFORMED_REQUEST, str(refusal.detail))
    return refusal


async def _find(services: Services, image_id: uuid.UUID) -> KnownRequest:
    found = await services.in_thread(find_request, services.engine, str(image_id))
    if found is None:
        raise Refusal(Code.NOT_FOUND, f"There is no request with the picture {image_id}.")
    return found


def _logged(known: KnownRequest) -> LoggedRequest:
    return LoggedRequest(
        request_id=known.request_id,
        image_id=known.image_id,
        user_id=known.user_id,
        model_version=known.model_version,
        timestamp=utc(known.timestamp),
        class_name=known.class_name,
        confidence_score=known.confidence_score,
        metrics=dict(known.metrics) if known.metrics else None,
        image=f"/api/v1/requests/{known.image_id}/image" if known.object_key else None,
    )
