"""``imgpipe poll``: taking over what the sources have."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from imgpipe_dagster.cli.common import AsJson, app, fail, open_catalogue, out, read_settings


@app.command()
def poll(
    anew: Annotated[
        bool, typer.Option("--all", help="Read the SQL source from its beginning, not from where it was.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take over new rows of every configured source now, and tell the SQL source the answers.

    Example: `imgpipe poll --json`
    """
    from imgpipe_dagster.polling import poll_sources

    with open_catalogue(current=True) as engine:
        report = poll_sources(read_settings(), engine, anew=anew)
    if not report.sources:
        fail("No source is configured: set IMGPIPE_SQL_SOURCE_QUERY.")
    if as_json:
        sources = {
            name: {**asdict(rows), "bad": [bad.reason for bad in rows.bad]} for name, rows in report.sources.items()
        }
        found = {"taken_over": report.inserted, "waiting": report.waiting, "told": report.told, "sources": sources}
        typer.echo(json.dumps(found))
        return
    for name, rows in report.sources.items():
        out.print(f"{name}: {rows.inserted} rows taken over, {rows.known} known, {rows.rejected} refused.")
        for bad in rows.bad:
            out.print(f"  {bad.reason}", markup=False, soft_wrap=True)
    out.print(f"{report.waiting} images wait; {report.told} answers told.")
