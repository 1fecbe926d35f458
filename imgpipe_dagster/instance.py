"""The one Dagster instance that UI, daemon and CLI share. No definitions."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from imgpipe_dagster.settings import DagsterHomeError, Settings

PROJECT_DIR = Path(__file__).parent.parent
INSTANCE_YAML = "dagster.yaml"
FINISHED_RUNS = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
"""Statuses of runs to which nothing more happens."""


def prepare_dagster_home(settings: Settings, project_dir: Path | None = None) -> Path:
    """Make ``<home>/dagster`` a Dagster home: the folder, with the project's ``dagster.yaml`` linked into it.

    Args:
        settings: This installation's settings.
        project_dir: Where ``dagster.yaml`` is; by default the project this package is in, else the package.

    Returns:
        The absolute folder, for ``DAGSTER_HOME``.

    Raises:
        FileNotFoundError: if there is no ``dagster.yaml``.
    """
    candidates = [project_dir] if project_dir else [PROJECT_DIR, Path(__file__).parent]
    source = next((d / INSTANCE_YAML for d in candidates if (d / INSTANCE_YAML).is_file()), None)
    if source is None:
        raise FileNotFoundError(f"There is no {INSTANCE_YAML} in {' or '.join(map(str, candidates))}.")
    home = settings.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    link = home / INSTANCE_YAML
    if not link.is_symlink() or link.resolve() != source.resolve():
        fresh = home / f".{INSTANCE_YAML}.{os.getpid()}"
        fresh.symlink_to(source.resolve())
        fresh.replace(link)
    return home


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The instance, opened; also named in the environment, for processes that Dagster starts.

    Raises:
        DagsterHomeError: ``DAGSTER_HOME`` names no folder.
    """
    home = prepare_dagster_home(settings)
    # Whoever names another instance means it.
    named = Path(os.environ.setdefault("DAGSTER_HOME", str(home))).expanduser()
    if not (named.is_absolute() and named.is_dir()):
        raise DagsterHomeError(f"DAGSTER_HOME is {named}, which is no absolute path of a folder: it could be {home}.")
    with dg.DagsterInstance.get() as instance:
        yield instance
