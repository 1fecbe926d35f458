"""The demo's alarm: images that wait for nothing, the mail about it, and the mail when it is over."""

import mailbox
import time
from dataclasses import replace
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import Engine

from imgpipe_dagster.alerts.configured import delivery_policy, mailer_and_sender, watch_limits
from imgpipe_dagster.alerts.delivery import deliver_due
from imgpipe_dagster.alerts.watch import observe
from imgpipe_dagster.catalogue.alerts import RECIPIENTS_GROUP, RECIPIENTS_KEY
from imgpipe_dagster.catalogue.tables import Option
from imgpipe_dagster.settings import Settings

WINDOW_S = 2.0
"""The alarm of the demo goes off after so long; the pipeline's own default is an hour."""


def raise_alarm(settings: Settings, engine: Engine) -> None:
    """Let the new images wait for longer than the demo's window, and mail that predictions are stale."""
    with engine.begin() as connection:
        row = {"option_group": RECIPIENTS_GROUP, "option_key": RECIPIENTS_KEY}
        connection.execute(
            sa.insert(Option).values(**row, option_value="operator@example.com", option_meta="imgpipe@example.com")
        )
    time.sleep(WINDOW_S + 0.5)
    _look(settings, engine, freshness_s=WINDOW_S)


def clear_alarm(settings: Settings, engine: Engine) -> None:
    """Mail that predictions are fresh again."""
    _look(settings, engine, freshness_s=settings.freshness_minutes * 60)


def print_mails(settings: Settings, out: Console) -> None:
    """Show the mails of the local mailbox."""
    folder = unquote(urlsplit(str(settings.smtp_url and settings.smtp_url.get_secret_value())).path)
    table = Table(
        "mails",
        f"alarm set to {WINDOW_S:g} s instead of {settings.freshness_minutes:g} min",
        box=None,
        title=f"Alert mails in {folder}",
        title_justify="left",
    )
    for message in sorted(mailbox.Maildir(folder), key=lambda message: str(message["Date"])):
        table.add_row(f"to {message['To']}", str(message["Subject"]))
    out.print(table)


def _look(settings: Settings, engine: Engine, *, freshness_s: float) -> None:
    observe(engine, replace(watch_limits(settings), freshness_s=freshness_s))
    mailer, sender = mailer_and_sender(settings)
    deliver_due(engine, mailer, delivery_policy(settings), fallback_sender=sender)
