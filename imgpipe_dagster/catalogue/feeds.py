"""How fresh each feed is: each temple, each source. Noted as batches are published, so that asking costs little."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import FeedFreshness, FeedKind, ImagePrediction, ProductImage
from imgpipe_dagster.catalogue.types import insert_or_ignore, seconds_apart, utc_now

_COLUMNS = {FeedKind.TEMPLE: ProductImage.temple_id, FeedKind.SOURCE: ProductImage.source}
_LOOK_FOR_S = 5.0  # there is another look soon: it need not wait out an outage


@dataclass(frozen=True)
class FeedAge:
    """Seconds since a feed's newest first answer."""

    kind: FeedKind
    feed: str
    age_s: float


def note_answers(connection: Connection, batch_key: str) -> None:
    """Note for each feed in a batch when it got its newest first answer; an older time never replaces a newer one.

    It does replace one that is still to come: that one is from before the clock was set back.
    """
    for kind, column in _COLUMNS.items():
        newest = (
            sa.select(column, sa.func.max(ImagePrediction.created_at))
            .join(ImagePrediction, ImagePrediction.image_id == ProductImage.id)
            .where(ImagePrediction.batch_key == batch_key, column.is_not(None))
            .group_by(column)
            .order_by(column)  # batches that end together take the rows in one order
        )
        for feed, at in connection.execute(newest).all():
            row = {"kind": kind, "feed": feed, "last_prediction_at": at}
            mine = FeedFreshness.kind == kind, FeedFreshness.feed == feed
            noted = FeedFreshness.last_prediction_at
            newer = sa.update(FeedFreshness).where(*mine, sa.or_(noted < at, noted > utc_now()))
            if not connection.execute(newer.values(last_prediction_at=at)).rowcount:
                connection.execute(insert_or_ignore(FeedFreshness).values(row))


def feed_ages(engine: Engine) -> list[FeedAge]:
    """How old the newest first answer of every feed is, in order of their times.

    One whose time is still to come counts as so long ago: a clock that was set back must not hide a dead feed.
    """
    query = sa.select(FeedFreshness.kind, FeedFreshness.feed, seconds_apart(FeedFreshness.last_prediction_at)).order_by(
        FeedFreshness.last_prediction_at
    )
    rows = transact(engine, lambda connection: connection.execute(query).all(), writes=False, retry_for_s=_LOOK_FOR_S)
    return [FeedAge(FeedKind(kind), feed, float(age)) for kind, feed, age in rows]
