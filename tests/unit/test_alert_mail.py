"""Addresses, URLs of mail servers, and how a mail reads."""

import datetime as dt
import email
import email.policy

import pytest

from imgpipe_dagster.alerts.addresses import read_addresses
from imgpipe_dagster.alerts.render import render_mail
from imgpipe_dagster.alerts.smtp import MaildirMailer, open_mailer
from imgpipe_dagster.catalogue.alert_mails import LeasedMail, OutboxAlert


@pytest.mark.parametrize(
    ("rows", "sender", "recipients", "bad"),
    [
        ([("a@x.example, b@x.example", "s@x.example")], "s@x.example", ("a@x.example", "b@x.example"), ()),
        ([("a@x.example,a@x.example;b@localhost", "s@x.example")], "s@x.example", ("a@x.example", "b@localhost"), ()),
        ([("Ann <ann@x.example>", "Pipeline <s@x.example>")], "s@x.example", ("ann@x.example",), ()),
        ([("a@x.example", ""), ("b@x.example", "s@x.example")], "s@x.example", ("a@x.example", "b@x.example"), ()),
        ([("nobody, a@x.example", "")], None, ("a@x.example",), ("nobody",)),
        ([("a@x.example", "the pipeline")], None, ("a@x.example",), ("the pipeline",)),
        (
            [("a@x.example\r\nBcc: all@x.example", "s@x.example")],
            "s@x.example",
            ("a@x.example",),
            ("Bcc: all@x.example",),
        ),
        ([("", "")], None, (), ()),
        ([], None, (), ()),
    ],
)
def test_recipients_and_sender_are_read_from_what_people_wrote(rows, sender, recipients, bad):
    found = read_addresses(rows)
    assert (found.sender, found.recipients) == (sender, recipients)
    assert found.bad == bad
    assert (found.problem is None) == bool(sender and recipients)


def test_a_problem_with_the_recipients_says_how_to_name_them():
    assert "INSERT INTO options" in read_addresses([("nonsense", "")]).problem
    assert "'nonsense'" in read_addresses([("nonsense", "")]).problem


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example", ("mail.example", 587, "starttls", None, "")),
        ("smtp://u%40x.example:p%40ss@mail.example:2525", ("mail.example", 2525, "starttls", "u@x.example", "p@ss")),
        ("smtps://u:p@mail.example", ("mail.example", 465, "tls", "u", "p")),
        ("smtp://mail.example:25?starttls=no", ("mail.example", 25, "none", None, "")),
    ],
)
def test_a_url_names_a_server(url, expected):
    mailer = open_mailer(url)
    assert (mailer.host, mailer.port, mailer.security, mailer.user, mailer.password) == expected
    assert "p@ss" not in repr(mailer)


@pytest.mark.parametrize(
    "url",
    [
        "http://canary@mail.example",
        "smtp://user:canary@mail.example?starttls=no",
        "smtp://user:canary@mail.example?starttls=perhaps",
        "smtp://user:canary@mail.example?tls=1",
        "smtp://user:canary@mail.example:port",
        "smtp:///canary",
        "maildir://canary/folder",
        "canary",
    ],
)
def test_a_url_that_names_no_server_is_refused_without_showing_it(url):
    with pytest.raises(ValueError, match="mail server") as caught:
        open_mailer(url)
    assert "canary" not in str(caught.value)


def test_a_folder_can_be_the_mailbox(tmp_path):
    assert open_mailer(f"maildir://{tmp_path}/box") == MaildirMailer(tmp_path / "box")


NOON = dt.datetime(2026, 11, 20, 12, 0)  # noqa: DTZ001 - naive UTC, as the catalogue gives it


def mail(*alerts, counts=None):
    return LeasedMail(
        id=1,
        token="t",
        message_id="<abc@imgpipe.alerts>",
        attempts=1,
        accepted_s_ago=0.0,
        recipients={},
        counts=counts or {"run_failed": len(alerts)},
        first_at=NOON,
        last_at=NOON,
        alerts=list(alerts),
    )


def alert(subject="A run failed", body="Read the log.", run_id="1234", **details):
    return OutboxAlert(1, "run_failed", "error", subject, body, details, run_id, NOON)


def render(one, url="http://dagster:3000/"):
    message = render_mail(
        one, sender="s@x.example", recipients=["a@x.example", "b@x.example"], prefix="[imgpipe]", dagster_url=url
    )
    return email.message_from_bytes(message.as_bytes(), policy=email.policy.default)


def test_one_alert_is_told_in_full_in_both_parts():
    message = render(mail(alert(job="analyse")))
    assert message["Subject"] == "[imgpipe] A run failed"
    assert message["To"] == "a@x.example, b@x.example"
    assert message["Message-ID"] == "<abc@imgpipe.alerts>"
    text = message.get_body(("plain",)).get_content()
    html = message.get_body(("html",)).get_content()
    for part in (text, html):
        assert "2026-11-20 12:00:00 UTC" in part
        assert "Read the log." in part
        assert "http://dagster:3000/runs/1234" in part
    assert "job: analyse" in text


def test_many_alerts_are_counted_and_a_few_are_told():
    message = render(mail(*[alert()] * 20, counts={"run_failed": 990, "batch_failed": 330}))
    assert message["Subject"] == "[imgpipe] 1320 alerts: 990 run_failed, 330 batch_failed"
    assert "and 1300 more" in message.get_body(("plain",)).get_content()


def test_what_others_wrote_cannot_become_a_header_or_markup():
    message = render(mail(alert(subject="a\r\nBcc: all@x.example", body="<script>alert(1)</script>", run_id='"><b>')))
    assert message["Bcc"] is None
    assert message["Subject"] == "[imgpipe] a Bcc: all@x.example"
    html = message.get_body(("html",)).get_content()
    assert "<script>" not in html
    assert "<b>" not in html


def test_without_the_address_of_the_ui_the_run_is_named():
    assert "Run: 1234" in render(mail(alert()), url=None).get_body(("plain",)).get_content()


def test_every_line_is_seven_bits_whatever_the_text():
    message = render_mail(
        mail(alert(subject="Größe ✓", body="日本" * 600)),
        sender="s@x.example",
        recipients=["a@x.example"],
        prefix="",
        dagster_url=None,
    )
    raw = message.as_bytes()
    assert max(raw) < 128
    assert max(map(len, raw.splitlines())) < 998
