"""How lines of the log look: as text, or as JSON with the batch, attempt, image and request that they are about."""

import datetime as dt
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Literal

FIELDS = ("batch", "attempt", "image", "request")
"""What a line may be about: given to :func:`about`, or with one line as ``extra``."""

_about: ContextVar[dict[str, str | int] | None] = ContextVar("about", default=None)


@contextmanager
def about(**fields: str | int | None) -> Iterator[None]:
    """Say what all lines are about that this thread or task writes within.

    Raises:
        ValueError: A field is not one of ``FIELDS``.
    """
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise ValueError(f"A line of the log is about {', '.join(FIELDS)}, not about {', '.join(unknown)}.")
    told = {name: value for name, value in fields.items() if value is not None}
    token = _about.set({**(_about.get() or {}), **told})
    try:
        yield
    finally:
        _about.reset(token)


class JsonFormatter(logging.Formatter):
    """A line as one JSON object: time (UTC), level, logger, message, what it is about, and the stack of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        time = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        own = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        line |= {name: value for name, value in {**(_about.get() or {}), **own}.items()}  # type: ignore[arg-type]
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logging(level: str, form: Literal["text", "json"], stream: IO[str] | None = None) -> None:
    """Write lines of this package at a level and above, and of others from WARNING on, to standard error.

    Doing it again changes nothing but the level.
    """
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(stream or sys.stderr)
        handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter("%(levelname)s %(message)s"))
        root.addHandler(handler)
    logging.getLogger("imgpipe_dagster").setLevel(level)
