"""The pipeline as it runs in production, with parts of it killed at random: no image is lost, none is doubled.

A supervisor starts again what has died, as systemd would; another program inserts rows all the time. Halfway a second
daemon joins the first, and a backfill is asked for of the batches that are being processed. ``benchmarks/chaos.py``
does the same for longer.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum

import dagster as dg
import psutil
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.execution.backfill import BulkActionStatus
from sqlalchemy.exc import DBAPIError

from imgpipe_dagster.backfills import has_ended
from imgpipe_dagster.instance import FINISHED_RUNS, INSTANCE_YAML, PROJECT_DIR
from imgpipe_dagster.launching.worker import Worker

KILLS = int(os.environ.get("IMGPIPE_CHAOS_KILLS", "20"))
SEED = int(os.environ.get("IMGPIPE_CHAOS_SEED", time.time_ns() % 1_000_000))
HEARTBEAT_LIMIT_S = 15
BATCH_SIZE = 3
WAITING_AT_MOST = BATCH_SIZE
NOTICED_LIMIT_S = 120
DRAINED_LIMIT_S = 300
CURRENT = ["raw_images", "validated_images", "detected_images", "image_predictions", "metadata_reports"]
FORK_SERVER = "multiprocessing.forkserver"
LIVE = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


class Fault(Enum):
    WORKER = "the run worker"
    CODE_SERVER = "the code server"
    WORKER_AND_CODE_SERVER = "worker and code server"
    FORK_SERVER = "what workers are forked from"
    DAEMON = "the daemon"
    DAEMON_AND_WORKERS = "the daemon with all that it started"
    DATABASE = "the database"


def wait_for(condition: Callable[[], object], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} took more than {limit_s} seconds"
        time.sleep(0.1)


def instance_of(installation) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(installation.environment["DAGSTER_HOME"])


def tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - pytest shows it where the test fails, and to whoever asks with -s


class Feeder(threading.Thread):
    """Another program that inserts rows whenever few wait, some in transactions that commit late."""

    def __init__(self, engine: sa.Engine, cdn, scenes: list[bytes], rng: random.Random):
        super().__init__()
        self.committed: list[str] = []
        self._engine, self._cdn, self._scenes, self._rng = engine, cdn, scenes, rng
        self._stopped = threading.Event()
        self._number = 0

    def run(self) -> None:
        while not self._stopped.wait(self._rng.uniform(0, 1)):
            urls = [self._new_url() for _ in range(self._rng.randint(1, BATCH_SIZE))]
            try:
                if self._insert(urls):
                    self.committed += urls
            except DBAPIError:  # the database was away: nobody can say whether it has taken these
                continue

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _insert(self, urls: list[str]) -> bool:
        with self._engine.begin() as connection:
            waiting = connection.scalar(sa.text("SELECT COUNT(*) FROM product_images WHERE status = 'pending'"))
            if waiting >= WAITING_AT_MOST:
                return False
            for url in urls:
                sku = "SKU-1" if self._rng.random() < 0.1 else None
                connection.execute(
                    sa.text("INSERT INTO product_images (image_url, sku_id) VALUES (:url, :sku)"),
                    {"url": url, "sku": sku},
                )
            time.sleep(self._rng.choice([0, 0.5]))
        return True

    def _new_url(self) -> str:
        self._number += 1
        name = f"{self._number}.jpg"
        self._cdn.files[name] = self._scenes[self._number % len(self._scenes)] + str(self._number).encode()
        return self._cdn.url(name)


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
        process.kill()


class Pipeline:
    """All parts of an installation, and the faults that they can suffer, whoever starts the workers."""

    faults: tuple[Fault, ...]

    def __init__(self, installation, mariadb, rng: random.Random):
        self.installation, self.mariadb, self.rng = installation, mariadb, rng
        self.daemons = []
        self._sessions: set[int] = set()

    def add_daemon(self) -> None:
        raise NotImplementedError

    def workers(self) -> list[psutil.Process]:
        """The processes of runs, also of those that whoever started them has left behind."""
        raise NotImplementedError

    def stop(self) -> None:
        """End everything in good order, as systemd does: what does not end is killed."""
        for daemon in self.daemons:
            os.kill(daemon.process.pid, signal.SIGTERM)
        for daemon in self.daemons:
            daemon.process.wait(timeout=180)

    def strike(self, fault: Fault) -> None:
        """Let a part suffer a fault at a random moment, and wait until what is left has noticed."""
        time.sleep(self.rng.uniform(0, 2))
        match fault:
            case Fault.WORKER:
                self._kill_a_worker()
                self._wait_until_lost_runs_are_known()
            case Fault.DATABASE:
                self.mariadb.kill()
                time.sleep(self.rng.uniform(0, 2))
                self.mariadb.start()
                self._wait_for_tick()

    def processes(self) -> list[psutil.Process]:
        """Those that start workers, the workers, and the children of these."""
        found = []
        for process in psutil.process_iter(["cmdline", "ppid"]):
            try:
                ours = os.getsid(process.pid) in self._sessions
            except ProcessLookupError:
                continue
            if ours and process.info["cmdline"]:  # a zombie has none
                found.append(process)
        return found

    def kill_what_is_left(self) -> None:
        for process in self.processes():
            kill(process)

    def live_runs(self, instance: dg.DagsterInstance) -> int:
        return instance.get_runs_count(dg.RunsFilter(statuses=LIVE))

    def _kill_a_worker(self) -> None:
        while True:
            self._wait_for_a_worker()
            time.sleep(self.rng.uniform(0, 3))
            if alive := self.workers():
                kill(self.rng.choice(alive))
                return

    def _wait_for_a_worker(self) -> None:
        wait_for(self.workers, NOTICED_LIMIT_S, "the start of a run")

    def _wait_until_lost_runs_are_known(self) -> None:
        with instance_of(self.installation) as instance:
            wait_for(
                lambda: self.live_runs(instance) <= len(self.workers()), NOTICED_LIMIT_S, "noticing that a run is lost"
            )

    def _wait_for_tick(self) -> None:
        tick = "SELECT ticked_at FROM sensor_ticks WHERE sensor_name = 'new_images_sensor'"
        before = self.installation.query(tick)
        wait_for(lambda: self.installation.query(tick) != before, NOTICED_LIMIT_S, "the next tick")


class WithCodeServer(Pipeline):
    """Workers are started by a code server that somebody looks after."""

    faults = (Fault.WORKER, Fault.CODE_SERVER, Fault.WORKER_AND_CODE_SERVER, Fault.DAEMON, Fault.DATABASE)

    def __init__(self, installation, mariadb, start_code_server, start_daemon, rng: random.Random):
        super().__init__(installation, mariadb, rng)
        self.code_server = start_code_server(installation)
        self._sessions = {self.code_server.process.pid}
        self._start_daemon = start_daemon
        self.add_daemon()

    def add_daemon(self) -> None:
        self.daemons.append(self._start_daemon(self.installation, self.code_server.workspace))

    def workers(self) -> list[psutil.Process]:
        return [process for process in self.processes() if "--multiprocessing-fork" in process.info["cmdline"]]

    def strike(self, fault: Fault) -> None:
        super().strike(fault)
        match fault:
            case Fault.CODE_SERVER:
                self.code_server.process.kill()  # runs go on without it
                self._restart_code_server()
                self._wait_for_tick()
            case Fault.WORKER_AND_CODE_SERVER:
                self._wait_for_a_worker()
                time.sleep(self.rng.uniform(0, 3))
                self.code_server.kill()  # with its children
                for worker in self.workers():  # of an earlier code server
                    kill(worker)
                self._restart_code_server()
                self._wait_until_lost_runs_are_known()
            case Fault.DAEMON:
                daemon = self.rng.choice(self.daemons)
                daemon.kill()
                daemon.start()
                self._wait_for_tick()

    def stop(self) -> None:
        """As ever; the code server last.

        One of Dagster never ends by itself if the database was away in the moment in which it noticed that a run's
        process was dead: its thread that counts them has died of that (`_check_for_orphaned_runs`).
        """
        os.kill(self.code_server.process.pid, signal.SIGTERM)
        super().stop()
        try:
            self.code_server.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.code_server.process.kill()
            self.code_server.process.wait(timeout=60)

    def _restart_code_server(self) -> None:
        self.code_server.start()
        self._sessions.add(self.code_server.process.pid)


class WithForkServer(Pipeline):
    """Workers are forked by the daemon, which starts its code server as well."""

    faults = (Fault.WORKER, Fault.FORK_SERVER, Fault.DAEMON, Fault.DAEMON_AND_WORKERS, Fault.DATABASE)

    def __init__(self, installation, mariadb, start_daemon, rng: random.Random):
        super().__init__(installation, mariadb, rng)
        self._start_daemon = start_daemon
        self.add_daemon()

    def add_daemon(self) -> None:
        self.daemons.append(self._start_daemon(self.installation))
        self._sessions.add(self.daemons[-1].process.pid)

    def workers(self) -> list[psutil.Process]:
        with instance_of(self.installation) as instance:
            named = [Worker.of(run) for run in instance.get_runs(dg.RunsFilter(statuses=LIVE))]
        return [process for worker in named if worker and (process := worker.find())]

    def strike(self, fault: Fault) -> None:
        super().strike(fault)
        daemon = self.rng.choice(self.daemons)
        match fault:
            case Fault.FORK_SERVER:
                self._wait_for_a_worker()
                for process in self.processes():
                    if FORK_SERVER in " ".join(process.info["cmdline"]) and process.info["ppid"] in self._daemons():
                        kill(process)
                self._wait_for_tick()
            case Fault.DAEMON:
                daemon.process.kill()  # its runs go on without it
                self._restart(daemon)
            case Fault.DAEMON_AND_WORKERS:
                daemon.kill()
                self._restart(daemon)
                self._wait_until_lost_runs_are_known()

    def _daemons(self) -> list[int]:
        return [daemon.process.pid for daemon in self.daemons]

    def _restart(self, daemon) -> None:
        daemon.start()
        self._sessions.add(daemon.process.pid)
        self._wait_for_tick()


@pytest.fixture
def installation(install, mariadb_url, cdn):
    installation = install(mariadb_url)
    cdn.delay_s = 0.3
    home = installation.home / "dagster_home"
    home.mkdir()
    config = yaml.safe_load((PROJECT_DIR / INSTANCE_YAML).read_text())
    # A run whose code server dies before the run's first word is noticed by its start's limit, three minutes there.
    config["run_coordinator"]["config"]["user_code_failure_retry_delay"] = 2
    config["run_monitoring"] |= {"poll_interval_seconds": 2, "start_timeout_seconds": 30}
    (home / INSTANCE_YAML).write_text(yaml.safe_dump(config))
    installation.environment |= {
        "DAGSTER_HOME": str(home),
        "IMGPIPE_BATCH_SIZE": str(BATCH_SIZE),
        "IMGPIPE_BATCH_MAX_WAIT_S": "1",
        "IMGPIPE_HEARTBEAT_LIMIT_S": str(HEARTBEAT_LIMIT_S),
        "IMGPIPE_TARGET_MIN_DIMENSION": "600",
        "IMGPIPE_DISK_LOW_GIB": "0",
        "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1",
    }
    return installation


@pytest.fixture(params=["code server", "fork server"])
def pipeline(request, installation, mariadb, start_code_server, start_daemon):
    if request.param == "code server":
        pipeline = WithCodeServer(installation, mariadb, start_code_server, start_daemon, random.Random(SEED))
    else:
        pipeline = WithForkServer(installation, mariadb, start_daemon, random.Random(SEED))
    yield pipeline
    pipeline.kill_what_is_left()


@pytest.fixture
def feeder(installation, cdn, scenes):
    feeder = Feeder(installation.engine, cdn, scenes, random.Random(SEED + 1))
    feeder.start()
    yield feeder
    feeder.stop()


def faults(pipeline: Pipeline) -> list[Fault]:
    """Each kind as often as the others, in any order."""
    drawn = [pipeline.faults[number % len(pipeline.faults)] for number in range(KILLS)]
    pipeline.rng.shuffle(drawn)
    return drawn


def backfill_what_is_under_way(installation) -> str:
    """Ask for a backfill of the open batches, as a person would in the UI; its id."""
    newest = "SELECT batch_key FROM image_batches ORDER BY id DESC LIMIT 3"
    wait_for(lambda: installation.query(newest), NOTICED_LIMIT_S, "the first batch")
    keys = [key for (key,) in installation.query(newest)]
    submit = (
        "import sys; import dagster as dg\n"
        "from imgpipe_dagster.backfills import backfill_assets, submit_backfill\n"
        "with dg.DagsterInstance.get() as instance:\n"
        "    print(submit_backfill(instance, backfill_assets('raw_images'), sys.argv[1:], 'chaos'))"
    )
    ended = installation.finish(installation.start("-c", submit, *keys, program="python"))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def is_drained(installation) -> bool:
    open_images = "SELECT COUNT(*) FROM product_images WHERE status IN ('pending', 'processing')"
    open_batches = "SELECT COUNT(*) FROM image_batches WHERE state IN ('claimed', 'analysed')"
    return installation.query(open_images) == installation.query(open_batches) == [(0,)]


def assert_answered_once(installation, committed: list[str]) -> None:
    """Every row is there once and has each of its results once, whatever was killed."""
    urls = [url for (url,) in installation.query("SELECT image_url FROM product_images")]
    assert max(Counter(urls).values()) == 1
    assert set(committed) <= set(urls), "rows were lost"
    ids = installation.query("SELECT id FROM product_images ORDER BY id")
    for table in CURRENT:
        assert installation.query(f"SELECT image_id FROM current_{table} ORDER BY image_id") == ids, table
    boxes = installation.query("SELECT image_id, COUNT(*) FROM current_detections GROUP BY image_id ORDER BY image_id")
    assert boxes == installation.query("SELECT image_id, object_count FROM current_detected_images ORDER BY image_id")
    enhanced = installation.query("SELECT image_id FROM current_enhanced_images ORDER BY image_id")
    assert enhanced == installation.query("SELECT id FROM product_images WHERE sku_id IS NOT NULL ORDER BY id")
    for table, column in (("metadata_reports", "object_key"), ("raw_images", "object_key")):
        for (key,) in installation.query(f"SELECT {column} FROM current_{table}"):
            assert (installation.home / "store" / key).is_file(), key


@pytest.mark.timeout(max(900, 60 * KILLS))
def test_random_kills_lose_and_double_nothing(pipeline, feeder, installation):
    tell(f"{KILLS} kills, seed {SEED}: IMGPIPE_CHAOS_SEED={SEED} repeats it")
    began = time.monotonic()
    backfill = ""
    for number, fault in enumerate(faults(pipeline), 1):
        if number == max(1, KILLS // 2):
            pipeline.add_daemon()
            backfill = backfill_what_is_under_way(installation)
        before = time.monotonic()
        pipeline.strike(fault)
        tell(f"{before - began:6.1f} s  kill {number}: {fault.value}; noticed {time.monotonic() - before:.1f} s later")
    feeder.stop()
    last = time.monotonic()
    with instance_of(installation) as instance:
        wait_for(lambda: is_drained(installation), DRAINED_LIMIT_S, "recovery")
        drained = time.monotonic()
        states = Counter(installation.query("SELECT status, reason FROM product_images"))
        assert set(states) <= {("completed", None), ("failed", "batch_failed")}
        assert states["completed", None] > 0
        gave_up = "SELECT batch_key FROM image_batches WHERE state IN ('failed', 'enhancement_failed')"
        failed = {key for (key,) in installation.query(gave_up)}
        alerts = "SELECT dedupe_key FROM alerts WHERE kind IN ('batch_failed', 'enhancement_failed')"
        told = {key.split(":")[1] for (key,) in installation.query(alerts)}
        assert failed <= told, "a batch was given up without a word"  # a late run may mend one that was
        if failed:  # what was killed three times in a row is told, and waits for a person
            assert installation.run("retry").returncode == 0
        wait_for(lambda: is_drained(installation), DRAINED_LIMIT_S, "a retry")
        unfinished = dg.RunsFilter(statuses=[status for status in dg.DagsterRunStatus if status not in FINISHED_RUNS])
        wait_for(lambda: has_ended(instance, backfill), DRAINED_LIMIT_S, "the end of the backfill")
        ended = instance.get_backfill(backfill)
        assert ended
        assert ended.status is not BulkActionStatus.FAILED, ended.error
        wait_for(lambda: instance.get_runs_count(unfinished) == 0, DRAINED_LIMIT_S, "the end of all runs")
        runs = instance.get_runs_count()
    pipeline.stop()
    wait_for(lambda: not pipeline.processes(), 30, "the end of all processes")
    assert installation.query("SELECT DISTINCT status FROM product_images") == [("completed",)]
    assert_answered_once(installation, feeder.committed)
    batches = installation.query("SELECT attempt, COUNT(*) FROM image_batches GROUP BY attempt")
    tell(
        f"{drained - last:.1f} s from the last fault to the last answer; {len(failed)} batches failed and were retried"
    )
    tell(f"{len(feeder.committed)} images, {runs} runs, batches by attempts: {dict(batches)}")
