"""``imgpipe db``: the catalogue's schema."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from imgpipe_dagster.catalogue.engine import describe_url
from imgpipe_dagster.cli.common import AsJson, open_catalogue, out, read_settings

app = typer.Typer(help="The catalogue's schema.", no_args_is_help=True)


@app.command("upgrade")
def db_upgrade() -> None:
    """Bring the catalogue's schema up to date; a schema that is stays as it is.

    Example: `imgpipe db upgrade`
    """
    from imgpipe_dagster.catalogue.schema import upgrade
    from imgpipe_dagster.instance import prepare_dagster_home

    with open_catalogue() as engine:
        before, after = upgrade(engine)
        place = describe_url(engine.url)
    home = prepare_dagster_home(read_settings())
    out.print(f"{place}: {'already' if before == after else 'now'} at revision {after}.", soft_wrap=True)
    out.print(f"Dagster's folder: export DAGSTER_HOME={home}", soft_wrap=True)


@app.command("sql")
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


@app.command("adopt")
def db_adopt(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take over the database of an older system in place: that of the image enhancement, or of the planograms.

    Each older table stays, with all its rows and columns, as legacy_NAME. Rows that have a place in the new schema are
    copied there; images that were under way wait again. Stop the older system first, and make a backup. What was
    interrupted goes on when it is called again.

    Example: `imgpipe db adopt --dry-run`
    """
    from imgpipe_dagster.catalogue.adoption import adopt, plan_adoption

    with open_catalogue(own=not dry_run) as engine:
        tables = plan_adoption(engine) if dry_run else adopt(engine)
    if as_json:
        typer.echo(json.dumps([asdict(table) for table in tables]))
        return
    if dry_run and all(table.is_aside and not table.missing for table in tables):
        out.print("The older tables are taken over: nothing is left to do.")
        return
    shown = Table("Table", "Rows", "Would be copied" if dry_run else "Copied now", "Only in legacy_…", box=None)
    for table in tables:
        copied = table.missing if dry_run else table.copied
        shown.add_row(table.name, str(table.rows), str(copied), ", ".join(table.left) if table.columns else "all of it")
    out.print(shown)
