"""Reading request bodies within limits: bytes are counted as they come, forms have few and small parts."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from imgpipe_dagster.api.problems import Code, Refusal

FORM_OVERHEAD = 64 * 1024
"""What boundaries, headers and small fields may add to a file."""

_MAX_FIELDS = 20
_MAX_FIELD_BYTES = 16 * 1024


class CountedBody:
    """A request's body that ends with 413 when it grows beyond its limit.

    Attributes:
        awaited: Whether the request waits for more of it.
    """

    def __init__(self, request: Request, limit: int) -> None:
        self._receive = request.receive
        self._declared = request.headers.get("content-length", "")
        self._limit = limit
        self._read = 0
        self.awaited = False

    def check_declared(self) -> None:
        """Refuse a body that says itself that it is too long, before any of it is read."""
        declared = self._declared
        if declared.isascii() and declared.isdigit() and int(declared) > self._limit:
            raise _too_large(self._limit)

    async def receive(self) -> Message:
        """The next part of the body."""
        self.awaited = True
        message = await self._receive()
        self.awaited = False
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > self._limit:
                raise _too_large(self._limit)
        return message


@dataclass(frozen=True)
class Upload:
    """A file in a form.

    Attributes:
        name: Its name without any folder, for people and its extension only: nothing is ever stored under it.
        content_type: What the client says it is.
        data: Its bytes.
    """

    name: str
    content_type: str
    data: bytes


async def read_form(request: Request, file_field: str, *, max_bytes: int) -> tuple[Upload | None, dict[str, str]]:
    """A form with at most one file.

    Args:
        request: The request.
        file_field: The field that the file is in.
        max_bytes: Largest file.

    Returns:
        The file in the named field, or None, and the other fields as texts.

    Raises:
        Refusal: It is not such a form: 400, or 415 where it is no form at all, or 413 where the file is too large.
    """
    if _media_type(request) != "multipart/form-data":
        raise Refusal(Code.UNSUPPORTED_MEDIA_TYPE, "Send the file as multipart/form-data.")
    try:
        form = await request.form(max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
    except Refusal:
        raise
    except (HTTPException, UnicodeDecodeError, ValueError) as error:
        detail = error.detail if isinstance(error, HTTPException) else "The form is not valid multipart/form-data."
        raise Refusal(Code.MALFORMED_REQUEST, str(detail)) from error
    try:
        upload = form.get(file_field)
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        if not isinstance(upload, UploadFile):
            return None, fields
        if (upload.size or 0) > max_bytes:
            raise _too_large(max_bytes)
        name = PurePosixPath((upload.filename or "").replace("\\", "/")).name
        return Upload(name, upload.content_type or "", await upload.read()), fields
    finally:
        await form.close()


def require_json(request: Request) -> None:
    """Refuse a body that does not say that it is JSON. None at all is for the path to judge.

    Raises:
        Refusal: 415.
    """
    content_type = _media_type(request)
    if has_body(request.headers) and content_type != "application/json" and not content_type.endswith("+json"):
        raise Refusal(Code.UNSUPPORTED_MEDIA_TYPE, "Send JSON, with Content-Type: application/json.")


def take_as_json(request: Request) -> None:
    """Let the body count as JSON, whatever it says: ``curl -d`` calls everything a form."""
    headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
    request.scope["headers"] = [*headers, (b"content-type", b"application/json")]


def has_body(headers: Headers) -> bool:
    """Whether a request with these headers has a body."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit: int) -> Refusal:
    return Refusal(Code.BODY_TOO_LARGE, f"The body has more than {limit} bytes.")
