"""OpenVINO without its telemetry. Nothing about models."""

import sys
from types import ModuleType
from typing import Any, cast


def silence_openvino() -> None:
    """Make the import of OpenVINO, by whomever in this process, report nothing to its makers; call it first.

    Its import otherwise starts a process that asks Google Analytics, at which the end of ours waits for up to three
    seconds where there is no way out. OpenVINO and NNCF do without the package that would do it.
    """
    cast(dict[str, ModuleType | None], sys.modules).setdefault("openvino_telemetry", None)


def import_openvino() -> Any:  # noqa: ANN401 - the module
    """OpenVINO, which is imported now, in silence."""
    silence_openvino()
    import openvino

    return openvino
