"""Keras on TensorFlow, without what TensorFlow says to everybody as it is imported.

Run as a program, this is the filter that standard error goes through meanwhile: nothing but the standard library here.
"""

import contextlib
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

_HARMLESS = re.compile(rb"I\d{4} |WARNING: All log messages before absl::InitializeLog")
_FILTER_ENDS_S = 5.0


def import_keras() -> Any:  # noqa: ANN401 - the module
    """Keras on TensorFlow, which is imported now; it takes seconds the first time."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors reach Python as exceptions
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever a keras.json in the home folder says
    if "tensorflow" not in sys.modules:
        if importlib.util.find_spec("triton") is not None:
            # Triton, which torchvision imports, and TensorFlow each bring an LLVM: Triton after TensorFlow is a crash.
            importlib.import_module("triton._C.libtriton")
        with _without_chatter():
            importlib.import_module("tensorflow")
    import keras

    return keras


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Leave out of standard error what TensorFlow's libraries log at the level of information while they are loaded.

    They do so before any log level counts. All else passes, even the last words of a process that crashes here: the
    filter is a process of its own.
    """
    stderr = os.dup(2)
    child = subprocess.Popen([sys.executable, "-IS", __file__], stdin=subprocess.PIPE, stderr=stderr)  # noqa: S603 - ours
    if child.stdin is None:
        raise OSError("the filter has no standard input")
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        # A process that another thread has started meanwhile may write through it for longer.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_FILTER_ENDS_S)


def _filter() -> None:
    for line in sys.stdin.buffer:
        if not _HARMLESS.match(line):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


if __name__ == "__main__":
    _filter()
