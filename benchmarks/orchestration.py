"""What orchestration costs: the fixed seconds of a launched run, and a backfill of 20 batches against one large run.

A real daemon runs on a Dagster home of its own with the project's ``dagster.yaml`` and ``workspace.yaml``; runs are
submitted as a backfill, wait in the queue, and are launched in processes of their own. Times are those of Dagster's
events. The fixed cost is that of a batch of one image, from the launch to the end, so model loading is in it as well.
Both sides of the comparison fetch, store and analyse images of their own from a local server without delay.

    python benchmarks/orchestration.py [--batches 20] [--batch-size 100] [--launches 5] [--rounds 1]
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from _setup import Installation, pictures, serving

from imgpipe_dagster.catalogue.batches import BatchLimits, claim_batch
from imgpipe_dagster.catalogue.tables import Claimant
from imgpipe_dagster.instance import PROJECT_DIR, dagster_instance
from imgpipe_dagster.jobs import analyse
from imgpipe_dagster.partitions import image_batches
from imgpipe_dagster.settings import Settings

PROGRAMS = Path(sys.executable).parent


@contextmanager
def daemon(installation: Installation) -> Iterator[None]:
    """The daemon, with the code server that it starts, while the block runs."""
    with (installation.home / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAMS / "dagster-daemon", "run", "-w", PROJECT_DIR / "workspace.yaml"],
            env=installation.environment,
            cwd=PROJECT_DIR,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def claim(
    installation: Installation, instance: dg.DagsterInstance, urls: Iterator[str], batches: int, size: int
) -> list[str]:
    """Claim batches of new images, as the command line does: the sensor leaves them alone."""
    keys = []
    for _ in range(batches):
        installation.add(next(urls) for _ in range(size))
        batch = claim_batch(installation.engine, BatchLimits(size, size, max_wait_s=0), Claimant.CLI)
        assert batch is not None
        assert batch.image_count == size
        keys.append(batch.key)
    instance.add_dynamic_partitions(str(image_batches.name), keys)
    return keys


def backfill(installation: Installation, instance: dg.DagsterInstance, keys: list[str]) -> list[dg.RunRecord]:
    """Submit a backfill of these partitions, wait for its end, and give its runs."""
    known = instance.get_runs_count()
    command = [PROGRAMS / "dagster", "job", "backfill", "-w", PROJECT_DIR / "workspace.yaml", "-j", analyse.name]
    subprocess.run(
        [*command, "--partitions", ",".join(keys), "--noprompt"],
        env=installation.environment,
        cwd=PROJECT_DIR,
        check=True,
        capture_output=True,
    )
    ended = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
    while instance.get_runs_count(ended) < known + len(keys):
        time.sleep(0.5)
    runs = list(instance.get_run_records(limit=len(keys)))
    if any(run.dagster_run.status is not dg.DagsterRunStatus.SUCCESS for run in runs):
        raise SystemExit("A run failed.")
    return runs


def seconds(instance: dg.DagsterInstance, runs: list[dg.RunRecord]) -> float:
    """From the launch of the first run to the end of the last."""
    stats = [instance.get_run_stats(run.dagster_run.run_id) for run in runs]
    return max(s.end_time or 0 for s in stats) - min(s.launch_time or 0 for s in stats)


def seconds_of_start(instance: dg.DagsterInstance, run: dg.RunRecord) -> float:
    """From the launch of a run to its first step: the process, its imports, the plan."""
    stats = instance.get_run_stats(run.dagster_run.run_id)
    steps = instance.get_run_step_stats(run.dagster_run.run_id)
    return min(step.start_time or 0 for step in steps) - (stats.launch_time or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    total = options.batches * options.batch_size
    one_run: list[float] = []
    many_runs: list[float] = []
    with tempfile.TemporaryDirectory() as folder, serving(pictures(500), delay_s=0) as cdn:
        installation = Installation(Path(folder), batch_size=options.batch_size, heartbeat_limit_s="86400")
        urls = (f"{cdn}/{number}" for number in range(10**9))
        with dagster_instance(Settings(home=installation.home)) as instance, daemon(installation):
            backfill(installation, instance, claim(installation, instance, urls, 1, 20))  # exports the model
            launches = [
                backfill(installation, instance, claim(installation, instance, urls, 1, 1))[0]
                for _ in range(options.launches)
            ]
            whole = [seconds(instance, [run]) for run in launches]
            start = [seconds_of_start(instance, run) for run in launches]
            for _ in range(options.rounds):
                for batches, size, found in ((1, total, one_run), (options.batches, options.batch_size, many_runs)):
                    keys = claim(installation, instance, urls, batches, size)
                    found.append(seconds(instance, backfill(installation, instance, keys)))
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, median of {options.launches} launches\n")
    print("| a launched run of one image | seconds |\n|---|---|")
    print(f"| from the launch to its first step | {statistics.median(start):.1f} |")
    print(f"| from the launch to its end | {statistics.median(whole):.1f} |")
    fast, slow = total / statistics.median(one_run), total / statistics.median(many_runs)
    print(f"\n| {total} images | images/s | of one run |\n|---|---|---|")
    print(
        f"| one run | {fast:.1f} | 100% |\n| a backfill of {options.batches} batches | {slow:.1f} | {slow / fast:.0%} |"
    )


if __name__ == "__main__":
    main()
