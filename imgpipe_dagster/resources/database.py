"""The catalogue as a resource. No SQL here."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field, PrivateAttr
from sqlalchemy.engine import Engine, make_url

from imgpipe_dagster.catalogue.engine import connect


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
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["DatabaseResource"]:  # noqa: ARG002 - Dagster's signature
        """Close the connections when the run or the tick is over."""
        try:
            yield self
        finally:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None
