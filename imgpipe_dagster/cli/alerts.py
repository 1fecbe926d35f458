"""``imgpipe alerts``: the outbox, and its delivery by hand."""

import json
import math
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from imgpipe_dagster.catalogue.alerts import AlertKind
from imgpipe_dagster.cli.common import AsJson, counted, err, fail, open_catalogue, out, read_settings

if TYPE_CHECKING:
    from imgpipe_dagster.alerts.delivery import DeliveryReport

app = typer.Typer(help="Alerts: the outbox and its mails.", no_args_is_help=True)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command("list")
def alerts_list(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 30,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those that nobody has got yet.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show alerts with what became of their mails, and what keeps mails from being sent.

    Example: `imgpipe alerts list --waiting`
    """
    from imgpipe_dagster.alerts.configured import mailer_and_sender
    from imgpipe_dagster.alerts.delivery import delivery_problems
    from imgpipe_dagster.catalogue.alert_mails import list_alerts
    from imgpipe_dagster.catalogue.alerts import muted_kinds

    with open_catalogue(current=True) as engine:
        mailer, sender = mailer_and_sender(read_settings())
        problems = delivery_problems(engine, mailer, sender)
        with engine.connect() as connection:
            alerts = list_alerts(connection, limit=limit, waiting_only=waiting)
            muted = muted_kinds(connection)
    if as_json:
        typer.echo(json.dumps({"problems": problems, "muted": muted, "alerts": alerts}, default=str))
        return
    for problem in problems:
        err.print(problem, style="red", soft_wrap=True, markup=False)
    for kind, left in muted.items():
        out.print(f"{kind} is muted for {math.ceil(left / 60)} minutes more.")
    table = Table("id", "when (UTC)", "kind", "state", "subject", "mail", box=None)
    for alert in alerts:
        table.add_row(
            str(alert["id"]),
            f"{alert['created_at']:%Y-%m-%d %H:%M:%S}",
            alert["kind"],
            alert["state"],
            alert["subject"],
            _mail_note(alert),
        )
    out.print(table if alerts else "No alerts.")


@app.command("test")
def alerts_test() -> None:
    """Write a test alert and deliver it at once, with all else that is due, and say what the mail server answered.

    Exit status: 0 if somebody got it, 1 if nobody did; it then waits in the outbox.

    Example: `imgpipe alerts test`
    """
    from imgpipe_dagster.catalogue.alerts import muted_kinds, write_alert
    from imgpipe_dagster.catalogue.engine import transact

    with open_catalogue(current=True) as engine:
        with engine.connect() as connection:
            if AlertKind.TEST in muted_kinds(connection):
                fail("Test alerts are muted, and no mail would be sent: imgpipe alerts mute test --for 0")
        transact(
            engine,
            lambda connection: write_alert(
                connection,
                kind=AlertKind.TEST,
                subject="A test",
                body="Alert mails arrive.",
            ),
        )
    _report(_deliver())


@app.command("deliver")
def alerts_deliver() -> None:
    """Deliver what is due now, as the sensor and the watchdog do.

    Exit status: 0 if nothing that is due is left, 1 otherwise.

    Example: `imgpipe alerts deliver`
    """
    _report(_deliver())


@app.command("mute")
def alerts_mute(
    kind: Annotated[AlertKind, typer.Argument(help="Which kind.")],
    duration: Annotated[str, typer.Option("--for", help="For how long, such as 30m, 2h or 3d; 0 ends it.")] = "2h",
) -> None:
    """Send no mails about one kind of alert for a while; its alerts stay in the list, as muted.

    Example: `imgpipe alerts mute predictions_stale --for 2h`
    """
    from imgpipe_dagster.catalogue.alerts import mute

    seconds = read_duration(duration)
    with open_catalogue(current=True) as engine:
        mute(engine, kind, seconds)
    out.print(f"{kind}: no mails for {duration}." if seconds else f"{kind}: mails are sent again.")


def read_duration(text: str) -> float:
    """Seconds of a duration such as ``90d``.

    Raises:
        typer.BadParameter: it is none.
    """
    match = re.fullmatch(r"(\d{1,6})([smhd]?)", text.strip())
    if match is None or (not match[2] and match[1] != "0"):
        raise typer.BadParameter(f"{text!r} is no duration such as 30m, 2h or 3d.")
    return float(int(match[1]) * _UNITS[match[2] or "s"])


def _deliver() -> "DeliveryReport":
    from imgpipe_dagster.alerts.configured import delivery_policy, mailer_and_sender
    from imgpipe_dagster.alerts.delivery import deliver_due

    settings = read_settings()
    mailer, sender = mailer_and_sender(settings)
    with open_catalogue(current=True) as engine:
        return deliver_due(engine, mailer, delivery_policy(settings), fallback_sender=sender, budget_s=60)


def _report(report: "DeliveryReport") -> None:
    out.print(f"{counted(report.sent, 'mail', 'mails')} sent.")
    for problem in report.problems:
        err.print(problem, style="red", soft_wrap=True, markup=False)
    if report.failed or (report.problems and not report.sent):
        fail("What could not be sent stays in the outbox: imgpipe alerts list --waiting")


def _mail_note(alert: dict[str, Any]) -> str:
    """What became of an alert's mail, for people."""
    if alert["attempts"] is None:
        return "" if alert["state"] == "muted" else "not formed yet"
    refused = [f"{address}: {fate}" for address, fate in (alert["recipients"] or {}).items() if fate]
    notes = [counted(alert["attempts"], "attempt", "attempts"), *refused]
    if alert["last_error"] and not refused:
        notes.append(alert["last_error"])
    return "; ".join(notes)
