"""How a request is refused: the closed list of codes, and the shape each path gives an error. No decisions."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from math import ceil
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

PROBLEM_JSON = "application/problem+json"
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}


class Code(StrEnum):
    """Why a request was refused. The value is stable: clients may rely on it."""

    MALFORMED_REQUEST = "malformed_request"
    BAD_CURSOR = "bad_cursor"
    NOT_AUTHENTICATED = "not_authenticated"
    NOT_ALLOWED = "not_allowed"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_ACCEPTABLE = "not_acceptable"
    REQUEST_TIMEOUT = "request_timeout"
    CONFLICT = "conflict"
    BODY_TOO_LARGE = "body_too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    INVALID_REQUEST = "invalid_request"
    UNDECODABLE_IMAGE = "undecodable_image"
    NOT_FETCHED = "not_fetched"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    RATE_LIMITED = "rate_limited"
    INTERNAL_ERROR = "internal_error"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"

    @property
    def status(self) -> int:
        """The HTTP status that goes with it."""
        return _MEANINGS[self][0]

    @property
    def meaning(self) -> str:
        """One line for people, the same every time."""
        return _MEANINGS[self][1]


_MEANINGS: dict[Code, tuple[int, str]] = {
    Code.MALFORMED_REQUEST: (400, "The request cannot be read"),
    Code.BAD_CURSOR: (400, "The cursor is not one that this query gave"),
    Code.NOT_AUTHENTICATED: (401, "No valid key or token"),
    Code.NOT_ALLOWED: (403, "The key or token does not allow this"),
    Code.NOT_FOUND: (404, "There is no such thing"),
    Code.METHOD_NOT_ALLOWED: (405, "The path does not take this method"),
    Code.NOT_ACCEPTABLE: (406, "No answer of a type that the client accepts"),
    Code.REQUEST_TIMEOUT: (408, "The request did not arrive in time"),
    Code.CONFLICT: (409, "The state of things does not allow this"),
    Code.BODY_TOO_LARGE: (413, "The body has too many bytes"),
    Code.TOO_MANY_PIXELS: (413, "The picture has too many pixels"),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, "The content is not of a type that is taken here"),
    Code.RANGE_NOT_SATISFIABLE: (416, "The range lies outside the content"),
    Code.INVALID_REQUEST: (422, "A value is missing or not valid"),
    Code.UNDECODABLE_IMAGE: (422, "The picture cannot be decoded"),
    Code.NOT_FETCHED: (422, "The picture cannot be fetched from its URL"),
    Code.IDEMPOTENCY_KEY_REUSED: (422, "The Idempotency-Key was used with another request"),
    Code.RATE_LIMITED: (429, "Too many requests"),
    Code.INTERNAL_ERROR: (500, "The server failed"),
    Code.OVERLOADED: (503, "The server has more work than it can do in time"),
    Code.UNAVAILABLE: (503, "Something that the server needs is away"),
    Code.DEADLINE_EXCEEDED: (504, "The answer was not ready in time"),
}


class Refusal(HTTPException):
    """A request that is not done, and why.

    Args:
        code: Which of the closed list.
        detail: One sentence for people: what was wrong with this request, and what to do.
        retry_after_s: When the same request may succeed; becomes Retry-After in whole seconds, at least 1.
        headers: Further headers of the answer.
        errors: What is wrong with which value: ``field`` and ``message`` each.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        extra = {} if retry_after_s is None else {"Retry-After": str(max(1, ceil(retry_after_s)))}
        super().__init__(code.status, detail, headers={**(headers or {}), **extra})
        self.code = code
        self.errors = tuple(errors)


def error_response(path: str, refusal: Refusal, request_id: str) -> JSONResponse:
    """The answer to a refused request, in the shape that the path's clients know.

    The older systems' paths keep theirs; every other path answers problem+json (RFC 9457).
    """
    body: dict[str, Any]
    match path:
        case "/" | "/classify":
            body = {"error": _CLASSIFY_TEXTS.get(refusal.code, refusal.detail)}
        case "/api/save_data":
            body = {"error_msg": refusal.detail}
        case "/api/make_model":
            body = {"error_msg": [refusal.detail], **dict.fromkeys(TRAINING_FLAGS, False)}
        case "/api/predict":
            body = {"error_msg": [refusal.detail], "image_class": None, "class_confidence": None}
        case _:
            body = {
                "type": f"urn:imgpipe:problem:{refusal.code}",
                "title": refusal.code.meaning,
                "status": refusal.status_code,
                "detail": refusal.detail,
                "code": refusal.code,
                "instance": path,
                "request_id": request_id,
            }
            if refusal.errors:
                body["errors"] = list(refusal.errors)
            return JSONResponse(body, refusal.status_code, refusal.headers, media_type=PROBLEM_JSON)
    return JSONResponse(body, refusal.status_code, refusal.headers)


TEMPLE_PATHS = frozenset({"/api/save_data", "/api/make_model", "/api/predict"})
"""The paths of the older temples' service."""

TRAINING_FLAGS = (
    "got_training_data_flag",
    "got_testing_data_flag",
    "made_model_architecture_flag",
    "trained_model_flag",
    "tested_model_flag",
    "saved_model_flag",
)
"""The stages of training that ``/api/make_model`` reports, in their order."""

_CLASSIFY_TEXTS = {Code.BODY_TOO_LARGE: "File too large.", Code.INTERNAL_ERROR: "Model inference error."}
"""What the bottle status service has always said."""
