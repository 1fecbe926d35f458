"""The catalogue as a resource. No SQL here."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field, PrivateAttr
from sqlalchemy.engine import Engine, make_url

from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.logs import about
from imgpipe_dagster.partitions import ATTEMPT_TAG, PARTITION_TAG


class DatabaseResource(dg.ConfigurableResource):
    """The SQL database of record."""

    url: str = Field(description="SQLAlchemy URL of the catalogue; one with a password comes from the environment.")

    _engine: Engine | None = PrivateAttr(default=None)

    @property
    def engine(self) -> Engine:
        """The engine; connections are made when they are needed."""
        if self._engine is None:
            self._engine = connect(make_url(self.url))
        return self._engine

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["DatabaseResource"]:
        """Close the connections when the run or the tick is over; what a run logs is about its batch."""
        tags = context.run.tags if context.run is not None else {}
        try:
            with about(batch=tags.get(PARTITION_TAG), attempt=tags.get(ATTEMPT_TAG)):
                yield self
        finally:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None
