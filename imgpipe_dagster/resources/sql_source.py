"""The SQL source as a resource. No logic."""

import dagster as dg
from pydantic import Field
from sqlalchemy.engine import make_url

from imgpipe_dagster.sources.sql import SqlSourceConfig


class SqlSourceResource(dg.ConfigurableResource):
    """Which rows of another table are taken over, and how that table is told the answers."""

    query: str | None = Field(default=None, description="SELECT of the rows; without it there is no SQL source.")
    url: str | None = Field(
        default=None, description="SQLAlchemy URL; one with a password comes from the environment. Default: catalogue."
    )
    update: str | None = Field(default=None, description="Statement that tells an answer.")
    base_url: str | None = Field(default=None, description="Prefix of images that are only a file name.")
    time_zone: str = Field(default="UTC", description="Zone of the times in the source.")
    overlap_s: float = Field(default=900, description="How long a transaction of the source may take.")

    def config(self) -> SqlSourceConfig | None:
        """The source as the reader takes it, or None where there is none."""
        if self.query is None:
            return None
        url = make_url(self.url) if self.url else None
        return SqlSourceConfig(self.query, url, self.update, self.base_url, self.time_zone, self.overlap_s)
