"""What every path is guarded by, stated beside it: who may call it, how long its body may be, how long it may take."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Send
from starlette.types import Scope as ScopeOfRequest

from imgpipe_dagster.api import idempotency
from imgpipe_dagster.api.bodies import FORM_OVERHEAD, CountedBody, require_json, take_as_json
from imgpipe_dagster.api.gate import Principal, Scope
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.services import Services, services_of
from imgpipe_dagster.api.work import WorkPool
from imgpipe_dagster.settings import Settings

E = TypeVar("E", bound=Callable[..., Any])

_ACCESS = "imgpipe_access"
_IMAGES_OF_A_REQUEST = 3  # of the largest size, in base64 two
_SECURED = {"security": [{"key": []}, {"bearer": []}]}
SECURITY_SCHEMES = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
"""How clients identify themselves, as OpenAPI describes it."""


class Body(Enum):
    """What kind of body a path takes, and so how long it may be."""

    NONE = auto()
    JSON = auto()
    OLD_JSON = auto()  # the older systems' clients do not always say that it is JSON
    OLD_IMAGES = auto()  # JSON with images in it, in base64
    UPLOAD = auto()  # a form with one image file

    def limit(self, settings: Settings) -> int:
        """The largest body in bytes."""
        match self:
            case Body.NONE:
                return 0
            case Body.JSON | Body.OLD_JSON:
                return settings.api_max_json_bytes
            case Body.OLD_IMAGES:
                return _IMAGES_OF_A_REQUEST * settings.api_max_upload_bytes
            case Body.UPLOAD:
                return settings.api_max_upload_bytes + FORM_OVERHEAD


@dataclass(frozen=True)
class Access:
    """The guards of one path.

    Attributes:
        scope: What a key or token must allow; None for everybody.
        body: What body it takes.
        is_old_path: It is a path of one of the older systems, which open networks reach without a key.
        deadline_s: The time for a request, of the settings; None for the usual one.
        pool: Whose threads do the work: where too many wait for them, a request is refused before anything else is done
            for it than to see who calls; else a place is kept for it while its body comes.
        refused: Told of each request that gets no answer of the path's, with what stood in its way.
    """

    scope: Scope | None
    body: Body = Body.NONE
    is_old_path: bool = False
    deadline_s: Callable[[Settings], float] | None = None
    pool: Callable[[Services], WorkPool] | None = None
    refused: Callable[[Request, Exception], None] | None = None


def access(
    scope: Scope | None,
    *,
    body: Body = Body.NONE,
    is_old_path: bool = False,
    deadline_s: Callable[[Settings], float] | None = None,
    pool: Callable[[Services], WorkPool] | None = None,
    refused: Callable[[Request, Exception], None] | None = None,
) -> Callable[[E], E]:
    """State the guards of a path: a decorator between the router's and the function."""

    def attach(endpoint: E) -> E:
        setattr(endpoint, _ACCESS, Access(scope, body, is_old_path, deadline_s, pool, refused))
        return endpoint

    return attach


class GuardedRoute(APIRoute):
    """A path that its guards stand before. A function without stated guards is no path: the app does not start."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        if not isinstance(getattr(endpoint, _ACCESS, None), Access):
            raise TypeError(
                f"{path} has no stated guards: put @access(…) between the router's decorator and the function."
            )
        self.access: Access = getattr(endpoint, _ACCESS)
        if self.access.scope is not None:
            described = options.get("openapi_extra") or {}
            options["openapi_extra"] = {**_SECURED, "x-scope": self.access.scope.value, **described}
        super().__init__(path, endpoint, **options)

    def matches(self, scope: ScopeOfRequest) -> tuple[Match, ScopeOfRequest]:
        """Whether a request is this path's; HEAD is where GET only reads."""
        return super().matches(self._as_get(scope))

    async def handle(self, scope: ScopeOfRequest, receive: Receive, send: Send) -> None:
        """Handle one request. The server itself leaves out the body of an answer to HEAD."""
        await super().handle(self._as_get(scope), receive, send)

    def _as_get(self, scope: ScopeOfRequest) -> ScopeOfRequest:
        only_reads = self.access.scope in (None, Scope.READ)
        return {**scope, "method": "GET"} if only_reads and scope.get("method") == "HEAD" else scope

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind the guards."""
        handle = super().get_route_handler()
        guards = self.access

        async def guarded(request: Request) -> Response:
            services = services_of(request)
            limit_s = services.settings.api_deadline_s
            if guards.deadline_s is not None:
                limit_s = guards.deadline_s(services.settings)
            body = CountedBody(request, guards.body.limit(services.settings))
            deadline = asyncio.timeout(limit_s)
            try:
                async with deadline:
                    caller = await _admit(services, request, guards)
                    with _place(services, request, guards):
                        body.check_declared()
                        if guards.body is Body.JSON:
                            require_json(request)
                        elif guards.body in (Body.OLD_JSON, Body.OLD_IMAGES):
                            take_as_json(request)
                        counted = Request(request.scope, body.receive)
                        if idempotency.concerns(request):
                            return await idempotency.once(services, counted, caller, handle)
                        return await handle(counted)
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise _too_late(body, limit_s) from None

        async def told(request: Request) -> Response:
            try:
                return await guarded(request)
            except Exception as error:
                _tell(guards, request, error)
                raise

        return told


def _place(services: Services, request: Request, guards: Access) -> AbstractContextManager[None]:
    """A place in the queue that the path's work waits in. What may have been answered before needs none."""
    if guards.pool is None or idempotency.concerns(request):
        return nullcontext()
    return guards.pool(services).place()


def _tell(guards: Access, request: Request, error: Exception) -> None:
    if guards.refused is not None:
        guards.refused(request, error)


async def _admit(services: Services, request: Request, guards: Access) -> str:
    """Who calls, or "anybody" where that does not matter."""
    if guards.scope is None:
        return "anybody"
    principal = await services.gate.admit(request, guards.scope, is_old_path=guards.is_old_path)
    return principal.id


def principal_of(request: Request) -> Principal:
    """Who calls a path that needs a scope."""
    return request.scope["state"]["principal"]


def is_known(request: Request) -> bool:
    """Whether it is known who calls, if they may or not."""
    return "principal" in request.scope["state"]


def _too_late(body: CountedBody, limit_s: float) -> Refusal:
    if body.awaited:
        return Refusal(Code.REQUEST_TIMEOUT, f"The body did not come within {limit_s:g} s.")
    return Refusal(Code.DEADLINE_EXCEEDED, f"The answer was not ready within {limit_s:g} s.", retry_after_s=limit_s)
