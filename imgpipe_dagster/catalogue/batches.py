"""Batches: claiming images, following a batch through its attempts, giving it its end. Exactly once, by state."""

import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.alerts import AlertKind, write_alert
from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import BatchState, Claimant, ImageBatch, ImageStatus, ProductImage
from imgpipe_dagster.catalogue.types import seconds_ago, seconds_apart, utc_now
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.streams import chunks

BACKLOG_BATCHES = 20
"""A backlog of more than this many batches makes the batches grow, so that partitions stay few."""

_CHUNK = 1000  # ids in one statement
# Whoever comes first, sensor or command, may start the run of such a batch.
_NOBODY_AT_WORK = {"claimed_by": Claimant.SENSOR, "heartbeat_at": dt.datetime(1970, 1, 1)}  # noqa: DTZ001 - UTC
INTERRUPTED = "It was interrupted; its images wait again."
_LOOK_FOR_S = 5.0  # a sensor's tick has another tick after it: it need not wait out an outage


@dataclass(frozen=True)
class BatchLimits:
    """When a batch is due and how large it is."""

    size: int = 500
    max_size: int = 5000
    max_wait_s: float = 120

    def __post_init__(self) -> None:
        if self.size < 1 or self.max_wait_s < 0:
            raise ValueError(f"A batch needs a size of at least 1 and a wait of at least 0 seconds, not {self}.")

    def due(self, waiting: int, oldest_wait_s: float) -> int:
        """How many images to claim now; 0 while it is worth waiting for more."""
        if waiting == 0 or (waiting < self.size and oldest_wait_s < self.max_wait_s):
            return 0
        return max(self.size, min(self.max_size, waiting // BACKLOG_BATCHES))


@dataclass(frozen=True)
class Batch:
    """One row of ``image_batches`` as decisions need it. Ages are in seconds by the database's clock."""

    key: str
    state: BatchState
    attempt: int
    claimed_by: Claimant
    image_count: int
    heartbeat_age_s: float

    @property
    def job(self) -> str | None:
        """The name of the job that the batch needs next, or None where it needs none."""
        match self.state:
            case BatchState.CLAIMED:
                return "analyse"
            case BatchState.ANALYSED:
                return "enhance"
            case _:
                return None


class BatchBusyError(RuntimeError):
    """The batch is being processed and cannot be retried now."""


def claim_batch(engine: Engine, limits: BatchLimits, claimant: Claimant) -> Batch | None:
    """Claim waiting images as one new batch, or none if no batch is due.

    Safe with any number of claimants: rows are chosen by their state under a lock that others skip, never by a
    cursor, because auto-increment order is not commit order.
    """
    waiting, first = _queue(engine, limits.max_size * BACKLOG_BATCHES)
    # Looked up only where it decides: it costs as much as the claim of many rows just after others were claimed.
    size = limits.due(waiting, longest_wait_s(engine) or 0.0 if 0 < waiting < limits.size else 0.0)
    if size == 0:
        return None

    def claim(connection: Connection) -> Batch | None:
        runs = _lock_waiting(connection, size, first)
        return _form_batch(connection, runs, claimant) if runs else None

    return transact(engine, claim)


def form_batch(connection: Connection, ids: Sequence[int]) -> Batch:
    """Make a batch of images that the transaction holds locked; whoever comes first may start its run."""
    batch = _form_batch(connection, list(runs_of_ids(ids)), Claimant.SENSOR)
    connection.execute(_update(batch.key).values(_NOBODY_AT_WORK))
    return batch


def runs_of_ids(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last of every run of ids without a gap, ascending.

    An UPDATE by such runs changes just those rows, and costs a database a fraction of one by a list of them.
    """
    # In a run, ids and their places in the order grow alike.
    for _, run in groupby(enumerate(sorted(ids)), key=lambda placed: placed[1] - placed[0]):
        numbers = [number for _, number in run]
        yield numbers[0], numbers[-1]


def waiting_images(engine: Engine, at_most: int = 1_000_000) -> int:
    """How many images wait, counted up to ``at_most``."""
    return _queue(engine, at_most)[0]


def longest_wait_s(engine: Engine) -> float | None:
    """For how many seconds the image has waited that was put into the queue first; None if none waits.

    That need not be the one of the lowest id: images that were put back have waited since then only.
    """
    waits = ProductImage.status == ImageStatus.PENDING
    oldest = sa.select(sa.exists().where(waits), seconds_apart(sa.func.min(ProductImage.updated_at))).where(waits)

    def look(connection: Connection) -> float | None:
        waiting, seconds = connection.execute(oldest).one()
        # Other programs write updated_at too: an unreadable time must not block the queue.
        return (float("inf") if seconds is None else float(seconds)) if waiting else None

    return transact(engine, look, writes=False, retry_for_s=_LOOK_FOR_S)


def _queue(engine: Engine, at_most: int) -> tuple[int, int]:
    """As :func:`waiting_images`, and the lowest id that waits; 0 if none does."""
    waits = ProductImage.status == ImageStatus.PENDING
    pending = sa.select(ProductImage.id).where(waits)
    newest = sa.select(sa.func.max(ProductImage.id)).where(waits).scalar_subquery()

    def look(connection: Connection) -> tuple[int, int]:
        lowest = pending.with_only_columns(ProductImage.id, newest).order_by(ProductImage.id).limit(1)
        row = connection.execute(lowest).first()
        if row is None:
            return 0, 0
        # Entries of images that were claimed lie before the first in MariaDB's index until they are purged.
        rest = pending.where(ProductImage.id >= row[0])
        # So many ids hold no more images: they are counted in the index, where a limit would have them copied first.
        if row[1] - row[0] < at_most:
            count = rest.with_only_columns(sa.func.count())
        else:
            count = sa.select(sa.func.count()).select_from(rest.limit(at_most).subquery())
        return connection.scalar(count) or 0, row[0]

    return transact(engine, look, writes=False, retry_for_s=_LOOK_FOR_S)


def open_batches(engine: Engine) -> list[Batch]:
    """Every batch that still needs a job, oldest first."""
    return transact(
        engine,
        lambda connection: _batches(connection, ImageBatch.state.in_([BatchState.CLAIMED, BatchState.ANALYSED])),
        writes=False,
        retry_for_s=_LOOK_FOR_S,
    )


def get_batch(engine: Engine, batch_key: str) -> Batch | None:
    """The batch of that key, or None."""
    found = transact(engine, lambda connection: _batches(connection, ImageBatch.batch_key == batch_key), writes=False)
    return found[0] if found else None


def note_heartbeat(engine: Engine, batch_key: str) -> None:
    """Note that a run of the batch is at work."""
    transact(engine, lambda connection: connection.execute(_update(batch_key).values(heartbeat_at=utc_now())))


def begin_attempt(engine: Engine, batch: Batch, claimant: Claimant = Claimant.SENSOR) -> bool:
    """Count one attempt more, to be started by ``claimant``; False if somebody else did so first."""
    statement = _still(batch).values(
        attempt=batch.attempt + 1, claimed_by=claimant, heartbeat_at=utc_now(), updated_at=utc_now()
    )
    return transact(engine, lambda connection: connection.execute(statement).rowcount) == 1


def hold_batch(engine: Engine, batch: Batch, reason: str) -> bool:
    """Leave the batch alone until somebody retries it; False if it is no longer open."""
    held = BatchState.HELD if batch.state is BatchState.CLAIMED else BatchState.ENHANCEMENT_HELD
    statement = _still(batch).values(state=held, reason=reason, updated_at=utc_now())
    return transact(engine, lambda connection: connection.execute(statement).rowcount) == 1


def fail_batch(engine: Engine, batch: Batch, reason: str) -> bool:
    """Give the batch's job up and write an alert, all in one transaction; False if the batch is no longer open.

    Open images of a batch that was not analysed fail with a reason. Where only the enhancement failed, the images keep
    their answers.
    """

    def fail(connection: Connection) -> bool:
        analysed = batch.state is BatchState.ANALYSED
        state = BatchState.ENHANCEMENT_FAILED if analysed else BatchState.FAILED
        values = {"state": state, "reason": reason, "updated_at": utc_now()}
        if not connection.execute(_still(batch).values(values)).rowcount:
            return False
        if not analysed:
            connection.execute(
                sa.update(ProductImage)
                .where(ProductImage.batch_key == batch.key, ProductImage.status == ImageStatus.PROCESSING)
                .values(status=ImageStatus.FAILED, reason=Reason.BATCH_FAILED, updated_at=utc_now())
            )
        what = f"Enhancement of batch {batch.key}" if analysed else f"Batch {batch.key}"
        left = "images keep their answers" if analysed else f"images carry the reason {Reason.BATCH_FAILED}"
        kind = AlertKind.ENHANCEMENT_FAILED if analysed else AlertKind.BATCH_FAILED
        write_alert(
            connection,
            kind=kind,
            subject=f"{what} failed after {batch.attempt} attempts",
            body=f"{batch.image_count} {left}. {reason}\nWhen the cause is mended: imgpipe retry --batch {batch.key}",
            details={"images": batch.image_count, "attempts": batch.attempt},
            dedupe_key=f"{kind}:{batch.key}:{batch.attempt}",
        )
        return True

    return transact(engine, fail)


def release_batch(engine: Engine, batch: Batch) -> bool:
    """Give an interrupted batch back; False if it is no longer open.

    Before its analysis its images wait for a new batch; after it, its enhancement waits for whoever comes first.
    """

    def release(connection: Connection) -> bool:
        if batch.state is BatchState.ANALYSED:
            again = _still(batch).values(attempt=batch.attempt + 1, **_NOBODY_AT_WORK, updated_at=utc_now())
            return bool(connection.execute(again).rowcount)
        closed = connection.execute(
            _still(batch).values(state=BatchState.FAILED, reason=INTERRUPTED, updated_at=utc_now())
        ).rowcount
        if closed:
            connection.execute(
                sa.update(ProductImage)
                .where(ProductImage.batch_key == batch.key, ProductImage.status == ImageStatus.PROCESSING)
                .values(status=ImageStatus.PENDING, updated_at=utc_now())
            )
        return bool(closed)

    return transact(engine, release)


def interrupted_attempts(engine: Engine, batch_keys: Collection[str]) -> set[tuple[str, int]]:
    """Of these batches, those that were given back because somebody stopped them, each with its attempt."""
    stopped = sa.select(ImageBatch.batch_key, ImageBatch.attempt).where(
        ImageBatch.batch_key.in_(batch_keys), ImageBatch.reason == INTERRUPTED
    )
    return transact(
        engine, lambda connection: {(key, attempt) for key, attempt in connection.execute(stopped)}, writes=False
    )


def offer_batch(engine: Engine, batch_key: str) -> None:
    """Let whoever comes first enhance a batch whose enhancement a command has not begun."""
    unbegun = ImageBatch.state == BatchState.ANALYSED, ImageBatch.claimed_by == Claimant.CLI, ImageBatch.attempt == 1
    transact(engine, lambda connection: connection.execute(_update(batch_key).where(*unbegun).values(_NOBODY_AT_WORK)))


def retry_enhancement(engine: Engine, *, batch_key: str | None = None) -> int:
    """Let the enhancement of batches in which it failed or is held be tried again.

    The attempts go on counting, as Dagster knows each attempt by its number.

    Args:
        engine: The catalogue.
        batch_key: Only this batch.

    Returns:
        The number of batches.
    """
    stopped = ImageBatch.state.in_([BatchState.ENHANCEMENT_FAILED, BatchState.ENHANCEMENT_HELD])
    again = sa.update(ImageBatch).where(stopped) if batch_key is None else _update(batch_key).where(stopped)
    again = again.values(
        state=BatchState.ANALYSED,
        attempt=ImageBatch.attempt + 1,
        reason=None,
        **_NOBODY_AT_WORK,
        updated_at=utc_now(),
    )
    return transact(engine, lambda connection: connection.execute(again).rowcount)


def retry_images(
    engine: Engine, *, reason: str | None = None, batch_key: str | None = None, batch_size: int | None = None
) -> int:
    """Put failed images, and those of held batches, back to be processed in a new batch.

    Args:
        engine: The catalogue.
        reason: Only images that carry this reason code.
        batch_key: Only images of this batch.
        batch_size: Form batches of this size at once (small ones find a culprit); otherwise the images wait like new
            ones.

    Returns:
        The number of images put back.

    Raises:
        BatchBusyError: if the named batch is still being processed.
        KeyError: if there is no such batch.
    """
    if batch_key is not None:
        batch = get_batch(engine, batch_key)
        if batch is None:
            raise KeyError(batch_key)
        if batch.state is BatchState.CLAIMED:
            raise BatchBusyError(f"Batch {batch_key} is being processed (attempt {batch.attempt}): wait for its end.")

    held = sa.select(ImageBatch.batch_key).where(ImageBatch.state == BatchState.HELD)
    failed = sa.select(ProductImage.id).where(ProductImage.status == ImageStatus.FAILED)
    # Two queries, each with its index: one with OR would read the whole table on SQLite.
    chosen = [failed if reason is None else failed.where(ProductImage.reason == reason)]
    if reason is None:
        in_held = ProductImage.status == ImageStatus.PROCESSING, ProductImage.batch_key.in_(held)
        chosen.append(sa.select(ProductImage.id).where(*in_held))
    if batch_key is not None:
        chosen = [query.where(ProductImage.batch_key == batch_key) for query in chosen]

    def put_back(connection: Connection, query: sa.Select[int]) -> int:
        ids = connection.scalars(
            query.order_by(ProductImage.id).limit(batch_size or _CHUNK).with_for_update(skip_locked=True)
        ).all()
        if ids and batch_size is not None:
            form_batch(connection, ids)
        elif ids:
            connection.execute(
                sa.update(ProductImage)
                .where(ProductImage.id.in_(ids))
                .values(status=ImageStatus.PENDING, reason=None, updated_at=utc_now())
            )
        return len(ids)

    total = 0
    for query in chosen:
        while count := transact(engine, lambda connection, query=query: put_back(connection, query)):
            total += count
    if reason is None:
        still_there = sa.exists().where(
            ProductImage.batch_key == ImageBatch.batch_key, ProductImage.status == ImageStatus.PROCESSING
        )
        closed = (
            sa.update(ImageBatch)
            .where(ImageBatch.state == BatchState.HELD, ~still_there)
            .values(state=BatchState.FAILED, reason="Its images were put back by a retry.", updated_at=utc_now())
        )
        transact(engine, lambda connection: connection.execute(closed))
    return total


def _lock_waiting(connection: Connection, at_most: int, first_id: int) -> list[tuple[int, int]]:
    """Lock the first images from an id on that wait and that nobody else holds: their ids as runs without a gap."""
    waiting = (
        sa.select(ProductImage.id)
        .where(ProductImage.status == ImageStatus.PENDING, ProductImage.id >= first_id)
        .order_by(ProductImage.id)
        .limit(at_most)
        .with_for_update(skip_locked=True)
    )
    # The rows are locked where they are counted. Most often they are one run, and thousands of ids need not be fetched.
    locked = waiting.subquery()
    count, first, last = connection.execute(
        sa.select(sa.func.count(), sa.func.min(locked.c.id), sa.func.max(locked.c.id))
    ).one()
    if count == 0:
        return []
    if count == last - first + 1:
        return [(first, last)]
    return list(runs_of_ids(connection.scalars(waiting)))


def _form_batch(connection: Connection, runs: Sequence[tuple[int, int]], claimant: Claimant) -> Batch:
    count = sum(last - first + 1 for first, last in runs)
    inserted = connection.execute(
        sa.insert(ImageBatch).values(batch_key=uuid.uuid4().hex, claimed_by=claimant, image_count=count)
    )
    (batch_id,) = inserted.inserted_primary_key or (None,)
    now = connection.scalars(sa.select(ImageBatch.created_at).where(ImageBatch.id == batch_id)).one()
    key = f"{now:%Y%m%d}-{batch_id:06d}"
    connection.execute(sa.update(ImageBatch).where(ImageBatch.id == batch_id).values(batch_key=key))
    for chunk in chunks(runs, _CHUNK // 2):
        connection.execute(
            sa.update(ProductImage)
            .where(sa.or_(*(ProductImage.id.between(first, last) for first, last in chunk)))
            .values(status=ImageStatus.PROCESSING, batch_key=key, reason=None, updated_at=utc_now())
        )
    return Batch(key, BatchState.CLAIMED, 1, claimant, count, 0.0)


def _batches(connection: Connection, which: sa.ColumnElement[bool]) -> list[Batch]:
    rows = connection.execute(
        sa.select(
            ImageBatch.id,
            ImageBatch.batch_key,
            ImageBatch.state,
            ImageBatch.attempt,
            ImageBatch.claimed_by,
            ImageBatch.image_count,
            seconds_ago(ImageBatch.heartbeat_at),
        ).where(which)
    )
    # Sorted here: for the order, SQLite would read the whole table by its key instead of an index on ``which``.
    return [
        Batch(key, BatchState(state), attempt, Claimant(claimed_by), count, float(age))
        for _, key, state, attempt, claimed_by, count, age in sorted(rows, key=lambda row: row.id)
    ]


def _update(batch_key: str) -> sa.Update:
    return sa.update(ImageBatch).where(ImageBatch.batch_key == batch_key)


def _still(batch: Batch) -> sa.Update:
    """An update of the batch that changes nothing if it has moved on since it was read."""
    return _update(batch.key).where(ImageBatch.state == batch.state, ImageBatch.attempt == batch.attempt)
