"""The outbox and its delivery, on both databases, with a real mail server: nothing lost, nothing twice."""

import datetime as dt
import mailbox
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

import pytest
import sqlalchemy as sa

from imgpipe_dagster.alerts.delivery import DeliveryPolicy, deliver_due, delivery_problems
from imgpipe_dagster.alerts.smtp import MaildirMailer, MailError, open_mailer
from imgpipe_dagster.alerts.watch import WatchLimits, observe
from imgpipe_dagster.catalogue.alert_mails import form_mails, lease_mail, list_alerts
from imgpipe_dagster.catalogue.alerts import AlertKind, Condition, NewAlert, mute, note_conditions, write_alerts
from imgpipe_dagster.catalogue.pulse import take_pulse
from imgpipe_dagster.catalogue.tables import Alert, AlertCondition, AlertMail, ImagePrediction, Option, Severity
from imgpipe_dagster.catalogue.types import UTC_DATETIME, utc_in

POLICY = DeliveryPolicy(cool_down_s=0.0, first_retry_s=0.2, last_retry_s=0.4)
EVERYBODY = ["ann@x.example", "bob@x.example", "cat@x.example"]


@pytest.fixture
def engine(empty_engine):
    name_recipients(empty_engine, ", ".join(EVERYBODY))
    return empty_engine


@pytest.fixture
def mailer(mail_server):
    return open_mailer(mail_server.url, timeout_s=5)


def name_recipients(engine, value, meta="pipeline@x.example"):
    with engine.begin() as connection:
        connection.execute(sa.delete(Option))
        connection.execute(
            sa.insert(Option).values(
                option_group="error_alert", option_key="email", option_value=value, option_meta=meta
            )
        )


def write(engine, *keys, kind=AlertKind.RUN_FAILED, severity=Severity.ERROR):
    return write_alerts(engine, [NewAlert(kind, f"Alert {key}", "A body.", str(key), severity) for key in keys])


def states(engine):
    with engine.connect() as connection:
        return dict(connection.execute(sa.text("SELECT state, COUNT(*) FROM alerts GROUP BY state")).all())


def told(mail_server):
    """Every alert that is told in some mail, as often as it is told."""
    bodies = [mail.message.get_body(("plain",)).get_content() for mail in mail_server.mails]
    return sorted(
        line.removeprefix("Alert ") for body in bodies for line in body.splitlines() if line.startswith("Alert ")
    )


def deliver_until_done(engine, mailer, policy=POLICY, limit_s=20):
    deadline = time.monotonic() + limit_s
    while states(engine).get("waiting"):
        assert time.monotonic() < deadline, "the outbox does not empty"
        deliver_due(engine, mailer, policy)
        time.sleep(0.05)


def test_an_alert_reaches_everybody_over_tls_and_after_a_login(engine, mail_server, mailer):
    write(engine, 1)
    report = deliver_due(engine, mailer, POLICY)
    assert (report.sent, report.problems) == (1, [])
    (mail,) = mail_server.mails
    assert (mail.sender, mail.recipients) == ("pipeline@x.example", EVERYBODY)
    assert mail.message["Subject"] == "[imgpipe] Alert 1"
    assert set(mail_server.logins) == {mail_server.user}
    assert states(engine) == {"sent": 1}
    assert deliver_due(engine, mailer, POLICY).sent == 0


def test_a_certificate_that_nobody_vouches_for_is_refused(engine, mail_server):
    write(engine, 1)
    report = deliver_due(engine, open_mailer(mail_server.url.partition("?")[0]), POLICY)
    assert "certificate" in report.problems[0].lower()
    assert mail_server.password not in report.problems[0]
    assert mail_server.mails == []
    assert states(engine) == {"waiting": 1}


def test_a_wrong_password_keeps_the_alert_and_shows_no_secret(engine, mail_server):
    write(engine, 1)
    mailer: Any = open_mailer(mail_server.url)
    report = deliver_due(engine, replace(mailer, password="canary"), POLICY)
    assert report.failed == 1
    assert "535" in report.problems[0]
    with engine.connect() as connection:
        (alert,) = list_alerts(connection, limit=9)
    assert "535" in alert["last_error"]
    assert "canary" not in str(alert) + str(report)


def test_an_outage_of_the_server_delays_and_loses_nothing_and_doubles_nothing(engine, mail_server, mailer):
    mail_server.stop()
    write(engine, "a", "b")
    write(engine, "disk", kind=AlertKind.DISK_LOW)
    for number in range(3):  # while it is away, alerts go on being written and delivery goes on being tried
        assert deliver_due(engine, mailer, POLICY).sent == 0
        write(engine, f"later-{number}")
        time.sleep(0.3)
    assert states(engine) == {"waiting": 6}
    mail_server.start()
    deliver_until_done(engine, mailer)
    assert told(mail_server) == ["a", "b", "disk", "later-0", "later-1", "later-2"]
    assert len({mail.message["Message-ID"] for mail in mail_server.mails}) == len(mail_server.mails) == 3


def let_time_pass(engine, seconds):
    """Make all that the outbox knows so much older, as the passing of time would."""
    with engine.begin() as connection:
        for table in (Alert, AlertMail):
            columns = table.__table__.columns
            times = [column.name for column in columns if isinstance(column.type, type(UTC_DATETIME))]
            for row in connection.execute(sa.select(*columns)).mappings().all():
                older = {name: row[name] - dt.timedelta(seconds=seconds) for name in times if row[name] is not None}
                connection.execute(sa.update(table).where(table.id == row["id"]).values(**older))


def test_an_outage_of_ten_minutes_delays_every_alert_by_little_more_and_loses_and_doubles_none(
    engine, mail_server, mailer
):
    policy, tick_s = DeliveryPolicy(), 15.0
    written = []
    mail_server.stop()
    for tick in range(40):  # ten minutes
        if tick % 10 == 0:
            written += [f"{tick}-{number}" for number in range(30)]  # more than a mail tells in full
            write(engine, *written[-30:])
        assert deliver_due(engine, mailer, policy).sent == 0
        let_time_pass(engine, tick_s)
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.max(AlertMail.attempts))) < 10, "it is not asked all the time"
    mail_server.start()
    begun, waited = len(written), 0.0
    while states(engine).get("waiting"):
        deliver_due(engine, mailer, policy)
        let_time_pass(engine, tick_s)
        waited += tick_s
        assert waited <= policy.last_retry_s + policy.cool_down_s + 2 * tick_s
    assert states(engine) == {"sent": begun}
    counted = [int(mail.message["Subject"].split()[1]) for mail in mail_server.mails]
    assert sum(counted) == begun
    told_in_full = told(mail_server)
    assert len(told_in_full) == len(set(told_in_full))
    let_time_pass(engine, 86400)
    assert deliver_due(engine, mailer, policy).sent == 0


def test_a_clock_that_is_set_back_holds_up_no_mail(engine, mail_server, mailer):
    policy = DeliveryPolicy()
    mail_server.stop()
    write(engine, 1)
    assert deliver_due(engine, mailer, policy).failed == 1
    leased = lease_mail(engine, lease_s=policy.lease_s)
    assert leased is None, "it waits for its next attempt"
    let_time_pass(engine, 60)
    assert lease_mail(engine, lease_s=policy.lease_s) is not None, "a deliverer that dies now"
    let_time_pass(engine, -86400)
    mail_server.start()
    assert take_pulse(engine).mail_due
    assert deliver_due(engine, mailer, policy).sent == 1
    assert told(mail_server) == ["1"]


def test_a_server_that_hangs_is_left_in_time(engine, mail_server, mailer):
    mail_server.slow_s = 60
    write(engine, 1)
    begun = time.monotonic()
    report = deliver_due(engine, replace(mailer, timeout_s=1), POLICY)
    assert time.monotonic() - begun < 10
    assert "does not answer in time" in report.problems[0]
    assert states(engine) == {"waiting": 1}


def test_one_of_three_recipients_is_refused_and_the_others_get_the_mail_once(engine, mail_server, mailer):
    mail_server.refusals["bob@x.example"] = "550 no such user"
    write(engine, 1)
    report = deliver_due(engine, mailer, POLICY)
    assert report.sent == 1
    assert "bob@x.example: 550 no such user" in report.problems[0]
    time.sleep(0.5)
    deliver_due(engine, mailer, POLICY)
    (mail,) = mail_server.mails
    assert mail.recipients == ["ann@x.example", "cat@x.example"]
    with engine.connect() as connection:
        (alert,) = list_alerts(connection, limit=9)
    assert alert["recipients"] == {"ann@x.example": "", "cat@x.example": "", "bob@x.example": "550 no such user"}
    assert alert["state"] == "sent"


def test_a_recipient_who_is_put_off_gets_it_later_and_the_others_do_not_get_it_again(engine, mail_server, mailer):
    mail_server.refusals["bob@x.example"] = "451 try again later"
    write(engine, 1)
    deliver_due(engine, mailer, POLICY)
    del mail_server.refusals["bob@x.example"]
    time.sleep(0.5)
    deliver_due(engine, mailer, POLICY)
    assert [mail.recipients for mail in mail_server.mails] == [["ann@x.example", "cat@x.example"], ["bob@x.example"]]
    assert len({mail.message["Message-ID"] for mail in mail_server.mails}) == 1


def test_a_server_that_leaves_between_two_recipients_has_taken_nothing(engine, mail_server, mailer):
    mail_server.refusals["bob@x.example"] = "421 closing"
    write(engine, 1)
    assert deliver_due(engine, mailer, POLICY).failed == 1
    del mail_server.refusals["bob@x.example"]
    deliver_until_done(engine, mailer)
    assert [mail.recipients for mail in mail_server.mails] == [EVERYBODY]


def test_if_everybody_is_refused_it_is_tried_again_until_the_list_is_mended(engine, mail_server, mailer):
    mail_server.refusals.update(dict.fromkeys(EVERYBODY, "550 no such user"))
    write(engine, 1)
    assert deliver_due(engine, mailer, POLICY).failed == 1
    name_recipients(engine, "dan@x.example")
    deliver_until_done(engine, mailer)
    assert [mail.recipients for mail in mail_server.mails] == [["dan@x.example"]]


@pytest.mark.parametrize("value", ["", "nobody", None])
def test_without_recipients_alerts_wait_and_it_is_said_why(engine, mail_server, mailer, value):
    name_recipients(engine, value)
    write(engine, 1, 2)
    report = deliver_due(engine, mailer, POLICY)
    assert "INSERT INTO options" in report.problems[0]
    assert delivery_problems(engine, mailer) == report.problems
    assert states(engine) == {"waiting": 2}
    name_recipients(engine, "ann@x.example")
    deliver_until_done(engine, mailer)
    assert told(mail_server) == ["1", "2"]


def test_a_bad_address_among_good_ones_is_named_and_hinders_nobody(engine, mail_server, mailer):
    name_recipients(engine, "ann@x.example, bob(at)x.example")
    write(engine, 1)
    report = deliver_due(engine, mailer, POLICY)
    assert report.sent == 1
    assert "bob(at)x.example" in report.problems[0]
    assert mail_server.mails[0].recipients == ["ann@x.example"]


def test_without_a_server_alerts_wait(engine):
    write(engine, 1)
    assert "IMGPIPE_SMTP_URL" in deliver_due(engine, None, POLICY).problems[0]
    assert states(engine) == {"waiting": 1}


def test_a_thousand_failures_in_a_minute_are_two_mails_at_most(engine, mail_server, mailer):
    """Failures of several kinds; delivery is tried after each hundred, as a sensor would, with the usual cool-down."""
    policy = replace(POLICY, cool_down_s=300)
    kinds = [AlertKind.RUN_FAILED, AlertKind.BATCH_FAILED, AlertKind.CHECK_FAILED, AlertKind.DEAD_LETTER]
    for start in range(0, 1000, 100):
        write_alerts(
            engine,
            [NewAlert(kinds[n % 4], f"Alert {n}", "A body.", str(n)) for n in range(start, start + 100)],
        )
        deliver_due(engine, mailer, policy)
    assert len(mail_server.mails) == 1
    assert states(engine) == {"sent": 100, "waiting": 900}
    with engine.begin() as connection:  # five minutes pass
        connection.execute(sa.text("UPDATE alert_mails SET accepted_at = '2020-01-01 00:00:00.000000'"))
    deliver_due(engine, mailer, policy)
    assert len(mail_server.mails) == 2
    assert states(engine) == {"sent": 1000}
    assert mail_server.subjects()[1].startswith("[imgpipe] 900 alerts: 225 batch_failed")


def test_many_deliverers_at_once_send_each_alert_once(engine, mail_server, mailer):
    mail_server.slow_s = 0.2
    stop = threading.Event()

    def deliver():
        while not stop.is_set():
            deliver_due(engine, mailer, POLICY)

    with ThreadPoolExecutor(5) as pool:
        workers = [pool.submit(deliver) for _ in range(4)]
        for number in range(20):
            write(engine, number)
            time.sleep(0.05)
        deadline = time.monotonic() + 30
        while states(engine).get("waiting") and time.monotonic() < deadline:
            time.sleep(0.1)
        stop.set()
        for worker in workers:
            worker.result()
    assert told(mail_server) == sorted(map(str, range(20)))


def test_a_deliverer_that_dies_is_relieved_and_the_mail_is_recognisably_the_same(engine, mail_server, mailer):
    write(engine, 1)
    form_mails(engine, cool_down_s=0)
    dead = lease_mail(engine, lease_s=1.0)
    # … it is not heard of again.
    assert deliver_due(engine, mailer, POLICY).sent == 0, "the lease is another's"
    time.sleep(1.2)
    assert deliver_due(engine, mailer, POLICY).sent == 1
    assert dead
    assert mail_server.mails[0].message["Message-ID"] == dead.message_id


def test_a_muted_kind_sends_nothing_and_others_do(engine, mail_server, mailer):
    mute(engine, AlertKind.RUN_FAILED, 3600)
    write(engine, "muted")
    write(engine, "heard", kind=AlertKind.DISK_LOW)
    deliver_due(engine, mailer, POLICY)
    assert told(mail_server) == ["heard"]
    assert states(engine) == {"sent": 1, "muted": 1}
    mute(engine, AlertKind.RUN_FAILED, 0)
    write(engine, "again")
    deliver_due(engine, mailer, POLICY)
    assert told(mail_server) == ["again", "heard"]


def test_an_alert_with_a_known_key_is_not_written_again_whoever_writes_it(engine):
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda _: write(engine, *range(20)), range(4)))
    assert sum(written) == 20
    assert states(engine) == {"waiting": 20}


def test_an_alert_that_another_program_wrote_is_delivered_too(engine, mail_server, mailer):
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO alerts (kind, subject, body) VALUES ('till_roll_low', 'Alert x', '')"))
    deliver_due(engine, mailer, POLICY)
    assert told(mail_server) == ["x"]


def stale(active=True):
    subject = "Predictions are stale" if active else "Predictions are fresh again"
    return Condition("predictions_stale", AlertKind.PREDICTIONS_STALE, active, subject, "A body.")


def observe_all(engine, condition, remind_after_s=0.0):
    """Eight observers at the same moment: the subjects that were written."""
    known = take_pulse(engine).conditions
    with ThreadPoolExecutor(8) as pool:
        notes = pool.map(lambda _: note_conditions(engine, [condition], known, remind_after_s=remind_after_s), range(8))
        return [subject for written in notes for subject in written]


def test_what_lasts_is_raised_reminded_of_and_cleared_once_by_many_observers(engine):
    assert observe_all(engine, stale()) == ["Predictions are stale"]
    assert observe_all(engine, stale()) == []
    time.sleep(0.3)
    assert observe_all(engine, stale(), remind_after_s=0.2) == ["Still: Predictions are stale"]
    assert observe_all(engine, stale(active=False)) == ["Predictions are fresh again"]
    assert observe_all(engine, stale(active=False)) == []
    assert observe_all(engine, stale()) == ["Predictions are stale"], "a second time is a new episode"


def test_a_reminder_does_not_wait_for_a_clock_that_was_set_back(engine):
    observe_all(engine, stale())
    assert observe_all(engine, stale(), remind_after_s=3600) == []
    with engine.begin() as connection:
        connection.execute(sa.update(AlertCondition).values(noted_at=utc_in(86400)))
    assert observe_all(engine, stale(), remind_after_s=3600) == ["Still: Predictions are stale"]


def test_the_recovery_is_not_held_back_by_the_cool_down_of_the_alarm(engine, mail_server, mailer):
    for active in (True, False):
        observe_all(engine, stale(active))
        deliver_due(engine, mailer, replace(POLICY, cool_down_s=300))
    assert mail_server.subjects() == ["[imgpipe] Predictions are stale", "[imgpipe] Predictions are fresh again"]


def age_predictions(engine, seconds):
    with engine.begin() as connection:
        connection.execute(sa.delete(ImagePrediction))
        connection.execute(
            sa.insert(ImagePrediction).values(
                batch_key="b", image_id=1, status="predicted", object_count=0, created_at=utc_in(-seconds)
            )
        )


def test_stale_rows_are_found_with_counts_and_the_oldest_that_waits(engine, mail_server, mailer):
    limits = WatchLimits(freshness_s=3600)
    age_predictions(engine, 10)
    assert observe(engine, limits)[1] == []
    age_predictions(engine, 4000)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO product_images (image_url) VALUES ('https://cdn/old.jpg')"))
    assert observe(engine, limits)[1] == ["Predictions are stale: the newest is 67 min old"]
    assert observe(engine, limits)[1] == []
    age_predictions(engine, 5)
    assert observe(engine, limits)[1] == ["Predictions are fresh again"]
    deliver_due(engine, mailer, POLICY)
    text = mail_server.mails[0].message.get_body(("plain",)).get_content()
    assert "images that wait: 1" in text
    assert "https://cdn/old.jpg" in text


def test_a_prediction_from_the_future_hides_nothing(engine):
    age_predictions(engine, -7200)  # the clock was two hours ahead, and has been set right
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO image_predictions (batch_key, image_id, status, object_count, created_at) "
                "VALUES ('a', 2, 'predicted', 0, '2020-01-01 00:00:00.000000')"
            )
        )
    (subject,) = observe(engine, WatchLimits(freshness_s=3600))[1]
    assert subject.startswith("Predictions are stale")


def test_images_that_have_waited_without_any_prediction_are_stale(engine):
    limits = WatchLimits(freshness_s=3600, backlog_s=1e9)
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO product_images (image_url, updated_at) VALUES ('a', '2020-01-01 00:00:00.000000')")
        )
    (subject,) = observe(engine, limits)[1]
    assert subject.startswith("No prediction yet, though images have waited for")


def test_a_mailbox_folder_takes_mail(engine, tmp_path):
    write(engine, 1)
    assert deliver_due(engine, MaildirMailer(tmp_path / "box"), POLICY).sent == 1
    (message,) = mailbox.Maildir(tmp_path / "box")
    assert message["Subject"] == "[imgpipe] Alert 1"


def test_a_server_that_is_not_there_is_one_clear_line():
    with pytest.raises(MailError, match=r"localhost:1: .*refused"):
        open_mailer("smtp://localhost:1").send(EmailMessage(), "a@x.example", ["b@x.example"])
