"""Imported by the process that workers are forked from: what every run imports. It opens no file and no connection."""

import contextlib

with contextlib.suppress(Exception):  # a worker tries again, and reports why
    import imgpipe_dagster.definitions
    import imgpipe_dagster.launching.worker  # noqa: F401
    from imgpipe_dagster.models.quiet_openvino import import_openvino

    import_openvino()
