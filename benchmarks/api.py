"""``POST /classify`` of `imgpipe serve` against a plain Flask app that predicts in each request, with the same weights.

Both servers run in processes of their own, load comes from a third; pictures are distinct, known answers are off.

    python benchmarks/api.py [--weights PATH] [--seconds 30] [--clients 64] [--queue 64] [--minutes 10] [--only …]

CPU time an answer is that of the server and its decoding children; it bends less than the rest when others use the
machine. `--minutes` adds a run of overload that samples memory.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from _setup import Installation, pictures

from imgpipe_dagster.models.weights import ultralytics_environment
from imgpipe_dagster.settings import DEMO_BOTTLE_WEIGHTS

HERE = Path(__file__).parent


@contextmanager
def running(command: list[str], environment: dict[str, str], url: str, log: Path) -> Iterator[psutil.Process]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(url, timeout=5):
                    break
            except urllib.error.HTTPError as error:
                if error.code in (404, 405):
                    break
            except OSError:
                pass
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def started_load(**wanted: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(HERE / "_load.py"), json.dumps(wanted)], stdout=subprocess.PIPE)


def figures_of(process: subprocess.Popen) -> dict:
    output, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(output)


def load(**wanted: object) -> dict:
    return figures_of(started_load(**wanted))


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_s(process: psutil.Process) -> float:
    return sum(times.user + times.system for times in (one.cpu_times() for one in family(process)))


def memory_mb(process: psutil.Process) -> float:
    """Of the server and its decoding children, pages that they share counted once each."""
    return sum(one.memory_info().rss for one in family(process)) / 2**20


def measured(process: psutil.Process, **wanted: object) -> dict:
    before = cpu_s(process)
    figures = load(**wanted)
    figures["cpu_ms"] = 1000 * (cpu_s(process) - before) / max(1, figures["answered"])
    return figures


def truth(weights: Path, folder: Path, cache: Path) -> list[str]:
    from imgpipe_dagster.models.classifier import ClassifierOptions, load_classifier

    files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    with load_classifier(weights, ClassifierOptions(device="cpu"), cache_dir=cache) as classifier:
        found = {name: classifier.names[answers[0].class_id] for name, answers in classifier.classify_all(files)}
    return [found[name] for name, _ in files]


def ms(value: float | None) -> str:
    return "-" if value is None else f"{1000 * value:.0f}"


def row(name: str, side: str, figures: dict) -> str:
    return (
        f"| {name} | {side} | {figures['per_second']:.1f} | {ms(figures['p50'])} | {ms(figures['p95'])} | "
        f"{figures['cpu_ms']:.1f} | {figures['refused']} | {ms(figures['refused_p95'])} | {figures['failed']} | "
        f"{figures['wrong']} | {figures['own_cpu_ms']:.2f} |"
    )


class Sides:
    """The two services, each started for one load at a time."""

    def __init__(self, home: Path, weights: Path, folder: Path, queue: int, clients: int) -> None:
        off = {"api_rate_limit": "off", "api_cached_answers": "0", "api_queue_limit": str(queue)}
        self.installation = Installation(home, batch_size=1, bottle_weights=str(weights.absolute()), **off)
        self.home = home
        self.weights = str(weights.absolute())
        self.common = {"folder": str(folder), "truth": truth(weights, folder, home / "models")}
        self.clients = clients

    @contextmanager
    def ours(self) -> Iterator[tuple[psutil.Process, str]]:
        port = free_port()
        command = [str(Path(sys.executable).with_name("imgpipe")), "serve", "--port", str(port)]
        url = f"http://127.0.0.1:{port}"
        with running(command, self.installation.environment, f"{url}/readyz", self.home / "ours.log") as process:
            yield process, url

    @contextmanager
    def flask(self) -> Iterator[tuple[psutil.Process, str]]:
        port = free_port()
        command = [sys.executable, str(HERE / "_flask_app.py"), self.weights, str(port)]
        environment = {**os.environ, **ultralytics_environment(self.home)}
        url = f"http://127.0.0.1:{port}"
        with running(command, environment, f"{url}/", self.home / "flask.log") as process:
            yield process, url

    def classify(self, side: str, **wanted: object) -> dict:
        with getattr(self, side)() as (process, url):
            load(url=f"{url}/classify", clients=8, **{**self.common, "seconds": 3})  # warm
            return measured(process, url=f"{url}/classify", **self.common, **wanted)


def compare(sides: Sides, seconds: float) -> None:
    print(
        "| load | side | 200/s | p50 ms | p95 ms | CPU ms an answer | refused | refused p95 ms | failed | wrong | "
        "CPU ms of the load a request |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    closed, at_70 = {}, {}
    # Ours first, because the system remembers for an address how late a side that drowned has been (`ip tcp_metrics`):
    # whoever is measured on that address afterwards is late as well.
    closed["ours"] = sides.classify("ours", clients=sides.clients, seconds=seconds)
    print(row(f"{sides.clients} clients", "ours", closed["ours"]), flush=True)
    rate = 0.7 * closed["ours"]["per_second"]
    at_70["ours"] = sides.classify("ours", rate=rate, seconds=seconds)
    print(row(f"{rate:.0f} a second", "ours", at_70["ours"]), flush=True)
    over = sides.classify("ours", rate=4 * closed["ours"]["per_second"], seconds=seconds)
    print(row("4 x capacity", "ours", over), flush=True)
    closed["flask"] = sides.classify("flask", clients=sides.clients, seconds=seconds)
    print(row(f"{sides.clients} clients", "flask", closed["flask"]), flush=True)
    at_70["flask"] = sides.classify("flask", rate=rate, seconds=seconds)
    print(row(f"{rate:.0f} a second", "flask", at_70["flask"]), flush=True)
    print()
    more = closed["ours"]["per_second"] / closed["flask"]["per_second"]
    print(f"- answers a second: {more:.2f} x Flask's (goal 3)")
    print(f"- CPU time an answer: 1/{closed['flask']['cpu_ms'] / closed['ours']['cpu_ms']:.2f} of Flask's")
    print(f"- p95 with {sides.clients} clients: 1/{closed['flask']['p95'] / closed['ours']['p95']:.1f} (goal 1/2.5)")
    if at_70["flask"]["p95"]:
        print(f"- p95 at 70%: 1/{at_70['flask']['p95'] / at_70['ours']['p95']:.1f} of Flask's (goal 1/10)")
    if over["p95"]:
        print(f"- overload: p95 of the accepted {over['p95'] / at_70['ours']['p95']:.1f} x that at 70% (goal 3)")
    print(f"- overload: p95 of the refused {ms(over['refused_p95'])} ms (goal 50)", flush=True)


def health(sides: Sides, seconds: float) -> None:
    port = free_port()
    command = [sys.executable, str(HERE / "_empty_app.py"), str(port)]
    empty = f"http://127.0.0.1:{port}/healthz"
    with sides.ours() as (_, url), running(command, dict(os.environ), empty, sides.home / "empty.log"):
        upload = {"url": f"{url}/api/v1/enhance/upload", "folder": sides.common["folder"], "clients": 4}
        working = started_load(**upload, seconds=seconds + 4, fields={"mode": "auto"})
        time.sleep(3)
        probes = {"ours": f"{url}/healthz", "empty": empty}
        probing = {name: started_load(url=probe, rate=20, seconds=seconds) for name, probe in probes.items()}
        found = {name: figures_of(process) for name, process in probing.items()}
        enhanced = figures_of(working)
    p99 = {name: figures["p99"] for name, figures in found.items()}
    print(
        f"- /healthz while 4 clients enhance ({enhanced['per_second']:.1f} a second): p99 {ms(p99['ours'])} ms, "
        f"{p99['ours'] / p99['empty']:.1f} x the {ms(p99['empty'])} ms of an empty app beside it (goal 5)",
        flush=True,
    )


def memory(sides: Sides, minutes: float) -> None:
    with sides.ours() as (process, url):
        warm = load(url=f"{url}/classify", clients=sides.clients, **{**sides.common, "seconds": 10})
        rate = 4 * warm["per_second"]
        loading = started_load(url=f"{url}/classify", rate=rate, **{**sides.common, "seconds": 60 * minutes})
        print(f"\nMemory under {rate:.0f} requests a second for {minutes:g} minutes:\n\n| minute | MiB |\n|---|---|")
        began, sampled = time.monotonic(), []
        while loading.poll() is None and (minute := (time.monotonic() - began) / 60) < minutes:
            sampled.append(memory_mb(process))
            print(f"| {minute:.1f} | {sampled[-1]:.0f} |", flush=True)
            time.sleep(30)
        figures = figures_of(loading)
    third = max(1, len(sampled) // 3)
    change = sum(sampled[-third:]) / third - sum(sampled[third : 2 * third] or sampled) / third
    print(f"\n- memory: the last third's mean is {change:+.0f} MiB of the middle third's; {figures['sent']} requests")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=DEMO_BOTTLE_WEIGHTS)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=0, help="of overload, to see whether memory grows")
    parser.add_argument("--only", choices=["compare", "health", "memory"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sides = Sides(Path(name), options.weights, pictures(100), options.queue, options.clients)
        if options.only in (None, "compare"):
            compare(sides, options.seconds)
        if options.only in (None, "health"):
            health(sides, options.seconds)
        if options.minutes:
            memory(sides, options.minutes)
        print(f"- load of the machine over the last minutes: {', '.join(f'{value:.1f}' for value in os.getloadavg())}")


if __name__ == "__main__":
    main()
