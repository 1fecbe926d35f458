"""Real servers for the tests: a MariaDB on a temporary data directory, and moto's S3 server. Both on 127.0.0.1 only."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import boto3
import pymysql
import pytest

PASSWORD = "imgpipe-test"
MARIADB_PROGRAMS = ("mariadbd", "mariadb-install-db")
START_LIMIT_S = 60


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class ServerProcess:
    """A server in its own process group, with its output in a file."""

    def __init__(self, command: list[str], log: Path):
        self.command = command
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.guard: subprocess.Popen[bytes] | None = None

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
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
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                *self.user_option,
                f"--datadir={self.data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
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
