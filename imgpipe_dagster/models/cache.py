"""Tidying the folder in which exported and compiled models are kept. All of it can be made again."""

import shutil
import time
from datetime import datetime
from pathlib import Path

COMPILED = "compiled"
"""OpenVINO's own cache: a file for each model, shape of input and precision."""

TRAINING_PREFIX = "training-"
"""What a training works in; a killed one leaves it behind."""


def tidy(cache_dir: Path, *, unused_since: datetime, left_since: datetime, dry_run: bool) -> int:
    """Remove compiled models that nobody has used for long, and what killed trainings left.

    Args:
        cache_dir: The folder; it need not be there.
        unused_since: Compiled models that were read or written later stay.
        left_since: Folders of trainings that have changed later stay.
        dry_run: Change nothing.

    Returns:
        How many files and folders.
    """
    found = [path for path in (cache_dir / COMPILED).glob("*") if _last_use(path) < unused_since.timestamp()]
    found += [path for path in cache_dir.glob(f"{TRAINING_PREFIX}*") if _last_change(path) < left_since.timestamp()]
    for path in () if dry_run else found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(found)


def _last_use(path: Path) -> float:
    return max(_times(path))


def _last_change(folder: Path) -> float:
    return max(_times(path)[0] for path in (folder, *folder.rglob("*")))


def _times(path: Path) -> tuple[float, float]:
    """When a file was changed and read; one that has just gone is as one that has just changed."""
    try:
        times = path.stat()
    except FileNotFoundError:
        return time.time(), time.time()
    return times.st_mtime, times.st_atime
