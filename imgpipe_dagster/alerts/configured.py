"""Alerts as the settings want them: limits, policy, mailer. No logic."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from imgpipe_dagster.alerts.delivery import DeliveryPolicy
from imgpipe_dagster.alerts.smtp import Mailer, login_address, open_mailer
from imgpipe_dagster.alerts.watch import WatchLimits
from imgpipe_dagster.settings import Settings


def watch_limits(settings: Settings) -> WatchLimits:
    """What is still well."""
    store = urlsplit(settings.effective_store_url)
    local = (Path(unquote(store.path)),) if store.scheme == "file" else ()
    return WatchLimits(
        freshness_s=settings.freshness_minutes * 60,
        only_waiting=settings.freshness_only_waiting,
        feed_s=settings.feed_freshness_minutes * 60,
        forget_feed_s=settings.feed_forget_days * 86400,
        backlog_s=settings.backlog_alert_minutes * 60,
        disk_bytes=int(settings.disk_low_gib * 2**30),
        folders=(settings.home, *local),
        remind_after_s=settings.alert_reminder_minutes * 60,
    )


def delivery_policy(settings: Settings) -> DeliveryPolicy:
    """How mail is delivered."""
    return DeliveryPolicy(
        cool_down_s=settings.alert_cool_down_s,
        subject_prefix=settings.alert_subject_prefix,
        dagster_url=settings.dagster_url,
    )


def mailer_and_sender(settings: Settings) -> tuple[Mailer | None, str | None]:
    """What takes the mail, and the sender where nobody names one; both None if no server is set."""
    if settings.smtp_url is None:
        return None, None
    url = settings.smtp_url.get_secret_value()
    return open_mailer(url, timeout_s=settings.smtp_timeout_s), login_address(url)
