"""``Idempotency-Key``: a POST that is sent again is not done again, and its answer comes from the catalogue."""

import hashlib
import re
from collections.abc import Awaitable, Callable

from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.services import Services
from imgpipe_dagster.catalogue import idempotency
from imgpipe_dagster.catalogue.api_keys import digest

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"

_VALID = re.compile(r"[\x21-\x7e]{1,255}")
_KEPT_HEADERS = ("content-type", "location", "etag", "content-disposition")
_LARGEST_KEPT = 8 * 2**20  # larger answers are made again: what gives them is a pure function of the request


def concerns(request: Request) -> bool:
    """Whether the request is one that is to be done once."""
    return request.method == "POST" and request.scope["path"].startswith("/api/v1/") and HEADER in request.headers


async def once(
    services: Services, request: Request, caller: str, handle: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Do a request, unless it was done before: then give the same answer.

    Only answers that say that something was done are kept; a refused request may be sent again, mended.

    Args:
        services: For the catalogue.
        request: With the header; its body is read here, within its limit.
        caller: Who: the same key of another caller is another key.
        handle: What does it.

    Raises:
        Refusal: 400 for a bad key, 409 while the first request is under way, 422 for a key used with another body.
    """
    given = request.headers[HEADER]
    if not _VALID.fullmatch(given):
        raise Refusal(Code.MALFORMED_REQUEST, f"{HEADER} must be 1 to 255 printable ASCII characters without spaces.")
    body = await request.body()
    key = digest("\n".join([caller, request.url.path, given]))
    limit_s = 2 * services.settings.api_deadline_s
    standing = await services.in_thread(
        idempotency.begin, services.engine, key, _fingerprint(request, body), abandoned_after_s=limit_s
    )
    match standing:
        case idempotency.Answer():
            return Response(standing.body, standing.status, {**standing.headers, REPLAYED: "true"})
        case idempotency.Standing.BUSY:
            raise Refusal(Code.CONFLICT, f"The first request with this {HEADER} is under way.", retry_after_s=1)
        case idempotency.Standing.OTHER:
            raise Refusal(Code.IDEMPOTENCY_KEY_REUSED, f"Use a new {HEADER} for a new request.")
        case idempotency.Standing.MINE:
            pass
    try:
        response = await handle(Request(request.scope, _replay(body)))
    except Exception:
        # Not when it is cancelled at the deadline: its work may still be going on, and must not begin beside itself.
        await services.in_thread(idempotency.forget, services.engine, key)
        raise
    answer = bytes(response.body)
    if response.status_code < 400 and len(answer) <= _LARGEST_KEPT:
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        kept = idempotency.Answer(response.status_code, headers, answer)
        await services.in_thread(idempotency.finish, services.engine, key, kept)
    else:
        await services.in_thread(idempotency.forget, services.engine, key)
    return response


def _fingerprint(request: Request, body: bytes) -> str:
    """What was asked. Clients choose a new boundary each time that they send a form: it is left out."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    accepted = request.headers.get("accept", "").encode()
    asked = hashlib.sha256(b"\n".join((kind, accepted, request.scope["query_string"], b"")))
    asked.update(body.replace(boundary, b"") if boundary else body)
    return asked.hexdigest()


def _replay(body: bytes) -> Callable[[], Awaitable[Message]]:
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
