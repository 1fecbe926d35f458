"""Whether Dagster is alive, judged from outside: heartbeats, ticks, the outbox. Pure; ages come from elsewhere."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from imgpipe_dagster.alerts.watch import human_duration
from imgpipe_dagster.catalogue.alerts import AlertKind, Condition


@dataclass(frozen=True)
class VitalLimits:
    """How long silence may last, in seconds.

    Attributes:
        heartbeat_s: Of all of Dagster's daemons.
        tick_s: Of a sensor, or of one daemon while others beat.
        outbox_s: Of an alert that nobody has got.
    """

    heartbeat_s: float = 100.0
    tick_s: float = 300.0
    outbox_s: float = 1800.0


def judge_vital_signs(
    heartbeats: Mapping[str, float], ticks: Mapping[str, float], turned_off: Set[str], limits: VitalLimits
) -> list[Condition]:
    """Judge daemons, code location and sensors.

    Where no daemon has ever beaten, Dagster does not run here, and nothing is judged. While the daemon is down, sensors
    cannot tick: nothing is said about them then, and what was said stays.

    Args:
        heartbeats: Seconds since the last heartbeat of each daemon that is needed and ever beat.
        ticks: Seconds since the last tick of each sensor that ever ticked.
        turned_off: Sensors that a person has turned off.
        limits: What is still well.
    """
    if not heartbeats:
        return []
    daemon = _judge_daemon(heartbeats, limits)
    if daemon.active:
        return [daemon]
    watched = {name: age for name, age in ticks.items() if name not in turned_off}
    silent = {name: age for name, age in watched.items() if age > limits.tick_s}
    all_silent = len(watched) > 0 and len(silent) == len(watched)
    location = Condition(
        "code_location_down",
        AlertKind.CODE_LOCATION_DOWN,
        all_silent,
        f"No sensor has ticked for {human_duration(min(silent.values()))}, though the daemon beats"
        if all_silent
        else "Sensors tick again",
        "The code location is dead or does not load: look at the Deployment page of Dagster's UI and at the log of the "
        "code server, and start it again."
        if all_silent
        else "The code location works.",
        {name: f"{human_duration(age)} ago" for name, age in silent.items()},
    )
    if all_silent:
        return [daemon, location]
    ticking = Condition(
        "ticks_stopped",
        AlertKind.TICKS_STOPPED,
        bool(silent),
        f"These sensors have stopped: {', '.join(sorted(silent))}" if silent else "Every sensor ticks again",
        "Others tick. Look at the errors of their ticks in Dagster's UI, or at whether the catalogue can be used."
        if silent
        else "All is well.",
        {name: f"last tick {human_duration(age)} ago" for name, age in silent.items()},
    )
    return [daemon, location, ticking]


def judge_outbox(waiting: int, oldest_s: float, limits: VitalLimits) -> Condition:
    """Whether alerts wait for too long to reach somebody."""
    stuck = waiting > 0 and oldest_s > limits.outbox_s
    return Condition(
        "outbox_stuck",
        AlertKind.OUTBOX_STUCK,
        stuck,
        f"{waiting} alerts have reached nobody for {human_duration(oldest_s)}" if stuck else "Alert mails arrive again",
        "`imgpipe alerts list --waiting` says what keeps them." if stuck else "The outbox is empty or young.",
    )


def judge_storage(unreadable: str | None) -> Condition:
    """Whether Dagster's own storage can be read; ``unreadable`` says why not."""
    return Condition(
        "dagster_unreadable",
        AlertKind.DAEMON_DOWN,
        unreadable is not None,
        "Dagster's storage can be read again" if unreadable is None else "Dagster's storage cannot be read",
        "Its daemon and sensors are watched again."
        if unreadable is None
        else f"{unreadable}\nNobody can say meanwhile whether Dagster's daemon lives; rows and mails are looked after. "
        "Look at DAGSTER_HOME and at the disk.",
    )


def _judge_daemon(heartbeats: Mapping[str, float], limits: VitalLimits) -> Condition:
    newest = min(heartbeats.values())
    stopped = newest > limits.heartbeat_s
    hung = sorted(name for name, age in heartbeats.items() if age > limits.tick_s)
    if stopped:
        subject = f"Dagster's daemon has been silent for {human_duration(newest)}"
    elif hung:
        subject = f"A part of Dagster's daemon hangs: {', '.join(hung)}"
    else:
        subject = "Dagster's daemon beats again"
    down = stopped or bool(hung)
    return Condition(
        "daemon_down",
        AlertKind.DAEMON_DOWN,
        down,
        subject,
        "Nothing is claimed, run or mailed by sensors meanwhile; no image is lost. Start `dagster-daemon run` again."
        if down
        else "Images that waited are processed.",
        {name: f"{human_duration(age)} ago" for name, age in heartbeats.items() if down},
    )
