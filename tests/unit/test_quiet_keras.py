"""Importing Keras: nothing to read on standard error unless something is wrong, and PyTorch can still be loaded."""

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.native

SPEAKING = """
import os
from imgpipe_dagster.models import quiet_keras
with quiet_keras._without_chatter():
    os.write(2, b"I0000 00:00:1 cudart_stub.cc:31] Could not find cuda drivers\\nE0000 00:00:1 cpu.cc:1] no AVX\\n")
    {end}
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)


def test_keras_comes_without_a_word_and_pytorch_after_it() -> None:
    later = "triton" if importlib.util.find_spec("triton") else "sys"  # PyTorch for CPUs has no Triton
    done = run(
        f"from imgpipe_dagster.models.quiet_keras import import_keras; print(import_keras().__name__); import {later}"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "keras\n", "")


@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("os.abort()", -6), ("raise ImportError('no wheel')", 1)])
def test_errors_are_told_even_by_a_process_that_dies_of_them(end: str, status: int) -> None:
    done = run(SPEAKING.format(end=end))
    assert done.returncode == status
    assert "no AVX" in done.stderr
    assert "cuda drivers" not in done.stderr
    assert ("no wheel" in done.stderr) == (status == 1)
