"""What the benchmarks of whole runs share: pictures, the server that gives them, and an installation of their own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from detection import write_pictures
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import ImageBatch, ProductImage
from imgpipe_dagster.demo.home import demo_environment

PICTURES = Path(".imgpipe/benchmarks/pictures")
SERVER = Path(__file__).with_name("_server.py")


def pictures(count: int) -> Path:
    """A folder of so many rendered JPEGs of 1280 x 960 and about 240 KB, rendered once and then kept."""
    folder = PICTURES.absolute() / str(count)
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_pictures(unfinished, 1_000_000, count)
        unfinished.rename(folder)
    return folder


@contextmanager
def serving(folder: Path, delay_s: float) -> Iterator[str]:
    """Serve the files of a folder while the block runs; gives the URL that ``/<number>`` follows."""
    command = [sys.executable, str(SERVER), str(folder), str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


class Installation:
    """A pipeline apart from the user's own: SQLite, a local store and Dagster's storage in one folder."""

    def __init__(self, home: Path, *, batch_size: int, **settings: str) -> None:
        own = {f"IMGPIPE_{name.upper()}": value for name, value in settings.items()}
        self.home = home
        self.environment = {**os.environ, **demo_environment(home, batch_size=batch_size, batch_max_wait_s=0), **own}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # whoever runs a pipeline keeps its compiled modules
        self.engine = connect(make_url(self.environment["IMGPIPE_DATABASE_URL"]))
        schema.upgrade(self.engine)

    def add(self, urls: Iterable[str]) -> None:
        """New rows, as another program would insert them."""
        with self.engine.begin() as connection:
            connection.execute(sa.insert(ProductImage), [{"image_url": url} for url in urls])

    @property
    def run_once_command(self) -> list[str]:
        """`imgpipe run --once`, for a process with this installation's environment."""
        return [str(Path(sys.executable).with_name("imgpipe")), "run", "--once", "--json"]

    def run_once(self) -> None:
        """Process all that waits, in a process of its own."""
        quiet = subprocess.DEVNULL
        subprocess.run(self.run_once_command, env=self.environment, stdout=quiet, stderr=quiet, check=True)

    def last_batch_seconds(self) -> float:
        """From the claim of the newest batch to the published statuses of its images, by the database's times."""
        newest = sa.select(ImageBatch.created_at, ImageBatch.analysed_at).order_by(ImageBatch.id.desc()).limit(1)
        with self.engine.connect() as connection:
            claimed, published = connection.execute(newest).one()
        assert published is not None
        return (published - claimed).total_seconds()

    def last_run_steps(self) -> dict[str, float]:
        """Seconds of each step of the newest run, by Dagster's events, and what lies between them."""
        import dagster as dg

        with dg.DagsterInstance.from_config(self.environment["DAGSTER_HOME"]) as instance:
            record = instance.get_run_records(limit=1)[0]
            stats = instance.get_run_step_stats(record.dagster_run.run_id)
        seconds = {step.step_key: (step.end_time or 0) - (step.start_time or 0) for step in stats}
        return {**seconds, "between": (record.end_time or 0) - (record.start_time or 0) - sum(seconds.values())}
