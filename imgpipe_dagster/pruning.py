"""Taking away what has had its time, and forgetting one image: catalogue, Dagster and store together. Decides nothing.

What may go is decided in ``catalogue/retention.py``, ``catalogue/forgetting.py`` and ``store/sweeping.py``.
"""

import contextlib
import datetime as dt
import shutil
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from sqlalchemy.engine import Engine

from imgpipe_dagster.backfills import BACKFILL_TAG, backfills_under_way
from imgpipe_dagster.catalogue import idempotency
from imgpipe_dagster.catalogue.forgetting import Traces, forget_image
from imgpipe_dagster.catalogue.references import IMAGE_KEYS, references, stream_keys
from imgpipe_dagster.catalogue.request_log import forget_addresses
from imgpipe_dagster.catalogue.retention import (
    old_batches,
    remove_empty_batches,
    remove_old_alerts,
    remove_old_jobs,
    remove_old_requests,
    remove_superseded,
    thinned_batches,
)
from imgpipe_dagster.instance import FINISHED_RUNS
from imgpipe_dagster.models.cache import tidy
from imgpipe_dagster.partitions import PARTITION_TAG, image_batches
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.keys import prefixes_of_image
from imgpipe_dagster.store.sweeping import KeySet, missing, old_results, orphans

ORPHAN_AGE = dt.timedelta(days=3)
"""A younger object may belong to a run that has not written its rows yet; no run may take so long."""

SAMPLE = 20

_RUNS = 100  # runs in one look
_ANSWERS_KEPT = dt.timedelta(days=2)  # of requests that clients may repeat; they do so within a day


@dataclass(frozen=True)
class Age:
    """How old what is to go.

    Attributes:
        days: Rows, partitions, event logs, alerts, requests, jobs, results; more than 0, or None to keep them all.
        address_days: IP addresses of requests. They go in any case.
    """

    days: float | None = 90
    address_days: float = 30

    def __post_init__(self) -> None:
        if self.days is not None and self.days <= 0:
            raise ValueError(f"What is to go is older than {self.days} days: that would be everything.")


@dataclass
class PruneReport:
    """What went, or would go.

    Attributes:
        rows: Rows of images that were answered again later.
        batches: Batches that nothing belongs to any more.
        partitions: Partitions that Dagster no longer lists; what counts in the catalogue stays.
        runs: Runs of Dagster, with their event logs.
        alerts: Alerts that somebody has got.
        requests: Requests to classify, with their answers.
        jobs: Jobs of clients that are over, with the lists of their images.
        addresses: IP addresses of requests; not counted in a dry run.
        orphans: Objects that no row points at.
        orphan_bytes: Their size.
        results: Pictures that were enhanced for callers and belong to no image.
        model_files: Compiled models that nobody has used, and what killed trainings left.
        missing: Rows whose object is not in the store. They are told, not changed.
        missing_sample: Some of those, as image and key.
    """

    rows: int = 0
    batches: int = 0
    partitions: int = 0
    runs: int = 0
    alerts: int = 0
    requests: int = 0
    jobs: int = 0
    addresses: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    results: int = 0
    model_files: int = 0
    missing: int = 0
    missing_sample: list[str] = field(default_factory=list)


def prune(
    engine: Engine, store: ImageStore, instance: dg.DagsterInstance, model_cache: Path, age: Age, *, dry_run: bool
) -> PruneReport:
    """Take away what is older, in small transactions, so that runs go on beside it; it may be stopped at any time.

    Never a row that counts, never an object that a row points at or that another program has put.

    Args:
        engine: The catalogue.
        store: Where bytes live.
        instance: Dagster's instance.
        model_cache: Where exported and compiled models are kept.
        age: How old.
        dry_run: Change nothing. What only the removal of rows would free is not counted then.
    """
    report = PruneReport()
    if not dry_run:
        report.addresses = forget_addresses(engine, after_days=age.address_days)
        idempotency.expire(engine, _ANSWERS_KEPT)
    if age.days is not None:
        older_than = dt.timedelta(days=age.days)
        _prune_older(engine, store, instance, older_than, report, dry_run=dry_run)
        now = dt.datetime.now(dt.UTC)
        report.model_files = tidy(
            model_cache, unused_since=now - older_than, left_since=now - ORPHAN_AGE, dry_run=dry_run
        )
    return report


def _prune_older(
    engine: Engine,
    store: ImageStore,
    instance: dg.DagsterInstance,
    age: dt.timedelta,
    report: PruneReport,
    *,
    dry_run: bool,
) -> None:
    age_s = age.total_seconds()
    known = set(instance.get_dynamic_partitions(str(image_batches.name)))
    for keys in _pages(engine, age_s):
        report.rows += remove_superseded(engine, thinned_batches(engine, keys), dry_run=dry_run)
        report.batches += len(remove_empty_batches(engine, keys, dry_run=dry_run))
        in_use = known if backfills_under_way(instance) else _partitions_in_work(instance)
        for key in known.intersection(keys) - in_use:
            report.partitions += 1
            if not dry_run:
                instance.delete_dynamic_partition(str(image_batches.name), key)
    before = dt.datetime.now(dt.UTC) - age
    report.runs = _remove_runs(
        instance,
        dg.RunsFilter(statuses=list(FINISHED_RUNS), created_before=before, updated_before=before),
        spared=backfills_under_way(instance),  # how far they are is counted by their runs
        dry_run=dry_run,
    )
    report.alerts = remove_old_alerts(engine, age_s, dry_run=dry_run)
    report.requests = remove_old_requests(engine, age_s, dry_run=dry_run)
    report.jobs = remove_old_jobs(engine, age_s, dry_run=dry_run)
    _sweep(engine, store, report, dry_run=dry_run)
    limit = dt.datetime.now(dt.UTC) - max(age, ORPHAN_AGE)  # a younger one may be about to be given out again
    for info in old_results(store, limit):
        if dry_run or store.delete_if_older(info.key, limit):
            report.results += 1


def forget(engine: Engine, store: ImageStore, instance: dg.DagsterInstance, image_id: int) -> Traces:
    """Remove every row, object and thumbnail of one image; what other images share with it stays.

    Thumbnails are in the event logs of its batches' runs, which go as a whole.

    Raises:
        KeyError: there is no such image.
        ImageBusyError: it is being processed.
    """

    def remove_bytes(traces: Traces) -> None:
        kept = set(traces.shared_keys)
        for key in traces.own_keys:
            store.delete(key)
        for prefix in prefixes_of_image(image_id):
            for info in list(store.list(prefix)):
                if info.key not in kept:
                    store.delete(info.key)
        for batch_key in traces.batch_keys:
            runs = dg.RunsFilter(statuses=list(FINISHED_RUNS), tags={PARTITION_TAG: batch_key})
            _remove_runs(instance, runs, dry_run=False)

    return forget_image(engine, image_id, remove_bytes)


def _pages(engine: Engine, age_s: float) -> Iterator[list[str]]:
    """The keys of all old batches, some at a time."""
    last: str | None = None
    while keys := old_batches(engine, age_s, after=last):
        yield keys
        last = keys[-1]


def _partitions_in_work(instance: dg.DagsterInstance) -> set[str]:
    """Partitions of runs that are not over: a run whose partition is deleted fails."""
    live = dg.RunsFilter(statuses=[status for status in dg.DagsterRunStatus if status not in FINISHED_RUNS])
    return {run.tags[PARTITION_TAG] for run in instance.get_runs(live) if PARTITION_TAG in run.tags}


def _remove_runs(
    instance: dg.DagsterInstance, which: dg.RunsFilter, *, spared: Set[str] = frozenset(), dry_run: bool
) -> int:
    """Delete runs with their event logs and what they have printed, but for those of spared backfills; how many."""
    total, cursor = 0, None
    while runs := instance.get_runs(which, cursor=cursor, limit=_RUNS):
        for run in runs:
            stays = run.tags.get(BACKFILL_TAG) in spared
            if stays or dry_run:
                cursor = run.run_id  # Dagster finds nothing behind a run that is gone
            else:
                instance.delete_run(run.run_id)
                _remove_files(instance, run.run_id)
            total += not stays
    return total


def _remove_files(instance: dg.DagsterInstance, run_id: str) -> None:
    """What ``delete_run`` leaves behind where Dagster keeps its storage in files."""
    history = Path(instance.root_directory) / "history" / "runs"
    for path in (history / f"{run_id}.db", history / f"{run_id}.db-wal", history / f"{run_id}.db-shm"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(Path(instance.storage_directory()) / run_id)


def _sweep(engine: Engine, store: ImageStore, report: PruneReport, *, dry_run: bool) -> None:
    """Delete orphans, and tell which rows have lost their object."""
    limit = dt.datetime.now(dt.UTC) - ORPHAN_AGE
    for info in orphans(store, KeySet(references(engine)), limit):
        if dry_run or store.delete_if_older(info.key, limit):
            report.orphans += 1
            report.orphan_bytes += info.size
    present = KeySet(info.key for info in store.list())
    lost = {
        key: image_id
        for column in IMAGE_KEYS
        for image_id, key in missing(stream_keys(engine, column), present)
        if not store.exists(key)  # put since
    }
    report.missing = len(lost)
    report.missing_sample = [f"image {image_id}: {key}" for key, image_id in list(lost.items())[:SAMPLE]]
