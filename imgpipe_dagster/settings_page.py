"""``python -m imgpipe_dagster.settings_page > docs/settings.md``: the page of all settings, made from the class."""

import json
import sys
from pathlib import Path

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from imgpipe_dagster.settings import DEMO_BOTTLE_WEIGHTS, DEMO_WEIGHTS, Settings

_HEAD = """# Settings

Environment variables, or lines of `.env` in the working directory (`.env.example` is a start). Lists are written as
JSON. `imgpipe doctor` says whether catalogue, store,
mail and models can be used with the settings. This page is made from the class `Settings`:
`python -m imgpipe_dagster.settings_page > docs/settings.md`.

| variable | default | meaning |
|---|---|---|
"""


def settings_page() -> str:
    """The page as Markdown."""
    return _HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    names = [f"IMGPIPE_{name.upper()}"]
    if isinstance(field.validation_alias, AliasChoices):
        names = [str(choice) for choice in field.validation_alias.choices]
    variables = " or ".join(f"`{n}`" for n in names)
    return f"| {variables} | {_default(field)} | {field.description} |\n"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value in (None, "", [], {}) or isinstance(value, SecretStr):
        return ""
    if str(value) in {str(DEMO_WEIGHTS), str(DEMO_BOTTLE_WEIGHTS)}:  # a path of this machine
        return "the demo model"
    if isinstance(value, list):
        return f"`{json.dumps(value)}`"
    return f"`{value.as_posix() if isinstance(value, Path) else value}`"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
