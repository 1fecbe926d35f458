"""`imgpipe serve` as a process: what a connection may send, and how the process ends."""

import contextlib
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy.engine import make_url

from imgpipe_dagster.api import server
from imgpipe_dagster.api.middleware import LINGER_S
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


JSON = "Content-Type: application/json"
ENDLESS = "Transfer-Encoding: chunked"
LONG = "Content-Length: 2000000"
SHORT = "Content-Length: 300000"
EARLY_ANSWERS = [
    ("GET /healthz", [LONG], 413),
    ("POST /nowhere", [ENDLESS], 404),
    ("POST /nowhere", [LONG], 404),
    ("POST /nowhere", [LONG, "Expect: 100-continue"], 404),
    ("POST /healthz", [ENDLESS], 405),
    ("POST /api/v1/import", [JSON, ENDLESS], 401),
    ("POST /api/v1/import", ["X-API-Key: {key}", "Content-Type: text/plain", ENDLESS], 415),
    ("POST /classify", ["X-API-Key: {key}", "Content-Type: multipart/form-data; boundary=b", ENDLESS], 400),
]


def test_an_answer_before_the_end_of_the_body_ends_the_connection_of_who_sends_on_and_of_who_is_silent(serve, home):
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    key = create_key(engine, "one", ["write", "read"])
    engine.dispose()
    served = serve()
    cases = [(*case, sends_on) for case in EARLY_ANSWERS for sends_on in (True, False) if sends_on or case[2] != 400]

    def is_closed(case):
        line, headers, _, sends_on = case
        with served.connect() as connection:
            head = "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *headers]).format(key=key)
            connection.sendall(f"{head}\r\n\r\n".encode())
            connection.settimeout(0.05)
            answer, ended = b"", time.monotonic() + 8
            while time.monotonic() < ended:
                try:
                    if sends_on:
                        connection.sendall(b"4\r\nabcd\r\n")
                    got = connection.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    got = b""  # reset while sending
                if not got:
                    return case, answer[:12].decode(), b"connection: close" in answer.lower()
                answer += got
        return case, "never closed"

    with ThreadPoolExecutor(len(cases)) as clients:
        assert list(clients.map(is_closed, cases)) == [(case, f"HTTP/1.1 {case[2]}", True) for case in cases]
    with served.connect() as connection:  # what has come whole costs no connection
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
        assert b"connection: close" not in connection.recv(4096).lower()


def refused_early(served, headers):
    """A connection whose request was refused before its body came."""
    connection = served.connect()
    connection.sendall("\r\n".join(["POST /nowhere HTTP/1.1", "Host: localhost", *headers, "\r\n"]).encode())
    answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 404")
    return connection, b"connection: close" in answer.lower()


def seconds_until_closed(connection):
    """How long the server takes bytes that trickle."""
    connection.settimeout(0.1)
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < 4 * LINGER_S:
        try:
            connection.sendall(b"x")
            if not connection.recv(100):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return seconds


def refused_and_sent_soon(served):
    """A connection whose short body came after the refusal: how soon depends on how busy the machine is."""
    for _ in range(10):
        began = time.monotonic()
        connection, closes = refused_early(served, [SHORT])
        assert not closes
        try:
            for _ in range(3):
                connection.sendall(bytes(100_000))
            if lives(connection) or time.monotonic() - began < LINGER_S:
                return connection
        except OSError:
            assert time.monotonic() - began >= LINGER_S
        connection.close()
    pytest.fail("The machine is too busy to send 300 KB in time.")


def test_who_is_refused_before_a_short_body_comes_keeps_the_connection_if_it_comes_soon(served):
    with refused_and_sent_soon(served) as connection:
        assert lives(connection)
        time.sleep(1.5 * LINGER_S)  # nothing is awaited any more
        assert lives(connection)
    connection, closes = refused_early(served, [SHORT])
    with connection:
        assert not closes
        assert seconds_until_closed(connection) < 2 * LINGER_S
    connection, closes = refused_early(served, [SHORT, "Expect: 100-continue"])
    connection.close()
    assert closes  # whether the body or another request comes next cannot be known


def test_sigterm_ends_an_idle_server_with_its_keep_alive_connections(served):
    with served.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=20) == 0
        assert time.monotonic() - started < 5
    assert "Traceback" not in served.log.read_text()


def test_sigterm_while_a_model_is_converted_does_not_wait_for_it(serve, home):
    served = serve(IMGPIPE_API_WARM="true")
    deadline = time.monotonic() + 60
    while not list(home.glob("models/**/*.partial")):
        assert time.monotonic() < deadline, served.log.read_text()
        time.sleep(0.02)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(timeout=60) == 0
    assert not list(home.glob("models/**/*.xml"))
    assert not re.search("Traceback|ERROR", served.log.read_text())


def test_what_is_not_ready_when_the_server_ends_is_told_so(serve):
    served = serve(IMGPIPE_API_DRAIN_S="1")
    with served.connect() as connection:
        head = "POST /api/v1/import HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: late\r\nContent-Length: 9\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n[".encode())
        time.sleep(0.5)
        served.process.send_signal(signal.SIGTERM)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"x-request-id: late\r\n" in answer.lower()
    assert b'"code":"unavailable"' in answer
    assert served.process.wait(timeout=20) == 0


def test_a_server_whose_models_cannot_be_loaded_lives_and_is_not_ready(serve):
    served = serve(IMGPIPE_API_WARM="true", IMGPIPE_BOTTLE_WEIGHTS="/nothing.onnx")
    deadline = time.monotonic() + 60
    while "cannot be loaded" not in (ready := httpx.get(f"{served.url}/readyz")).text:
        assert ready.status_code == 503
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (ready.status_code, ready.json()["code"]) == (503, "unavailable")
    assert httpx.get(f"{served.url}/healthz").status_code == 200


def test_without_a_key_only_this_machine_is_listened_to_and_it_says_so(serve, home):
    closed = serve(IMGPIPE_API_HOST="0.0.0.0")
    assert closed.url.startswith("http://127.0.0.1:")
    assert "imgpipe keys create" in closed.log.read_text()
    closed.close()
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    create_key(engine, "one", ["read"])
    engine.dispose()
    assert serve(IMGPIPE_API_HOST="0.0.0.0").url.startswith("http://0.0.0.0:")


def lives(connection):
    """Whether /healthz answers, up to the end of its body."""
    answer = b""
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while not answer.endswith(b"}") and (part := connection.recv(4096)):
        answer += part
    return answer.startswith(b"HTTP/1.1 200")


def test_a_connection_too_many_is_closed_at_once_and_room_comes_back(serve):
    served = serve(IMGPIPE_API_MAX_CONNECTIONS="5")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(served.connect()) for _ in range(5)]
        assert all(lives(connection) for connection in held)
        with served.connect() as one_more:
            assert one_more.recv(4096).startswith(b"HTTP/1.1 503")
            assert one_more.recv(4096) == b""
        assert lives(held[0])
        held[1].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b"\nimgpipe_refused_connections_total 1.0\n" in held[1].makefile("rb").read()
    deadline = time.monotonic() + 20
    room = False
    while not room:
        assert time.monotonic() < deadline
        # One that is closed while it sends may be reset.
        with contextlib.suppress(ConnectionError), served.connect() as connection:
            room = lives(connection)
