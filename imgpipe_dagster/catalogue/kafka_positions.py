"""How far each partition of a topic has been taken over, and in which of its lives. No Kafka."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import KafkaPosition
from imgpipe_dagster.catalogue.types import utc_now


@dataclass(frozen=True)
class Position:
    """The last message of a partition whose row is durable.

    Attributes:
        epoch: The partition's life: a topic that was deleted and made anew counts its offsets from 0 again.
        offset: The message's offset; -1 before the first.
        timestamp_ms: The message's timestamp, by which it is known again.
    """

    epoch: int = 0
    offset: int = -1
    timestamp_ms: int = -1


def load_position(engine: Engine, cluster: str, topic: str, partition: int) -> Position:
    """Where a partition was left; the position before the first message for one that is new."""
    query = sa.select(KafkaPosition.epoch, KafkaPosition.last_offset, KafkaPosition.last_timestamp_ms).where(
        *_which(cluster, topic, partition)
    )
    row = transact(engine, lambda connection: connection.execute(query).first(), writes=False)
    return Position(*row) if row else Position()


def save_position(engine: Engine, cluster: str, topic: str, partition: int, position: Position) -> None:
    """Note a position, unless a later one is noted already."""
    values = {
        "epoch": position.epoch,
        "last_offset": position.offset,
        "last_timestamp_ms": position.timestamp_ms,
        "updated_at": utc_now(),
    }
    later = sa.or_(
        KafkaPosition.epoch < position.epoch,
        sa.and_(KafkaPosition.epoch == position.epoch, KafkaPosition.last_offset < position.offset),
    )
    place = {"cluster": cluster, "topic": topic, "partition": partition}
    which = _which(cluster, topic, partition)

    def save(connection: Connection) -> None:
        if connection.execute(sa.update(KafkaPosition).where(*which, later).values(values)).rowcount:
            return
        if not connection.scalar(sa.select(sa.func.count()).select_from(KafkaPosition).where(*which)):
            insert = sa.insert(KafkaPosition).values(**place, **values)
            for dialect, word in (("mysql", "IGNORE"), ("mariadb", "IGNORE"), ("sqlite", "OR IGNORE")):
                insert = insert.prefix_with(word, dialect=dialect)
            connection.execute(insert)

    transact(engine, save)


def _which(cluster: str, topic: str, partition: int) -> tuple[sa.ColumnElement[bool], ...]:
    return KafkaPosition.cluster == cluster, KafkaPosition.topic == topic, KafkaPosition.partition == partition
