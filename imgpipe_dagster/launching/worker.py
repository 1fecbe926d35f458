"""The process of one run: what Dagster's own launcher does in one, in a process that is already warm."""

import os
import socket
import threading
from dataclasses import dataclass
from typing import Self, cast

import dagster as dg
import psutil
from dagster._core.events import EngineEventData
from dagster._core.instance import InstanceRef
from dagster._grpc.impl import core_execute_run
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import deserialize_value
from dagster._utils import send_interrupt
from dagster._utils.hosted_user_process import recon_job_from_origin
from dagster._utils.interrupts import capture_interrupts

from imgpipe_dagster.instance import FINISHED_RUNS

WORKER_TAG = "imgpipe/worker"
LOOK_EVERY_S = 5.0


@dataclass(frozen=True)
class Worker:
    """Which process executes a run, told in a tag of the run.

    Attributes:
        host: The machine's or the container's name.
        pid: The process.
        started: When the process began, in seconds since 1970: numbers of processes are used again.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def this(cls) -> Self:
        """The calling process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def of(cls, run: dg.DagsterRun) -> Self | None:
        """The worker of a run, if it has said who it is."""
        match run.tags.get(WORKER_TAG, "").split():
            case [host, pid, started]:
                return cls(host, int(pid), float(started))
            case _:
                return None

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.started}"

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine or container."""
        return self.host == socket.gethostname()

    def find(self) -> psutil.Process | None:
        """The process, if it is on this machine and lives."""
        try:
            process = psutil.Process(self.pid)
            alive = abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if self.is_here and alive else None


def execute_run(serialized: str) -> None:
    """Execute a run in this process and write its events into Dagster's storage.

    Args:
        serialized: ``ExecuteRunArgs`` of Dagster, as JSON: the job's origin, the run's id, the instance.
    """
    args = deserialize_value(serialized, ExecuteRunArgs)
    reference = cast(InstanceRef, args.instance_ref)  # the launcher names it
    ended = threading.Event()
    with capture_interrupts(), dg.DagsterInstance.from_ref(reference) as instance:
        instance.add_run_tags(args.run_id, {WORKER_TAG: str(Worker.this())})
        run = cast(dg.DagsterRun, instance.get_run_by_id(args.run_id))  # its tags were just written
        pid = os.getpid()
        instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
        watch = (reference, run.run_id, ended)
        threading.Thread(target=_interrupt_when_terminated, args=watch, daemon=True).start()
        try:
            for _event in core_execute_run(recon_job_from_origin(args.job_origin), run, instance, inject_env_vars=True):
                pass
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
            pass  # its events say so
        finally:
            ended.set()
            instance.report_engine_event(f"Process for run exited (pid: {pid}).", run)


def _interrupt_when_terminated(reference: InstanceRef, run_id: str, ended: threading.Event) -> None:
    """Look whether somebody terminates the run who cannot reach this process, as from another container."""
    if ended.wait(LOOK_EVERY_S):
        return
    with dg.DagsterInstance.from_ref(reference) as instance:
        while not ended.wait(LOOK_EVERY_S):
            run = instance.get_run_by_id(run_id)
            if run is None or run.status in (dg.DagsterRunStatus.CANCELING, *FINISHED_RUNS):
                send_interrupt()
                return
