"""The limits and manners of fetching, as one validated value."""

from dataclasses import dataclass
from ipaddress import ip_network

from imgpipe_dagster import __version__


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How to fetch.

    Attributes:
        connections: Files fetched at once, each over its own connection.
        timeout_s: Seconds for one whole attempt, redirects and body included.
        connect_timeout_s: Seconds for name resolution, connecting and the TLS handshake.
        attempts: Tries of one URL.
        max_bytes: Largest file that is taken, after any decompression.
        memory_bytes: Bytes of files held in memory at once, on their way or waiting to be taken; one file more gets
            through in any case.
        max_redirects: Redirects followed in one attempt.
        allow_networks: Networks in CIDR notation that may be fetched from although they are not public.
        backoff_s: The wait before retry n is random between 0 and this times 2^(n-1) seconds.
        max_retry_after_s: Longest wait before a retry, whatever the server asks for.
        user_agent: The User-Agent header.

    Raises:
        ValueError: A value is out of its range, or a network is not in CIDR notation.
    """

    connections: int = 64
    timeout_s: float = 30
    connect_timeout_s: float = 10
    attempts: int = 4
    max_bytes: int = 32 * 2**20
    memory_bytes: int = 256 * 2**20
    max_redirects: int = 5
    allow_networks: tuple[str, ...] = ()
    backoff_s: float = 0.5
    max_retry_after_s: float = 30
    user_agent: str = f"imgpipe-dagster/{__version__}"

    def __post_init__(self) -> None:
        for name in ("connections", "timeout_s", "connect_timeout_s", "attempts", "max_bytes", "memory_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        for name in ("max_redirects", "backoff_s", "max_retry_after_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)!r}")
        if not self.user_agent.isprintable():
            raise ValueError("user_agent must be one printable line")
        for network in self.allow_networks:
            ip_network(network)
