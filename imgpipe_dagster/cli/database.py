"""``imgpipe db``: the catalogue's schema."""

from typing import Annotated

import typer

from imgpipe_dagster.catalogue.engine import describe_url
from imgpipe_dagster.cli.common import open_catalogue, out, read_settings

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
