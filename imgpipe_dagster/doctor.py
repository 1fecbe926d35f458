"""Checking an installation: each check finds one thing and says what to do about it. It changes nothing."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.engine import CatalogueError, connect, describe_error, describe_url
from imgpipe_dagster.settings import Settings

if TYPE_CHECKING:
    from imgpipe_dagster.sources.kafka import KafkaConfig
    from imgpipe_dagster.sources.sql import SqlSourceConfig

UNDELIVERED_S = 1800
BROKERS_MAY_TAKE_S = 5.0


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    what: str
    ok: bool
    found: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Run every check; none raises. What needs the catalogue is looked at where there is one."""
    catalogue = _catalogue(settings)
    return [
        *(_python(settings), _opencv(settings), _disk(settings), catalogue, _store(settings)),
        *([_alerts(settings)] if catalogue.ok else []),
        *_sources(settings, has_catalogue=catalogue.ok),
        *check_weights(settings),
    ]


def _python(_settings: Settings) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding("Python", ok, version, "" if ok else "Use Python 3.11, 3.12 or 3.13.")


def _opencv(_settings: Settings) -> Finding:
    try:
        version = importlib.import_module("cv2").__version__
    except ImportError as error:
        return Finding("OpenCV", False, str(error), "Install the system libraries: apt-get install libgl1 libglib2.0-0")
    return Finding("OpenCV", True, version)


def _disk(settings: Settings) -> Finding:
    folder = next(_existing(settings.home))
    free = shutil.disk_usage(folder).free
    ok = free >= settings.disk_low_gib * 2**30
    return Finding(
        "Disk",
        ok,
        f"{free / 2**30:.1f} GiB free at {folder}",
        "" if ok else f"Make room, or set IMGPIPE_HOME; IMGPIPE_DISK_LOW_GIB asks for {settings.disk_low_gib:g} GiB.",
    )


def _catalogue(settings: Settings) -> Finding:
    from imgpipe_dagster.catalogue.schema import OlderDatabaseError, require_current

    place = describe_url(settings.catalogue_url)
    engine = connect(settings.catalogue_url, own=False)
    try:
        require_current(engine)
    except OlderDatabaseError as error:
        return Finding("Catalogue", False, str(error), "imgpipe db adopt --dry-run")
    except CatalogueError as error:
        return Finding("Catalogue", False, str(error), "imgpipe db upgrade")
    except SQLAlchemyError as error:
        return Finding(
            "Catalogue", False, f"{place}: {describe_error(error)}", "Check IMGPIPE_DATABASE_URL and the server."
        )
    finally:
        engine.dispose()
    return Finding("Catalogue", True, place)


def _store(settings: Settings) -> Finding:
    from imgpipe_dagster.build import build_resources
    from imgpipe_dagster.store.base import StoreError

    probe = "doctor/probe.txt"
    url = settings.effective_store_url
    try:
        store = build_resources(settings)["image_store"].store
        store.put(probe, b"written by imgpipe doctor")
        store.delete(probe)
    except StoreError as error:
        return Finding("Store", False, str(error), "Check IMGPIPE_STORE_URL, its permissions and the free space.")
    return Finding("Store", True, url)


def _alerts(settings: Settings) -> Finding:
    """Whether alerts reach somebody. Without a mail server they wait in the outbox, and that may be wanted."""
    from imgpipe_dagster.alerts.configured import mailer_and_sender
    from imgpipe_dagster.alerts.delivery import NO_SERVER, delivery_problems
    from imgpipe_dagster.catalogue.alert_mails import undelivered

    mailer, sender = mailer_and_sender(settings)
    engine = connect(settings.catalogue_url, own=False)
    try:
        problems = delivery_problems(engine, mailer, sender, retry_for_s=0.0)
        with engine.connect() as connection:
            waiting, oldest_s = undelivered(connection)
    except SQLAlchemyError:
        return Finding("Alerts", mailer is None, "the catalogue cannot be read", "Mend the catalogue first.")
    finally:
        engine.dispose()
    if mailer is None:
        return Finding("Alerts", True, f"no mail server; {waiting} alerts wait", NO_SERVER)
    if problems:
        return Finding("Alerts", False, problems[0], "Then: imgpipe alerts test")
    if oldest_s > UNDELIVERED_S:
        found = f"{waiting} alerts wait, the oldest for {oldest_s:.0f} s"
        return Finding("Alerts", False, found, "imgpipe alerts list")
    return Finding("Alerts", True, f"mail is set up; {waiting} alerts wait")


def _sources(settings: Settings, *, has_catalogue: bool) -> list[Finding]:
    """For each configured source: whether it answers."""
    from imgpipe_dagster.polling import kafka_config, sql_source_config

    found = []
    sql = sql_source_config(settings)
    if sql is not None and (has_catalogue or sql.url is not None):
        found.append(_sql_source(settings, sql))
    if (kafka := kafka_config(settings)) is not None:
        found.append(_kafka_source(settings, kafka))
    return found


def _sql_source(settings: Settings, config: "SqlSourceConfig") -> Finding:
    from imgpipe_dagster.sources.base import SourceError
    from imgpipe_dagster.sources.sql import open_sql_source

    url = config.url or settings.catalogue_url
    with ExitStack() as stack:
        try:
            engine = connect(url, own=False)
            stack.callback(engine.dispose)
            stack.enter_context(open_sql_source(config, engine))
            stack.enter_context(engine.connect()).execute(sa.select(1))
        except (SourceError, CatalogueError) as error:
            return Finding("SQL source", False, str(error), "Correct IMGPIPE_SQL_SOURCE_*: docs/sources.md says how.")
        except SQLAlchemyError as error:
            found = f"{describe_url(url)}: {describe_error(error)}"
            return Finding("SQL source", False, found, "Check IMGPIPE_SQL_SOURCE_URL and the server.")
    return Finding("SQL source", True, describe_url(url))


def _kafka_source(settings: Settings, config: "KafkaConfig") -> Finding:
    from imgpipe_dagster.sources.base import SourceError
    from imgpipe_dagster.sources.kafka import KafkaSource

    engine = connect(settings.catalogue_url, own=False)
    try:
        KafkaSource(replace(config, timeout_s=BROKERS_MAY_TAKE_S), engine).look()
    except SourceError as error:
        return Finding("Kafka source", False, str(error), "Then: imgpipe poll")
    finally:
        engine.dispose()
    return Finding("Kafka source", True, f"{config.topic} at {config.bootstrap_servers}")


def check_weights(settings: Settings) -> list[Finding]:
    """For each model that a batch needs: whether its weights are there and are those that the settings pin."""
    return [
        _weights(settings, "Detector", "IMGPIPE_DETECTOR", settings.detector_weights, settings.detector_sha256),
        _weights(settings, "Bottle classifier", "IMGPIPE_BOTTLE", settings.bottle_weights, settings.bottle_sha256),
    ]


def _weights(settings: Settings, what: str, variable: str, weights: str, sha256: str | None) -> Finding:
    from imgpipe_dagster.models.weights import WeightsError, find_weights, sha256_of

    advice = f"Set {variable}_WEIGHTS, or: imgpipe models download NAME"
    try:
        found = find_weights(weights, settings.home / "models")
        digest = sha256_of(found)
    except (WeightsError, OSError) as error:
        return Finding(what, False, str(error), advice)
    if sha256 is not None and sha256.lower() != digest:
        return Finding(what, False, f"{found} has the SHA-256 {digest}", f"Correct {variable}_SHA256.")
    return Finding(what, True, str(found))


def _existing(path: Path) -> Iterator[Path]:
    yield from (folder for folder in (path, *path.parents) if folder.exists())
