"""The run launcher that ``dagster.yaml`` names: workers are forked from a warm process, not started cold."""

import contextlib
import logging
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterable
from multiprocessing import process as bookkeeping
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, cast

import dagster as dg
import psutil
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClassData, serialize_value
from dagster._utils import get_run_crash_explanation

from imgpipe_dagster.launching.worker import Worker, execute_run

log = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
PACKAGE_DIR = Path(__file__).parent.parent
PRELOADED = "imgpipe_dagster.launching.preload"
StartMethod = Literal["forkserver", "spawn"]


class WarmRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher, but a run starts in a process that has its imports behind it.

    The daemon keeps Python's fork server, which has imported what every run needs and forks a worker for each run.
    Where that cannot be, a worker is started cold, as ever: on systems whose libraries do not outlive a fork, and once
    a file of this package has changed. Runs of code locations that somebody else serves, or that another Python serves,
    are left to the default launcher.

    A worker outlives the daemon, as it always did. While the daemon lives, the death of a worker is reported within a
    second or two; after that Dagster's run monitoring asks whether the process that the run names still lives.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._lock = threading.Lock()
        self._workers: dict[str, BaseProcess] = {}
        self._watcher: threading.Thread | None = None
        self._disposed = threading.Event()
        self._warm_code: float | None = None

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the worker of a run.

        Raises:
            OSError: if no process can be started.
        """
        run, origin = context.dagster_run, context.job_code_origin
        if origin is None or not _is_served_here(run, origin):
            super().launch_run(context)
            return
        args = ExecuteRunArgs(job_origin=origin, run_id=run.run_id, instance_ref=self._instance.get_ref())
        with self._lock:
            self._workers[run.run_id] = start_process(self.start_methods(), execute_run, serialize_value(args))
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="workers", daemon=True)
                self._watcher.start()

    def terminate(self, run_id: str) -> bool:
        """Interrupt the worker of a run; one that another machine has looks for that itself."""
        run = self._instance.get_run_by_id(run_id)
        worker = None if run is None else Worker.of(run)
        if run is None or worker is None:
            return super().terminate(run_id)
        if run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        if not worker.is_here:
            return True
        process = worker.find()
        if process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Dagster's run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the worker of a run lives, as far as this machine can tell."""
        worker = Worker.of(run)
        if worker is None or not worker.is_here or worker.find():
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"there is no process {worker.pid}")

    def start_methods(self) -> tuple[StartMethod, ...]:
        """In which ways the next worker can be started, the best first."""
        code = _newest_change()
        if self._warm_code is None:
            self._warm_code = code
        return ("forkserver", "spawn") if sys.platform == "linux" and code == self._warm_code else ("spawn",)

    def dispose(self) -> None:
        """Stop looking after workers; they go on."""
        self._disposed.set()
        super().dispose()

    def _watch(self) -> None:
        while not self._disposed.wait(LOOK_EVERY_S):
            with self._lock:
                ended = {run_id: worker for run_id, worker in self._workers.items() if not worker.is_alive()}
            for run_id, worker in ended.items():
                try:
                    self._report_end(run_id, worker.exitcode or 0)
                except Exception:  # the storage is away: it is asked again
                    log.exception("The end of run %s could not be reported.", run_id)
                    continue
                with self._lock:
                    del self._workers[run_id]
                worker.close()

    def _report_end(self, run_id: str, exit_code: int) -> None:
        """Report a run as failed that its worker left unfinished."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return
        worker = Worker.of(run)
        if worker is not None and worker.find() is not None:
            return  # the fork server has ended, nothing else: run monitoring looks after this one
        message = get_run_crash_explanation(f"Run execution process for {run_id}", exit_code)
        self._instance.report_engine_event(message, run, cls=self.__class__)
        self._instance.report_run_failed(run, message)


def start_process(methods: Iterable[StartMethod], target: Callable[[str], None], argument: str) -> BaseProcess:
    """A process that calls the target, and that nobody waits for when this one ends.

    Args:
        methods: Ways of ``multiprocessing`` to start one; each is tried if those before it fail.
        target: A function that the new process can import.
        argument: What it is called with.

    Raises:
        OSError: if none of them works.
    """
    errors = []
    for method in methods:
        context = cast(ForkServerContext | SpawnContext, multiprocessing.get_context(method))
        context.set_forkserver_preload(["__main__", PRELOADED])
        process = context.Process(target=target, args=[argument])
        try:
            process.start()
        except (OSError, EOFError) as error:  # the fork server cannot be started, or has ended while it was asked
            log.warning("A worker cannot be started with %s: %r", method, error)
            errors.append(f"{method}: {error!r}")
        else:
            # Python would wait for its children at its end.
            bookkeeping._children.discard(process)  # pyright: ignore[reportAttributeAccessIssue]
            return process
    raise OSError(f"No worker can be started: {', '.join(errors)}")


def _is_served_here(run: dg.DagsterRun, origin: JobPythonOrigin) -> bool:
    """Whether the run's code location is a code server that Dagster itself started, with this very Python."""
    if run.remote_job_origin is None:
        return False
    location = run.remote_job_origin.repository_origin.code_location_origin
    python = Path(origin.repository_origin.executable_path)
    # Links are not followed: they make the environment.
    return isinstance(location, ManagedGrpcPythonEnvCodeLocationOrigin) and python.parent == Path(sys.executable).parent


def _newest_change() -> float:
    """When a file of this package last changed, in seconds since 1970."""
    return max(file.stat().st_mtime for file in PACKAGE_DIR.rglob("*.py"))
