"""The command line. It parses, calls the layers below and prints; imports that cost seconds happen in the commands."""

import json
import logging
import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from dotenv import load_dotenv
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.engine import CatalogueError, connect, describe_url
from imgpipe_dagster.settings import Settings, export_secrets
from imgpipe_dagster.store.base import StoreError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from imgpipe_dagster.catalogue.imports import ImportReport
    from imgpipe_dagster.runner import BatchOutcome

EXIT_SOME_IMAGES_FAILED = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    help="From a CDN catalogue to trusted results: run and look after the image pipeline.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
db_app = typer.Typer(help="The catalogue's schema.", no_args_is_help=True)
import_app = typer.Typer(help="Bring image URLs into the catalogue.", no_args_is_help=True)
models_app = typer.Typer(help="Weights for the detector.", no_args_is_help=True)
app.add_typer(db_app, name="db")
app.add_typer(import_app, name="import")
app.add_typer(models_app, name="models")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the command line; what goes wrong becomes one clear line and an exit status."""
    load_dotenv(".env")
    try:
        app()
    except (CatalogueError, StoreError) as error:
        _fail(str(error))
    except SQLAlchemyError as error:
        _fail(f"The catalogue cannot be used: {str(getattr(error, 'orig', None) or error).splitlines()[0]}")


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the catalogue's schema up to date; a schema that is stays as it is.

    Example: `imgpipe db upgrade`
    """
    from imgpipe_dagster.catalogue.schema import upgrade
    from imgpipe_dagster.instance import prepare_dagster_home

    with _catalogue() as engine:
        before, after = upgrade(engine)
        place = describe_url(engine.url)
    home = prepare_dagster_home(_settings())
    out.print(f"{place}: already at revision {after}." if before == after else f"{place}: now at revision {after}.")
    out.print(f"Dagster's folder: export DAGSTER_HOME={home}", soft_wrap=True)


@db_app.command("sql")
def db_sql(
    dialect: Annotated[str, typer.Option(help="mysql (MariaDB as well) or sqlite.")] = "mysql",
) -> None:
    """Print the SQL that makes the schema on an empty database.

    Example: `imgpipe db sql --dialect mysql > init_mysql.sql`
    """
    from imgpipe_dagster.catalogue.schema import schema_sql

    try:
        typer.echo(schema_sql(dialect))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


UrlColumn = Annotated[str, typer.Option(help="Name of the column with the image's URL.")]
SkuColumn = Annotated[str, typer.Option(help="Name of the column with the SKU.")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of the file, if it is not UTF-8.")]
GroupColumn = Annotated[str, typer.Option(help="Name of the column with the product group.")]


@import_app.command("csv")
def import_csv_command(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header row.")],
    url_column: UrlColumn = "image_url",
    sku_column: SkuColumn = "sku_id",
    product_group_column: GroupColumn = "product_group_id",
    encoding: Encoding = None,
    as_json: AsJson = False,
) -> None:
    """Import image URLs from a CSV file. A second import of the same file adds nothing.

    Example: `imgpipe import csv my_urls.csv --url-column image_url --sku-column sku_id`
    """
    from imgpipe_dagster.catalogue.imports import import_csv

    columns = {"url_column": url_column, "sku_column": sku_column, "product_group_column": product_group_column}
    _import(import_csv, file, columns, encoding, as_json)


@import_app.command("json")
def import_json_command(
    file: Annotated[Path, typer.Argument(help="A JSON file: a list of objects, or one object a line.")],
    url_column: UrlColumn = "image_url",
    sku_column: SkuColumn = "sku_id",
    product_group_column: GroupColumn = "product_group_id",
    encoding: Encoding = None,
    as_json: AsJson = False,
) -> None:
    """Import image URLs from a JSON file. A second import of the same file adds nothing.

    Example: `imgpipe import json images.json`
    """
    from imgpipe_dagster.catalogue.imports import import_json

    columns = {"url_column": url_column, "sku_column": sku_column, "product_group_column": product_group_column}
    _import(import_json, file, columns, encoding, as_json)


@import_app.command("sample")
def import_sample(
    output: Annotated[Path | None, typer.Option(help="Where to write it; without, it is printed.")] = None,
) -> None:
    """Write a CSV template to fill in.

    Example: `imgpipe import sample --output my_urls.csv`
    """
    from imgpipe_dagster.catalogue.imports import sample_csv

    if output is None:
        typer.echo(sample_csv(), nl=False)
        return
    if output.exists():
        raise typer.BadParameter(f"{output} exists; choose another name.")
    output.write_text(sample_csv(), encoding="utf-8")
    out.print(f"Wrote {output}: fill it in, then `imgpipe import csv {output}`.")


@app.command()
def run(
    once: Annotated[bool, typer.Option("--once", help="Process all that waits, then end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Claim and process all waiting images without a daemon, through the same Dagster job.

    Exit status: 0 all well, 3 some images failed, 1 nothing could be done, 130 interrupted.

    Example: `imgpipe run --once --json`
    """
    if not once:
        raise typer.BadParameter("Without --once there is nothing to do here: the daemon of `dagster dev` runs on.")
    from imgpipe_dagster.cli_progress import stage_bars
    from imgpipe_dagster.doctor import check_weights
    from imgpipe_dagster.runner import InterruptedRunError, run_pending

    settings = _settings()
    weights = check_weights(settings)
    if not weights.ok:
        _fail(f"{weights.found} {weights.advice}")  # before anything is claimed
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGINT))  # a lost terminal is an interruption
    with _catalogue(current=True) as engine, stage_bars(err) as on_batch:
        try:
            outcomes = run_pending(settings, engine, on_batch)
        except InterruptedRunError as error:
            err.print(str(error))
            raise typer.Exit(EXIT_INTERRUPTED) from error
        summary = _run_summary(engine, outcomes)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        _print_run(summary)
    if summary["failed"]:
        raise typer.Exit(EXIT_SOME_IMAGES_FAILED)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show how many images wait, are processed and failed, and why.

    Example: `imgpipe status --json`
    """
    from imgpipe_dagster.catalogue.batches import waiting_images
    from imgpipe_dagster.catalogue.images import (
        count_batches_by_state,
        count_by_reason,
        count_by_status,
        last_prediction_age_s,
    )

    with _catalogue(current=True) as engine:
        _, oldest = waiting_images(engine, at_most=1)
        found = {
            "images": count_by_status(engine),
            "failed_by_reason": count_by_reason(engine),
            "batches": count_batches_by_state(engine),
            "oldest_wait_s": round(oldest, 1) if math.isfinite(oldest) else None,
            "last_prediction_age_s": last_prediction_age_s(engine),
        }
    if as_json:
        typer.echo(json.dumps(found))
        return
    out.print(_counts("Images", found["images"]))
    out.print(_counts("Batches", found["batches"]))
    if found["failed_by_reason"]:
        out.print(_reasons(found["failed_by_reason"]))
    age = found["last_prediction_age_s"]
    out.print("No answer yet." if age is None else f"Newest first answer: {age:.0f} s ago.")


@app.command()
def retry(
    reason: Annotated[str | None, typer.Option(help="Only images that failed with this reason code.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only images of this batch.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=5000, help="Size of the new batches; small ones find a culprit.")
    ] = None,
) -> None:
    """Put failed images back to be processed again, and those of batches that are held.

    Example: `imgpipe retry --batch 20261120-000042 --batch-size 10`
    """
    from imgpipe_dagster.catalogue.batches import BatchBusyError, retry_images
    from imgpipe_dagster.reasons import Reason

    if reason is not None and reason not in list(Reason):
        raise typer.BadParameter(f"{reason!r} is no reason code; there are {', '.join(Reason)}.")
    with _catalogue(current=True) as engine:
        try:
            count = retry_images(engine, reason=reason, batch_key=batch, batch_size=batch_size)
        except KeyError as error:
            raise typer.BadParameter(f"There is no batch {batch}.") from error
        except BatchBusyError as error:
            _fail(str(error))
    out.print(f"{count} images will be processed again.")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check that everything the pipeline needs is there, and say what to do where it is not.

    Exit status: 0 if all is well, 1 if something must be mended.

    Example: `imgpipe doctor`
    """
    from imgpipe_dagster.doctor import examine

    findings = examine(_settings())
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("", "what", "finding", "what to do", box=None)
        for finding in findings:
            table.add_row("[green]ok[/]" if finding.ok else "[red]no[/]", finding.what, finding.found, finding.advice)
        out.print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@models_app.command("download")
def models_download(
    name: Annotated[str, typer.Argument(help="A name of Ultralytics' weights, such as yolo11n.pt.")],
    sha256: Annotated[str | None, typer.Option(help="Refuse the file if its SHA-256 is another.")] = None,
) -> None:
    """Download weights through Ultralytics into the home folder, and say how to use them.

    Example: `imgpipe models download yolo11n.pt`
    """
    from imgpipe_dagster.models.weights import WeightsError, find_weights, sha256_of

    try:
        path = find_weights(name, _settings().home / "models")
    except WeightsError as error:
        _fail(str(error))
    digest = sha256_of(path)
    if sha256 not in (None, digest):
        _fail(f"{path} has the SHA-256 {digest}, not {sha256}: it is not used.")
    out.print(f"IMGPIPE_DETECTOR_WEIGHTS={path}\nIMGPIPE_DETECTOR_SHA256={digest}", soft_wrap=True)


@app.command()
def demo(
    images: Annotated[int, typer.Option(min=10, help="How many demo images.")] = 120,
) -> None:
    """Run the whole pipeline on rendered images from a local CDN, apart from your own data.

    Example: `imgpipe demo`
    """
    from imgpipe_dagster.demo.show import run_demo

    raise typer.Exit(run_demo(images, out, err))


def _settings() -> Settings:
    try:
        settings = Settings()
    except SettingsError as error:
        _fail(f'The settings are wrong. {error}: lists are written as JSON, such as ["10.0.0.0/8"].')
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        _fail("The settings are wrong. " + "; ".join(lines))
    export_secrets(settings)
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("imgpipe_dagster").setLevel(settings.log_level)
    return settings


@contextmanager
def _catalogue(*, current: bool = False) -> Iterator["Engine"]:
    """The catalogue; with ``current``, only if its schema is up to date."""
    from imgpipe_dagster.catalogue.schema import require_current

    settings = _settings()
    engine = connect(settings.catalogue_url)
    try:
        if current:
            require_current(engine)
        yield engine
    finally:
        engine.dispose()


def _fail(message: str) -> NoReturn:
    err.print(message, style="red", soft_wrap=True)
    raise SystemExit(1)


def _reasons(counts: dict[str, int]) -> Table:
    from imgpipe_dagster.reasons import Reason

    table = Table("Failed, by reason", "", "", box=None)
    for code, count in counts.items():
        table.add_row(code, str(count), Reason(code).advice if code in list(Reason) else "")
    return table


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = Table(title, "", box=None, min_width=40)
    for name, count in counts.items():
        table.add_row(name, str(count))
    return table


@contextmanager
def _import_progress(file: Path) -> Iterator["Callable[[ImportReport], None]"]:
    """A line that counts rows while a file is imported."""
    if not file.is_file():
        raise typer.BadParameter(f"There is no file {file}.")
    with err.status(f"{file.name}: 0 rows") as line:
        yield lambda report: line.update(f"{file.name}: {report.read} rows, {report.inserted} new")


def _import(
    reader: "Callable[..., ImportReport]", file: Path, columns: dict[str, str], encoding: str | None, as_json: bool
) -> None:
    """Import a file with a reader for its kind, and print what became of its rows."""
    from imgpipe_dagster.catalogue.imports import ImportFileError

    with _import_progress(file) as on_progress, _catalogue(current=True) as engine:
        try:
            report = reader(engine, file, **columns, encoding=encoding, on_progress=on_progress)
        except (ImportFileError, OSError) as error:
            _fail(str(error))
    _print_import(report, as_json)


def _print_import(report: "ImportReport", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    out.print(f"{report.read} rows read: {report.inserted} new, {report.known} known, {report.rejected} bad.")
    for bad in report.bad:
        out.print(f"  line {bad.line}: {bad.reason}", markup=False, soft_wrap=True)
    if report.rejected > len(report.bad):
        out.print(f"  … and {report.rejected - len(report.bad)} more.")


def _run_summary(engine: "Engine", outcomes: "list[BatchOutcome]") -> dict[str, Any]:
    from imgpipe_dagster.catalogue.images import summarize_batches

    summary = summarize_batches(engine, [outcome.key for outcome in outcomes])
    seconds = sum(outcome.seconds for outcome in outcomes)
    return {
        "batches": len(outcomes),
        **summary,
        "seconds": round(seconds, 2),
        "images_per_second": round(summary["images"] / seconds, 1) if seconds else 0.0,
        "errors": {outcome.key: outcome.error for outcome in outcomes if outcome.error},
    }


def _print_run(summary: dict[str, Any]) -> None:
    if not summary["batches"]:
        out.print("Nothing waits.")
        return
    table = Table("", "", box=None, show_header=False)
    for name in ("batches", "images", "completed", "failed", "objects", "seconds", "images_per_second"):
        table.add_row(name.replace("_", " "), str(summary[name]))
    out.print(table)
    if summary["rejected_by_reason"]:
        out.print(_reasons(summary["rejected_by_reason"]))
        out.print("Mended? imgpipe retry --reason CODE, then imgpipe run --once")
    if summary["objects_by_class"]:
        out.print(_counts("Boxes, by class", summary["objects_by_class"]))
    for key, error in summary["errors"].items():
        err.print(f"Batch {key}: {error}", markup=False, soft_wrap=True)
