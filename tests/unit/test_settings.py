"""Names under which the settings of older installations are still read."""

import pytest

from imgpipe_dagster.settings import Settings


@pytest.fixture(autouse=True)
def no_env_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("DEFAULT_BACKGROUND_COLOR", "#F0F0F0", "background_color", "#F0F0F0"),
        ("TARGET_MIN_DIMENSION", "1200", "target_min_dimension", 1200),
        ("AUTO_APPROVE_THRESHOLD", "80", "auto_approve_threshold", 80),
        ("ENABLE_BACKGROUND_REMOVAL", "false", "enable_background_removal", False),
    ],
)
def test_a_setting_is_read_under_its_older_name_but_the_new_name_wins(monkeypatch, variable, value, field, expected):
    monkeypatch.setenv(variable, value)
    assert getattr(Settings(), field) == expected
    default = Settings.model_fields[field].default
    monkeypatch.setenv(f"IMGPIPE_{field.upper()}", str(default))
    assert getattr(Settings(), field) == default


def test_the_catalogue_is_found_by_the_older_names_of_its_parts(monkeypatch):
    parts = {"HOST": "db.example", "PORT": "3307", "USER": "pipe", "PASSWORD": "p@ss:word", "DATABASE": "shop"}
    for part, value in parts.items():
        monkeypatch.setenv(f"MYSQL_{part}", value)
    url = Settings().catalogue_url
    assert (url.drivername, url.host, url.port, url.username, url.password, url.database) == (
        "mysql+pymysql", "db.example", 3307, "pipe", "p@ss:word", "shop",
    )  # fmt: skip
