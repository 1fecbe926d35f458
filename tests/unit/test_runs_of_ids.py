"""Ids as runs without a gap: just these, each once."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from imgpipe_dagster.catalogue.batches import runs_of_ids


@given(st.sets(st.integers(min_value=1, max_value=60)))
def test_runs_hold_just_the_ids_and_as_few_runs_as_can_be(ids):
    runs = list(runs_of_ids(ids))
    assert [number for first, last in runs for number in range(first, last + 1)] == sorted(ids)
    assert all(last + 1 < following for (_, last), (following, _) in pairwise(runs))
