"""``imgpipe prune`` and ``forget``: taking away what has had its time, and one image altogether."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from imgpipe_dagster.cli.alerts import read_duration
from imgpipe_dagster.cli.common import AsJson, app, counted, counts_table, err, fail, open_catalogue, out, read_settings

if TYPE_CHECKING:
    import dagster as dg
    from sqlalchemy.engine import Engine

    from imgpipe_dagster.settings import Settings
    from imgpipe_dagster.store.base import ImageStore


@app.command()
def prune(
    older_than: Annotated[
        str | None, typer.Option(help="Such as 90d. Default: IMGPIPE_RETENTION_DAYS, as the daily schedule.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take away what has had its time, and report rows and objects that do not fit together.

    Rows that a newer answer has superseded, partitions and event logs in Dagster, alerts that somebody has got,
    requests to classify and (sooner) their addresses, jobs that no image needs, objects that no row points at. Every
    answer that counts stays, and so does every object that a row points at or that another program has put.

    Example: `imgpipe prune --older-than 90d --dry-run`
    """
    from imgpipe_dagster.pruning import Age
    from imgpipe_dagster.pruning import prune as prune_all

    settings = read_settings()
    days = read_duration(older_than) / 86400 if older_than else settings.retention_days or None
    if days is None:
        err.print(
            "IMGPIPE_RETENTION_DAYS is 0: only addresses of requests and kept answers go. --older-than takes more away."
        )
    try:
        age = Age(days, settings.api_address_days)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with _all_places(settings) as (engine, store, instance):
        report = prune_all(engine, store, instance, settings.home / "models", age, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    counts = {name: value for name, value in asdict(report).items() if isinstance(value, int)}
    out.print(counts_table("Would go" if dry_run else "Gone", counts | {"missing": 0}))
    if report.missing:
        rows = counted(report.missing, "row points at an object that is", "rows point at objects that are")
        err.print(f"{rows} not in the store:")
        for line in report.missing_sample:
            err.print(line, markup=False, soft_wrap=True)


@app.command()
def forget(
    image: Annotated[str, typer.Argument(help="An image's id, or its URL: then all images that have it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove every row and every byte of an image, everywhere. It cannot be undone.

    Event logs of its batches' runs go as a whole, as there are thumbnails in them. A file that other images share stays
    for them. A source that still has the image brings it in again: remove it there first. Backups, and models that were
    trained with it, are not reached.

    Example: `imgpipe forget 4711`
    """
    from imgpipe_dagster.catalogue.forgetting import ImageBusyError, find_images
    from imgpipe_dagster.pruning import forget as forget_one

    with _all_places(read_settings()) as (engine, store, instance):
        ids = find_images(engine, image)
        if not ids:
            fail(f"There is no image {image}.")
        if not yes:
            typer.confirm(f"Remove {', '.join(map(str, ids))} for good?", abort=True)
        for image_id in ids:
            try:
                traces = forget_one(engine, store, instance, image_id)
            except ImageBusyError as error:
                fail(str(error))
            files = counted(len(traces.own_keys), "file", "files")
            batches = counted(len(traces.batch_keys), "batch", "batches")
            out.print(f"Image {image_id} is forgotten: {files}, {batches}.")
            for key in traces.shared_keys:
                err.print(f"{key} stays: other rows point at it.", markup=False, soft_wrap=True)


@contextmanager
def _all_places(settings: "Settings") -> "Iterator[tuple[Engine, ImageStore, dg.DagsterInstance]]":
    """Catalogue, store and Dagster's instance."""
    from imgpipe_dagster.build import build_resources
    from imgpipe_dagster.instance import dagster_instance

    with open_catalogue(current=True) as engine, dagster_instance(settings) as instance:
        yield engine, build_resources(settings)["image_store"].store, instance
