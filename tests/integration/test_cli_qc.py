"""``imgpipe qc``: review from the command line, over one catalogue in a process of its own each time."""

import csv
import getpass
import io
import json

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import EnhancedImage, ImageMetric, ProductImage, PublishedEnhancement
from imgpipe_dagster.cli import app
from imgpipe_dagster.imaging.rework import RejectionReason

ME = getpass.getuser()


@pytest.fixture
def qc(tmp_path, monkeypatch):
    """Calls of ``imgpipe qc`` over a catalogue in which the images 1 to 5 wait, the fifth first."""
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/catalogue.db"
    monkeypatch.setenv("IMGPIPE_DATABASE_URL", url)
    engine = connect(sa.make_url(url))
    schema.upgrade(engine)
    with engine.begin() as connection:
        for number in range(1, 6):
            of_batch = {"batch_key": "b", "image_id": number}
            sha256, key = f"{number:064x}", f"enhanced/{number}/a.jpg"
            connection.execute(
                sa.insert(ProductImage).values(
                    id=number,
                    sku_id=f"S{number}",
                    image_url="http://cdn/a,b.jpg",
                    batch_key="b",
                    status="completed",
                    qc_status="needs_review",
                    qc_priority=number / 3,
                    enhanced_sha256=sha256,
                )
            )
            made = {"object_key": key, "sha256": sha256, "mode": "auto", "config": {}, "steps": []}
            connection.execute(sa.insert(EnhancedImage).values(**of_batch, **made, model_version="m"))
            verdict = {"qc_status": "needs_review", "qc_priority": 1, "audited": False, "review_reasons": ["mask_torn"]}
            connection.execute(sa.insert(PublishedEnhancement).values(**of_batch, **verdict))
            for phase, score in (("before", 30), ("after", 70)):
                size = {"width": 1, "height": 1, "byte_size": 1}
                connection.execute(sa.insert(ImageMetric).values(**of_batch, phase=phase, score=score, **size))
    engine.dispose()

    def call(*arguments):
        return CliRunner().invoke(app, ["qc", *map(str, arguments)])

    return call


def lines(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_queue_is_listed_in_pages_the_most_urgent_first(qc):
    page = lines(qc("list", "--limit", 2, "--json"))
    assert [item["image_id"] for item in page] == [5, 4]
    assert (page[0]["score"], page[0]["score_before"], page[0]["review_reasons"]) == (70, 30, ["mask_torn"])
    assert page[0]["enhanced_url"].startswith("file:///")
    rest = lines(qc("list", "--after", page[-1]["cursor"], "--json"))
    assert [item["image_id"] for item in rest] == [3, 2, 1]
    assert "5: S5, score 70 (was 30), mask_torn" in qc("list").stdout
    assert qc("list", "--after", "soon").exit_code == 2


def test_pictures_are_claimed_given_back_and_decided(qc):
    assert [item["claimed_by"] for item in lines(qc("claim", "--count", 2, "--json"))] == [ME, ME]
    assert [item["image_id"] for item in lines(qc("list", "--reviewer", "bob", "--json"))] == [3, 2, 1]
    taken = qc("claim", 5, "--reviewer", "bob")
    assert (taken.exit_code, taken.stdout) == (3, "")
    refused = qc("approve", 5, "--reviewer", "bob")
    assert refused.exit_code == 3
    assert f"Image 5 is claimed by {ME}" in refused.stderr
    assert "5: released" in qc("release", 5).stdout
    (approved,) = lines(qc("approve", 5, "--reviewer", "bob", "--notes", "fine", "--json"))
    assert (approved["qc_status"], approved["enhanced_image_url"][:8]) == ("approved", "file:///")
    again = qc("reject", 5, 4, "--reason", "too_dark")
    assert again.exit_code == 3
    assert "Image 5 was approved by bob" in again.stderr
    assert "4: rejected; it is enhanced again (rework 1) with light 1.0, steps ['light']" in again.stdout
    assert "4: waits again" in qc("undo", 4).stdout
    assert "3: rejected for good" in qc("reject", 3, "--reason", "unusable").stdout
    assert "999" in qc("claim", 999).stderr
    unknown = qc("reject", 2, "--reason", "ugly")
    assert unknown.exit_code == 2
    assert "too_dark" in unknown.output


def test_figures_and_what_is_published_can_be_had_by_programs(qc, tmp_path):
    qc("approve", 1, 2)
    qc("reject", 3, "--reason", "too_blurry")
    figures = json.loads(qc("stats", "--json").stdout)
    assert (figures["approved"], figures["reworked"], figures["rejection_reasons"]) == (2, 1, {"too_blurry": 1})
    assert ME in qc("stats").stdout
    rows = list(csv.DictReader(io.StringIO(qc("export").stdout)))
    assert [(row["image_id"], row["image_url"]) for row in rows] == [
        ("1", "http://cdn/a,b.jpg"),
        ("2", "http://cdn/a,b.jpg"),
    ]
    assert all(row["enhanced_image_url"].startswith("file:///") for row in rows)
    assert qc("export", "--format", "json", "-o", "out.jsonl").exit_code == 0
    assert [json.loads(line)["image_id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [1, 2]
    assert qc("export", "--format", "xml").exit_code == 2


def test_every_reason_is_listed_with_what_it_changes(qc):
    assert json.loads(qc("reasons", "--json").stdout) == {reason: reason.meaning for reason in RejectionReason}


def test_an_empty_queue_says_so(qc):
    qc("approve", 1, 2, 3, 4, 5)
    assert "Nothing waits" in qc("list").stdout
    assert lines(qc("claim", "--json")) == []
