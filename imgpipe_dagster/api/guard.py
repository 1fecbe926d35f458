"""What every path is guarded by, stated beside it: who may call it, how long its body may be, how long it may take."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from imgpipe_dagster.api.bodies import FORM_OVERHEAD, CountedBody, require_json, take_as_json
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.services import services_of
from imgpipe_dagster.settings import Settings

E = TypeVar("E", bound=Callable[..., Any])

_ACCESS = "imgpipe_access"


class Body(Enum):
    """What kind of body a path takes, and so how long it may be."""

    NONE = auto()
    JSON = auto()
    OLD_JSON = auto()  # the older systems' clients do not always say that it is JSON
    UPLOAD = auto()  # a form with one image file

    def limit(self, settings: Settings) -> int:
        """The largest body in bytes."""
        match self:
            case Body.NONE:
                return 0
            case Body.JSON | Body.OLD_JSON:
                return settings.api_max_json_bytes
            case Body.UPLOAD:
                return settings.api_max_upload_bytes + FORM_OVERHEAD


@dataclass(frozen=True)
class Access:
    """The guards of one path.

    Attributes:
        body: What body it takes.
    """

    body: Body = Body.NONE


def access(body: Body = Body.NONE) -> Callable[[E], E]:
    """State the guards of a path: a decorator between the router's and the function."""

    def attach(endpoint: E) -> E:
        setattr(endpoint, _ACCESS, Access(body))
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
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind the guards."""
        handle = super().get_route_handler()
        guards = self.access

        async def guarded(request: Request) -> Response:
            settings = services_of(request).settings
            body = CountedBody(request, guards.body.limit(settings))
            deadline = asyncio.timeout(settings.api_deadline_s)
            try:
                async with deadline:
                    body.check_declared()
                    if guards.body is Body.JSON:
                        require_json(request)
                    elif guards.body is Body.OLD_JSON:
                        take_as_json(request)
                    return await handle(Request(request.scope, body.receive))
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise _too_late(body, settings.api_deadline_s) from None

        return guarded


def _too_late(body: CountedBody, limit_s: float) -> Refusal:
    if not body.complete:
        headers = {"Connection": "close"}
        return Refusal(Code.REQUEST_TIMEOUT, f"The body did not come within {limit_s:g} s.", headers=headers)
    return Refusal(Code.DEADLINE_EXCEEDED, f"The answer was not ready within {limit_s:g} s.", retry_after_s=limit_s)
