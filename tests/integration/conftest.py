"""Real servers for the tests: MariaDB on a temporary data directory, moto's S3 server, a CDN; and whole installations.

All listen on 127.x addresses only.
"""

import asyncio
import datetime as dt
import email
import email.policy
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import uuid
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import boto3
import cv2
import dagster as dg
import pymysql
import pytest
import sqlalchemy as sa
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import Base
from imgpipe_dagster.demo.render import render_scene
from imgpipe_dagster.instance import PROJECT_DIR

PASSWORD = "imgpipe-test"
MARIADB_PROGRAMS = ("mariadbd", "mariadb-install-db")
START_LIMIT_S = 120


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class ServerProcess:
    """A server in its own process group, with its output in a file."""

    environment: dict[str, str] | None = None  # that of this process

    def __init__(self, command: list[str], log: Path):
        self.command = command
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.guard: subprocess.Popen[bytes] | None = None

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        # Its input ends when this process does, however that comes about: a killed session takes its servers along.
        self.guard = subprocess.Popen(
            ["sh", "-c", f"read line; kill -s KILL -- -{self.process.pid}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_LIMIT_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.command[0]} did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As if the machine had lost power."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an administrator would."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None or self.guard is None:
            return
        for sent in (number, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, sent)
                try:
                    self.process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    continue
        with self.guard:  # only now: a guard that went first would leave the server alone
            self.guard.kill()
        self.process = self.guard = None


class MariaDB(ServerProcess):
    """A MariaDB server; ``stop``, ``kill`` and ``start`` keep its data and its port."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.data = folder / "data"
        self.user_option = ["--user=root"] if os.geteuid() == 0 else []
        super().__init__(
            [
                shutil.which("mariadbd") or "mariadbd",
                "--no-defaults",
                *self.user_option,
                f"--datadir={self.data}",
                f"--socket={folder}/mysqld.sock",
                f"--pid-file={folder}/mysqld.pid",
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--character-set-server=utf8mb4",
                "--innodb-buffer-pool-size=64M",
                "--innodb-log-file-size=32M",
                "--key-buffer-size=1M",
                "--aria-pagecache-buffer-size=1M",
            ],
            folder / "mariadbd.log",
        )

    def create(self) -> None:
        made = subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                *self.user_option,
                f"--datadir={self.data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        self.start()
        self.execute(
            f"CREATE USER 'imgpipe'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'",
            "GRANT ALL ON *.* TO 'imgpipe'@'127.0.0.1'",
        )

    def execute(self, *statements: str) -> None:
        """Run statements as the administrator."""
        with pymysql.connect(host="127.0.0.1", port=self.port, user="root", autocommit=True) as connection:
            for statement in statements:
                connection.cursor().execute(statement)

    def answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except pymysql.err.OperationalError:
            return False
        return True

    def url(self, database: str) -> str:
        return f"mysql+pymysql://imgpipe:{PASSWORD}@127.0.0.1:{self.port}/{database}"


class S3Server(ServerProcess):
    """Moto's S3 over HTTP."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.endpoint_url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)], folder / "moto.log"
        )

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/moto-api/", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )


@pytest.fixture(scope="session")
def server_folder():
    # Not under pytest's own folder: a socket's path may have 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="imgpipe-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mariadb_server(server_folder):
    """The running server. Tests use `mariadb` or `mariadb_url`."""
    missing = [name for name in MARIADB_PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"MariaDB is not installed ({', '.join(missing)}): apt-get install mariadb-server")
    server = MariaDB(server_folder)
    try:
        server.create()
        yield server
    finally:
        server.kill()


@pytest.fixture
def mariadb(mariadb_server):
    """The server, for tests that stop it: it runs when the test begins, and again afterwards."""
    yield mariadb_server
    if not mariadb_server.answers():
        mariadb_server.kill()
        mariadb_server.start()


@pytest.fixture
def mariadb_url(mariadb):
    """URL of a fresh database, dropped afterwards."""
    name = f"imgpipe_{uuid.uuid4().hex[:12]}"
    mariadb.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield mariadb.url(name)
    if not mariadb.answers():
        mariadb.kill()
        mariadb.start()
    mariadb.execute(f"DROP DATABASE {name}")


@pytest.fixture(params=["sqlite", "mariadb"])
def database_url(request, tmp_path):
    """URL of an empty database, on each kind in turn."""
    if request.param == "mariadb":
        return request.getfixturevalue("mariadb_url")
    return f"sqlite:///{tmp_path}/catalogue.db"


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def shared_engine(request, tmp_path_factory):
    """A catalogue on each kind in turn, made once a module: a test that uses it empties the tables that it fills."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('shared')}/catalogue.db"
    else:
        server = request.getfixturevalue("mariadb_server")
        name = f"imgpipe_{uuid.uuid4().hex[:12]}"
        server.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        url = server.url(name)
    engine = connect(make_url(url))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


def empty(engine) -> None:
    """Remove every row."""
    with engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            connection.execute(sa.delete(table))


@pytest.fixture
def empty_engine(shared_engine):
    """The shared catalogue, without a row."""
    empty(shared_engine)
    return shared_engine


@pytest.fixture(scope="session")
def s3_server(server_folder):
    server = S3Server(server_folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def s3_client(s3_server):
    return s3_server.client()


@pytest.fixture
def s3_bucket(s3_client):
    """Name of a fresh bucket."""
    name = f"imgpipe-{uuid.uuid4().hex[:12]}"
    s3_client.create_bucket(Bucket=name)
    return name


CDN_HOST = "127.0.0.9"  # an address of its own, so that a test can allow it and nothing else


class Cdn(ThreadingHTTPServer):
    """Serves bytes by name. It counts what it is asked for, and can be held: requests then wait for `release`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__((CDN_HOST, 0), CdnHandler)
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.unavailable: dict[str, int] = {}  # how many times a name is still answered with 503
        self.delay_s = 0.0  # before every answer
        self._asked = 0
        self._served_at_most = float("inf")
        self._changed = threading.Condition()

    def hold_after(self, answers: int) -> None:
        """Answer so many requests more, and hold the next ones."""
        with self._changed:
            self._served_at_most = self._asked + answers

    def release(self) -> None:
        """Answer every request, also those that are held."""
        with self._changed:
            self._served_at_most = float("inf")
            self._changed.notify_all()

    def wait_until_asked(self, times: int, limit_s: float = 90) -> None:
        """Wait for the request of that number, counted from the first one of all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._asked >= times, limit_s), f"{self._asked} requests only"

    def url(self, name: str) -> str:
        return f"http://{CDN_HOST}:{self.server_port}/{name}"

    def answer(self, name: str) -> tuple[int, dict[str, str], bytes]:
        with self._changed:
            self._asked += 1
            number = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: number <= self._served_at_most)
            if self.unavailable.get(name):
                self.unavailable[name] -= 1
                return 503, {}, b""
        time.sleep(self.delay_s)
        if name in self.redirects:
            return 302, {"Location": self.redirects[name]}, b""
        return (200, {}, self.files[name]) if name in self.files else (404, {}, b"")

    def handle_error(self, request, client_address):
        """A client that was killed in the middle of an answer is what the tests want."""


class CdnHandler(BaseHTTPRequestHandler):
    server: Cdn  # pyright: ignore[reportIncompatibleVariableOverride] - always this one

    def do_GET(self):
        status, headers, body = self.server.answer(self.path.lstrip("/").partition("?")[0])
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments):
        """Silence."""


ONE_ROW_AN_IMAGE = [
    "raw_images",
    "validated_images",
    "detected_images",
    "image_predictions",
    "metadata_reports",
    "published_predictions",
]


class Installation:
    """An installation of its own: the command line in real processes, and its catalogue read from outside."""

    def __init__(self, folder: Path, database_url: str, models: Path):
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        (self.home / "models").symlink_to(models)
        self._started: list[subprocess.Popen[str]] = []
        self.engine = connect(make_url(database_url))
        schema.upgrade(self.engine)
        foreign = ("IMGPIPE_", "MYSQL_", "DAGSTER_", "AWS_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            "IMGPIPE_HOME": str(self.home),
            "IMGPIPE_DATABASE_URL": database_url,
            "IMGPIPE_FETCH_ALLOW_NETWORKS": json.dumps([f"{CDN_HOST}/32"]),
            "IMGPIPE_FETCH_TIMEOUT_S": "300",  # a CDN that is held is asked once
        }

    def start(self, *arguments: str, program: str = "imgpipe", **settings: str) -> subprocess.Popen[str]:
        """Start a command; it gets Ctrl-C also where a shell has told this process to ignore it."""
        process = subprocess.Popen(
            ["env", "--default-signal=INT", str(Path(sys.executable).with_name(program)), *arguments],
            env=self.environment | settings,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        """Wait for a command's end."""
        out, err = process.communicate(timeout=150)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def close(self) -> None:
        """End what a failed test has left running."""
        for process in self._started:
            with process:
                process.kill()
        self.engine.dispose()

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return self.finish(self.start(*arguments, **settings))

    def add(self, *urls: str | None) -> None:
        """Bring in rows as a foreign program would."""
        with self.engine.begin() as connection:
            for url in urls:
                connection.execute(sa.text("INSERT INTO product_images (image_url) VALUES (:url)"), {"url": url})

    def query(self, sql: str) -> list[tuple]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(sql))]

    def assert_all_answered_once(self, count: int) -> None:
        """Every image is completed, and no table has a row too few or too many, whichever run wrote it."""
        ids = [(number,) for number in range(1, count + 1)]
        assert self.query("SELECT status, COUNT(*) FROM product_images GROUP BY status") == [("completed", count)]
        for table in ONE_ROW_AN_IMAGE:
            assert self.query(f"SELECT image_id FROM {table} ORDER BY image_id") == ids, table
        boxes = self.query("SELECT image_id, COUNT(*) FROM detections GROUP BY image_id ORDER BY image_id")
        counted = self.query("SELECT image_id, object_count FROM detected_images ORDER BY image_id")
        assert boxes == counted
        assert min(found for _, found in counted) > 0
        places = self.query("SELECT image_id, class_id, x1, y1, x2, y2 FROM detections")
        assert len(set(places)) == len(places)


class Webserver(ServerProcess):
    """Dagster's web server over an installation."""

    def __init__(self, installation: Installation):
        self.port = free_port()
        self.environment = installation.environment | {"DAGSTER_HOME": str(installation.home / "dagster")}
        program = Path(sys.executable).with_name("dagster-webserver")
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-w", str(PROJECT_DIR / "workspace.yaml")]
        super().__init__([str(program), *options], installation.home / "webserver.log")

    def answers(self) -> bool:
        try:
            return "version" in self.ask("{ version }")
        except OSError:
            return False

    def ask(self, query: str, **variables: str) -> str:
        """The answer to a GraphQL query, as text."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()


class CodeServer(ServerProcess):
    """A code server of its own, which whoever looks after it starts again on the same port."""

    def __init__(self, installation: Installation):
        self.port = free_port()
        self.environment = installation.environment
        program = Path(sys.executable).with_name("dagster")
        module = ["-m", "imgpipe_dagster.definitions", "-d", str(PROJECT_DIR)]
        super().__init__(
            [str(program), "api", "grpc", *module, "-h", "127.0.0.1", "-p", str(self.port)],
            installation.home / "code_server.log",
        )
        self.workspace = installation.home / "workspace.yaml"
        place = {"host": "127.0.0.1", "port": self.port, "location_name": "imgpipe_dagster.definitions"}
        self.workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": place}]}))

    def answers(self) -> bool:
        """Whether it listens, which it does once the definitions are loaded."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True


class Daemon(ServerProcess):
    """Dagster's daemon over an installation, with the code server that it starts unless a workspace names one."""

    def __init__(self, installation: Installation, workspace: Path = PROJECT_DIR / "workspace.yaml"):
        self.home = Path(installation.environment.get("DAGSTER_HOME", installation.home / "dagster"))
        self.environment = installation.environment | {"DAGSTER_HOME": str(self.home)}
        program = Path(sys.executable).with_name("dagster-daemon")
        super().__init__([str(program), "run", "-w", str(workspace)], installation.home / "daemon.log")

    def start(self) -> None:
        # Whoever opens Dagster's storage first lays its tables: done by two at once, it has two versions and is broken.
        self.answers()
        super().start()

    def answers(self) -> bool:
        """Whether all its parts have beaten."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return set(instance.get_required_daemon_types()) <= set(instance.get_daemon_heartbeats())


@contextmanager
def starting(part):
    """Starts parts of this kind while the block runs, each made of the arguments that it is given; kills them after."""
    with ExitStack() as stack:

        def start(*arguments):
            made = part(*arguments)
            stack.callback(made.kill)
            made.start()
            return made

        yield start


@pytest.fixture
def start_daemon():
    """Starts Dagster's daemon over an installation: `start_daemon(installation)`."""
    with starting(Daemon) as start:
        yield start


@pytest.fixture
def start_code_server():
    """Starts a code server over an installation."""
    with starting(CodeServer) as start:
        yield start


@pytest.fixture
def cdn():
    with Cdn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.release()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def scenes() -> list[bytes]:
    """Small JPEGs of shelves in which the demo weights find something, each different."""
    return [cv2.imencode(".jpg", render_scene(seed, 640, 480).image)[1].tobytes() for seed in range(4)]


@pytest.fixture
def install(tmp_path, exported_models):
    """Makes installations: `install(database_url)`, more than one with a name each."""
    made: list[Installation] = []

    def make(database_url: str, name: str = "installation") -> Installation:
        made.append(Installation(tmp_path / name, database_url, exported_models))
        return made[-1]

    yield make
    for installation in made:
        installation.close()


@pytest.fixture
def start_webserver():
    """Starts Dagster's web server over an installation: `start_webserver(installation).ask("{ version }")`."""
    with starting(Webserver) as start:
        yield start


class Redis(ServerProcess):
    """A Redis server in memory."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__([shutil.which("redis-server") or "redis-server", *options], folder / "redis.log")

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False


@pytest.fixture(scope="session")
def redis_server(server_folder):
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    server = Redis(server_folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def redis_url(redis_server):
    """URL of an empty Redis."""
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=5) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(5) == b"+OK\r\n"
    return redis_server.url


def write_certificate(folder: Path, name: str, key_password: str | None = None) -> tuple[Path, Path]:
    """A certificate that signs itself, for this machine, and its private key, in files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(places), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encryption = (
        serialization.BestAvailableEncryption(key_password.encode()) if key_password else serialization.NoEncryption()
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return files


@pytest.fixture(scope="session")
def make_certificate():
    """Makes a certificate and its key: `make_certificate(folder, "broker")`."""
    return write_certificate


class MailServer:
    """An SMTP server on loopback with STARTTLS and login. It keeps what it takes, and can be away or refuse."""

    user, password = "pipeline@example.com", "mail-p@ss word"

    def __init__(self, folder: Path):
        self.port = free_port()
        self.ca_file, self.key_file = write_certificate(folder, "mail")
        self.mails: list[SimpleNamespace] = []  # sender, recipients, message
        self.refusals: dict[str, str] = {}  # address -> the answer that it gets
        self.slow_s = 0.0
        self.logins: list[str] = []
        self._controller: Controller | None = None

    @property
    def url(self) -> str:
        password = urllib.parse.quote(self.password, safe="")
        user = urllib.parse.quote(self.user, safe="")
        return f"smtp://{user}:{password}@localhost:{self.port}?ca={self.ca_file}"

    def start(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, self.key_file)
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            tls_context=context,
            require_starttls=True,
            auth_required=True,
            authenticator=self._authenticate,
        )
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def subjects(self) -> list[str]:
        return [str(mail.message["Subject"]) for mail in self.mails]

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        await asyncio.sleep(self.slow_s)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append(
            SimpleNamespace(sender=envelope.mail_from, recipients=list(envelope.rcpt_tos), message=message)
        )
        return "250 taken"

    def _authenticate(self, server, session, envelope, mechanism, data):
        login = data.login.decode()
        self.logins.append(login)
        return AuthResult(success=(login, data.password.decode()) == (self.user, self.password), handled=False)


@pytest.fixture
def mail_server(tmp_path):
    server = MailServer(tmp_path)
    server.start()
    yield server
    server.stop()
