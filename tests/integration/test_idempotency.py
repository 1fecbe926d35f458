"""Requests that may be sent twice, on both databases."""

import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.idempotency import Answer, Standing, begin, finish
from imgpipe_dagster.catalogue.tables import IdempotencyKey
from imgpipe_dagster.catalogue.types import utc_in


@pytest.mark.parametrize("seconds", [-86400, 86400], ids=["long ago", "before the clock was set back"])
def test_a_request_that_nobody_works_on_any_more_is_done_by_one_other(empty_engine, seconds):
    def ask():
        return begin(empty_engine, "a" * 64, "b" * 64, abandoned_after_s=60)

    assert [ask(), ask()] == [Standing.MINE, Standing.BUSY]
    with empty_engine.begin() as connection:
        connection.execute(sa.update(IdempotencyKey).values(created_at=utc_in(seconds)))
    assert [ask(), ask()] == [Standing.MINE, Standing.BUSY]
    finish(empty_engine, "a" * 64, Answer(200, {}, b"done"))
    assert ask() == Answer(200, {}, b"done")
