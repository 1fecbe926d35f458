"""Opaque cursors: where a page ended and for which question, as a text that clients hand back unread."""

import base64
import datetime as dt
import hashlib
import json
from typing import Any

from imgpipe_dagster.api.problems import Code, Refusal


def encode_cursor(question: str, position: tuple[Any, ...]) -> str:
    """A cursor for the page behind a position.

    Args:
        question: What was asked: the cursor is good for the same question only.
        position: Numbers, texts and times (UTC, without a zone).
    """
    values = [value.isoformat() if isinstance(value, dt.datetime) else value for value in position]
    text = json.dumps([_mark(question), *values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(question: str, cursor: str, kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """The position in a cursor.

    Args:
        question: What is asked now.
        cursor: As it came.
        kinds: Of the position's values: ``int``, ``float``, ``str`` or ``datetime.datetime``.

    Raises:
        Refusal: 400, as the cursor is not one that this question gave.
    """
    try:
        mark, *values = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        position = tuple(_read(kind, value) for kind, value in zip(kinds, values, strict=True))
    except (ValueError, TypeError, OverflowError) as error:
        raise Refusal(Code.BAD_CURSOR, "The cursor is not one of ours.") from error
    if mark != _mark(question):
        raise Refusal(Code.BAD_CURSOR, "The cursor belongs to a question with other conditions.")
    return position


def _read(kind: type, value: object) -> int | float | str | dt.datetime:
    if kind is dt.datetime and isinstance(value, str):
        time = dt.datetime.fromisoformat(value)
        if time.tzinfo is None:
            return time
    if kind is int and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    if kind is str and isinstance(value, str):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"{value!r} is no {kind.__name__}")


def _mark(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()[:12]
