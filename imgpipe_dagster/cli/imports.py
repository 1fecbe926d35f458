"""``imgpipe import``: files of image URLs into the catalogue."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgpipe_dagster.cli.common import EXIT_SOME_FAILED, AsJson, err, fail, open_catalogue, out

if TYPE_CHECKING:
    from imgpipe_dagster.catalogue.imports import ImportReport

app = typer.Typer(help="Bring image URLs into the catalogue.", no_args_is_help=True)


UrlColumn = Annotated[str, typer.Option(help="Name of the column with the image's URL.")]
SkuColumn = Annotated[str, typer.Option(help="Name of the column with the SKU.")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of the file, if it is not UTF-8.")]
GroupColumn = Annotated[str, typer.Option(help="Name of the column with the product group.")]


@app.command("csv")
def import_csv_command(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header row.")],
    url_column: UrlColumn = "image_url",
    sku_column: SkuColumn = "sku_id",
    product_group_column: GroupColumn = "product_group_id",
    encoding: Encoding = None,
    as_json: AsJson = False,
) -> None:
    """Import image URLs from a CSV file. A second import of the same file adds nothing.

    Exit status: 0 all rows are in, 3 some are bad, 1 the file cannot be read.

    Example: `imgpipe import csv my_urls.csv --url-column image_url --sku-column sku_id`
    """
    from imgpipe_dagster.catalogue.imports import import_csv

    columns = {"url_column": url_column, "sku_column": sku_column, "product_group_column": product_group_column}
    _import(import_csv, file, columns, encoding, as_json)


@app.command("json")
def import_json_command(
    file: Annotated[Path, typer.Argument(help="A JSON file: a list of objects, or one object a line.")],
    url_column: UrlColumn = "image_url",
    sku_column: SkuColumn = "sku_id",
    product_group_column: GroupColumn = "product_group_id",
    encoding: Encoding = None,
    as_json: AsJson = False,
) -> None:
    """Import image URLs from a JSON file. A second import of the same file adds nothing.

    Exit status: 0 all rows are in, 3 some are bad, 1 the file cannot be read.

    Example: `imgpipe import json images.json`
    """
    from imgpipe_dagster.catalogue.imports import import_json

    columns = {"url_column": url_column, "sku_column": sku_column, "product_group_column": product_group_column}
    _import(import_json, file, columns, encoding, as_json)


@app.command("sample")
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

    with _import_progress(file) as on_progress, open_catalogue(current=True) as engine:
        try:
            report = reader(engine, file, **columns, encoding=encoding, on_progress=on_progress)
        except (ImportFileError, OSError) as error:
            fail(str(error))
    _print_import(report, as_json)
    if report.rejected:
        raise typer.Exit(EXIT_SOME_FAILED)


def _print_import(report: "ImportReport", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    out.print(f"{report.read} rows read: {report.inserted} new, {report.known} known, {report.rejected} bad.")
    for bad in report.bad:
        out.print(f"  line {bad.line}: {bad.reason}", markup=False, soft_wrap=True)
    if report.rejected > len(report.bad):
        out.print(f"  … and {report.rejected - len(report.bad)} more.")
