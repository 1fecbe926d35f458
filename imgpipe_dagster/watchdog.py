"""Looking after the pipeline from outside Dagster: one pass over daemons, sensors, outbox and rows. No loop."""

import time
from dataclasses import dataclass, field

from sqlalchemy.engine import Engine

from imgpipe_dagster.alerts.configured import delivery_policy, mailer_and_sender, watch_limits
from imgpipe_dagster.alerts.delivery import deliver_due
from imgpipe_dagster.alerts.vital_signs import VitalLimits, judge_outbox, judge_vital_signs
from imgpipe_dagster.alerts.watch import judge, observe, observe_feeds
from imgpipe_dagster.catalogue.alert_mails import undelivered
from imgpipe_dagster.catalogue.alerts import Condition, note_conditions, raised_conditions
from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.ticks import tick_ages
from imgpipe_dagster.settings import Settings


@dataclass
class WatchdogReport:
    """What a pass found.

    Attributes:
        wrong: What is wrong now, a line each.
        written: Subjects of the alerts that this pass wrote.
        mails_sent: How many mails it sent.
        problems: What keeps mails from being sent.
    """

    wrong: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    mails_sent: int = 0
    problems: list[str] = field(default_factory=list)


def vital_limits(settings: Settings) -> VitalLimits:
    """How long silence may last."""
    return VitalLimits(
        heartbeat_s=settings.watchdog_heartbeat_limit_s,
        tick_s=settings.watchdog_tick_limit_s,
        outbox_s=settings.watchdog_outbox_minutes * 60,
    )


def watch_once(settings: Settings, engine: Engine) -> WatchdogReport:
    """Look once, write alerts for what has changed, and deliver what is due.

    The conditions are those of the sensors: whoever is first tells, and nothing is told twice.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the catalogue cannot be used.
    """
    limits = watch_limits(settings)
    report = WatchdogReport()
    pulse, written = observe(engine, limits)
    feeds, written_of_feeds = observe_feeds(engine, limits)
    vital = vital_limits(settings)
    heartbeats, turned_off = dagster_signs(settings)
    waiting, oldest_s = transact(engine, undelivered, writes=False)
    signs = judge_vital_signs(heartbeats, tick_ages(engine), turned_off, vital)
    signs.append(judge_outbox(waiting, oldest_s, vital))
    known = transact(engine, raised_conditions, writes=False)
    written_of_signs = note_conditions(engine, signs, known, remind_after_s=limits.remind_after_s)
    report.written = [*written, *written_of_feeds, *written_of_signs]
    found: list[Condition] = [*judge(pulse, limits), *feeds, *signs]
    report.wrong = [condition.subject for condition in found if condition.active]
    mailer, sender = mailer_and_sender(settings)
    if waiting or report.written:
        delivery = deliver_due(engine, mailer, delivery_policy(settings), fallback_sender=sender)
        report.mails_sent, report.problems = delivery.sent, delivery.problems
    return report


def dagster_signs(settings: Settings) -> tuple[dict[str, float], set[str]]:
    """Seconds since each needed daemon's last heartbeat, and the sensors that a person has turned off.

    Both are empty where Dagster has never run.
    """
    if not (settings.home / "dagster").is_dir():
        return {}, set()
    from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType

    from imgpipe_dagster.instance import dagster_instance

    with dagster_instance(settings) as instance:
        needed = set(instance.get_required_daemon_types())
        now = time.time()
        beats = {
            name: abs(now - heartbeat.timestamp)  # a clock that was set back must not hide a stopped daemon
            for name, heartbeat in instance.get_daemon_heartbeats().items()
            if name in needed
        }
        stopped = instance.all_instigator_state(
            instigator_type=InstigatorType.SENSOR, instigator_statuses={InstigatorStatus.STOPPED}
        )
        return beats, {state.instigator_name for state in stopped}
