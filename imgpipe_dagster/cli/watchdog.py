"""``imgpipe watchdog``: the eye outside Dagster."""

import json
import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.cli.common import AsJson, app, err, open_catalogue, out, read_settings

if TYPE_CHECKING:
    from imgpipe_dagster.watchdog import WatchdogReport


@app.command()
def watchdog(
    once: Annotated[bool, typer.Option("--once", help="Look once, then end: for cron.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look after daemon, sensors, outbox and rows from outside Dagster, and mail what is wrong and when it is over.

    It needs no Dagster: where none has ever run, only rows, disks and the outbox are watched. Without --once it goes on
    until SIGTERM or Ctrl-C. Exit status of --once: 0 all is well, 1 something is wrong.

    Example: `imgpipe watchdog --once --json`
    """
    from imgpipe_dagster.watchdog import watch_once

    settings = read_settings()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with open_catalogue(current=once) as engine:
        while not stopped.is_set():
            try:
                report = watch_once(settings, engine)
            except SQLAlchemyError as error:
                if once:
                    raise  # main says it in one line
                err.print(f"The catalogue cannot be used: {str(getattr(error, 'orig', None) or error).splitlines()[0]}")
            else:
                _print(report, as_json, once)
                if once:
                    raise typer.Exit(1 if report.wrong or report.problems else 0)
            stopped.wait(settings.watchdog_interval_s)


def _print(report: "WatchdogReport", as_json: bool, once: bool) -> None:
    """Say what was found; a pass of many that changed nothing is silent."""
    if as_json:
        typer.echo(json.dumps({"ok": not (report.wrong or report.problems), **asdict(report)}))
        return
    for line in report.wrong if once else report.written:
        out.print(line, markup=False, soft_wrap=True)
    for problem in report.problems:
        err.print(problem, style="red", markup=False, soft_wrap=True)
    if once and not report.wrong and not report.problems:
        out.print("All is well.")
