"""How the pipeline stands, in one short query whatever the tables' size: ages, and whether mail waits. Reads only."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.alert_mails import is_due
from imgpipe_dagster.catalogue.alerts import Raised, raised_conditions
from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import (
    Alert,
    AlertMail,
    AlertState,
    BatchState,
    ImageBatch,
    ImagePrediction,
    ImageStatus,
    ProductImage,
)
from imgpipe_dagster.catalogue.types import seconds_ago, seconds_apart, utc_now

COUNTED_AT_MOST = 100_000
"""Counts in alerts stop here, so that writing one costs little."""

_LOOK_FOR_S = 5.0  # there is another look soon: it need not wait out an outage


@dataclass(frozen=True)
class Pulse:
    """Ages in seconds by the database's clock.

    Attributes:
        last_prediction_s: Since the newest first answer of any image; None if there is none.
        waiting_s: Since the oldest image in the queue was put there; None if none waits.
        open_batch_s: Since the oldest batch under way was claimed; None if there is none.
        mail_due: Whether alerts wait to become mails, or mails to be sent.
        conditions: What was ever raised.
    """

    last_prediction_s: float | None
    waiting_s: float | None
    open_batch_s: float | None
    mail_due: bool
    conditions: dict[str, Raised]

    @property
    def unanswered_s(self) -> float | None:
        """For how long the oldest image has waited for its answer, in the queue or in its batch."""
        ages = [age for age in (self.waiting_s, self.open_batch_s) if age is not None]
        return max(ages, default=None)


def take_pulse(engine: Engine) -> Pulse:
    """Look at the ages, at the outbox and at what is raised, in two short queries."""
    return transact(engine, _look, writes=False, retry_for_s=_LOOK_FOR_S)


def _look(connection: Connection) -> Pulse:
    # A time in the future, left by a clock that was wrong, would hide staleness until it has come.
    newest = (
        sa.select(seconds_ago(ImagePrediction.created_at))
        .where(ImagePrediction.created_at <= utc_now())
        .order_by(ImagePrediction.created_at.desc())
        .limit(1)
    )
    waits = ProductImage.status == ImageStatus.PENDING
    batch = sa.select(seconds_ago(ImageBatch.created_at)).where(ImageBatch.state == BatchState.CLAIMED)
    unformed = sa.exists().where(Alert.state == AlertState.WAITING, Alert.mail_id.is_(None))
    unsent = sa.exists(sa.select(AlertMail.id).where(is_due()))
    row = connection.execute(
        sa.select(
            newest.scalar_subquery(),
            sa.exists().where(waits),
            sa.select(seconds_apart(sa.func.min(ProductImage.updated_at))).where(waits).scalar_subquery(),
            batch.order_by(ImageBatch.id).limit(1).scalar_subquery(),
            unformed,
            unsent,
        )
    ).one()
    waits, waited = row[1], row[2]
    # Other programs write updated_at too: one that cannot be read has waited for ever.
    waiting_s = None if not waits else float("inf") if waited is None else float(waited)
    return Pulse(
        last_prediction_s=None if row[0] is None else float(row[0]),
        waiting_s=waiting_s,
        open_batch_s=None if row[3] is None else float(row[3]),
        mail_due=bool(row[4] or row[5]),
        conditions=raised_conditions(connection),
    )


def describe_backlog(engine: Engine) -> dict[str, str | int | float]:
    """What an alert tells about images without an answer: how many, and the oldest of them."""
    return transact(engine, _describe, writes=False)


def _describe(connection: Connection) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {}
    for label, status in (("images that wait", ImageStatus.PENDING), ("images in work", ImageStatus.PROCESSING)):
        found = sa.select(ProductImage.id).where(ProductImage.status == status).limit(COUNTED_AT_MOST).subquery()
        count = connection.scalar(sa.select(sa.func.count()).select_from(found)) or 0
        facts[label] = f"{count} or more" if count == COUNTED_AT_MOST else count
    oldest = (
        sa.select(
            ProductImage.id,
            ProductImage.image_url,
            sa.cast(ProductImage.updated_at, sa.String(16)).label("since"),  # as text: others may write no time at all
            ProductImage.source,
        )
        .where(ProductImage.status == ImageStatus.PENDING)
        .order_by(ProductImage.updated_at, ProductImage.id)
        .limit(1)
    )
    row = connection.execute(oldest).first()
    if row is not None:
        facts["oldest that waits"] = _oldest(row)
    return facts


def _oldest(row: Any) -> str:  # noqa: ANN401 - a row of the query above
    source = f", from {row.source}" if row.source else ""
    return f"image {row.id}{source}, since {row.since[:16]} UTC: {(row.image_url or 'no URL')[:200]}"
