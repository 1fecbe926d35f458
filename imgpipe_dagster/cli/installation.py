"""``imgpipe doctor``: what is missing in this installation, and what to do."""

import json
from dataclasses import asdict

import typer
from rich.table import Table

from imgpipe_dagster.cli.common import AsJson, app, out, read_settings


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check that everything the pipeline needs is there, and say what to do where it is not.

    Exit status: 0 if all is well, 1 if something must be mended.

    Example: `imgpipe doctor`
    """
    from imgpipe_dagster.doctor import examine

    findings = examine(read_settings())
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("", "what", "finding", "what to do", box=None)
        for finding in findings:
            table.add_row("[green]ok[/]" if finding.ok else "[red]no[/]", finding.what, finding.found, finding.advice)
        out.print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
