"""How a mail about alerts reads: subject, text and HTML. Pure; nothing is read or sent here."""

import datetime as dt
from collections.abc import Iterator, Sequence
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from html import escape

from imgpipe_dagster.catalogue.alert_mails import LeasedMail, OutboxAlert
from imgpipe_dagster.catalogue.tables import Severity

_COLOURS = {Severity.ERROR: "#b3261e", Severity.WARNING: "#9a6700", Severity.INFO: "#1a7f37"}
_SUBJECT_LENGTH = 180
_BODY_LENGTH = 4000


def render_mail(
    mail: LeasedMail, *, sender: str, recipients: Sequence[str], prefix: str, dagster_url: str | None
) -> EmailMessage:
    """Make the message of a mail. The same mail gives the same message, but for the recipients who are left.

    Args:
        mail: What it is about.
        sender: Address of the sender.
        recipients: Addresses of everybody who gets it.
        prefix: What subjects begin with.
        dagster_url: Where Dagster's UI is, for links to runs.
    """
    message = EmailMessage(policy=policy.SMTP)
    message["Subject"] = _one_line(f"{prefix} {_subject(mail)}")[:_SUBJECT_LENGTH]
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Date"] = format_datetime(mail.first_at.replace(tzinfo=dt.UTC))
    message["Message-ID"] = mail.message_id
    message["Auto-Submitted"] = "auto-generated"  # out-of-office replies stay away
    message["X-Imgpipe-Alerts"] = ", ".join(f"{count} {kind}" for kind, count in sorted(mail.counts.items()))
    # Seven bits go through every server.
    message.set_content(_text(mail, dagster_url), cte="quoted-printable")
    message.add_alternative(_html(mail, dagster_url), subtype="html", cte="quoted-printable")
    return message


def _subject(mail: LeasedMail) -> str:
    if len(mail.alerts) == 1:
        return mail.alerts[0].subject
    total = sum(mail.counts.values())
    return f"{total} alerts: " + ", ".join(f"{count} {kind}" for kind, count in _by_count(mail))


def _one_line(text: str) -> str:
    """Other programs write alerts too: a line break in a subject would begin a header."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _by_count(mail: LeasedMail) -> list[tuple[str, int]]:
    return sorted(mail.counts.items(), key=lambda item: (-item[1], item[0]))


def _text(mail: LeasedMail, dagster_url: str | None) -> str:
    return "\n".join(_text_lines(mail, dagster_url)) + "\n"


def _text_lines(mail: LeasedMail, dagster_url: str | None) -> Iterator[str]:
    if len(mail.alerts) > 1:
        yield _summary(mail)
        yield from (f"  {count:>6}  {kind}" for kind, count in _by_count(mail))
        yield ""
    for alert in mail.alerts:
        yield f"{alert.subject}"
        yield f"  {_time(alert.created_at)}, {alert.kind}, {alert.severity}"
        yield from (f"  {line}" for line in alert.body[:_BODY_LENGTH].splitlines())
        yield from (f"  {label}: {value}" for label, value in alert.details.items())
        yield from (f"  {line}" for line in _run_lines(alert, dagster_url))
        yield ""
    yield from _rest(mail)
    yield "All alerts: imgpipe alerts list"


def _html(mail: LeasedMail, dagster_url: str | None) -> str:
    parts = ['<!DOCTYPE html><html><body style="font-family:sans-serif;max-width:60em">']
    if len(mail.alerts) > 1:
        rows = "".join(
            f'<tr><td align="right">{count}</td><td>{escape(kind)}</td></tr>' for kind, count in _by_count(mail)
        )
        parts.append(f'<p>{escape(_summary(mail))}</p><table cellpadding="4">{rows}</table>')
    for alert in mail.alerts:
        colour = _COLOURS[Severity(alert.severity)]
        facts = "".join(
            f"<tr><td>{escape(str(label))}</td><td>{escape(str(value))}</td></tr>"
            for label, value in alert.details.items()
        )
        parts.append(
            f'<div style="border-left:4px solid {colour};padding-left:1em;margin:1em 0">'
            f"<h3>{escape(alert.subject)}</h3>"
            f"<p>{_time(alert.created_at)}, {escape(alert.kind)}, {escape(alert.severity)}</p>"
            f"<p>{'<br>'.join(escape(line) for line in alert.body[:_BODY_LENGTH].splitlines())}</p>"
            f'<table cellpadding="4">{facts}</table>{_run_html(alert, dagster_url)}</div>'
        )
    parts += [f"<p>{escape(line)}</p>" for line in _rest(mail)]
    parts.append("<p>All alerts: <code>imgpipe alerts list</code></p></body></html>")
    return "\n".join(parts)


def _summary(mail: LeasedMail) -> str:
    total = sum(mail.counts.values())
    return f"{total} alerts between {_time(mail.first_at)} and {_time(mail.last_at)}:"


def _rest(mail: LeasedMail) -> list[str]:
    left = sum(mail.counts.values()) - len(mail.alerts)
    return [f"… and {left} more."] if left else []


def _run_url(alert: OutboxAlert, dagster_url: str | None) -> str | None:
    return f"{dagster_url.rstrip('/')}/runs/{alert.run_id}" if dagster_url and alert.run_id else None


def _run_lines(alert: OutboxAlert, dagster_url: str | None) -> list[str]:
    where = _run_url(alert, dagster_url) or alert.run_id
    return [f"Run: {where}"] if where else []


def _run_html(alert: OutboxAlert, dagster_url: str | None) -> str:
    url = _run_url(alert, dagster_url)
    if url:
        return f'<p><a href="{escape(url, quote=True)}">Run {escape(str(alert.run_id))}</a></p>'
    return f"<p>Run: {escape(alert.run_id)}</p>" if alert.run_id else ""


def _time(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
