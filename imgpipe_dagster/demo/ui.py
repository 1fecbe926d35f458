"""``python -m imgpipe_dagster.demo.ui``: Dagster, the API and the dashboard over the demo, with new rows arriving."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.schema import upgrade
from imgpipe_dagster.cli.progress import lines_without_terminal
from imgpipe_dagster.demo.cdn import DemoCdn, iter_new_rows
from imgpipe_dagster.demo.home import DemoBusyError, demo_home, enter_demo, locked
from imgpipe_dagster.demo.images import DemoFile, write_demo_images, write_files
from imgpipe_dagster.demo.product_files import product_files
from imgpipe_dagster.demo.product_show import add_product_rows
from imgpipe_dagster.demo.show import add_rows
from imgpipe_dagster.instance import PROJECT_DIR, prepare_dagster_home
from imgpipe_dagster.settings import Settings

out = Console(highlight=False)


@dataclass(frozen=True)
class Ports:
    """Where people find what."""

    dagster: int
    api: int
    dashboard: int


def main() -> int:
    """Start everything; it ends with Ctrl-C."""
    parser = argparse.ArgumentParser(description="Dagster, the API and the dashboard over the demo.")
    parser.add_argument("--port", type=int, default=3000, help="port of Dagster's UI (default: %(default)s)")
    parser.add_argument("--api-port", type=int, default=8000, help="port of the API (default: %(default)s)")
    parser.add_argument("--dashboard-port", type=int, default=8501, help="port of the dashboard (default: %(default)s)")
    parser.add_argument("--images", type=int, default=60, help="how many files the CDN has (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between new rows (default: %(default)s)")
    options = parser.parse_args()
    # A shell starts background jobs with SIGINT ignored, and Dagster would inherit that and never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ports = Ports(options.port, options.api_port, options.dashboard_port)
    for port, variable in ((ports.dagster, "PORT"), (ports.api, "API_PORT"), (ports.dashboard, "DASHBOARD_PORT")):
        if not _is_free(port):
            out.print(f"Port {port} is taken: choose another with `make ui {variable}={port + 1}`.", style="red")
            return 1
    home = demo_home()
    try:
        with locked(home):
            settings = enter_demo(home, batch_size=20, batch_max_wait_s=15)
            os.environ["IMGPIPE_DAGSTER_URL"] = f"http://127.0.0.1:{ports.dagster}"
            os.environ["IMGPIPE_API_WARM"] = "false"  # a demo's first request may take longer
            return _serve(settings, ports, options.images, options.interval)
    except DemoBusyError as error:
        out.print(str(error), style="red", soft_wrap=True)
        return 1


def _serve(settings: Settings, ports: Ports, count: int, interval_s: float) -> int:
    prepare_dagster_home(settings)
    engine = connect(settings.catalogue_url)
    upgrade(engine)
    folder = settings.home / "images" / str(count)  # the files of one count have other names than those of another
    products = list(product_files())
    with Progress(console=out) as progress, lines_without_terminal(progress):
        task = progress.add_task("rendering images", total=count + len(products))
        files = write_demo_images(folder, count, lambda _file: progress.advance(task))
        write_files(folder, products, lambda _file: progress.advance(task))
    stopped = threading.Event()
    with DemoCdn(folder, _port_of_last_time(settings.home)) as cdn, _faces(settings, ports):
        (settings.home / "cdn_port").write_text(str(cdn.port))
        add_product_rows(engine, cdn, products)  # once: there is something to enhance and to review
        feeder = threading.Thread(target=_feed, args=(engine, cdn, files, interval_s, stopped), daemon=True)
        feeder.start()
        out.print(f"Dagster:   http://127.0.0.1:{ports.dagster}/")
        out.print(f"API:       http://127.0.0.1:{ports.api}/docs")
        out.print(f"Dashboard: http://127.0.0.1:{ports.dashboard}/")
        out.print(f"A new row every {interval_s:g} s. Ctrl-C ends it.")
        # A code server that dies is started again only with the legacy behaviour.
        dagster = _start(
            settings,
            *("dagster", "dev", "--use-legacy-code-server-behavior"),
            *("-w", str(PROJECT_DIR / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(ports.dagster)),
        )
        # Ctrl-C reaches Dagster by itself; kill reaches this process only, and must be passed on.
        signal.signal(signal.SIGTERM, lambda *_: dagster.send_signal(signal.SIGINT))
        try:
            return dagster.wait()
        except KeyboardInterrupt:
            return dagster.wait()
        finally:
            stopped.set()
            feeder.join()
            engine.dispose()


@contextmanager
def _faces(settings: Settings, ports: Ports) -> Iterator[None]:
    """The API and the dashboard, ended afterwards."""
    started = [
        _start(settings, "imgpipe", "serve", "--port", str(ports.api)),
        _start(settings, "imgpipe", "dashboard", "--port", str(ports.dashboard)),
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _start(settings: Settings, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    # Programs read the .env file of their folder: in the demo's, the user's stays out.
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    return subprocess.Popen(command, cwd=settings.home)  # noqa: S603 - the arguments are ours


def _feed(engine: Engine, cdn: DemoCdn, files: list[DemoFile], interval_s: float, stopped: threading.Event) -> None:
    for url, file in iter_new_rows(cdn, files, interval_s, stopped.wait):
        if stopped.is_set():
            return
        add_rows(engine, [(url, file)])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _port_of_last_time(home: Path) -> int:
    """The port that rows of an earlier time point at, if there was one; else any."""
    note = home / "cdn_port"
    return int(note.read_text()) if note.is_file() else 0


if __name__ == "__main__":
    sys.exit(main())
