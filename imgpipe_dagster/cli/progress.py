"""Progress bars for the command line: of a run's stages, fed by what they log about every item, and of files.

Where no terminal shows bars, as under cron, long work writes a line every now and then.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from imgpipe_dagster.runner import JobOutcome

PROGRESS_LOG = "imgpipe_dagster.progress"
LINE_EVERY_S = 15.0


class _Bars(logging.Handler):
    """One bar a stage of the job under way."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Move the bar of the record's stage."""
        stage, done, total = (getattr(record, name) for name in ("stage", "done", "total"))
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage)
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def clear(self) -> None:
        """Forget the stages: the next job begins."""
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()


@contextmanager
def lines_without_terminal(bar: Progress, every_s: float = LINE_EVERY_S) -> Iterator[None]:
    """While the block runs, write where no terminal shows the bar how far what is under way has come."""
    ended = threading.Event()
    teller = threading.Thread(target=_tell, args=(bar, ended, every_s), daemon=True)
    if not bar.console.is_terminal:
        teller.start()
    try:
        yield
    finally:
        ended.set()
        if teller.ident is not None:
            teller.join()


def _tell(bar: Progress, ended: threading.Event, every_s: float) -> None:
    while not ended.wait(every_s):
        for task in bar.tasks:
            if 0 < task.completed and not task.finished:
                what = task.description or "done"
                bar.console.print(f"{what}: {task.completed:.0f} of {task.total or 0:.0f}", markup=False)


@contextmanager
def stage_bars(console: Console) -> Iterator[Callable[["JobOutcome"], None]]:
    """Show bars while the block runs; call what it gives as each job on a batch ends."""
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    bars = _Bars(progress)
    source = logging.getLogger(PROGRESS_LOG)
    level, propagates = source.level, source.propagate
    source.addHandler(bars)
    source.setLevel(logging.DEBUG)
    source.propagate = False

    def on_job(outcome: "JobOutcome") -> None:
        bars.clear()
        verdict = "done" if outcome.succeeded else f"failed after {outcome.attempts} attempts"
        work = f"{outcome.job} {outcome.images} images in {outcome.seconds:.1f} s"
        console.print(f"batch {outcome.key}: {work}, {verdict}")

    try:
        with lines_without_terminal(progress), progress:
            yield on_job
    finally:
        source.removeHandler(bars)
        source.setLevel(level)
        source.propagate = propagates


@contextmanager
def file_bar(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar of so many files while the block runs; each call of what it gives prints a line and moves the bar.

    Lines go to standard output, and above the bar where both are the same terminal.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        redirect_stdout=False,
    )
    task = bar.add_task("files", total=total)

    def tell(line: str) -> None:
        if console.is_terminal and sys.stdout.isatty():
            bar.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            typer.echo(line)
        bar.advance(task)

    with _shown(bar):
        yield tell


@contextmanager
def count_bar(console: Console, what: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar of ``total`` things while the block runs; what it gives moves it by one and shows a text beside it."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
    )
    task = bar.add_task(what, total=total, note="")
    with _shown(bar):
        yield lambda note: bar.update(task, advance=1, note=note)


@contextmanager
def _shown(bar: Progress) -> Iterator[None]:
    """Show a bar while the block runs. One that has not moved when the block fails is wiped: nothing had begun."""
    if bar.console.is_terminal:
        bar.start()
    try:
        with lines_without_terminal(bar):
            yield
    finally:
        moved = any(task.completed for task in bar.tasks)
        bar.live.transient = not moved
        if moved:
            bar.start()  # elsewhere than on a terminal its end is all that is shown
        bar.stop()
