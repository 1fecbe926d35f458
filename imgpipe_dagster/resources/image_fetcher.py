"""The HTTP client's limits as a resource. No logic."""

import dagster as dg
from pydantic import Field

from imgpipe_dagster.fetch.policy import FetchPolicy


class ImageFetcherResource(dg.ConfigurableResource):
    """How images are downloaded: politely, bounded, and only from addresses that may be reached."""

    base_url: str | None = Field(default=None, description="Prefix for rows whose image_url is only a file name.")
    connections: int = Field(default=64, description="Connections at once.")
    timeout_s: float = Field(default=30, description="Seconds for one whole attempt.")
    connect_timeout_s: float = Field(default=10, description="Seconds to connect.")
    attempts: int = Field(default=4, description="Tries on 429, 5xx, timeouts and lost connections.")
    max_bytes: int = Field(default=32 * 2**20, description="Largest file that is taken.")
    memory_bytes: int = Field(default=256 * 2**20, description="Bytes of files in memory at once, and one file more.")
    max_redirects: int = Field(default=5, description="Redirects followed.")
    allow_networks: list[str] = Field(default_factory=list, description="Private networks that may be fetched from.")

    def policy(self) -> FetchPolicy:
        """The limits as the client takes them."""
        return FetchPolicy(
            connections=self.connections,
            timeout_s=self.timeout_s,
            connect_timeout_s=self.connect_timeout_s,
            attempts=self.attempts,
            max_bytes=self.max_bytes,
            memory_bytes=self.memory_bytes,
            max_redirects=self.max_redirects,
            allow_networks=tuple(self.allow_networks),
        )
