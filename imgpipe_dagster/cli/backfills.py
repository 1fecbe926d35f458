"""``imgpipe stale`` and ``backfill``: what older models made, and making results of the past anew."""

import datetime as dt
import json
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from imgpipe_dagster.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    AsJson,
    app,
    counted,
    err,
    fail,
    open_catalogue,
    out,
    read_settings,
)
from imgpipe_dagster.cli.progress import lines_without_terminal

if TYPE_CHECKING:
    import dagster as dg
    from sqlalchemy.engine import Engine

    from imgpipe_dagster.catalogue.model_versions import OldRows, Scope
    from imgpipe_dagster.settings import Settings

LOOK_EVERY_S = 1.0
MODELS = ("detections", "classifications", "enhanced_images")
"""Assets whose rows say which model made them."""


@app.command()
def stale(as_json: AsJson = False) -> None:
    """List what an older model or older settings made: by the version that each row carries.

    Example: `imgpipe stale --json`
    """
    from imgpipe_dagster.catalogue.model_versions import Scope

    settings = read_settings()
    with open_catalogue(current=True) as engine:
        rows = [
            {"asset": asset, "model_version": version, "images": images, "batches": batches}
            for asset in MODELS
            for version, images, batches in _by_version(_old_rows(settings, engine, asset, Scope()))
        ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        out.print("Everything was made by today's models and settings.")
        return
    table = Table("Asset", "Made by", "Images", "Batches", box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    out.print(table)
    out.print("To make it anew: imgpipe backfill --asset ASSET --stale")


@app.command()
def backfill(
    asset: Annotated[str | None, typer.Option(help="What to make anew, with all that its job makes of it.")] = None,
    since: Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (UTC).")] = None,
    until: Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day (UTC).")] = None,
    sku: Annotated[str | None, typer.Option(help="Only batches with images of this SKU.")] = None,
    temple: Annotated[str | None, typer.Option(help="Only batches with images of this temple.")] = None,
    only_stale: Annotated[
        bool, typer.Option("--stale", help="Only batches in which an older model made something.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")] = False,
    resume: Annotated[
        str | None, typer.Option(help="Watch this backfill again; if it has ended, do what it has left undone.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Show a bar until the end. Ctrl-C ends the bar, not the backfill.")] = True,
) -> None:
    """Make results of the past anew, a batch at a time, through a Dagster backfill that the daemon carries out.

    Days are those on which a batch was claimed. New images go first. Whole batches are made anew, also where one image
    is meant: every result of the others comes out as it was. What is under way or failed is left to the sensor and to
    `imgpipe retry`.

    Exit status: 0 all well, 3 some batches failed, 1 nothing could be done, 130 interrupted.

    Example: `imgpipe backfill --asset detections --since 2026-11-01 --stale --dry-run`
    """
    from imgpipe_dagster.backfills import BackfillError, all_assets
    from imgpipe_dagster.catalogue.model_versions import Scope, answered_batches
    from imgpipe_dagster.instance import dagster_instance

    settings = read_settings()
    if resume is not None:
        if asset or since or until or sku or temple or only_stale or dry_run:
            raise typer.BadParameter("--resume takes no other choice: it goes on with what was chosen then.")
        try:
            with dagster_instance(settings) as instance:
                _resume(settings, instance, resume, wait)
        except BackfillError as error:
            fail(str(error))
        return
    if asset not in all_assets():
        raise typer.BadParameter(f"Name what to make anew: --asset {' | '.join(all_assets())}.")
    try:
        scope = Scope(since.date() if since else None, until.date() if until else None, sku, temple)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with open_catalogue(current=True) as engine:
        if not only_stale:
            keys = answered_batches(engine, scope)
        elif asset in MODELS:
            keys = list(dict.fromkeys(row.batch_key for row in _old_rows(settings, engine, asset, scope)))
        else:
            raise typer.BadParameter(f"--stale asks which model made a row: {' and '.join(MODELS)} say so.")
    try:
        _start(settings, asset, keys, dry_run=dry_run, wait=wait)
    except BackfillError as error:
        fail(str(error))


def _start(settings: "Settings", asset: str, keys: list[str], *, dry_run: bool, wait: bool) -> None:
    from imgpipe_dagster.backfills import backfill_assets, submit_backfill
    from imgpipe_dagster.instance import dagster_instance

    assets = backfill_assets(asset)
    if not keys:
        out.print("No batch is meant: there is nothing to do.")
        return
    meant = counted(len(keys), "batch", "batches")
    named = keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"
    out.print(f"{meant}, {named}: {', '.join(assets)}.", soft_wrap=True)
    if dry_run:
        return
    with dagster_instance(settings) as instance:
        backfill_id = submit_backfill(instance, assets, keys, f"{asset} of {meant}")
        _follow(settings, instance, backfill_id, len(keys), wait)


def _resume(settings: "Settings", instance: "dg.DagsterInstance", backfill_id: str, wait: bool) -> None:
    from imgpipe_dagster.backfills import NothingUndoneError, backfill_size, has_ended, resume_backfill

    if has_ended(instance, backfill_id):
        try:
            backfill_id = resume_backfill(backfill_id)
        except NothingUndoneError as nothing:
            out.print(str(nothing))
            return
    _follow(settings, instance, backfill_id, backfill_size(backfill_id), wait)


def _follow(settings: "Settings", instance: "dg.DagsterInstance", backfill_id: str, batches: int, wait: bool) -> None:
    """Show how far the backfill is until its end."""
    from imgpipe_dagster.backfills import backfill_progress
    from imgpipe_dagster.watchdog import dagster_signs, vital_limits

    out.print(f"Backfill {backfill_id}")
    beats, _ = dagster_signs(settings)
    if not beats or min(beats.values()) > vital_limits(settings).heartbeat_s:
        err.print("Dagster's daemon does not run: the backfill begins when it does.")
    if not wait:
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    columns = (TextColumn("batches"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=err) as bar, lines_without_terminal(bar):
            task = bar.add_task("", total=batches)
            while True:
                now = backfill_progress(instance, backfill_id, batches)
                bar.update(task, completed=now.succeeded + now.failed)
                if now.over:
                    break
                time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt as interrupt:
        err.print(f"It goes on without this bar: imgpipe backfill --resume {backfill_id}")
        raise typer.Exit(EXIT_INTERRUPTED) from interrupt
    out.print(f"{now.succeeded} of {batches} batches were made anew.")
    if now.succeeded < batches:
        err.print(f"Mended? imgpipe backfill --resume {backfill_id}")
        raise typer.Exit(EXIT_SOME_FAILED)


def _old_rows(settings: "Settings", engine: "Engine", asset: str, scope: "Scope") -> "list[OldRows]":
    """What of an asset in ``MODELS`` another than today's model made."""
    from imgpipe_dagster.build import build_resources
    from imgpipe_dagster.catalogue.model_versions import (
        old_bottle_statuses,
        old_detections,
        old_enhancements,
        old_temple_classifications,
    )

    resources = build_resources(settings)
    match asset:
        case "enhanced_images":
            return list(old_enhancements(engine, resources["enhancer"].defaults(), scope))
        case "classifications":
            with resources["classifier"].open() as classifier:
                bottles = old_bottle_statuses(engine, classifier.version, scope)
            return [*bottles, *old_temple_classifications(engine, scope)]
        case _:
            with resources["detector"].open() as detector:
                return old_detections(engine, detector.version, scope)


def _by_version(rows: "list[OldRows]") -> list[tuple[str, int, int]]:
    """Version, images and batches."""
    images: Counter[str] = Counter()
    batches: Counter[str] = Counter()
    for row in rows:
        images[row.model_version] += row.images
        batches[row.model_version] += 1
    return [(version, images[version], batches[version]) for version in sorted(images)]
