"""Answering with the bytes of a file: ETag and If-None-Match, Range and If-Range (RFC 9110, 13 and 14)."""

import re
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from imgpipe_dagster.api.problems import Code, Refusal

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


async def file_response(
    request: Request, load: Callable[[], Awaitable[bytes]], *, etag: str, media_type: str, name: str
) -> Response:
    """The file, a part of it, or the word that the client has it already.

    Args:
        request: May carry If-None-Match, Range and If-Range. A list of ranges is answered with the whole file.
        load: Gives the bytes; not called where the client has them.
        etag: What names exactly these bytes, without quotes.
        media_type: Their type.
        name: For those who save it.

    Raises:
        Refusal: 416, if the range lies outside.
    """
    quoted = f'"{etag}"'
    headers = {
        "ETag": quoted,
        "Cache-Control": "private, no-cache",  # kept, and asked for again each time: who may see it can change
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'inline; filename="{name}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    if _matches(request.headers.get("if-none-match"), quoted):
        return Response(None, 304, headers)
    data = await load()
    asked = _RANGE.fullmatch(request.headers.get("range", "").strip())
    is_current = request.headers.get("if-range", quoted) == quoted
    if asked is None or not is_current or asked[1] == asked[2] == "":
        return Response(data, 200, headers, media_type=media_type)
    first, last = _bounds(asked[1], asked[2], len(data))
    if first > last or first >= len(data):
        detail = f"The file has {len(data)} bytes."
        raise Refusal(Code.RANGE_NOT_SATISFIABLE, detail, headers={"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(data[first : last + 1], 206, headers, media_type=media_type)


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    if first == "":  # the last so many bytes
        return (max(0, size - int(last)), size - 1) if int(last) else (size, size - 1)
    return int(first), min(int(last), size - 1) if last else size - 1


def _matches(header: str | None, quoted: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or quoted in [tag.strip().removeprefix("W/") for tag in header.split(",")]
