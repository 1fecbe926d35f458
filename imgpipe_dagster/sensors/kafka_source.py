"""The sensor that takes over messages of a Kafka topic. What they mean and when they count, ``sources/`` decides."""

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.ticks import note_tick
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.kafka_source import KafkaSourceResource
from imgpipe_dagster.sensors.common import catalogue_skip
from imgpipe_dagster.sources.base import SourceError
from imgpipe_dagster.sources.kafka import KafkaSource

NAME = "kafka_source_sensor"
TICK_MESSAGES = 5000
TICK_SECONDS = 15.0


def build_kafka_source_sensor(configured: bool, interval_s: int) -> dg.SensorDefinition:
    """The sensor; it is on where brokers and a topic are set."""

    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING if configured else dg.DefaultSensorStatus.STOPPED,
        description="Takes over images that a Kafka topic announces.",
    )
    def kafka_source_sensor(database: DatabaseResource, kafka_source: KafkaSourceResource) -> dg.SkipReason:
        config = kafka_source.config()
        if config is None:
            return dg.SkipReason(
                "There is no Kafka source: set IMGPIPE_KAFKA_BOOTSTRAP_SERVERS and IMGPIPE_KAFKA_TOPIC."
            )
        try:
            taken = KafkaSource(config, database.engine).drain(max_messages=TICK_MESSAGES, max_seconds=TICK_SECONDS)
            outcome = f"{taken.report.inserted} messages taken over, {taken.report.rejected} put aside."
            note_tick(database.engine, NAME, outcome)
        except SourceError as error:
            return dg.SkipReason(str(error))
        except SQLAlchemyError as error:
            return catalogue_skip(error)
        return dg.SkipReason(outcome if taken.finished else f"{outcome} The next tick goes on.")

    return kafka_source_sensor
