"""What the commands share: the app, settings, an open catalogue, tables, and how errors are told. No commands."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, NoReturn

import typer
from dotenv import load_dotenv
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.engine import CatalogueError, connect
from imgpipe_dagster.logs import set_up_logging
from imgpipe_dagster.settings import DagsterHomeError, Settings, export_secrets
from imgpipe_dagster.sources.base import SourceError
from imgpipe_dagster.store.base import StoreError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

app = typer.Typer(
    help="From a CDN catalogue to trusted results: run and look after the image pipeline.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130

_WIDTH_OF_FILES = 240  # columns where no terminal says how many it has: nothing is cut in a file or behind a pipe


def _console(stream: IO[str], *, stderr: bool = False) -> Console:
    known = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, highlight=False, emoji=False, width=None if known else _WIDTH_OF_FILES)


out = _console(sys.stdout)
err = _console(sys.stderr, stderr=True)


def main() -> None:
    """Run the command line; what goes wrong becomes one clear line and an exit status."""
    load_dotenv(".env")
    try:
        app()
    except (CatalogueError, StoreError, SourceError, DagsterHomeError) as error:
        fail(str(error))
    except SQLAlchemyError as error:
        fail(f"The catalogue cannot be used: {str(getattr(error, 'orig', None) or error).splitlines()[0]}")


def read_settings() -> Settings:
    """This installation's settings, with secrets exported and logging set up; wrong ones end the command."""
    try:
        settings = Settings()
    except SettingsError as error:
        fail(f'The settings are wrong. {error}: lists are written as JSON, such as ["10.0.0.0/8"].')
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        fail("The settings are wrong. " + "; ".join(lines))
    export_secrets(settings)
    set_up_logging(settings.log_level, settings.log_format)
    return settings


@contextmanager
def open_catalogue(*, current: bool = False, own: bool = True) -> Iterator["Engine"]:
    """The catalogue; with ``current``, only if its schema is up to date; without ``own``, only to look at it."""
    from imgpipe_dagster.catalogue.schema import require_current

    settings = read_settings()
    engine = connect(settings.catalogue_url, own=own)
    try:
        if current:
            require_current(engine)
        yield engine
    finally:
        engine.dispose()


def fail(message: str) -> NoReturn:
    """Say what went wrong and end with exit status 1."""
    err.print(message, style="red", soft_wrap=True, markup=False)
    raise SystemExit(1)


def counted(number: int, one: str, many: str) -> str:
    """A number of things in words: ``1 file``, ``2 files``."""
    return f"{number} {one if number == 1 else many}"


def reasons_table(counts: dict[str, int]) -> Table:
    """How many images failed for each reason, with the advice."""
    from imgpipe_dagster.reasons import Reason

    table = Table("Failed, by reason", "", "", box=None)
    for code, count in counts.items():
        table.add_row(code or "no reason is known", str(count), Reason(code).advice if code in list(Reason) else "")
    return table


def counts_table(title: str, counts: dict[str, int]) -> Table:
    """Counts by name."""
    table = Table(title, "", box=None, min_width=40)
    for name, count in counts.items():
        table.add_row(name, str(count))
    return table
