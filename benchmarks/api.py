"""``POST /classify`` of `imgpipe serve` against a plain Flask app that predicts in each request, with the same weights.

Both servers run in processes of their own, load comes from a third; pictures are distinct, known answers are off.

    python benchmarks/api.py [--weights PATH] [--seconds 30] [--clients 64] [--queue 64]
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
        process.wait(30)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def load(**wanted: object) -> dict:
    done = subprocess.run([sys.executable, str(HERE / "_load.py"), json.dumps(wanted)], stdout=-1, check=True)
    return json.loads(done.stdout)


def truth(weights: Path, folder: Path, cache: Path) -> list[str]:
    from imgpipe_dagster.models.classifier import ClassifierOptions, load_classifier

    files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    with load_classifier(weights, ClassifierOptions(device="cpu"), cache_dir=cache) as classifier:
        found = {name: classifier.names[answers[0].class_id] for name, answers in classifier.classify_all(files)}
    return [found[name] for name, _ in files]


def row(name: str, side: str, figures: dict) -> str:
    def ms(value: float | None) -> str:
        return "-" if value is None else f"{1000 * value:.0f}"

    return (
        f"| {name} | {side} | {figures['per_second']:.1f} | {ms(figures['p50'])} | {ms(figures['p95'])} | "
        f"{figures['refused']} | {ms(figures['refused_p95'])} | {figures['failed']} | {figures['wrong']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=DEMO_BOTTLE_WEIGHTS)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--queue", type=int, default=64)
    options = parser.parse_args()
    folder = pictures(100)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        weights = str(options.weights.absolute())
        right = truth(options.weights, folder, home / "models")
        off = {"API_RATE_LIMIT": "off", "API_CACHED_ANSWERS": "0", "API_QUEUE_LIMIT": str(options.queue)}
        ours = Installation(home, batch_size=1, bottle_weights=weights, **{k.lower(): v for k, v in off.items()})
        flask_port, our_port = free_port(), free_port()
        serve = [str(Path(sys.executable).with_name("imgpipe")), "serve", "--port", str(our_port)]
        flask = [sys.executable, str(HERE / "_flask_app.py"), weights, str(flask_port)]
        flask_environment = {**os.environ, **ultralytics_environment(home)}
        urls = {"ours": f"http://127.0.0.1:{our_port}", "flask": f"http://127.0.0.1:{flask_port}"}
        common = {"folder": str(folder), "truth": right, "seconds": options.seconds}
        sides = {
            "ours": lambda: running(serve, ours.environment, f"{urls['ours']}/readyz", home / "ours.log"),
            "flask": lambda: running(flask, flask_environment, f"{urls['flask']}/", home / "flask.log"),
        }
        print("| load | side | 200/s | p50 ms | p95 ms | refused | refused p95 ms | failed | wrong |")
        print("|---|---|---|---|---|---|---|---|---|")
        closed = {}
        for side, start in sides.items():
            with start():
                load(url=f"{urls[side]}/classify", clients=8, **{**common, "seconds": 3})  # warm
                closed[side] = load(url=f"{urls[side]}/classify", clients=options.clients, **common)
            print(row(f"{options.clients} clients", side, closed[side]), flush=True)
        rate = 0.7 * closed["ours"]["per_second"]
        at_70 = {}
        for side, start in sides.items():
            with start():
                load(url=f"{urls[side]}/classify", clients=8, **{**common, "seconds": 3})
                at_70[side] = load(url=f"{urls[side]}/classify", rate=rate, **common)
            print(row(f"{rate:.0f} a second", side, at_70[side]), flush=True)
        with sides["ours"]() as process:
            load(url=f"{urls['ours']}/classify", clients=8, **{**common, "seconds": 3})
            before = process.memory_info().rss
            over = load(url=f"{urls['ours']}/classify", rate=4 * closed["ours"]["per_second"], **common)
            grown = process.memory_info().rss - before
        print(row("4 x capacity", "ours", over), flush=True)
        print()
        ratio = closed["ours"]["per_second"] / closed["flask"]["per_second"]
        slower = closed["flask"]["p95"] / closed["ours"]["p95"]
        print(f"- answers a second: {ratio:.2f} x Flask's (goal 3)")
        print(f"- p95 with {options.clients} clients: 1/{slower:.1f} (goal 1/2.5)")
        if at_70["flask"]["p95"]:
            print(f"- p95 at 70%: 1/{at_70['flask']['p95'] / at_70['ours']['p95']:.1f} of Flask's (goal 1/10)")
        if over["p95"]:
            longer = over["p95"] / at_70["ours"]["p95"]
            print(f"- overload: p95 {longer:.1f} x that at 70% (goal 3); memory {grown / 2**20:+.0f} MiB")


if __name__ == "__main__":
    main()
