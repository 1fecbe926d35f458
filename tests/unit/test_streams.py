"""Streaming through threads: every item once, bounded, errors raised, nothing left running."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe_dagster.streams import map_unordered


@given(st.lists(st.integers(), max_size=60), st.integers(1, 8))
def test_every_item_is_answered_once(items, threads):
    assert sorted(map_unordered(lambda n: n * 2, items, threads=threads)) == sorted(n * 2 for n in items)


def test_items_are_taken_only_as_results_are_taken():
    taken = []

    def source():
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_unordered(lambda n: n, source(), threads=4)
    next(results)
    time.sleep(0.05)
    assert len(taken) <= 4 * 2 + 1
    results.close()


def test_threads_work_ahead_of_a_caller_who_pauses():
    done = threading.Semaphore(0)
    results = map_unordered(lambda n: done.release() or n, range(1000), threads=2, ahead=50)
    next(results)
    assert all(done.acquire(timeout=10) for _ in range(50))
    assert not done.acquire(timeout=0.05)
    results.close()


def test_work_is_done_side_by_side():
    meeting = threading.Barrier(3, timeout=10)
    assert len(list(map_unordered(lambda _n: meeting.wait(), range(3), threads=3))) == 3


def test_the_first_error_is_raised_and_nothing_new_is_begun():
    begun = []

    def work(number):
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(map_unordered(work, range(1000), threads=2))
    assert len(begun) < 20
