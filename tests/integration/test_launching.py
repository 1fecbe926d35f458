"""Workers that Dagster's daemon starts: killed, terminated, and left alone by their daemon."""

import signal
import time

import dagster as dg
import psutil
import pytest

from imgpipe_dagster.instance import FINISHED_RUNS
from imgpipe_dagster.launching.worker import WORKER_TAG, Worker
from imgpipe_dagster.sensors.alerts import failure_cause


def wait_for(condition, limit_s):
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.fixture
def installation(install, tmp_path):
    installation = install(f"sqlite:///{tmp_path}/catalogue.db")
    installation.environment["IMGPIPE_BATCH_SIZE"] = "1"  # it waits for no more
    return installation


@pytest.fixture
def daemon(installation, start_daemon):
    assert installation.run("db", "upgrade").returncode == 0
    return start_daemon(installation)


@pytest.fixture
def instance(installation, daemon):
    with dg.DagsterInstance.from_config(str(installation.home / "dagster")) as instance:
        yield instance


@pytest.fixture
def held(installation, instance, cdn, scenes):
    """A run that waits for the CDN, and its worker."""
    cdn.files["1.jpg"] = scenes[1]
    cdn.hold_after(0)
    installation.add(cdn.url("1.jpg"))
    cdn.wait_until_asked(1)
    (run,) = instance.get_runs(dg.RunsFilter(job_name="analyse"))
    worker = Worker.of(run)
    assert worker is not None
    return run.run_id, worker.find()


def is_gone(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ended(instance, run_id, limit_s):
    """How a run ended."""
    run = wait_for(lambda: (run := instance.get_run_by_id(run_id)).status in FINISHED_RUNS and run, limit_s)
    return run.status


def test_a_killed_worker_is_reported_at_once_and_the_next_one_finishes(installation, instance, held, cdn):
    run_id, worker = held
    assert "multiprocessing.forkserver" in " ".join(worker.parent().cmdline())
    worker.kill()
    assert ended(instance, run_id, 15) is dg.DagsterRunStatus.FAILURE
    assert "SIGKILL" in failure_cause(instance, run_id), "the mail about it says why"
    cdn.release()
    wait_for(lambda: installation.query("SELECT 1 FROM product_images WHERE status = 'completed'"), 90)
    installation.assert_all_answered_once(1)


def test_the_end_of_the_fork_server_is_not_that_of_its_workers(installation, instance, held, cdn):
    run_id, worker = held
    worker.parent().kill()
    cdn.files["2.jpg"] = cdn.files["1.jpg"]
    installation.add(cdn.url("2.jpg"))
    cdn.wait_until_asked(2)  # by a worker of the next fork server
    cdn.release()
    assert ended(instance, run_id, 60) is dg.DagsterRunStatus.SUCCESS
    wait_for(lambda: installation.query("SELECT COUNT(*) FROM product_images WHERE status = 'completed'") == [(2,)], 60)
    installation.assert_all_answered_once(2)


@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_a_run_that_somebody_terminates_ends(installation, instance, held, place):
    run_id, worker = held
    if place == "elsewhere":  # as it looks from another container
        instance.add_run_tags(run_id, {WORKER_TAG: f"elsewhere {worker.pid} {worker.create_time()}"})
    assert instance.run_launcher.terminate(run_id)
    assert ended(instance, run_id, 30) is dg.DagsterRunStatus.CANCELED
    wait_for(lambda: is_gone(worker), 15)
    assert not instance.run_launcher.terminate(run_id)


def test_a_run_outlives_its_daemon(installation, daemon, instance, held, cdn):
    run_id, worker = held
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(timeout=30)
    assert worker.is_running()
    cdn.release()
    assert ended(instance, run_id, 60) is dg.DagsterRunStatus.SUCCESS
    installation.assert_all_answered_once(1)
