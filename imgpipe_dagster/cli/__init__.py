"""The command line, one module a group of commands. It parses, calls the layers below and prints.

Imports that cost seconds happen in the commands. ``main`` is the entry point.
"""

from imgpipe_dagster.cli import (
    alerts,
    backfills,
    dashboard,
    database,
    demo,
    enhancement,
    enhancement_config,
    imports,
    ingest,
    installation,
    keys,
    models,
    qc,
    retention,
    runs,
    serve,
    sources,
    temples,
    watchdog,
)
from imgpipe_dagster.cli.common import app, main

app.add_typer(alerts.app, name="alerts")
app.add_typer(database.app, name="db")
app.add_typer(enhancement_config.app, name="enhancement-config")
app.add_typer(imports.app, name="import")
app.add_typer(sources.kafka, name="kafka")
app.add_typer(keys.app, name="keys")
app.add_typer(models.app, name="models")
app.add_typer(qc.app, name="qc")
app.add_typer(temples.app, name="temple")

__all__ = [
    "alerts",
    "app",
    "backfills",
    "dashboard",
    "database",
    "demo",
    "enhancement",
    "enhancement_config",
    "imports",
    "ingest",
    "installation",
    "keys",
    "main",
    "models",
    "qc",
    "retention",
    "runs",
    "serve",
    "sources",
    "temples",
    "watchdog",
]
