"""The fetcher against real servers on loopback, well-behaved and otherwise."""

import asyncio
import gc
import gzip
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from imgpipe_dagster.fetch.answers import FetchRequest
from imgpipe_dagster.fetch.client import fetch_all
from imgpipe_dagster.fetch.policy import FetchPolicy
from imgpipe_dagster.reasons import Reason

POLICY = FetchPolicy(
    connections=8,
    timeout_s=10,
    connect_timeout_s=5,
    attempts=4,
    max_bytes=1_000_000,
    allow_networks=("127.0.0.0/8",),
    backoff_s=0.01,
    max_retry_after_s=1,
)


class Server:
    """A server of raw bytes. A route is bytes, a list of bytes (one per request, the last one repeats) or a coroutine
    function that takes the reader and the writer."""

    def __init__(self):
        self.routes = {}
        self.requests = []
        self.times = []
        self.open = self.most_open = 0
        self._loop = asyncio.new_event_loop()
        self._port = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.port = self._port.result(10)
        self.url = f"http://127.0.0.1:{self.port}"

    def _run(self):
        async def main():
            self._stopped = asyncio.Event()
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
            self._port.set_result(server.sockets[0].getsockname()[1])
            await self._stopped.wait()
            server.close()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(main())

    def stop(self):
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    async def _serve(self, reader, writer):
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                self.requests.append(head)
                self.times.append(time.monotonic())
                route = self.routes.get(path, answer(404))
                if isinstance(route, list):
                    route = route.pop(0) if len(route) > 1 else route[0]
                if callable(route):
                    await route(reader, writer)
                    return
                writer.write(route)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    def wait_until_closed(self):
        deadline = time.monotonic() + 5
        while self.open and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.open == 0


def answer(status, body=b"", **headers):
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


def fetch_one(url, policy=POLICY, **options):
    [result] = fetch_all([FetchRequest(7, url)], policy, **options)
    assert result.key == 7
    assert result.url is url
    assert (result.data is None) == (result.reason is not None)
    assert bool(result.detail) == (result.reason is not None)
    return result


# Answers


def test_a_file_comes_whole_and_the_result_says_how(server):
    server.routes["/a.jpg"] = answer(200, b"picture")
    result = fetch_one(server.url + "/a.jpg")
    assert result.data == b"picture"
    assert (result.final_url, result.status, result.attempts) == (server.url + "/a.jpg", 200, 1)
    assert 0 < result.elapsed_s < 2


def test_a_file_sent_in_chunks_comes_whole(server):
    server.routes["/a"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert fetch_one(server.url + "/a").data == b"abcde"


def test_an_empty_file_is_a_file(server):
    server.routes["/a"] = answer(200)
    assert fetch_one(server.url + "/a").data == b""


def test_a_bare_name_is_completed_with_the_base_url(server):
    server.routes["/i/a%20%F0%9F%8D%BE%2050%25%231.jpg"] = answer(200, b"x")
    assert fetch_one("a 🍾 50%#1.jpg", base_url=server.url + "/i").data == b"x"


def test_a_request_says_who_asks_and_wants_no_compression(server):
    server.routes["/a"] = answer(200, b"x")
    fetch_one(server.url + "/a", replace(POLICY, user_agent="tester/1"))
    head = server.requests[0].decode().lower()
    assert "user-agent: tester/1\r\n" in head
    assert "accept-encoding: identity\r\n" in head


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, Reason.HTTP_NOT_FOUND),
        (410, Reason.HTTP_NOT_FOUND),
        (401, Reason.HTTP_FORBIDDEN),
        (403, Reason.HTTP_FORBIDDEN),
        (418, Reason.HTTP_CLIENT_ERROR),
    ],
)
def test_a_refusal_is_final(server, status, reason):
    server.routes["/a"] = answer(status, b"sorry")
    result = fetch_one(server.url + "/a")
    assert (result.reason, result.status, result.attempts) == (reason, status, 1)
    assert result.detail == f"127.0.0.1 answered {status}"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, Reason.URL_MISSING),
        ("  ", Reason.URL_MISSING),
        (float("nan"), Reason.URL_MISSING),
        ("photo.jpg", Reason.URL_INVALID),
        ("http://", Reason.URL_INVALID),
        ("http://[::1", Reason.URL_INVALID),
        ("http://h.example:port/", Reason.URL_INVALID),
        ("file:///etc/passwd", Reason.URL_SCHEME),
        ("ftp://127.0.0.1/a", Reason.URL_SCHEME),
        ("data:image/png;base64,AAAA", Reason.URL_SCHEME),
        ("s3://bucket/key", Reason.URL_SCHEME),
    ],
)
def test_what_is_not_a_url_to_fetch_is_refused_without_an_attempt(url, reason):
    result = fetch_one(url)
    assert (result.reason, result.status, result.attempts, result.final_url) == (reason, None, 0, None)


# Retries


def test_three_times_503_and_then_200_is_a_file(server):
    server.routes["/a"] = [answer(503), answer(503), answer(503), answer(200, b"x")]
    result = fetch_one(server.url + "/a")
    assert (result.data, result.status, result.attempts) == (b"x", 200, 4)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (500, Reason.HTTP_SERVER_ERROR),
        (503, Reason.HTTP_SERVER_ERROR),
        (304, Reason.HTTP_SERVER_ERROR),
        (429, Reason.HTTP_RATE_LIMITED),
        (408, Reason.TIMEOUT),
    ],
)
def test_a_server_that_never_recovers_is_asked_as_often_as_the_policy_says(server, status, reason):
    server.routes["/a"] = answer(status)
    result = fetch_one(server.url + "/a")
    assert (result.reason, result.status, result.attempts, len(server.requests)) == (reason, status, 4, 4)


def test_the_wait_that_a_server_asks_for_is_kept(server):
    server.routes["/a"] = [answer(429, Retry_After="1"), answer(200, b"x")]
    assert fetch_one(server.url + "/a", replace(POLICY, max_retry_after_s=5)).data == b"x"
    assert 1 <= server.times[1] - server.times[0] < 4


def test_a_date_to_wait_for_is_kept(server):
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=2.5), usegmt=True)
    server.routes["/a"] = [answer(503, Retry_After=until), answer(200, b"x")]
    assert fetch_one(server.url + "/a", replace(POLICY, max_retry_after_s=5)).data == b"x"
    assert server.times[1] - server.times[0] > 1


def test_a_wait_longer_than_the_limit_is_cut(server):
    server.routes["/a"] = [answer(429, Retry_After="3600"), answer(200, b"x")]
    assert fetch_one(server.url + "/a", replace(POLICY, max_retry_after_s=0.3)).data == b"x"
    assert 0.3 <= server.times[1] - server.times[0] < 60


def test_waits_without_advice_grow_at_random_up_to_a_doubling_limit(server, monkeypatch):
    limits = []
    monkeypatch.setattr("random.uniform", lambda low, high: limits.append((low, high)) or 0)
    server.routes["/a"] = answer(503)
    fetch_one(server.url + "/a", replace(POLICY, backoff_s=0.5))
    assert limits == [(0, 0.5), (0, 1.0), (0, 2.0)]


def test_a_body_shorter_than_announced_is_a_lost_connection(server):
    async def cut(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")

    server.routes["/a"] = cut
    result = fetch_one(server.url + "/a")
    assert (result.reason, result.status, result.attempts) == (Reason.CONNECTION_LOST, 200, 4)


def test_a_connection_closed_without_an_answer_is_lost(server):
    async def hang_up(reader, writer):
        return

    server.routes["/a"] = hang_up
    assert fetch_one(server.url + "/a").reason == Reason.CONNECTION_LOST


def test_an_answer_that_is_not_http_is_the_servers_error(server):
    async def babble(reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    server.routes["/a"] = babble
    result = fetch_one(server.url + "/a")
    assert (result.reason, result.attempts) == (Reason.HTTP_SERVER_ERROR, 4)


def test_a_port_where_nobody_listens_cannot_be_connected_to():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = fetch_one(f"http://127.0.0.1:{port}/a")
    assert (result.reason, result.status, result.attempts) == (Reason.CONNECT_FAILED, None, 4)
    assert result.detail.endswith(": Connection refused"), "the system's words, not a library's"


# Limits


def test_a_body_of_one_byte_a_second_is_a_timeout(server):
    async def drip(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.1)

    server.routes["/a"] = drip
    result = fetch_one(server.url + "/a", replace(POLICY, timeout_s=0.5, attempts=2))
    assert (result.reason, result.status, result.attempts) == (Reason.TIMEOUT, 200, 2)
    assert 1 <= result.elapsed_s < 8
    assert server.wait_until_closed()


def test_an_endless_body_is_cut_at_the_limit(server):
    sent = []

    async def flood(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent.append(65536)

    server.routes["/a"] = flood
    result = fetch_one(server.url + "/a")
    assert (result.reason, result.attempts) == (Reason.TOO_MANY_BYTES, 1)
    assert server.wait_until_closed()
    assert sum(sent) < 20 * POLICY.max_bytes


def test_an_announced_length_over_the_limit_is_not_read(server):
    async def announce(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n")
        await reader.read()

    server.routes["/a"] = announce
    started = time.monotonic()
    assert fetch_one(server.url + "/a").reason == Reason.TOO_MANY_BYTES
    assert time.monotonic() - started < POLICY.timeout_s


def test_a_file_of_exactly_the_limit_is_taken(server):
    server.routes["/a"] = answer(200, bytes(POLICY.max_bytes))
    assert len(fetch_one(server.url + "/a").data) == POLICY.max_bytes


def test_a_compressed_file_is_measured_by_what_it_unpacks_to(server):
    packed = zlib.compress(bytes(200_000_000), level=9)
    assert len(packed) < POLICY.max_bytes
    server.routes["/bomb"] = answer(200, packed, Content_Encoding="deflate")
    server.routes["/small"] = answer(200, gzip.compress(b"picture"), Content_Encoding="gzip")
    tracemalloc.start()
    bomb = fetch_one(server.url + "/bomb")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bomb.reason == Reason.TOO_MANY_BYTES
    assert peak < 20 * POLICY.max_bytes
    assert fetch_one(server.url + "/small").data == b"picture"


# Redirects


def test_redirects_are_followed_up_to_the_limit(server):
    for hop in range(1, 7):
        server.routes[f"/{hop}"] = answer(302, Location=f"/{hop - 1}")
    server.routes["/0"] = answer(200, b"x")
    result = fetch_one(server.url + "/5")
    assert (result.data, result.final_url, result.attempts) == (b"x", server.url + "/0", 1)
    assert fetch_one(server.url + "/6").reason == Reason.TOO_MANY_REDIRECTS


def test_a_redirect_loop_ends(server):
    server.routes["/a"] = answer(307, Location="b")
    server.routes["/b"] = answer(308, Location=server.url + "/a")
    result = fetch_one(server.url + "/a")
    assert (result.reason, result.attempts, len(server.requests)) == (Reason.TOO_MANY_REDIRECTS, 1, 6)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", Reason.ADDRESS_NOT_ALLOWED),
        ("//10.0.0.1/", Reason.ADDRESS_NOT_ALLOWED),
        ("http://[::ffff:10.0.0.1]/", Reason.ADDRESS_NOT_ALLOWED),
        ("http://0xa9fea9fe/", Reason.ADDRESS_NOT_ALLOWED),
        ("file:///etc/passwd", Reason.URL_SCHEME),
        ("s3://bucket/secret", Reason.URL_SCHEME),
        ("http://[::1", Reason.URL_INVALID),
    ],
)
def test_a_redirect_to_a_forbidden_place_is_refused(server, location, reason):
    server.routes["/a"] = answer(302, Location=location)
    result = fetch_one(server.url + "/a", openers={"s3": lambda url, _: b"secret"})
    assert (result.reason, result.attempts) == (reason, 1)


# Addresses


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f.1", "0177.1", "127.1", "①②⑦.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"],
)
def test_this_machine_is_not_reached_in_any_notation(server, host):
    result = fetch_one(f"http://{host}:{server.port}/", replace(POLICY, allow_networks=()))
    assert (result.reason, result.attempts) == (Reason.ADDRESS_NOT_ALLOWED, 1)
    assert server.requests == []


def test_an_allowed_network_is_reached_in_an_odd_notation_too(server):
    server.routes["/a"] = answer(200, b"x")
    assert fetch_one(f"http://2130706433:{server.port}/a").data == b"x"


def resolve_names(monkeypatch, names):
    """Names resolve to the given lists of addresses, one list per lookup; returns the lookups made."""
    lookups = []

    def getaddrinfo(host, port, family=0, kind=0, *rest, **options):
        lookups.append(host)
        addresses = names[host]
        if isinstance(addresses, Exception):
            raise addresses
        found = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind, 6, "", (ip, port)) for ip in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return lookups


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
def test_a_name_of_a_private_address_is_refused(monkeypatch, address):
    resolve_names(monkeypatch, {"inside.example": [[address]]})
    result = fetch_one("http://inside.example/")
    assert (result.reason, result.attempts) == (Reason.ADDRESS_NOT_ALLOWED, 1)
    assert result.detail == f"inside.example is {address}: not a public address"


def test_a_name_with_a_forbidden_and_an_allowed_address_uses_the_allowed_one(server, monkeypatch):
    resolve_names(monkeypatch, {"mixed.example": [["10.0.0.1", "127.0.0.1", "fd00::1"]]})
    server.routes["/a"] = answer(200, b"x")
    assert fetch_one(f"http://mixed.example:{server.port}/a").data == b"x"
    assert b"Host: mixed.example" in server.requests[0]


def test_a_name_that_changes_its_address_is_pinned_to_the_checked_one(server, monkeypatch):
    lookups = resolve_names(monkeypatch, {"rebind.example": [["127.0.0.1"], ["169.254.169.254"]]})

    async def close(reader, writer):
        writer.write(answer(200, b"x", Connection="close"))

    server.routes["/a"] = close
    requests = [FetchRequest(key, f"http://rebind.example:{server.port}/a") for key in range(5)]
    assert [result.data for result in fetch_all(requests, POLICY)] == [b"x"] * 5
    assert lookups == ["rebind.example"]


def test_a_name_that_changes_its_address_is_checked_again_when_it_is_looked_up_again(server, monkeypatch):
    resolve_names(monkeypatch, {"rebind.example": [["127.0.0.1"], ["169.254.169.254"]]})
    server.routes["/a"] = answer(200, b"x")
    assert fetch_one(f"http://rebind.example:{server.port}/a").data == b"x"
    assert fetch_one(f"http://rebind.example:{server.port}/a").reason == Reason.ADDRESS_NOT_ALLOWED


def test_a_name_that_does_not_exist_is_looked_up_once_and_a_silent_name_server_again(monkeypatch):
    lookups = resolve_names(
        monkeypatch,
        {
            "none.example": socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "silent.example": socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        },
    )
    assert fetch_one("http://none.example/").reason == Reason.NAME_NOT_RESOLVED
    assert fetch_one("http://silent.example/").reason == Reason.NAME_NOT_RESOLVED
    assert Counter(lookups) == {"none.example": 1, "silent.example": 4}


def test_a_name_server_that_hangs_is_a_timeout_and_does_not_hold_up_the_end(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(20) and [])
    started = time.monotonic()
    result = fetch_one("http://slow.example/", replace(POLICY, connect_timeout_s=0.3, attempts=1))
    elapsed = time.monotonic() - started
    released.set()
    assert (result.reason, result.detail) == (Reason.TIMEOUT, "no connection within the time limit")
    assert elapsed < 5


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    assert fetch_one("http://10.0.0.1/").reason == Reason.ADDRESS_NOT_ALLOWED
    assert server.requests == []


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for right.example, as files (certificate, key)."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "right.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("right.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(key_bytes)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def tls_port(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as connection:
                        connection.recv(65536)
                        connection.sendall(answer(200, b"x", Connection="close"))
                except OSError:
                    continue

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_certificate_that_nobody_trusts_is_refused(tls_port):
    result = fetch_one(f"https://127.0.0.1:{tls_port}/")
    assert (result.reason, result.attempts) == (Reason.TLS_FAILED, 1)
    assert result.detail == "127.0.0.1: self-signed certificate"


def test_a_trusted_certificate_counts_for_its_own_name_only(tls_port, certificate):
    # The trust store is read when a process first uses it.
    script = f"""
import socket
from imgpipe_dagster.fetch.answers import FetchRequest
from imgpipe_dagster.fetch.client import fetch_all
from imgpipe_dagster.fetch.policy import FetchPolicy
socket.getaddrinfo = lambda host, port, *rest: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
policy = FetchPolicy(allow_networks=("127.0.0.0/8",))
for host in ("right.example", "wrong.example"):
    [result] = fetch_all([FetchRequest(1, f"https://{{host}}:{tls_port}/")], policy)
    print(result.data, result.reason)
"""
    environment = os.environ | {"SSL_CERT_FILE": str(certificate[0])}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["b'x' None", "None tls_failed"]


# Secrets


def test_credentials_in_a_url_are_sent_and_never_shown(server, caplog):
    caplog.set_level("DEBUG")

    async def cut(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")

    server.routes["/ok"] = answer(200, b"x")
    server.routes["/cut"] = cut
    server.routes["/loop"] = answer(302, Location="/loop")
    server.routes["/bad"] = answer(302, Location="http://user:hunter2@10.0.0.1/")
    urls = [f"http://user:hunter2@127.0.0.1:{server.port}/{name}" for name in ("ok", "cut", "loop", "bad", "none")]
    urls += ["http://user:hunter2@[::1", "http://user:hunter2@h:x/", "http://user:hunter2@127.0.0.1:1/"]
    results = list(fetch_all([FetchRequest(key, url) for key, url in enumerate(urls)], POLICY))
    assert b"Authorization: Basic dXNlcjpodW50ZXIy\r\n" in server.requests[0]
    assert len(results) == len(urls)
    for result in results:
        assert "hunter2" not in result.detail + (result.final_url or "")
    assert "hunter2" not in caplog.text


# Openers


def test_an_opener_answers_for_its_scheme_with_the_url_as_given():
    seen = []
    result = fetch_one("s3://bucket/a b%20c.jpg", openers={"s3": lambda *asked: seen.append(asked) or b"x"})
    assert (result.data, result.attempts, seen) == (b"x", 1, [("s3://bucket/a b%20c.jpg", POLICY.max_bytes)])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("a.jpg"), Reason.HTTP_NOT_FOUND),
        (FileNotFoundError("a.jpg"), Reason.HTTP_NOT_FOUND),
        (RuntimeError("no credentials"), Reason.CONNECT_FAILED),
    ],
)
def test_an_opener_that_raises_is_a_reason(error, reason):
    def opener(*_):
        raise error

    result = fetch_one("s3://bucket/a.jpg", openers={"s3": opener})
    assert (result.reason, result.attempts) == (reason, 1)
    assert str(error) in result.detail


def test_credentials_in_an_openers_message_are_not_shown():
    def opener(*_):
        raise RuntimeError("no answer from https://user:hunter2@s3.example/")

    result = fetch_one("s3://bucket/a.jpg", openers={"s3": opener})
    assert result.detail == "RuntimeError: no answer from https://***@s3.example/"


def test_an_opener_is_held_to_the_limits_of_bytes_and_time():
    released = threading.Event()
    openers = {"big": lambda _, size: bytes(size + 1), "slow": lambda *_: released.wait(20) and b""}
    assert fetch_one("big:x", openers=openers).reason == Reason.TOO_MANY_BYTES
    started = time.monotonic()
    assert fetch_one("slow:x", replace(POLICY, timeout_s=0.3), openers=openers).reason == Reason.TIMEOUT
    assert time.monotonic() - started < 5
    released.set()


# Many


def test_500_requests_are_each_answered_once_over_a_bounded_number_of_connections(server):
    server.routes["/a"] = answer(200, b"x")
    server.routes["/b"] = [answer(503), answer(200, b"y")]
    urls = [None, "file:///x", server.url + "/a", server.url + "/none", server.url + "/b"]
    requests = [FetchRequest(key, urls[key % 5]) for key in range(500)]
    results = list(fetch_all(iter(requests), POLICY))
    assert sorted(result.key for result in results) == list(range(500))
    assert Counter(result.reason for result in results) == {
        None: 200,
        Reason.URL_MISSING: 100,
        Reason.URL_SCHEME: 100,
        Reason.HTTP_NOT_FOUND: 100,
    }
    assert server.most_open <= POLICY.connections


def test_no_requests_have_no_answers():
    assert list(fetch_all([], POLICY)) == []


def test_memory_stays_bounded_however_many_files_a_slow_reader_has_ordered(server):
    size = 200_000
    server.routes["/a"] = answer(200, bytes(size))
    taken = []

    def requests():
        for key in range(500):
            taken.append(key)
            yield FetchRequest(key, server.url + "/a")

    tracemalloc.start()
    results = fetch_all(requests(), POLICY)
    for count, result in enumerate(results, 1):
        if count == 1:
            time.sleep(1)
            assert len(taken) == 2 * POLICY.connections
        assert len(result.data) == size
        assert len(taken) <= count + 2 * POLICY.connections
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(taken) == 500
    assert peak < 10 * POLICY.connections * size


@pytest.fixture
def distant_server(tmp_path):
    """URL of a server in a process of its own, whose buffers are not ours; it serves the files of `tmp_path`."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().split()[5]}"
        process.kill()


def test_memory_stays_bounded_however_large_the_files_are(distant_server, tmp_path):
    size = POLICY.max_bytes
    (tmp_path / "a").write_bytes(bytes(size))
    urls = [distant_server + "/a", "own:x"]
    requests = (FetchRequest(key, urls[key % 2]) for key in range(60))
    policy = replace(POLICY, memory_bytes=3 * size, timeout_s=1)
    tracemalloc.start()
    answered = []
    for result in fetch_all(requests, policy, openers={"own": lambda _, at_most: bytes(at_most)}):
        if not answered:
            time.sleep(2)  # longer than a download may take: waiting for the reader does not count
        assert (len(result.data or b""), result.detail, result.attempts) == (size, "", 1)
        answered.append(result.key)
        del result
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sorted(answered) == list(range(60))
    assert (
        peak < 10 * size
    )  # the limit, one file beyond it, copies of two, the buffers of 8 connections; 16 are asked for


def test_files_larger_than_the_memory_for_files_come_one_by_one(server):
    server.routes["/a"] = answer(200, bytes(100_000))
    requests = [FetchRequest(key, server.url + "/a") for key in range(20)]
    results = list(fetch_all(requests, replace(POLICY, memory_bytes=1)))
    assert [len(result.data) for result in results] == [100_000] * 20


def test_a_slow_file_does_not_hold_up_the_others(server):
    async def late(reader, writer):
        await asyncio.sleep(0.5)
        writer.write(answer(200, b"late"))

    server.routes["/late"] = late
    server.routes["/a"] = answer(200, b"x")
    requests = [FetchRequest(0, server.url + "/late")] + [FetchRequest(key, server.url + "/a") for key in range(1, 50)]
    assert [result.key for result in fetch_all(requests, POLICY)][-1] == 0


# The end


def fetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "fetch"]


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_closing_early_stops_the_downloads_and_leaves_nothing_behind(server):
    async def never(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await reader.read()

    server.routes["/never"] = never
    server.routes["/a"] = answer(200, b"x")
    requests = [FetchRequest(key, server.url + ("/never" if key else "/a")) for key in range(100)]
    results = fetch_all(requests, replace(POLICY, timeout_s=60))
    assert next(results).key == 0
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 10
    assert fetch_threads() == []
    assert server.wait_until_closed()
    assert list(results) == []
    gc.collect()


def test_an_error_of_the_callers_iterable_reaches_the_caller(server):
    server.routes["/a"] = answer(200, b"x")

    def requests():
        yield FetchRequest(0, server.url + "/a")
        raise LookupError("the database went away")

    with pytest.raises(LookupError, match="went away"):
        list(fetch_all(requests(), POLICY))
    assert fetch_threads() == []


def test_a_fault_of_the_fetcher_itself_reaches_the_caller(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("imgpipe_dagster.fetch.client.guarded_connector", broken)
    with pytest.raises(ZeroDivisionError):
        fetch_one("http://127.0.0.1/")
    assert fetch_threads() == []


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, although a shell starts background jobs with the signal ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_an_interrupt_stops_a_wait_for_answers(server, interruptible):
    async def never(reader, writer):
        await reader.read()

    server.routes["/never"] = never
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch_one(server.url + "/never", replace(POLICY, timeout_s=30))
    assert time.monotonic() - started < 10
    assert fetch_threads() == []
