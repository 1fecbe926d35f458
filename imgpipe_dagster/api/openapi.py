"""How the API describes itself: OpenAPI with the errors that paths really give, and ways to identify oneself."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from imgpipe_dagster.api.guard import SECURITY_SCHEMES
from imgpipe_dagster.api.problems import PROBLEM_JSON, PROBLEM_SCHEMA, Code

EXAMPLE_SERVER = "http://127.0.0.1:8000"
"""The server of the examples: `imgpipe serve` on this machine."""

_PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "Why a request was refused (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "instance", "request_id"],
    "properties": {
        "type": {"type": "string", "examples": [f"urn:imgpipe:problem:{Code.NOT_FOUND}"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "One sentence for people."},
        "code": {"type": "string", "enum": [code.value for code in Code], "description": "Stable."},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
_PROBLEMS = {PROBLEM_JSON: {"schema": PROBLEM_SCHEMA}}
_OF_SCOPE = frozenset({401, 403, 429, 500, 503, 504})
_OF_BODY = frozenset({400, 408, 413})
_OF_VALUES = frozenset({400, 422})


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an app, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            license_info=app.license_info,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        components = document.setdefault("components", {})
        components["securitySchemes"] = SECURITY_SCHEMES
        schemas = components.setdefault("schemas", {})
        schemas["Problem"] = _PROBLEM
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _describe_refusals(path, method, operation)
        app.openapi_schema = document
    return app.openapi_schema


def _describe_refusals(path: str, method: str, operation: dict[str, Any]) -> None:
    """Add what a path's guards refuse with, in the shape of the path's own refusals where it has one."""
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own shape, which no path answers with
    stated = (answer["content"] for status, answer in responses.items() if status[0] in "45")
    own = next((content for content in stated if PROBLEM_JSON not in content), None)
    statuses = {413}  # of any body where none is taken
    if "x-scope" in operation:
        statuses |= _OF_SCOPE
    if "requestBody" in operation:
        statuses |= _OF_BODY
        if own is None:
            statuses |= {415} | _OF_VALUES
    if operation.get("parameters"):
        statuses |= _OF_VALUES
    if "{" in path:
        statuses.add(404)
    if path == "/readyz":
        statuses.add(503)
    if path.startswith("/api/v1/") and method == "post":
        statuses.add(409)  # of an Idempotency-Key, at least
    for status in statuses:
        meanings = [code.meaning for code in Code if code.status == status]
        responses.setdefault(str(status), {})["description"] = "; ".join(meanings)
        responses[str(status)].setdefault("content", own or _PROBLEMS)
    if own is None:
        responses["default"] = {"description": "Refused, and why.", "content": _PROBLEMS}
