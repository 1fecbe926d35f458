"""Enhancing one picture while its sender waits: from a URL or an upload to the picture, or to what became of it."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from imgpipe_dagster.api.bodies import read_form
from imgpipe_dagster.api.content import file_response
from imgpipe_dagster.api.files import fetched, opened
from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.api.guard import Body, GuardedRoute, access
from imgpipe_dagster.api.options import EnhanceOptions, overrides
from imgpipe_dagster.api.problems import PROBLEM_JSON, PROBLEM_SCHEMA, Code, Refusal
from imgpipe_dagster.api.services import Services, services_of
from imgpipe_dagster.configured import box_classes, enhancement_defaults, review_policy
from imgpipe_dagster.imaging.background import Box, MethodUnavailableError
from imgpipe_dagster.imaging.encode import OutputFormat
from imgpipe_dagster.imaging.enhance import Enhanced, enhance
from imgpipe_dagster.imaging.modes import EnhancementConfig, Mode
from imgpipe_dagster.imaging.quality import Quality
from imgpipe_dagster.imaging.verdict import judge_enhancement
from imgpipe_dagster.store.base import ObjectNotFoundError
from imgpipe_dagster.store.keys import result_key

router = APIRouter(prefix="/api/v1/enhance", tags=["enhancement"], route_class=GuardedRoute)

_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_PICTURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer as JSON; the picture itself where Accept asks for a picture, in the format that it "
        "names: image/* leaves the format to the options.",
        "content": {f"image/{kind}": _PICTURE for kind in OutputFormat},
    },
    406: {"description": Code.NOT_ACCEPTABLE.meaning, "content": {PROBLEM_JSON: {"schema": PROBLEM_SCHEMA}}},
}
_JSON = "application/json"
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "mode": {"type": "string", "enum": list(Mode), "examples": ["full"]},
                        "remove_background": {"type": "boolean", "examples": ["true"]},
                        "background_color": {"type": "string"},
                        "target_size_kb": {"type": "number", "exclusiveMinimum": 0},
                        "target_min_dimension": {"type": "integer"},
                    },
                }
            }
        },
    }
}


class EnhanceUrl(EnhanceOptions):
    """A picture to fetch, and what to do to it."""

    url: str = Field(max_length=4096, examples=["https://your-cloudfront.net/image.jpg"])


class QualityScore(BaseModel):
    """How good the product looks."""

    score: float = Field(description="0 to 100, higher is better.")
    components: dict[str, float]
    issues: list[str]


class StepMade(BaseModel):
    """A change that was made."""

    step: str
    why: str


class EnhancedPicture(BaseModel):
    """What became of the picture."""

    mode: Mode
    before: QualityScore
    after: QualityScore
    qc_status: str = Field(description="auto_approved, or needs_review where a person should look.")
    review_reasons: list[str]
    steps: list[StepMade]
    background_replaced: bool
    width: int
    height: int
    byte_size: int
    format: OutputFormat
    sha256: str
    enhanced_image_url: str = Field(description="Where the enhanced picture is, for IMGPIPE_RETENTION_DAYS days.")


@router.post("/url", response_model=EnhancedPicture, responses=_PICTURES)
@access(Scope.WRITE, body=Body.JSON, pool=lambda services: services.enhancing)
async def enhance_url(request: Request, wanted: EnhanceUrl) -> Any:  # noqa: ANN401 - a picture or a description of it
    """Fetch a picture and enhance it. Only addresses of the public internet are fetched from.

    The answer is JSON, or the picture itself where `Accept` asks for one: `image/png`, `image/jpeg` or `image/webp` in
    that format, `image/*` in the one of the options.
    """
    services = services_of(request)
    asked = _asked(request, services, wanted)
    data = fetched(await services.fetcher.fetch(wanted.url))
    return await _answer(services, data, asked)


@router.post("/upload", response_model=EnhancedPicture, responses=_PICTURES, openapi_extra=_FORM)
@access(Scope.WRITE, body=Body.UPLOAD, pool=lambda services: services.enhancing)
async def enhance_upload(request: Request) -> Any:  # noqa: ANN401 - a picture or a description of it
    """Enhance a picture that comes with the request. `Accept` decides about the answer, as for a URL."""
    services = services_of(request)
    upload, fields = await read_form(request, "file", max_bytes=services.settings.api_max_upload_bytes)
    if upload is None or not upload.data:
        raise Refusal(Code.INVALID_REQUEST, "The form has no picture in its field file.")
    try:
        wanted = EnhanceOptions.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    return await _answer(services, upload.data, _asked(request, services, wanted))


@router.get("/results/{sha256}.{extension}", response_class=Response)
@access(Scope.READ)
async def enhanced_result(
    request: Request,
    sha256: Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$")],
    extension: Annotated[str, PathParameter(pattern="^(jpg|png|webp)$")],
) -> Response:
    """A picture that was enhanced before. It goes IMGPIPE_RETENTION_DAYS days (default 90) after it was last made."""
    services = services_of(request)

    async def load() -> bytes:
        try:
            return await services.in_thread(services.store.get, result_key(sha256, extension))
        except ObjectNotFoundError as error:
            raise Refusal(Code.NOT_FOUND, "There is no such picture.") from error

    media_type = f"image/{'jpeg' if extension == 'jpg' else extension}"
    return await file_response(request, load, etag=sha256, media_type=media_type, name=f"{sha256[:12]}.{extension}")


@dataclass(frozen=True)
class _Asked:
    """What is to be done, and whether the picture itself is the answer."""

    config: EnhancementConfig
    as_picture: bool


def _asked(request: Request, services: Services, wanted: EnhanceOptions) -> _Asked:
    """What the options and Accept say together."""
    defaults, values = enhancement_defaults(services.settings), overrides(wanted, services.settings)
    try:
        config = defaults.layered(values)
    except ValueError as error:
        raise Refusal(Code.INVALID_REQUEST, str(error)) from error
    own = f"image/{config.format}"
    formats = {own: config.format, **{f"image/{kind}": kind for kind in OutputFormat}}
    wanted_most, ruled_out = _accepted(request.headers.get("accept") or "*/*")
    for accepted in wanted_most:
        for kind in (_JSON, *formats):
            if kind in ruled_out or not _is_in(kind, accepted):
                continue
            if kind in (_JSON, own):
                return _Asked(config, as_picture=kind == own)
            try:
                return _Asked(defaults.layered(values, {"output": formats[kind]}), as_picture=True)
            except ValueError:  # JPEG, of a picture with a transparent background
                continue
    raise Refusal(
        Code.NOT_ACCEPTABLE, f"Accept names no type that this can be answered with: {', '.join([_JSON, *formats])}."
    )


def _is_in(kind: str, accepted: str) -> bool:
    """Whether a media range holds a media type."""
    return accepted in (kind, "*/*", f"{kind.partition('/')[0]}/*")


def _accepted(header: str) -> tuple[list[str], set[str]]:
    """The media ranges of an Accept header, the dearest first (RFC 9110, 12.5.1), and what is ruled out."""
    found = []
    for part in header.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        try:
            found.append((name, float(quality)))
        except ValueError:
            found.append((name, 1.0))
    taken = [name for name, quality in sorted(found, key=lambda item: -item[1]) if quality > 0]
    return taken, {name for name, quality in found if quality <= 0}


async def _answer(services: Services, data: bytes, asked: _Asked) -> Any:  # noqa: ANN401 - as the paths
    config = asked.config
    try:
        done = await services.enhancing.run(_enhance, services, data, config)
    except MethodUnavailableError as error:
        raise Refusal(Code.UNAVAILABLE, str(error)) from error
    made = done.encoded.data
    digest = hashlib.sha256(made).hexdigest()
    extension = done.encoded.format.extension
    await services.in_thread(services.store.put, result_key(digest, extension), made)
    url = f"{router.prefix}/results/{digest}.{extension}"
    verdict = judge_enhancement(
        done.after.score,
        done.review_reasons,
        value=None,
        image_id=0,
        sha256=digest,
        policy=review_policy(services.settings),
    )
    status = "auto_approved" if verdict.approved else "needs_review"
    if asked.as_picture:
        headers = {
            "Content-Location": url,
            "X-Quality-Before": f"{done.before.score:.1f}",
            "X-Quality-After": f"{done.after.score:.1f}",
            "X-QC-Status": status,
        }
        return Response(made, media_type=f"image/{done.encoded.format}", headers=headers)
    return EnhancedPicture(
        mode=config.mode,
        before=_quality(done.before),
        after=_quality(done.after),
        qc_status=status,
        review_reasons=list(verdict.reasons),
        steps=[StepMade(step=planned.step, why=planned.why) for planned in done.steps],
        background_replaced=done.background_replaced,
        width=done.size[0],
        height=done.size[1],
        byte_size=len(made),
        format=done.encoded.format,
        sha256=digest,
        enhanced_image_url=url,
    )


def _enhance(services: Services, data: bytes, config: EnhancementConfig) -> Enhanced:
    with opened(services.validator, data) as (_, pixels):
        image = pixels.copy()  # so that the child can take the next file meanwhile
    return enhance(data, config, boxes=_boxes(services, image), decoded=image)


def _boxes(services: Services, image: np.ndarray) -> list[Box]:
    """The detector's boxes that help to find the product, as in batches."""
    classes = box_classes(services.settings)
    if classes == []:
        return []
    least = services.settings.enhancement_box_confidence
    return [
        (found.box.x1, found.box.y1, found.box.x2, found.box.y2)
        for found in services.inference.find_objects(image)
        if found.confidence >= least and (classes is None or found.class_name in classes)
    ]


def _quality(quality: Quality) -> QualityScore:
    components = {name: float(value) for name, value in vars(quality.components).items()}
    return QualityScore(score=quality.score, components=components, issues=[str(issue) for issue in quality.issues])
