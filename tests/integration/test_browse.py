"""Pages of images on both databases: together they give exactly what fits, whatever the conditions."""

import datetime as dt
import itertools
import random

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import browse, schema
from imgpipe_dagster.catalogue.browse import ImageFilter, image_details, list_images
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import Detection, ImageStatus, ProductImage

FIRST = dt.datetime(2026, 11, 1)  # noqa: DTZ001 - UTC, as the columns are
IMAGES = 300


@pytest.fixture
def rows():
    """Images in all combinations; times that do not follow the ids, and equal ones."""
    rng = random.Random(7)
    made = []
    for number in range(1, IMAGES + 1):
        status = rng.choice(list(ImageStatus))
        made.append(
            {
                "id": number * 3,
                "status": status.value,
                "sku_id": rng.choice([None, "a", "A", "b"]),
                "temple_id": rng.choice([None, "t1", "t2"]),
                "reason": rng.choice(["truncated", "corrupt"]) if status is ImageStatus.FAILED else None,
                "batch_key": "new",
                "created_at": FIRST + dt.timedelta(seconds=rng.randrange(40)),
            }
        )
    return made


@pytest.fixture
def engine(database_url, rows):
    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    rng = random.Random(8)
    boxes = [
        {
            "image_id": row["id"],
            "batch_key": batch,
            "class_name": rng.choice(["can", "bottle"]),
            "confidence": rng.choice([0.3, 0.5, 0.9]),
        }
        for row in rows
        for batch in rng.choices(["new", "old"], k=rng.randrange(4))
    ]
    corner = {"class_id": 0, "x1": 0, "y1": 0, "x2": 1, "y2": 1, "model_version": "m"}
    with engine.begin() as connection:
        connection.execute(sa.insert(ProductImage), rows)
        connection.execute(
            sa.insert(Detection), [{**box, **corner, "detection_id": str(n)} for n, box in enumerate(boxes)]
        )
    for row in rows:
        mine = [box for box in boxes if box["image_id"] == row["id"] and box["batch_key"] == "new"]
        row["boxes"] = [(box["class_name"], box["confidence"]) for box in mine]
    yield engine
    engine.dispose()


def all_pages(engine, which, size, newest_first=False):
    found, after, pages = [], None, 0
    while True:
        page = list_images(engine, which, after=after, at_most=size, newest_first=newest_first)
        assert len(page.images) <= size
        found += [row["id"] for row in page.images]
        pages += 1
        if page.next is None:
            return found, pages
        assert page.next != after
        after = page.next


def fits(row, which):
    wanted = {"status": which.status, "sku_id": which.sku_id, "temple_id": which.temple_id, "reason": which.reason}
    low, high = which.confidence or (0, 1)
    boxes = [name for name, confidence in row["boxes"] if low <= confidence <= high]
    return (
        all(value is None or row[name] == value for name, value in wanted.items())
        and (which.class_name is None or which.class_name in boxes)
        and (which.confidence is None or bool(boxes))
        and (which.created_from is None or row["created_at"] >= which.created_from)
        and (which.created_to is None or row["created_at"] < which.created_to)
    )


def test_pages_together_give_exactly_the_images_that_fit(engine, rows, monkeypatch):
    monkeypatch.setattr(browse, "WINDOW", 40)
    choices = {
        "status": [None, ImageStatus.FAILED, ImageStatus.COMPLETED],
        "sku_id": [None, "a", "nothing"],
        "temple_id": [None, "t1"],
        "class_name": [None, "can"],
        "confidence": [None, (0.4, 0.6)],
        "reason": [None, "truncated"],
        "created_from": [None, FIRST + dt.timedelta(seconds=10)],
        "created_to": [None, FIRST + dt.timedelta(seconds=30)],
    }
    combinations = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    assert len(combinations) == 576
    for number, conditions in enumerate(combinations):
        which = ImageFilter(**conditions)
        key = (lambda row: (row["created_at"], row["id"])) if which.is_by_time else (lambda row: row["id"])
        backwards = number % 3 == 0
        expected = [row["id"] for row in sorted(rows, key=key, reverse=backwards) if fits(row, which)]
        found, _ = all_pages(engine, which, size=(1 + number % 17), newest_first=backwards)
        assert found == expected, which


def test_a_page_that_looks_at_many_rows_ends_and_the_next_one_goes_on(engine, rows, monkeypatch):
    monkeypatch.setattr(browse, "WINDOW", 30)
    found, pages = all_pages(engine, ImageFilter(sku_id="a", class_name="nothing"), size=10)
    assert found == []
    assert pages == -(-sum(row["sku_id"] == "a" for row in rows) // 30)


def test_there_are_no_details_of_an_image_that_is_not_there(engine):
    assert image_details(engine, 10**12) is None
    assert image_details(engine, 3).image["id"] == 3
