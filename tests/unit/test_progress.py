"""Progress where no terminal shows bars."""

import io
import time

import pytest
from rich.console import Console
from rich.progress import Progress

from imgpipe_dagster.cli.progress import lines_without_terminal


@pytest.mark.parametrize("terminal", [False, True])
def test_long_work_writes_lines_where_there_is_no_terminal(terminal):
    written = io.StringIO()
    bar = Progress(console=Console(file=written, force_terminal=terminal, width=80), auto_refresh=False)
    under_way = bar.add_task("rendering", total=50)
    bar.add_task("not begun", total=9)
    over = bar.add_task("over", total=2)
    bar.advance(over, 2)
    with lines_without_terminal(bar, every_s=0.02):
        bar.advance(under_way, 12)
        deadline = time.monotonic() + (0.2 if terminal else 10)
        while time.monotonic() < deadline and "rendering: 12 of 50\n" not in written.getvalue():
            time.sleep(0.01)
    lines = set(written.getvalue().splitlines())
    assert lines == (set() if terminal else {"rendering: 12 of 50"})
    told = written.getvalue()
    time.sleep(0.1)
    assert written.getvalue() == told, "nothing is written after its end"
