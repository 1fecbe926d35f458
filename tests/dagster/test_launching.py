"""Which process a run names, whether it lives, and when a worker is forked from a warm process."""

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus

from imgpipe_dagster.launching import launcher
from imgpipe_dagster.launching.launcher import WarmRunLauncher
from imgpipe_dagster.launching.worker import WORKER_TAG, Worker


def run_of(worker: object) -> dg.DagsterRun:
    return dg.DagsterRun(job_name="analyse", tags={WORKER_TAG: str(worker)})


def dead() -> Worker:
    """A process that was here."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return replace(Worker.this(), pid=process.pid)


def test_a_run_names_its_worker():
    this = Worker.this()
    assert Worker.of(run_of(this)) == this
    assert this.is_here
    found = this.find()
    assert found is not None
    assert found.pid == os.getpid()


@pytest.mark.parametrize("worker", ["", "nonsense", "a b c d"])
def test_a_run_without_a_worker(worker):
    assert Worker.of(run_of(worker)) is None
    assert Worker.of(dg.DagsterRun(job_name="analyse")) is None


def test_a_worker_that_has_ended_is_not_found_even_if_another_process_has_its_number():
    assert dead().find() is None
    assert replace(Worker.this(), started=1.0).find() is None
    assert replace(Worker.this(), host="elsewhere").find() is None


@pytest.mark.parametrize(
    ("worker", "status"),
    [
        (Worker.this(), WorkerStatus.RUNNING),
        (dead(), WorkerStatus.NOT_FOUND),
        (replace(dead(), host="elsewhere"), WorkerStatus.RUNNING),  # nobody here can tell
        ("", WorkerStatus.RUNNING),
    ],
    ids=["alive", "dead", "elsewhere", "unnamed"],
)
def test_run_monitoring_is_told_whether_a_worker_lives(worker, status):
    run_launcher = WarmRunLauncher()
    assert run_launcher.supports_check_run_worker_health
    assert run_launcher.check_run_worker_health(run_of(worker)).status is status


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_once_a_file_has_changed_workers_are_started_cold(tmp_path, monkeypatch):
    (tmp_path / "module.py").touch()
    monkeypatch.setattr(launcher, "PACKAGE_DIR", tmp_path)
    run_launcher = WarmRunLauncher()
    assert run_launcher.start_methods() == ("forkserver", "spawn")
    assert run_launcher.start_methods() == ("forkserver", "spawn")
    os.utime(tmp_path / "module.py", (1, 1))  # an older one put back is a change as well
    assert run_launcher.start_methods() == ("spawn",)


def test_where_no_worker_can_be_forked_it_is_started_cold(tmp_path, monkeypatch, caplog):
    (tmp_path / "deadly.py").write_text("import os\nos._exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(launcher, "PRELOADED", "deadly")
    process = launcher.start_process(("forkserver", "spawn"), os.mkdir, str(tmp_path / "made"))
    process.join(60)
    assert process.exitcode == 0
    assert (tmp_path / "made").is_dir()
    assert "cannot be started with forkserver" in caplog.text
    assert process not in multiprocessing.active_children()


def test_where_none_can_be_started_the_error_says_so(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\nos._exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(launcher, "PRELOADED", "deadly")
    with pytest.raises(OSError, match="No worker can be started: forkserver: "):
        launcher.start_process(("forkserver",), os.mkdir, str(tmp_path / "made"))
