"""``python -m imgpipe_dagster.demo.ui``: Dagster's UI over the demo, with a CDN alive and new rows arriving."""

import argparse
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.schema import upgrade
from imgpipe_dagster.demo.cdn import DemoCdn, iter_new_rows
from imgpipe_dagster.demo.home import DemoBusyError, demo_home, enter_demo, locked
from imgpipe_dagster.demo.images import DemoFile, write_demo_images
from imgpipe_dagster.demo.show import add_rows
from imgpipe_dagster.instance import PROJECT_DIR, prepare_dagster_home
from imgpipe_dagster.settings import Settings

out = Console(highlight=False)


def main() -> int:
    """Start everything; it ends with Ctrl-C."""
    parser = argparse.ArgumentParser(description="Dagster's UI over the demo, with new rows arriving.")
    parser.add_argument("--port", type=int, default=3000, help="port of Dagster's UI (default: %(default)s)")
    parser.add_argument("--images", type=int, default=60, help="how many files the CDN has (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between new rows (default: %(default)s)")
    options = parser.parse_args()
    # A shell starts background jobs with SIGINT ignored, and Dagster would inherit that and never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not _is_free(options.port):
        out.print(f"Port {options.port} is taken: choose another with `make ui PORT=3001`.", style="red")
        return 1
    home = demo_home()
    try:
        with locked(home):
            return _serve(
                enter_demo(home, batch_size=20, batch_max_wait_s=15), options.port, options.images, options.interval
            )
    except DemoBusyError as error:
        out.print(str(error), style="red", soft_wrap=True)
        return 1


def _serve(settings: Settings, port: int, count: int, interval_s: float) -> int:
    prepare_dagster_home(settings)
    engine = connect(settings.catalogue_url)
    upgrade(engine)
    folder = settings.home / "images" / str(count)  # the files of one count have other names than those of another
    with Progress(console=out) as progress:
        task = progress.add_task("rendering images", total=count)
        files = write_demo_images(folder, count, lambda _file: progress.advance(task))
    stopped = threading.Event()
    with DemoCdn(folder, _port_of_last_time(settings.home)) as cdn:
        (settings.home / "cdn_port").write_text(str(cdn.port))
        feeder = threading.Thread(target=_feed, args=(engine, cdn, files, interval_s, stopped), daemon=True)
        feeder.start()
        out.print(f"Dagster: http://127.0.0.1:{port}/ - a new row every {interval_s:g} s. Ctrl-C ends it.")
        # A code server that dies is started again only with the legacy behaviour.
        dagster = subprocess.Popen(  # noqa: S603 - the arguments are ours
            [
                *(str(Path(sys.executable).with_name("dagster")), "dev", "--use-legacy-code-server-behavior"),
                *("-w", str(PROJECT_DIR / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)),
            ],
            cwd=settings.home,  # Dagster and its code servers read the .env file of their folder: the user's stays out
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
