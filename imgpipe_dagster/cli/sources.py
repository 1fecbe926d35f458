"""``imgpipe poll`` and ``imgpipe kafka``: taking over what the sources have."""

import json
import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from imgpipe_dagster.cli.common import EXIT_SOME_FAILED, AsJson, app, err, fail, open_catalogue, out, read_settings

if TYPE_CHECKING:
    from imgpipe_dagster.polling import PollReport

kafka = typer.Typer(help="The Kafka source.", no_args_is_help=True)


@kafka.command("consume")
def kafka_consume(as_json: AsJson = False) -> None:
    """Take over messages of the topic as they come, until SIGTERM or Ctrl-C. Several may run and share its partitions.

    Example: `imgpipe kafka consume`
    """
    from imgpipe_dagster.polling import kafka_config
    from imgpipe_dagster.sources.kafka import KafkaSource

    config = kafka_config(read_settings())
    if config is None:
        fail("There is no Kafka source: set IMGPIPE_KAFKA_BOOTSTRAP_SERVERS and IMGPIPE_KAFKA_TOPIC.")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())  # the batch under way is finished and committed
    with open_catalogue(current=True) as engine, err.status(f"{config.topic}: waiting for messages") as line:
        report = KafkaSource(config, engine).consume(
            stopped.is_set,
            lambda so_far: line.update(
                f"{config.topic}: {so_far.read} messages, {so_far.inserted} new, {so_far.rejected} put aside"
            ),
        )
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        out.print(f"{report.inserted} messages taken over, {report.known} known, {report.rejected} put aside.")


@app.command()
def poll(
    anew: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Read the SQL source from its beginning, not from where it was, and tell it again what it refused.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take over new rows of every configured source now, and tell the SQL source the answers.

    Exit status: 0 all well, 3 some rows or answers were refused, 1 a source could not be read.

    Example: `imgpipe poll --json`
    """
    from imgpipe_dagster.polling import poll_sources

    with open_catalogue(current=True) as engine:
        report = poll_sources(read_settings(), engine, anew=anew)
    if not report.sources:
        fail("No source is configured: set IMGPIPE_SQL_SOURCE_QUERY, or IMGPIPE_KAFKA_BOOTSTRAP_SERVERS and _TOPIC.")
    if as_json:
        sources = {
            name: {**asdict(rows), "bad": [bad.reason for bad in rows.bad]} for name, rows in report.sources.items()
        }
        answers = {"told": report.told, "answers_refused": report.refused}
        found = {"taken_over": report.inserted, "waiting": report.waiting, **answers, "sources": sources}
        typer.echo(json.dumps(found))
    else:
        _print_poll(report)
    if report.problem is not None:
        fail(report.problem)
    if report.refused or any(rows.rejected for rows in report.sources.values()):
        raise typer.Exit(EXIT_SOME_FAILED)


def _print_poll(report: "PollReport") -> None:
    for name, rows in report.sources.items():
        out.print(f"{name}: {rows.inserted} rows taken over, {rows.known} known, {rows.rejected} refused.")
        for bad in rows.bad:
            out.print(f"  {bad.reason}", markup=False, soft_wrap=True)
    out.print(f"{report.waiting} images wait; {report.told} answers told.")
    if report.refused:
        out.print(f"{report.refused} answers refused: imgpipe alerts list")
