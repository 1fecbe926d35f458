"""Where in a query's rows a reading goes on, so that rows that commit late are found too. Pure: no SQL, no clock.

A query is read in sweeps, each from the lowest id on, a page at a time. A sweep has to find every row that the one
before, which began at ``t0``, could not see: those that committed after ``t0``. A row whose transaction took no longer
than the overlap got its time and its id after ``t0 - overlap``. So the sweep may leave out rows that are older than
that, and rows whose ids are not above the highest that had been seen by then: ids are given out in order, whatever the
order of the commits.
"""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Any

RowId = int | str

_MARKS_PER_OVERLAP = 50


@dataclass(frozen=True)
class Mark:
    """At the time ``at``, no id above ``highest`` had been seen."""

    at: dt.datetime
    highest: int


@dataclass(frozen=True)
class Sweep:
    """A reading of the query's rows that is under way.

    Attributes:
        began: By the source's clock, UTC.
        since: Rows that are older need not be read; None for all.
        after_id: Rows with ids up to this one need not be read; None for all, or where ids are texts.
        cursor: The last id that was read; None before the first page.
    """

    began: dt.datetime
    since: dt.datetime | None = None
    after_id: int | None = None
    cursor: RowId | None = None


@dataclass(frozen=True)
class Progress:
    """How far a query has been read.

    Attributes:
        query: Digest of the query: another one is read from its beginning.
        sweep: The sweep under way.
        last_began: When the last whole sweep began.
        highest: The highest number seen as an id.
        marks: What had been seen when, oldest first.
    """

    query: str
    sweep: Sweep | None = None
    last_began: dt.datetime | None = None
    highest: int | None = None
    marks: tuple[Mark, ...] = ()


def next_sweep(progress: Progress, now: dt.datetime, overlap: dt.timedelta) -> tuple[Progress, Sweep]:
    """The sweep to go on with: the one under way, or a new one that begins now.

    Args:
        progress: Where the last reading ended.
        now: The source's clock, UTC.
        overlap: How long a transaction may take from its first row to its commit.
    """
    if progress.sweep is not None:
        return progress, progress.sweep
    marks = _add_mark(progress.marks, now, progress.highest, overlap)
    if progress.last_began is None:
        sweep = Sweep(now)
    else:
        floor = min(progress.last_began, now) - overlap  # a clock that was set back must not make a gap
        known = [mark for mark in marks if mark.at <= floor]
        marks = (*known[-1:], *marks[len(known) :])
        sweep = Sweep(now, since=floor, after_id=known[-1].highest if known else None)
    return replace(progress, sweep=sweep, marks=marks), sweep


def note_page(progress: Progress, sweep: Sweep, ids: list[RowId]) -> Progress:
    """The progress after a page with these ids, in their order."""
    numbers = [seen for seen in (*ids, progress.highest) if isinstance(seen, int)]
    return replace(progress, sweep=replace(sweep, cursor=ids[-1]), highest=max(numbers, default=None))


def end_sweep(progress: Progress, sweep: Sweep) -> Progress:
    """The progress after the last page of a sweep."""
    return replace(progress, sweep=None, last_began=sweep.began)


def to_state(progress: Progress) -> dict[str, Any]:
    """The progress as JSON."""
    sweep = progress.sweep
    return {
        "query": progress.query,
        "last_began": _text(progress.last_began),
        "highest": progress.highest,
        "marks": [[_text(mark.at), mark.highest] for mark in progress.marks],
        "sweep": sweep
        and {
            "began": _text(sweep.began),
            "since": _text(sweep.since),
            "after_id": sweep.after_id,
            "cursor": sweep.cursor,
        },
    }


def from_state(state: dict[str, Any], query: str) -> Progress:
    """The progress that `to_state` wrote for the same query; a fresh one for another."""
    if state.get("query") != query:
        return Progress(query)
    sweep = state["sweep"]
    return Progress(
        query,
        sweep and Sweep(_time(sweep["began"]), _time(sweep["since"]), sweep["after_id"], sweep["cursor"]),
        _time(state["last_began"]),
        state["highest"],
        tuple(Mark(_time(at), highest) for at, highest in state["marks"]),
    )


def _add_mark(
    marks: tuple[Mark, ...], now: dt.datetime, highest: int | None, overlap: dt.timedelta
) -> tuple[Mark, ...]:
    """One mark more; of marks that lie close together only the later stays, so that they do not become many."""
    if highest is None:
        return marks
    is_close = len(marks) > 1 and marks[-1].at - marks[-2].at < overlap / _MARKS_PER_OVERLAP
    return (*(marks[:-1] if is_close else marks), Mark(now, highest))


def _text(time: dt.datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _time(text: str | None) -> Any:  # noqa: ANN401 - a time where the state has one
    return None if text is None else dt.datetime.fromisoformat(text)
