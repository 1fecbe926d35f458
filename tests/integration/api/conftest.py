"""The API in this process over an empty catalogue (`make_api`), and as `imgpipe serve` runs it (`serve`)."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.engine import make_url

from imgpipe_dagster.api.app import create_app
from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.settings import Settings

LOCAL = ("127.0.0.1", 50000)


@pytest.fixture(scope="session")
def empty_catalogue(tmp_path_factory) -> Path:
    """A SQLite catalogue with its schema, made once and copied for each test."""
    path = tmp_path_factory.mktemp("catalogue") / "catalogue.db"
    engine = connect(make_url(f"sqlite:///{path}"))
    schema.upgrade(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


@pytest.fixture
def home(tmp_path, empty_catalogue):
    """The home folder of an installation with an empty catalogue."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(empty_catalogue, folder / "catalogue.db")
    return folder


@pytest.fixture
def engine(home):
    """The catalogue of the installation."""
    engine = connect(make_url(f"sqlite:///{home}/catalogue.db"))
    yield engine
    engine.dispose()


@pytest.fixture
def make_api(home):
    """Makes clients of an app of their own: `make_api(api_deadline_s=1, client=("10.1.2.3", 1))`."""
    with contextlib.ExitStack() as stack:

        def make(*, client=LOCAL, base_url="http://localhost", prepare=None, **settings):
            app = create_app(Settings(home=home, _env_file=None, **settings))
            if prepare:
                prepare(app)
            return stack.enter_context(TestClient(app, client=client, base_url=base_url, raise_server_exceptions=False))

        yield make


class Served:
    """`imgpipe serve` in a process of its own, on a free port."""

    def __init__(self, home: Path, **environment: str):
        self.log = home / "serve.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("IMGPIPE_", "MYSQL_"))}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("imgpipe")), "serve", "--port", "0"],
                env={**clean, "IMGPIPE_HOME": str(home), "IMGPIPE_API_WARM": "false", **environment},
                cwd=home,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not (found := re.search(r"running on (http://\S+):(\d+)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.port = int(found[2])
        self.url = f"{found[1]}:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Weights of a classifier whose answers are known; made in a process of its own, so that this one stays light."""
    path = tmp_path_factory.mktemp("weights") / "colours.onnx"
    code = "import sys; sys.path.insert(0, sys.argv[1]); from colour_model import *; write_colour_model(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(path)], check=True, timeout=120)
    return path


@pytest.fixture(scope="session")
def start_server():
    """For fixtures that outlive a test: `server = start_server(home, IMGPIPE_API_WARM="true")`; close it at the end."""
    return Served


@pytest.fixture
def serve(home):
    """Starts `imgpipe serve`: `serve(IMGPIPE_API_DRAIN_S="5")`."""
    with contextlib.ExitStack() as stack:

        def start(**environment):
            served = Served(home, **environment)
            stack.callback(served.close)
            return served

        yield start
