"""Running the API under uvicorn: limits on what a connection may send before a request begins, and a clean end."""

import asyncio
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imgpipe_dagster.api.middleware import LINGER_S
from imgpipe_dagster.settings import Settings

HEAD_LIMIT_BYTES = 64 * 1024
HEAD_LIMIT_S = 10.0
"""How long a request's head may be, and how long a connection may take to send it."""

_KEEP_ALIVE_S = 15
_TOO_MANY_CONNECTIONS = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which by itself takes heads without end, however slowly they come.

    It takes connections without end, too: when more requests come than can even be refused, those that wait for it
    would fill the memory, and all of them would be late.

    Attributes:
        connections_at_most: One more is closed at once, nearly unheard.
        count_refused: Told of each of those.
    """

    connections_at_most = 1000
    count_refused: Callable[[], None] = staticmethod(lambda: None)
    _head_bytes = 0
    _in_body = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a head soon, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.connections_at_most:
            self.count_refused()
            transport.write(_TOO_MANY_CONNECTIONS)
            transport.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._cancel_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes while a head is incomplete."""
        if not self._in_body:
            self._head_bytes += len(data)
            if self._timer is None:
                self._await_head()
        super().data_received(data)
        # A chunk that completes a head may bring a body along: only heads that are still incomplete count.
        if not self._in_body and self._head_bytes > HEAD_LIMIT_BYTES and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._in_body = True
        self._cancel_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is complete: what comes next is a head."""
        self._in_body = False
        self._head_bytes = 0
        self._cancel_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """What is left of a body that nobody asked for is to come soon."""
        super().on_response_complete()
        if self._in_body:
            self._cancel_timer()
            self._timer = self.loop.call_later(LINGER_S, self._give_up)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_LIMIT_S, self._give_up)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()


class ApiServer(uvicorn.Server):
    """uvicorn's server, which says through ``/readyz`` that it is about to end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end: no new connections, and requests under way are answered."""
        del frame
        app: Any = self.config.app
        services = getattr(app.state, "services", None)
        if services is not None:
            services.draining = True
        # Unlike uvicorn's own, it does not send the signal to itself again at the end: a clean end is status 0.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def build_server(app: FastAPI, settings: Settings, host: str, port: int) -> ApiServer:
    """The server for an app.

    Args:
        app: The API.
        settings: For proxies and draining.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
    """

    class Protocol(BoundedHttpProtocol):
        connections_at_most = settings.api_max_connections
        count_refused = staticmethod(app.state.metrics.count_refused_connection)

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        # uvloop takes one new connection a turn: in an overload, whoever was refused and comes anew waits for seconds.
        loop="asyncio",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # the app writes one line a request, with its id
        server_header=False,
        proxy_headers=bool(settings.api_trusted_proxies),
        forwarded_allow_ips=settings.api_trusted_proxies,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.api_drain_s)),
        backlog=2048,
    )
    return ApiServer(config)
