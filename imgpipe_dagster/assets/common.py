"""What the assets share: progress with a heartbeat, metadata, checks that write their alert. No stage's own logic."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import dagster as dg
import pandas as pd
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.alerts import AlertKind, write_alert
from imgpipe_dagster.catalogue.batches import note_heartbeat
from imgpipe_dagster.catalogue.engine import describe_error, transact
from imgpipe_dagster.catalogue.frames import replace_batch
from imgpipe_dagster.partitions import temple_of_partition

T = TypeVar("T")

progress_log = logging.getLogger("imgpipe_dagster.progress")
"""Every item of every stage, at DEBUG with ``stage``, ``done`` and ``total``: what progress bars listen to."""

OWNERS = ["team:imgpipe"]
SAMPLE_ROWS = 20
HEARTBEAT_EVERY_S = 5.0


class Progress:
    """Counts what a stage has done, tells the log now and then, and keeps the batch's heartbeat going."""

    def __init__(self, context: dg.AssetExecutionContext, engine: Engine, total: int) -> None:
        self._context = context
        self._engine = engine
        self._total = total
        self._started = time.monotonic()
        self._noted = float("-inf")
        self.done = 0
        self._note()

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """Pass the items on, counting them."""
        for item in items:
            yield item
            self.done += 1
            self._note()

    def follow(self, items: Iterable[T]) -> Iterator[T]:
        """Pass on items that are not the stage's own: they are not counted, but the heartbeat goes on."""
        for item in items:
            yield item
            self._beat()

    @contextmanager
    def opening(self, resource: AbstractContextManager[T]) -> Iterator[T]:
        """Enter a context that may take long and cannot say how far it is: a model may have to be exported first.

        The heartbeat goes on from beside it, for as long as the process lives.
        """
        with ExitStack() as stack:
            with self._beating():
                opened = stack.enter_context(resource)
            yield opened

    @property
    def per_second(self) -> float:
        """Items a second so far."""
        return self.done / max(time.monotonic() - self._started, 1e-9)

    def _note(self) -> None:
        stage = self._context.op_execution_context.op.name
        progress_log.debug("", extra={"stage": stage, "done": self.done, "total": self._total})
        self._beat()

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._noted >= HEARTBEAT_EVERY_S:
            note_heartbeat(self._engine, self._context.partition_key)
            self._context.log.info("%d of %d images", self.done, self._total)
            self._noted = now

    @contextmanager
    def _beating(self) -> Iterator[None]:
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_EVERY_S):
                try:
                    note_heartbeat(self._engine, self._context.partition_key)
                except SQLAlchemyError as error:  # what is being opened does not need the catalogue
                    self._context.log.warning("No heartbeat could be noted: %s", describe_error(error))

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@dataclass(frozen=True)
class Made:
    """What a multi-asset made for one of its assets: the rows, what the UI shows of them, the verdicts on them."""

    asset: str
    frame: pd.DataFrame
    metadata: Mapping[str, Any]
    checks: tuple[dg.AssetCheckResult, ...]


def results(
    context: dg.AssetExecutionContext, engine: Engine, made: Iterable[Made]
) -> Iterator[dg.MaterializeResult[pd.DataFrame]]:
    """The results of those assets of a multi-asset that were asked for.

    The rows of the others are stored too: what one run says of a picture beside what another said would lie.
    """
    for one in made:
        if dg.AssetKey(one.asset) not in context.selected_asset_keys:
            replace_batch(engine, one.asset, context.partition_key, one.frame)
            continue
        keys = context.selected_asset_check_keys
        checks = [
            check for check in one.checks if dg.AssetCheckKey(dg.AssetKey(one.asset), str(check.check_name)) in keys
        ]
        yield dg.MaterializeResult(one.asset, value=one.frame, metadata=one.metadata, check_results=checks)


def sample(frame: pd.DataFrame, columns: list[str]) -> dg.TableMetadataValue:
    """The first rows of a frame as a table for the UI."""
    head = frame.loc[:, columns].head(SAMPLE_ROWS)
    records = head.astype(object).where(head.notna(), None).to_dict("records")
    schema = dg.TableSchema(columns=[dg.TableColumn(name, "string") for name in columns])
    cells = [{str(k): "" if v is None else str(v) for k, v in record.items()} for record in records]
    return dg.MetadataValue.table([dg.TableRecord(cell) for cell in cells], schema=schema)


def check_result(
    context: dg.AssetExecutionContext,
    engine: Engine,
    *,
    asset: str,
    name: str,
    failures: int,
    recover: str,
    found: Mapping[str, dg.MetadataValue | str | int | float] | None = None,
    place: str = "batch",
) -> dg.AssetCheckResult:
    """The verdict of a check; one that fails writes its alert itself, as nothing else would notice later.

    Args:
        context: The asset's context.
        engine: The catalogue, for the alert.
        asset: The asset that is checked.
        name: The invariant.
        failures: How many times it is broken; 0 passes.
        recover: What to do about it.
        found: Counts and samples.
        place: What a partition of the asset is.
    """
    where = temple_of_partition(context.partition_key)  # keys of batches stay as they are
    if failures:
        subject = f"{asset}: {name} failed in {place} {where}"
        details = {"failures": failures, place: where}
        key = f"check:{asset}:{name}:{context.run_id}"
        transact(
            engine,
            lambda connection: write_alert(
                connection,
                kind=AlertKind.CHECK_FAILED,
                subject=subject,
                body=recover,
                dedupe_key=key,
                details=details,
                run_id=context.run_id,
            ),
        )
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=name,
        passed=failures == 0,
        metadata={"failures": failures, place: where, "how to recover": recover, **(found or {})},
    )
