"""Delivering the outbox: forming mails, handing them to a server, noting what became of them. No SQL, no SMTP."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy.engine import Engine

from imgpipe_dagster.alerts.addresses import Addresses, read_addresses
from imgpipe_dagster.alerts.render import render_mail
from imgpipe_dagster.alerts.smtp import Mailer, MailError, Refusal
from imgpipe_dagster.catalogue.alert_mails import LeasedMail, form_mails, lease_mail, note_sent, note_unsent
from imgpipe_dagster.catalogue.alerts import address_options
from imgpipe_dagster.catalogue.engine import RETRY_FOR_S, transact

log = logging.getLogger(__name__)

NO_SERVER = "No mail server is set: IMGPIPE_SMTP_URL. Alerts wait in the outbox."


@dataclass(frozen=True)
class DeliveryPolicy:
    """How mail is delivered.

    Attributes:
        cool_down_s: A topic's next mail comes no sooner after its last.
        subject_prefix: What subjects begin with.
        dagster_url: Where Dagster's UI is, for links.
        lease_s: A deliverer that is not heard of for so long has died; longer than any conversation lasts.
        first_retry_s: Wait after the first failure; it doubles.
        last_retry_s: The longest wait.
        patience_s: A recipient whom a server puts off for so long counts as refused.
    """

    cool_down_s: float = 300.0
    subject_prefix: str = "[imgpipe]"
    dagster_url: str | None = None
    lease_s: float = 300.0
    first_retry_s: float = 15.0
    last_retry_s: float = 300.0
    patience_s: float = 2 * 86400.0

    def retry_in_s(self, attempts: int) -> float:
        """How long to wait after so many failed attempts."""
        return min(self.first_retry_s * 2.0 ** min(attempts - 1, 30), self.last_retry_s)


@dataclass
class DeliveryReport:
    """What a delivery did."""

    sent: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)


def find_addresses(
    engine: Engine, fallback_sender: str | None = None, *, retry_for_s: float = RETRY_FOR_S
) -> Addresses:
    """Recipients and sender as ``options`` names them now."""
    found = read_addresses(transact(engine, address_options, writes=False, retry_for_s=retry_for_s))
    return found if found.sender else Addresses(fallback_sender, found.recipients, found.bad)


def delivery_problems(
    engine: Engine, mailer: Mailer | None, fallback_sender: str | None = None, *, retry_for_s: float = RETRY_FOR_S
) -> list[str]:
    """What keeps mails from being sent, or from reaching everybody who was named: for people."""
    return _problems(mailer, find_addresses(engine, fallback_sender, retry_for_s=retry_for_s))


def deliver_due(
    engine: Engine,
    mailer: Mailer | None,
    policy: DeliveryPolicy,
    *,
    fallback_sender: str | None = None,
    budget_s: float = 20.0,
) -> DeliveryReport:
    """Deliver what is due. Safe beside other deliverers; what cannot be delivered stays in the outbox.

    Args:
        engine: The catalogue.
        mailer: Takes the mail; None if no server is set.
        policy: How to deliver.
        fallback_sender: The sender where ``options`` names none.
        budget_s: No attempt is begun later.
    """
    addresses = find_addresses(engine, fallback_sender)
    report = DeliveryReport(problems=_problems(mailer, addresses))
    if mailer is None or addresses.problem:
        return report
    deadline = time.monotonic() + budget_s
    form_mails(engine, cool_down_s=policy.cool_down_s)
    while time.monotonic() < deadline:
        mail = lease_mail(engine, lease_s=policy.lease_s)
        if mail is None:
            break
        _attempt(engine, mailer, mail, addresses, policy, report)
    return report


def _problems(mailer: Mailer | None, addresses: Addresses) -> list[str]:
    return [*filter(None, [None if mailer else NO_SERVER, addresses.problem or addresses.warning])]


def _attempt(
    engine: Engine,
    mailer: Mailer,
    mail: LeasedMail,
    addresses: Addresses,
    policy: DeliveryPolicy,
    report: DeliveryReport,
) -> None:
    """Try once to deliver one mail to everybody who does not have it."""
    has_it = [address for address, fate in mail.recipients.items() if not fate]
    left = [address for address in addresses.recipients if address not in has_it]
    retry_in_s = policy.retry_in_s(mail.attempts)
    refused: Mapping[str, Refusal] = {}
    error = None
    if left:
        message = render_mail(
            mail,
            sender=str(addresses.sender),
            recipients=addresses.recipients,
            prefix=policy.subject_prefix,
            dagster_url=policy.dagster_url,
        )
        try:
            refused = mailer.send(message, str(addresses.sender), left)
        except MailError as failure:
            error = str(failure)
    taken = [] if error else [address for address in left if address not in refused]
    fates = dict.fromkeys([*has_it, *taken], "") | {address: refusal.text for address, refusal in refused.items()}
    refusals = "; ".join(f"{address}: {refusal.text}" for address, refusal in refused.items())
    if has_it or taken:
        put_off = error is not None or any(not refusal.permanent for refusal in refused.values())
        wait = retry_in_s if put_off and mail.accepted_s_ago < policy.patience_s else None
        note_sent(engine, mail, fates, error=error or refusals or None, retry_in_s=wait)
        report.sent += bool(taken)
    else:
        error = error or f"Every recipient was refused. {refusals}"
        note_unsent(engine, mail, fates, error=error, retry_in_s=retry_in_s)
        report.failed += 1
    if error or refusals:
        report.problems.append(error or refusals)
        log.warning("Alert mail %s: %s", mail.message_id, error or refusals)
