"""A MariaDB server for a benchmark, on a temporary folder."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql


@contextmanager
def mariadb(name: str) -> Iterator[str]:
    """URL of an empty database of that name on a server that lives as long as the block."""
    with tempfile.TemporaryDirectory(prefix="mariadb-") as place, socket.socket() as probe:
        folder = Path(place)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        user = ["--user=root"] if os.geteuid() == 0 else []
        common = ["--no-defaults", *user, f"--datadir={folder}/data"]
        subprocess.run(
            ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-name-resolve"],
            check=True,
            capture_output=True,
        )
        server = shutil.which("mariadbd") or "mariadbd"
        options = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/s.sock", "--skip-name-resolve"]
        with (folder / "log").open("wb") as log, subprocess.Popen([server, *common, *options], stderr=log) as process:
            try:
                for _ in range(600):
                    try:
                        with pymysql.connect(host="127.0.0.1", port=port, user="root") as connection:
                            connection.cursor().execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
                        break
                    except pymysql.err.OperationalError:
                        time.sleep(0.1)
                yield f"mysql+pymysql://root@127.0.0.1:{port}/{name}"
            finally:
                process.terminate()
