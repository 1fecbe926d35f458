"""The temples' service, with the keys, flags and lists of the older one: pictures in, models made, categories out."""

import asyncio
import base64
import binascii
import functools
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.api.guard import Body, GuardedRoute, access, principal_of
from imgpipe_dagster.api.openapi import EXAMPLE_SERVER
from imgpipe_dagster.api.problems import TRAINING_FLAGS, Code, Refusal
from imgpipe_dagster.api.services import Services, services_of
from imgpipe_dagster.catalogue.jobs import Job, create_training_job, get_job
from imgpipe_dagster.catalogue.tables import ImageStatus, TempleImageOrigin, TempleSplit
from imgpipe_dagster.catalogue.temple_images import COMMON, TempleNameError, check_temple_id, training_set
from imgpipe_dagster.catalogue.temple_models import NoModelError, TempleModelError, champion
from imgpipe_dagster.catalogue.ticks import tick_ages
from imgpipe_dagster.models.temple_classifier import ModelFileError
from imgpipe_dagster.models.temple_training import TrainingError, check_categories
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.temples.logs import TempleLogs
from imgpipe_dagster.temples.pictures import LabelledFile, add_files
from imgpipe_dagster.temples.prediction import FileAnswer, FileToClassify, predict_files
from imgpipe_dagster.temples.registry import classifier_of, find_version

router = APIRouter(prefix="/api", tags=["temples"], route_class=GuardedRoute)

TRAINING_SENSOR = "training_jobs_sensor"
"""Whose ticks show that Dagster's daemon lives and would start a training."""

_LOOK_EVERY_S = 0.5
_START_S = 120.0  # that a run may take to begin and to end, beside its training
_MOST_PICTURES = 200

TempleId = Annotated[str, Field(min_length=1, max_length=100, examples=["1"])]
OneOrMany = str | Annotated[list[str], Field(min_length=1, max_length=_MOST_PICTURES)]


class _Lenient(BaseModel):
    """Older clients send ids as numbers."""

    model_config = ConfigDict(coerce_numbers_to_str=True)


class SaveData(_Lenient):
    """A labelled picture, or many of one category."""

    temple_id: TempleId
    train_test: Literal["train", "test"] = Field(description="What the picture is for.")
    category: str = Field(min_length=1, max_length=100, examples=["door_open"])
    image: OneOrMany = Field(description="The file in base64, or a list of files.")
    image_type: str = Field(default="", max_length=20, description="The content decides; this is not used.")
    image_name: OneOrMany = Field(default="image", description="For messages: a name, or one for each picture.")


class Saved(BaseModel):
    """What became of it."""

    error_msg: str = Field(examples=["All OK"])


class MakeModel(_Lenient):
    """Which temple's model is to be trained."""

    temple_id: TempleId
    forceful: bool = Field(default=False, description="Train although the temple has a model; the better one serves.")


class MadeModel(BaseModel):
    """How far the training came."""

    error_msg: list[str]
    got_training_data_flag: bool
    got_testing_data_flag: bool
    made_model_architecture_flag: bool
    trained_model_flag: bool
    tested_model_flag: bool
    saved_model_flag: bool


class Predict(_Lenient):
    """Pictures of one temple."""

    temple_id: TempleId
    image: OneOrMany = Field(description="The file in base64, or a list of files.")
    image_name: OneOrMany = Field(default="image", description="For the log: a name, or one for each picture.")
    image_type: str = Field(default="", max_length=20, description="The content decides; this is not used.")


class Predicted(BaseModel):
    """A category, or one for each picture where a list was asked about. Null where a picture is no good."""

    error_msg: list[str]
    image_class: str | list[str | None] | None = Field(examples=["door_open"])
    class_confidence: float | list[float | None] | None = Field(examples=[0.93])


def _json_body(model: type[BaseModel], path: str, **fields: str) -> dict[str, Any]:
    """How a path describes its body, and how it is asked from a shell and from Python."""
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}
    url = f"{EXAMPLE_SERVER}/api/{path}"
    text = json.dumps({**fields, "image": "%s"})
    shell = f"""printf '{text}' "$(base64 -w0 image.jpg)" \\
  | curl -X POST {url} -H "Content-Type: application/json" -d @-"""
    items = "".join(f'"{name}": "{value}", ' for name, value in fields.items())
    python = f"""import base64, json, pathlib, urllib.request

image = base64.b64encode(pathlib.Path("image.jpg").read_bytes()).decode()
body = json.dumps({{{items}"image": image}}).encode()
request = urllib.request.Request("{url}", body, {{"Content-Type": "application/json"}})
print(json.load(urllib.request.urlopen(request)))"""
    return {**body, "x-codeSamples": [{"lang": "bash", "source": shell}, {"lang": "python", "source": python}]}


def _training_deadline(settings: Settings) -> float:
    return settings.temple_training_limit_s + _START_S


@router.post(
    "/save_data",
    response_model=Saved,
    openapi_extra=_json_body(SaveData, "save_data", temple_id="1", train_test="train", category="door_open"),
    responses={400: {"model": Saved}, 500: {"model": Saved}},
)
@access(Scope.TRAIN, body=Body.OLD_IMAGES, is_old_path=True)
async def save_data(request: Request) -> Saved:
    """Keep labelled pictures for training or for testing. The same picture again changes nothing.

    A client's mistake is 400, where the older service said 500.
    """
    services = services_of(request)
    wanted = await _read(request, services, SaveData)
    return await services.in_thread(_save, services, wanted)


@router.post("/make_model", response_model=MadeModel, responses={400: {"model": MadeModel}, 503: {"model": MadeModel}})
@access(Scope.TRAIN, body=Body.OLD_JSON, is_old_path=True, deadline_s=_training_deadline)
async def make_model(request: Request, wanted: MakeModel) -> Any:  # noqa: ANN401 - the answer or one with status 400
    """Train a model of a temple, and answer when that is over. Dagster trains, when it is the training's turn."""
    services = services_of(request)
    job = await services.in_thread(_submit, services, wanted, principal_of(request).name[:100])
    while job is not None and job.status in (ImageStatus.PENDING, ImageStatus.PROCESSING):
        await asyncio.sleep(_LOOK_EVERY_S)
        job = await services.in_thread(get_job, services.engine, job.job_id)
    if job is None:
        raise Refusal(Code.INTERNAL_ERROR, "The training's row in processing_jobs has been deleted.")
    done = set(job.parameters.get("stages", ()))
    answer = {"error_msg": [job.error] if job.error else [], **{flag: flag in done for flag in TRAINING_FLAGS}}
    return JSONResponse(answer, 200 if job.status == ImageStatus.COMPLETED else 400)


@router.post(
    "/predict",
    response_model=Predicted,
    openapi_extra=_json_body(Predict, "predict", temple_id="1"),
    responses={400: {"model": Predicted}},
)
@access(Scope.READ, body=Body.OLD_IMAGES, is_old_path=True, pool=lambda services: services.predicting)
async def predict(request: Request) -> Any:  # noqa: ANN401 - the answer or one with status 400
    """Which category pictures of a temple have: the most probable, or "No category (Anomaly)"."""
    services = services_of(request)
    wanted = await _read(request, services, Predict)
    answers = await services.predicting.run(_predict, services, wanted)
    classes = [None if found.answer is None else found.answer.image_class for found in answers]
    confidences = [None if found.answer is None else found.answer.class_confidence for found in answers]
    errors = [f"{found.file}: {found.error}" for found in answers if found.error]
    many = isinstance(wanted.image, list)
    answer = {
        "error_msg": errors,
        "image_class": classes if many else classes[0],
        "class_confidence": confidences if many else confidences[0],
    }
    return JSONResponse(answer, 400 if errors else 200)


async def _read(request: Request, services: Services, model: type[Any]) -> Any:  # noqa: ANN401 - of the given model
    """The body, parsed in a thread: it may hold many megabytes."""
    body = await request.body()
    try:
        return await services.in_thread(model.model_validate_json, body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error


def _save(services: Services, wanted: SaveData) -> Saved:
    files = [
        LabelledFile(name, wanted.category, functools.partial(bytes, data))
        for name, data in _pictures(wanted.image, wanted.image_name, services.settings.api_max_upload_bytes)
    ]
    try:
        report = add_files(
            services.engine,
            services.store,
            services.validator,
            wanted.temple_id,
            TempleSplit(wanted.train_test),
            files,
            origin=TempleImageOrigin.API,
        )
    except TempleNameError as error:
        raise Refusal(Code.MALFORMED_REQUEST, str(error)) from error
    if report.refused:
        raise Refusal(Code.MALFORMED_REQUEST, "; ".join(f"{one.name}: {one.why}" for one in report.refused))
    return Saved(error_msg="All OK")


def _submit(services: Services, wanted: MakeModel, by: str) -> Job:
    """Ask for a training; what would fail for certain is refused before."""
    try:
        temple_id = check_temple_id(wanted.temple_id)
        if temple_id == COMMON:
            raise Refusal(Code.MALFORMED_REQUEST, f"{COMMON!r} is no temple: its pictures join every other's training.")
        if not wanted.forceful and champion(services.engine, temple_id) is not None:
            raise Refusal(Code.MALFORMED_REQUEST, f"{temple_id} has a model already: set forceful to train another.")
        check_categories(tuple(training_set(services.engine, temple_id).categories))
    except (TempleNameError, TrainingError) as error:
        raise Refusal(Code.MALFORMED_REQUEST, str(error)) from error
    age = tick_ages(services.engine).get(TRAINING_SENSOR)
    if age is None or age > services.settings.watchdog_heartbeat_limit_s:
        detail = "Dagster's daemon does not run, so nothing would train: start it, or use imgpipe temple train."
        raise Refusal(Code.UNAVAILABLE, detail, retry_after_s=60)
    return create_training_job(services.engine, temple_id, forceful=wanted.forceful, by=by)


def _predict(services: Services, wanted: Predict) -> list[FileAnswer]:
    pictures = _pictures(wanted.image, wanted.image_name, services.settings.api_max_upload_bytes)
    try:
        temple_id = check_temple_id(wanted.temple_id)
        version = find_version(services.engine, temple_id)
        classifier = services.temple_classifiers.get(version, lambda: classifier_of(services.store, version))
    except (TempleNameError, NoModelError) as error:
        raise Refusal(Code.MALFORMED_REQUEST, str(error)) from error
    except (TempleModelError, ModelFileError) as error:
        raise Refusal(Code.INTERNAL_ERROR, str(error)) from error
    logs = TempleLogs(services.settings.home / "logs" / "temples")
    files = [FileToClassify(name, functools.partial(bytes, data)) for name, data in pictures]
    found = predict_files(classifier, services.validator, files, logs, temple_id)
    return sorted(found, key=lambda answered: answered.number)


def _pictures(images: str | Sequence[str], names: str | Sequence[str], max_bytes: int) -> list[tuple[str, bytes]]:
    """The files with their names."""
    texts = [images] if isinstance(images, str) else list(images)
    called = [names] if isinstance(names, str) else list(names)
    if len(called) == 1 and len(texts) > 1:
        called = [f"{called[0]}-{number}" for number in range(1, len(texts) + 1)]
    if len(called) != len(texts):
        raise Refusal(Code.MALFORMED_REQUEST, f"There are {len(texts)} pictures and {len(called)} names.")
    return [(name[:200], _decode(name, text, max_bytes)) for name, text in zip(called, texts, strict=True)]


def _decode(name: str, text: str, max_bytes: int) -> bytes:
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(Code.MALFORMED_REQUEST, f"{name[:200]}: this is not base64.") from error
    if len(data) > max_bytes:
        raise Refusal(Code.BODY_TOO_LARGE, f"{name[:200]}: the file has more than {max_bytes} bytes.")
    return data
