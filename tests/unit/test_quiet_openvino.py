"""OpenVINO reports to nobody that it was imported."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.native

REPORTING = """
import sys
from pathlib import Path
{begin}
assert "openvino.tools.ovc" in sys.modules, "the part of OpenVINO that reports was not imported"
print(sorted(name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module))
"""


@pytest.mark.parametrize(
    "begin",
    [
        "from imgpipe_dagster.models import runtime; runtime._core()",
        "from imgpipe_dagster.models import convert; convert.main('nothing'); import openvino",
        "from imgpipe_dagster.models import quiet_openvino; quiet_openvino.import_openvino(); import nncf",
    ],
    ids=["detection", "conversion", "calibration"],
)
def test_importing_openvino_reports_nothing(begin: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPORTING.format(begin=begin)], capture_output=True, text=True, timeout=250, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
