"""Reading every configured source now: from settings to sources. What a source is, is in ``sources/``; no Dagster."""

from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.batches import waiting_images
from imgpipe_dagster.catalogue.imports import ImportReport
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.sources.base import SourceError, WrittenBack, add_reports
from imgpipe_dagster.sources.kafka import KafkaConfig, KafkaSource, security_options
from imgpipe_dagster.sources.messages import SOURCE as KAFKA_SOURCE
from imgpipe_dagster.sources.sql import SOURCE as SQL_SOURCE
from imgpipe_dagster.sources.sql import SqlSourceConfig, open_sql_source


@dataclass(frozen=True)
class PollReport:
    """What reading the sources gave.

    Attributes:
        sources: What became of the rows of each configured source, by its name.
        told: Answers that the SQL source was told.
        refused: Answers that it refused.
        waiting: Images that wait to be processed now.
        problem: Why the Kafka source could not be read, where the SQL source was.
    """

    sources: dict[str, ImportReport] = field(default_factory=dict)
    told: int = 0
    refused: int = 0
    waiting: int = 0
    problem: str | None = None

    @property
    def inserted(self) -> int:
        """Rows that were taken over."""
        return sum(report.inserted for report in self.sources.values())


def poll_sources(settings: Settings, engine: Engine, *, anew: bool = False) -> PollReport:
    """Take over what the configured sources have, to their ends, and tell the SQL source what it does not know.

    Args:
        settings: This installation's settings.
        engine: The catalogue.
        anew: Read the SQL source from its beginning, and tell it again what it refused; what is known stays as it is.

    Raises:
        SourceError: A source cannot be read.
        sqlalchemy.exc.DBAPIError: The catalogue is away.
    """
    reports: dict[str, ImportReport] = {}
    answers = WrittenBack()
    if (config := sql_source_config(settings)) is not None:
        with open_sql_source(config, engine) as source:
            taken = source.take(anew=anew)
            report = taken.report
            while not taken.finished:
                taken = source.take()
                report = add_reports(report, taken.report)
            reports[SQL_SOURCE] = report
            answers = source.write_back(anew=anew)
    problem = None
    if (kafka := kafka_config(settings)) is not None:
        try:
            reports[KAFKA_SOURCE] = KafkaSource(kafka, engine).drain().report
        except SourceError as error:
            if not reports:
                raise
            problem = str(error)
    return PollReport(reports, answers.told, answers.refused, waiting_images(engine), problem)


def sql_source_config(settings: Settings) -> SqlSourceConfig | None:
    """The SQL source that the settings describe, or None."""
    if settings.sql_source_query is None:
        return None
    return SqlSourceConfig(
        query=settings.sql_source_query,
        url=settings.effective_sql_source_url,
        update=settings.sql_source_update,
        base_url=settings.sql_source_base_url,
        time_zone=settings.sql_source_time_zone,
        overlap_s=settings.sql_source_overlap_s,
    )


def kafka_config(settings: Settings) -> KafkaConfig | None:
    """The Kafka source that the settings describe, or None."""
    if not (settings.kafka_bootstrap_servers and settings.kafka_topic):
        return None
    password, key_password = settings.kafka_sasl_password, settings.kafka_ssl_key_password
    return KafkaConfig(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        topic=settings.kafka_topic,
        store_url=settings.effective_store_url,
        group=settings.kafka_group,
        dead_letter_topic=settings.kafka_dead_letter_topic,
        security=security_options(
            protocol=settings.kafka_security_protocol,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            sasl_username=settings.kafka_sasl_username,
            sasl_password=password.get_secret_value() if password else None,
            ca_file=_text(settings.kafka_ssl_ca_file),
            certificate_file=_text(settings.kafka_ssl_certificate_file),
            key_file=_text(settings.kafka_ssl_key_file),
            key_password=key_password.get_secret_value() if key_password else None,
        ),
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
