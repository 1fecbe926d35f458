"""The demo's own home: settings, folders and a lock, apart from the user's own data."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgpipe_dagster.settings import DEMO_BOTTLE_WEIGHTS, DEMO_WEIGHTS, Settings

KEPT = frozenset({"images", "models", ".lock"})
"""What a fresh start keeps: rendered files and exported models, which are the same every time."""


class DemoBusyError(RuntimeError):
    """Another demo uses the demo's home."""


def demo_home() -> Path:
    """The folder of the demo: ``demo`` in the home folder."""
    return Settings().home / "demo"


def enter_demo(home: Path, *, batch_size: int, batch_max_wait_s: float) -> Settings:
    """Replace every setting in this process's environment by the demo's: the user's data and model stay out of it."""
    for name in [name for name in os.environ if name.startswith(("IMGPIPE_", "MYSQL_"))]:
        del os.environ[name]
    os.environ.update(demo_environment(home, batch_size=batch_size, batch_max_wait_s=batch_max_wait_s))
    return Settings(_env_file=None)  # pyright: ignore[reportCallIssue] - pydantic-settings takes it


def demo_environment(home: Path, *, batch_size: int, batch_max_wait_s: float) -> dict[str, str]:
    """The environment of an installation under ``home`` that is apart from every other: SQLite, a local store."""
    return {
        "IMGPIPE_HOME": str(home),
        "IMGPIPE_DATABASE_URL": f"sqlite:///{home}/catalogue.db",
        "IMGPIPE_STORE_URL": (home / "store").as_uri(),
        "IMGPIPE_DETECTOR_WEIGHTS": str(DEMO_WEIGHTS),
        "IMGPIPE_BOTTLE_WEIGHTS": str(DEMO_BOTTLE_WEIGHTS),
        "IMGPIPE_SMTP_URL": (home / "mails").as_uri().replace("file:", "maildir:", 1),
        "IMGPIPE_FETCH_ALLOW_NETWORKS": json.dumps(["127.0.0.0/8"]),  # the demo's CDN is local
        "IMGPIPE_TEMPLE_SCALE_FACTOR": "0.1",  # the demo's labelled pictures are small
        "IMGPIPE_TEMPLE_EPOCHS": "60",  # at 40 they still learn: one hall or the other has a mistake then
        "IMGPIPE_BATCH_SIZE": str(batch_size),
        "IMGPIPE_BATCH_MAX_WAIT_S": str(batch_max_wait_s),
        "DAGSTER_HOME": str(home / "dagster"),
    }


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Keep other demos out while the block runs.

    Raises:
        DemoBusyError: if another demo is running.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoBusyError(f"Another demo is using {home}: stop it first (`make ui` is one).") from error
        yield


def start_afresh(home: Path) -> None:
    """Remove what an earlier demo left, except for what would be made again just the same."""
    for path in home.iterdir():
        if path.name in KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
