"""Which rows a sweep may leave out: simulated sources whose transactions commit in any order."""

import datetime as dt
import json
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from imgpipe_dagster.sources.sweeps import (
    Mark,
    Progress,
    Sweep,
    end_sweep,
    from_state,
    next_sweep,
    note_page,
    to_state,
)

NOON = dt.datetime(2026, 11, 20, 12)  # noqa: DTZ001 - UTC, as in the catalogue
OVERLAP = dt.timedelta(seconds=100)


def at(second):
    return NOON + dt.timedelta(seconds=second)


@dataclass
class Row:
    id: int
    written: int  # when its transaction got the id and the time
    committed: int


def poll(progress, rows, second, by, page=3, pages=None):
    """Read a simulated source as it is in that second: the progress and the ids that were read."""
    progress, sweep = next_sweep(progress, at(second), OVERLAP)
    seen = []
    while pages is None or pages > 0:
        visible = [r for r in rows if r.committed <= second and r.id > (sweep.cursor or 0)]
        if by == "id" and sweep.after_id is not None:
            visible = [r for r in visible if r.id > sweep.after_id]
        if by == "time" and sweep.since is not None:
            visible = [r for r in visible if at(r.written) >= sweep.since]
        ids = sorted(r.id for r in visible)[:page]
        seen += ids
        if ids:
            progress = note_page(progress, sweep, ids)
            sweep = progress.sweep
        if len(ids) < page:
            return end_sweep(progress, sweep), seen
        pages = pages and pages - 1
    return progress, seen


@st.composite
def histories(draw):
    """Rows in the order of their ids, each transaction as long as the overlap at most; and polls at any times."""
    written = sorted(draw(st.lists(st.integers(0, 1000), min_size=1, max_size=40)))
    rows = [Row(n, second, second + draw(st.integers(0, 100))) for n, second in enumerate(written, 1)]
    polls = sorted(draw(st.lists(st.integers(0, 1200), max_size=30)))
    return rows, [*polls, 1300, 1300]


@given(histories(), st.sampled_from(["id", "time"]), st.sampled_from([1, None]))
def test_no_row_is_missed_whatever_the_order_of_the_commits_and_whenever_polls_happen(history, by, pages):
    rows, polls = history
    progress, seen = Progress("q"), set()
    for second in polls:
        progress, ids = poll(progress, rows, second, by, pages=pages)
        progress = from_state(json.loads(json.dumps(to_state(progress))), "q")
        seen.update(ids)
    while progress.sweep is not None:  # readings that are cut short go on where they were
        progress, ids = poll(progress, rows, 1300, by)
        seen.update(ids)
    _, ids = poll(progress, rows, 1300, by)
    assert seen | set(ids) == {row.id for row in rows}


def test_what_is_older_than_the_overlap_is_not_read_again():
    rows = [Row(n, n, n) for n in range(1, 1001)]
    for by in ("id", "time"):
        progress, reads = Progress("q"), []
        for second in range(0, 1001, 10):
            progress, ids = poll(progress, rows, second, by)
            reads.append(len(ids))
        assert max(reads) <= 125, "the overlap and the time between polls, not the whole table"
        assert len(progress.marks) <= 60


def test_marks_stay_few_however_often_a_source_is_polled():
    progress = Progress("q", highest=1, last_began=NOON)
    for second in range(5000):
        progress, sweep = next_sweep(progress, at(second / 10), OVERLAP)
        progress = end_sweep(progress, sweep)
    assert len(progress.marks) < 60


def test_a_clock_that_was_set_back_makes_no_gap():
    progress = Progress("q", last_began=at(3600), highest=9, marks=(Mark(at(3500), 9),))
    _, sweep = next_sweep(progress, at(0), OVERLAP)
    assert sweep == Sweep(at(0), since=at(-100), after_id=None)


def test_another_query_is_read_from_its_beginning():
    state = to_state(Progress("old", last_began=NOON, highest=9, marks=(Mark(NOON, 9),)))
    assert from_state(state, "old").highest == 9
    assert from_state(state, "new") == Progress("new")
    assert from_state({}, "new") == Progress("new")


def test_ids_that_are_texts_are_read_from_the_first_each_time():
    progress, sweep = next_sweep(Progress("q"), NOON, OVERLAP)
    progress = end_sweep(note_page(progress, sweep, ["a", "b"]), sweep)
    _, sweep = next_sweep(progress, at(1000), OVERLAP)
    assert (sweep.after_id, sweep.cursor) == (None, None)
