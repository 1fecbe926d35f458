"""`imgpipe serve` as a process: what a connection may send, and how the process ends."""

import signal
import time

import pytest
from sqlalchemy.engine import make_url

from imgpipe_dagster.api import server
from imgpipe_dagster.catalogue.api_keys import create_key
from imgpipe_dagster.catalogue.engine import connect


@pytest.fixture
def served(serve):
    return serve()


def test_heads_without_end_are_cut_off(served):
    with served.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        sent = 0
        answer = b""
        try:
            while sent < 10 * server.HEAD_LIMIT_BYTES:
                sent += connection.send(b"x" * 8192)
            answer = connection.recv(100)
        except OSError:
            pass  # reset while sending is as good
        assert sent < 10 * server.HEAD_LIMIT_BYTES or answer.startswith(b"HTTP/1.1 431")
    with served.connect() as connection:  # a usual head, however its bytes come
        for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_sigterm_ends_an_idle_server_with_its_keep_alive_connections(served):
    with served.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=20) == 0
        assert time.monotonic() - started < 5
    assert "Traceback" not in served.log.read_text()


def test_without_a_key_only_this_machine_is_listened_to_and_it_says_so(serve, home):
    closed = serve(IMGPIPE_API_HOST="0.0.0.0")
    assert closed.url.startswith("http://127.0.0.1:")
    assert "imgpipe keys create" in closed.log.read_text()
    closed.close()
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    create_key(engine, "one", ["read"])
    engine.dispose()
    assert serve(IMGPIPE_API_HOST="0.0.0.0").url.startswith("http://0.0.0.0:")
