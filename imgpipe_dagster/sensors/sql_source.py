"""The sensor that takes over rows of the SQL source and tells it the answers. What to read, ``sources/`` decides."""

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from imgpipe_dagster.catalogue.engine import CatalogueError
from imgpipe_dagster.catalogue.ticks import note_tick
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.sql_source import SqlSourceResource
from imgpipe_dagster.sensors.common import catalogue_skip
from imgpipe_dagster.sources.base import SourceError
from imgpipe_dagster.sources.sql import open_sql_source

NAME = "sql_source_sensor"
TICK_ROWS = 20_000
TICK_SECONDS = 15.0


def build_sql_source_sensor(query: str | None, interval_s: int) -> dg.SensorDefinition:
    """The sensor; it is on where there is a query."""

    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING if query else dg.DefaultSensorStatus.STOPPED,
        description="Takes over new rows of another table, and tells that table the answers.",
    )
    def sql_source_sensor(database: DatabaseResource, sql_source: SqlSourceResource) -> dg.SkipReason:
        config = sql_source.config()
        if config is None:
            return dg.SkipReason("There is no SQL source: set IMGPIPE_SQL_SOURCE_QUERY.")
        try:
            with open_sql_source(config, database.engine) as source:
                taken = source.take(max_rows=TICK_ROWS, max_seconds=TICK_SECONDS)
                answers = source.write_back(max_rows=TICK_ROWS, max_seconds=TICK_SECONDS)
            rows = f"{taken.report.inserted} rows taken over, {taken.report.rejected} refused"
            outcome = f"{rows}; {answers.told} answers told, {answers.refused} refused."
            note_tick(database.engine, NAME, outcome)
        except (SourceError, CatalogueError) as error:
            return dg.SkipReason(str(error))
        except SQLAlchemyError as error:
            return catalogue_skip(error)
        return dg.SkipReason(outcome if taken.finished else f"{outcome} The next tick goes on.")

    return sql_source_sensor
