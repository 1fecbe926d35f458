"""``imgpipe doctor``: what is missing in this installation, and what to do."""

import json
from dataclasses import asdict

import typer
from rich.markup import escape
from rich.table import Column, Table

from imgpipe_dagster.cli.common import AsJson, app, out, read_settings


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check that everything the pipeline needs is there, and say what to do where it is not.

    A "note" keeps nothing from working, yet is worth knowing: without a mail server alerts reach nobody.

    Exit status: 0 if all is well, 1 if something must be mended.

    Example: `imgpipe doctor`
    """
    from imgpipe_dagster.doctor import examine

    findings = examine(read_settings())
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("", "what", *(Column(name, overflow="fold") for name in ("finding", "what to do")), box=None)
        for finding in findings:
            mark = "[red]no[/]" if not finding.ok else "[yellow]note[/]" if finding.advice else "[green]ok[/]"
            table.add_row(mark, *map(escape, (finding.what, finding.found, finding.advice)))
        out.print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
