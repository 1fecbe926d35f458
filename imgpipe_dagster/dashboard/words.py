"""Words for people: text of unknown origin as it is, ages, times. No widgets."""

import datetime as dt
import re
from collections.abc import Iterable

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=\"'])")
# What Streamlit takes for an icon or an emoji by its name, and looks for where escapes are gone already. All such names
# have a letter, but for four: what stands between the colons of a time, or of a URL and its port, is none.
_NAMED_ICON = re.compile(r":(?=material/|(?:[\w-]*[a-z][\w-]*|[+-]1|100|1234):)", re.ASCII | re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: object, at_most: int = 200) -> str:
    """Text of unknown origin (names, notes, URLs) for a place that reads Markdown: it shows as it is, on one line.

    A web or mail address in it becomes a link to itself, and can be copied.
    """
    line = _CONTROL.sub(" ", str(text))
    if len(line) > at_most:
        line = f"{line[: at_most - 1]}…"
    return _MARKDOWN.sub(r"\\\1", _NAMED_ICON.sub(":\N{WORD JOINER}", line))


def spoken(codes: str | Iterable[str]) -> str:
    """Reason codes as words: ``low_score`` is ``low score``."""
    return ", ".join([codes] if isinstance(codes, str) else codes).replace("_", " ")


def counted(number: int, noun: str) -> str:
    """A count and its noun: ``1 object``, ``2 objects``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def gain(before: float | None, after: float | None) -> str | None:
    """By how much a score has changed, of what is shown so that it adds up; None where it has not, or is not known."""
    change = 0 if before is None or after is None else round(after) - round(before)
    return f"{change:+d}" if change else None


def age(seconds: float | None) -> str:
    """How long ago, in one unit: ``5 s``, ``12 min``, ``3 h``, ``9 d``."""
    if seconds is None:
        return "never"
    if seconds == float("inf"):
        return "ever"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def utc(time: dt.datetime | None) -> str:
    """A time of the catalogue, to the second."""
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"
