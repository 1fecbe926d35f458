"""Looking after the pipeline from outside Dagster: one pass over daemons, sensors, outbox and rows. No loop."""

import time
from dataclasses import dataclass, field

from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.alerts.configured import delivery_policy, mailer_and_sender, watch_limits
from imgpipe_dagster.alerts.delivery import deliver_due
from imgpipe_dagster.alerts.vital_signs import VitalLimits, judge_outbox, judge_storage, judge_vital_signs
from imgpipe_dagster.alerts.watch import judge, observe, observe_feeds
from imgpipe_dagster.catalogue.alert_mails import undelivered
from imgpipe_dagster.catalogue.alerts import Condition, note_conditions, raised_conditions
from imgpipe_dagster.catalogue.engine import describe_error, transact
from imgpipe_dagster.catalogue.ticks import tick_ages
from imgpipe_dagster.settings import DagsterHomeError, Settings


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


class DagsterUnreadableError(RuntimeError):
    """Dagster's storage cannot be read; the message says why."""


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
    unreadable = None
    try:
        heartbeats, turned_off = dagster_signs(settings)
    except DagsterUnreadableError as error:  # the more reason to look at all the rest
        unreadable, heartbeats, turned_off = str(error), {}, set[str]()
    waiting, oldest_s = transact(engine, undelivered, writes=False)
    signs = judge_vital_signs(heartbeats, tick_ages(engine), turned_off, vital)
    signs += [judge_outbox(waiting, oldest_s, vital), judge_storage(unreadable)]
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

    Raises:
        DagsterUnreadableError: Its storage cannot be read.
    """
    if not (settings.home / "dagster").is_dir():
        return {}, set()
    import dagster as dg
    import yaml
    from dagster._check import CheckError
    from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType

    from imgpipe_dagster.instance import dagster_instance

    try:
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
    except SQLAlchemyError as error:
        raise DagsterUnreadableError(describe_error(error)) from error
    # The last two: its dagster.yaml cannot be understood.
    except (dg.DagsterError, DagsterHomeError, OSError, yaml.YAMLError, CheckError) as error:
        raise DagsterUnreadableError(str(error).partition("\n")[0][:300]) from error
