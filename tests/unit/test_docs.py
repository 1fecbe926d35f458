"""The documents say what is true: pages that are made from code are up to date, names in them exist."""

import re
from pathlib import Path

import pytest

from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.settings_page import settings_page

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", PROJECT / ".env.example", *sorted((PROJECT / "docs").rglob("*.md"))]
PAGES += [PROJECT / "deploy" / "README.md", PROJECT / "benchmarks" / "README.md"]


def test_the_page_of_settings_is_up_to_date():
    assert (PROJECT / "docs" / "settings.md").read_text() == settings_page()


def test_every_setting_is_described():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_reason_has_advice():
    assert all(reason.advice.endswith(".") for reason in Reason)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.name}")
def test_settings_that_a_page_names_exist(page):
    known = {f"IMGPIPE_{name.upper()}" for name in Settings.model_fields} | {"IMGPIPE_TEST_DATA"}
    assert set(re.findall(r"IMGPIPE_[A-Z0-9_]+[A-Z0-9]", page.read_text())) <= known


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.suffix == ".md"], ids=lambda page: f"{page.parent.name}/{page.name}"
)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
