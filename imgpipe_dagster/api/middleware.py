"""What happens around every request, as plain ASGI: its id, its log line, its figures, and an answer if all fails."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imgpipe_dagster.api.bodies import has_body
from imgpipe_dagster.api.problems import Code, Refusal, error_response
from imgpipe_dagster.logs import about

log = logging.getLogger("imgpipe_dagster.api.requests")

REQUEST_ID_HEADER = "X-Request-ID"
LINGER_S = 2.0
"""How long the body of a refused request is still read and thrown away, so that its client sees the answer."""

_SHORT_BODY_BYTES = 2**20

CLIENT_GONE = 499
"""What the log and the figures say where the client left before its answer."""

_GIVEN_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
_UNKNOWN_ROUTE = "(no such path)"

Observer = Callable[[str, str, int, float], None]
"""Told of each answer: method, path template, status, seconds."""


class RequestContext:
    """Gives every request an id, which the answer echoes, writes a line about it, and answers 500 if the app fails."""

    def __init__(self, app: ASGIApp, observe: Observer) -> None:
        self.app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _GIVEN_ID.fullmatch(given) else _new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers[REQUEST_ID_HEADER] = request_id
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
            await send(message)

        try:
            with about(request=request_id):
                await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_GONE
        except asyncio.CancelledError:  # the server ends, and this was not ready in the time that was left for it
            if status:
                raise
            refusal = Refusal(Code.UNAVAILABLE, "The server is about to end.", retry_after_s=1)
            await error_response(scope["path"], refusal, request_id)(scope, receive, send_with_id)
        except Exception:  # the last resort: whatever fails becomes an answer and a line in the log
            log.exception("request %s failed", request_id, extra={"request": request_id})
            if status:
                raise  # too late for an answer: the connection is closed
            refusal = Refusal(Code.INTERNAL_ERROR, f"The server failed. Its log tells more under {request_id}.")
            await error_response(scope["path"], refusal, request_id)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path_format", _UNKNOWN_ROUTE)
            self._observe(scope["method"], route, status, seconds)
            client = scope["client"][0] if scope.get("client") else "-"
            who = getattr(scope["state"].get("principal"), "id", "-")
            log.info(
                "%s %s %d %.0f ms client=%s who=%s id=%s",
                *(scope["method"], scope["path"].encode("unicode_escape").decode(), status, seconds * 1000),
                *(client, who, request_id),
                extra={"request": request_id},
            )


class LingeringClose:
    """Ends the connection after an answer that came before the whole request, unless little of it can be left.

    Otherwise a client that is refused early could send for ever. Closing at once would reset the connection under a
    client that is still sending, and it would never see the answer: so what comes is read on for a moment. The rest of
    a body of no great length is thrown away by the server, which then takes the next request: in an overload, new
    connections would cost more than all else about a refusal.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if not has_body(headers) or _is_short(headers):
            await self.app(scope, receive, send)
            return
        waits_for_100 = "expect" in headers
        complete = False

        async def receive_and_note() -> Message:
            nonlocal complete, waits_for_100
            waits_for_100 = False
            message = await receive()
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def discard(seconds: float) -> None:
            try:
                async with asyncio.timeout(seconds):
                    while not complete:
                        await receive_and_note()
            except TimeoutError:
                pass

        async def send_then_linger(message: Message) -> None:
            if message["type"] == "http.response.start":
                if not waits_for_100:  # to read would tell the client to go on
                    await discard(0)  # what is here already
                if not complete:
                    MutableHeaders(raw=message["headers"])["Connection"] = "close"
            elif not complete and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await discard(LINGER_S)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self.app(scope, receive_and_note, send_then_linger)


def _is_short(headers: Headers) -> bool:
    """Whether a body's length is told, and little, and the client does not wait until it is told to go on."""
    length = headers.get("content-length", "")
    return "expect" not in headers and length.isdecimal() and int(length) <= _SHORT_BODY_BYTES


def _new_id() -> str:
    """Nobody gains by guessing one, and to ask the system for secrets would let go of Python's lock in an overload."""
    return f"{random.getrandbits(128):032x}"
