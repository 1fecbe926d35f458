"""Numbers of files from folders: each content has one, and no number is given out twice. No files, no store."""

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import Counter, IngestedFile
from imgpipe_dagster.catalogue.types import utc_now

_FRAMES = "frame"


def announced_files(engine: Engine, digests: Collection[str]) -> set[str]:
    """Those of the contents that are in the store and announced."""
    query = sa.select(IngestedFile.sha256).where(
        IngestedFile.sha256.in_(digests), IngestedFile.announced_at.is_not(None)
    )
    return set(transact(engine, lambda connection: connection.scalars(query).all(), writes=False))


def number_files(engine: Engine, files: Sequence[tuple[str, str]], highest: int) -> dict[str, int]:
    """Give each content a number, in order; one that has a number keeps it.

    Any number of processes may do this at once: they take turns at the counter's row.

    Args:
        engine: The catalogue.
        files: The SHA-256 and the name of each file.
        highest: A number that is taken in the store; new ones are above it.

    Returns:
        The number of each SHA-256.
    """

    def give(connection: Connection) -> dict[str, int]:
        value = _lock_counter(connection, highest)
        query = sa.select(IngestedFile.sha256, IngestedFile.frame).where(
            IngestedFile.sha256.in_([digest for digest, _ in files])
        )
        numbers = {digest: frame for digest, frame in connection.execute(query)}
        new = []
        for digest, name in files:
            if digest not in numbers:
                value += 1
                numbers[digest] = value
                new.append({"sha256": digest, "frame": value, "file_name": name[:255]})
        if new:
            connection.execute(sa.insert(IngestedFile), new)
            connection.execute(sa.update(Counter).where(Counter.name == _FRAMES).values(value=value))
        return numbers

    return transact(engine, give)


def renumber_file(engine: Engine, digest: str, taken: int) -> int:
    """Give a content another number, above one that turned out to be taken in the store by somebody else's object."""

    def give(connection: Connection) -> int:
        value = _lock_counter(connection, taken) + 1
        connection.execute(sa.update(IngestedFile).where(IngestedFile.sha256 == digest).values(frame=value))
        connection.execute(sa.update(Counter).where(Counter.name == _FRAMES).values(value=value))
        return value

    return transact(engine, give)


def note_announced(engine: Engine, digests: Collection[str]) -> None:
    """Note that the images of these contents are in the store and announced."""
    statement = sa.update(IngestedFile).where(IngestedFile.sha256.in_(digests)).values(announced_at=utc_now())
    transact(engine, lambda connection: connection.execute(statement))


def _lock_counter(connection: Connection, at_least: int) -> int:
    """The last number that was given out, or ``at_least``; others wait until the transaction ends."""
    insert = sa.insert(Counter).values(name=_FRAMES, value=at_least)
    for dialect, word in (("mysql", "IGNORE"), ("mariadb", "IGNORE"), ("sqlite", "OR IGNORE")):
        insert = insert.prefix_with(word, dialect=dialect)
    query = sa.select(Counter.value).where(Counter.name == _FRAMES).with_for_update()
    value = connection.scalar(query)
    if value is None:
        connection.execute(insert)
        value = connection.scalar(query)
    return max(int(value or 0), at_least)
