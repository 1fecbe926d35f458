"""The one assembler of the API: settings in, an ASGI app out. Tests call it as `imgpipe serve` does."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from imgpipe_dagster import __version__
from imgpipe_dagster.api import idempotency
from imgpipe_dagster.api.metrics import Metrics
from imgpipe_dagster.api.middleware import REQUEST_ID_HEADER, LingeringClose, RequestContext
from imgpipe_dagster.api.openapi import describe
from imgpipe_dagster.api.problems import TEMPLE_PATHS, Code, Refusal, error_response
from imgpipe_dagster.api.routes import batches, classify, docs, enhance, health, images, images_script, qc, temples
from imgpipe_dagster.api.services import open_services
from imgpipe_dagster.catalogue.engine import is_away
from imgpipe_dagster.settings import Settings

log = logging.getLogger(__name__)

_DESCRIPTION = "From images to trusted results: enhancement, detection, classification, review."


def create_app(settings: Settings, *, warm: bool = False) -> FastAPI:
    """Assemble the API.

    Args:
        settings: This installation's settings; nothing else is read from the environment.
        warm: Load the models when the app starts, and not when they are first asked.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings, metrics, warm=warm) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="imgpipe",
        version=__version__,
        description=_DESCRIPTION,
        license_info={"name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later"},
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the redirect would go to whatever Host the client names
    )
    # Looked through in this order for each request: what is asked most comes first.
    for module in (classify, health, enhance, batches, qc, images, temples, images_script, docs):
        app.include_router(module.router)
    app.state.metrics = metrics
    app.openapi = lambda: describe(app)  # type: ignore[method-assign] - as FastAPI's documentation says
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(DBAPIError, _on_database_error)
    if settings.api_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.api_cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", idempotency.HEADER, REQUEST_ID_HEADER],
            expose_headers=["Location", "ETag", "Retry-After", REQUEST_ID_HEADER],
        )
    app.add_middleware(RequestContext, observe=metrics.observe_request)
    app.add_middleware(LingeringClose)
    return app


async def _on_http_exception(request: Request, error: Exception) -> Response:
    return _answer(request, error if isinstance(error, Refusal) else _refusal_of(error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    """Bad JSON is 400; JSON that does not mean anything here is 422, with every value that is wrong.

    The older temples' service knows 400 for both.
    """
    found = error.errors() if isinstance(error, RequestValidationError) else []
    if any(item["type"] == "json_invalid" for item in found):
        return _answer(request, Refusal(Code.MALFORMED_REQUEST, "The body is not valid JSON."))
    errors = [{"field": ".".join(map(str, item["loc"])), "message": str(item["msg"])} for item in found]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors[:3])
    code = Code.MALFORMED_REQUEST if request.url.path in TEMPLE_PATHS else Code.INVALID_REQUEST
    return _answer(request, Refusal(code, detail, errors=errors))


async def _on_database_error(request: Request, error: Exception) -> Response:
    if isinstance(error, DBAPIError) and is_away(error):
        return _answer(request, Refusal(Code.UNAVAILABLE, "The catalogue is away or busy.", retry_after_s=5))
    raise error


def _refusal_of(error: Exception) -> Refusal:
    """Starlette's and FastAPI's own refusals as ours."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    match status:
        case 404:
            return Refusal(Code.NOT_FOUND, "There is no such path.")
        case 405:
            return Refusal(Code.METHOD_NOT_ALLOWED, "The path does not take this method.", headers=headers)
        case _ if status < 500:
            return Refusal(Code.MALFORMED_REQUEST, "The request cannot be read.")
        case _:
            return Refusal(Code.INTERNAL_ERROR, "The server failed.")


def _answer(request: Request, refusal: Refusal) -> Response:
    return error_response(request.url.path, refusal, request.scope["state"]["request_id"])
