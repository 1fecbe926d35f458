"""The door that Dagster comes through. The house is in ``build.py``."""

import dagster as dg

from imgpipe_dagster.build import build_defs
from imgpipe_dagster.logs import set_up_logging
from imgpipe_dagster.settings import Settings, export_secrets


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions for the settings of this installation."""
    settings = Settings()
    export_secrets(settings)
    set_up_logging(settings.log_level, settings.log_format)
    return build_defs(settings)
