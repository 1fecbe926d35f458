"""Databases of the older systems are taken over in place, on both kinds: every row is kept."""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.adoption import adopt, plan_adoption
from imgpipe_dagster.catalogue.engine import CatalogueError, connect
from imgpipe_dagster.catalogue.import_files import ImportRow
from imgpipe_dagster.catalogue.imports import import_rows
from imgpipe_dagster.catalogue.tables import Option, ProductImage, QcReviewLog, Sku

NUMBERED = {"sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT", "mysql": "INT PRIMARY KEY AUTO_INCREMENT"}
URL = "https://cdn.example.com/{}.jpg"
TABLES = [
    "CREATE TABLE product_groups (product_group_id VARCHAR(100) PRIMARY KEY, name VARCHAR(200), margin INT)",
    "CREATE TABLE skus (sku_id VARCHAR(100) PRIMARY KEY, product_group_id VARCHAR(100), image_count INT, "
    "FOREIGN KEY (product_group_id) REFERENCES product_groups (product_group_id))",
    "CREATE TABLE product_images (id {id}, product_group_id VARCHAR(100), sku_id VARCHAR(100), image_url VARCHAR(500), "
    "enhanced_image_url VARCHAR(500), image_type VARCHAR(50), status VARCHAR(20), qc_status VARCHAR(20), "
    "created_at DATETIME, photographer VARCHAR(50))",
    "CREATE INDEX ix_product_images_sku_id ON product_images (sku_id)",
    "CREATE TABLE image_metrics (id {id}, image_id INT, score_before FLOAT, score_after FLOAT)",
    "CREATE TABLE qc_review_logs (id {id}, image_id INT, reviewer_id VARCHAR(100), status VARCHAR(20), notes TEXT)",
    "INSERT INTO product_groups VALUES ('PG', 'Masks', 3)",
    "INSERT INTO skus VALUES ('S1', 'PG', NULL)",
    "INSERT INTO image_metrics VALUES (1, 5, 40, 80)",
    "INSERT INTO qc_review_logs VALUES (7, 5, 'ann', 'approved', 'LGTM')",
]
IMAGES = [
    (5, "S1", URL.format("a"), "completed", "approved", "2024-05-01 10:00:00"),
    (6, "S1", URL.format("b"), "PROCESSING", "pending", None),
    (9, "S1", URL.format("a"), "weird", None, "2024-05-01 10:00:00"),
]


@pytest.fixture
def engine(database_url):
    engine = connect(make_url(database_url))
    yield engine
    engine.dispose()


@pytest.fixture
def older(engine):
    """The enhancement system's database, and the planogram's options and answers."""
    with engine.begin() as connection:
        for statement in TABLES:
            connection.exec_driver_sql(statement.format(id=NUMBERED[engine.dialect.name]))
        insert = "INSERT INTO product_images (id, sku_id, image_url, status, qc_status, created_at, photographer)"
        for values in IMAGES:
            listed = ", ".join("NULL" if value is None else f"'{value}'" for value in values)
            connection.exec_driver_sql(f"{insert} VALUES ({listed}, 'bob')")
        connection.exec_driver_sql(
            "CREATE TABLE options (option_group VARCHAR(50), option_key VARCHAR(50), "
            "option_value TEXT, option_meta TEXT)"
        )
        connection.exec_driver_sql("INSERT INTO options VALUES ('error_alert', 'email', 'a@b.c, d@e.f', 'me@b.c')")
        connection.exec_driver_sql("CREATE TABLE image_predictions (image_id INT, created_at DATETIME, boxes TEXT)")
        connection.exec_driver_sql("INSERT INTO image_predictions VALUES (4711, '2024-05-01 10:00:00', '[]')")
    return engine


def read(engine, *columns):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(columns[0]))]


def count(engine, table):
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(sa.table(table)))


def test_every_row_is_kept_and_those_that_have_a_place_get_it(older):
    before = sorted(sa.inspect(older).get_table_names())
    rows = {name: count(older, name) for name in before}
    planned = {table.name: table for table in plan_adoption(older)}
    assert sorted(sa.inspect(older).get_table_names()) == before, "a plan changes nothing"
    assert {name: table.rows for name, table in planned.items()} == rows
    assert planned["product_images"].left == ("photographer",)
    assert planned["image_metrics"].columns == planned["image_predictions"].columns == ()

    done = {table.name: table.copied for table in adopt(older)}
    assert {name: count(older, f"legacy_{name}") for name in before} == rows
    assert done == {
        **{"product_groups": 1, "skus": 1, "product_images": 3, "qc_review_logs": 1, "options": 1},
        **{"image_metrics": 0, "image_predictions": 0},
    }
    columns = ProductImage.id, ProductImage.image_url, ProductImage.status, ProductImage.qc_status
    assert read(older, *columns) == [
        (5, URL.format("a"), "completed", "approved"),
        (6, URL.format("b"), "pending", "pending"),
        (9, URL.format("a"), "pending", "pending"),
    ]
    assert read(older, Sku.sku_id, Sku.product_group_id, Sku.image_count) == [("S1", "PG", 0)]
    assert read(older, QcReviewLog.id, QcReviewLog.status, QcReviewLog.notes) == [(7, "approved", "LGTM")]
    assert read(older, Option.option_key, Option.option_value) == [("email", "a@b.c, d@e.f")]
    schema.require_current(older)


def test_adopting_again_goes_on_and_imports_know_what_was_adopted(older):
    adopt(older)
    with older.begin() as connection:
        connection.execute(sa.delete(ProductImage).where(ProductImage.id == 6))  # as if it had been interrupted
    assert {table.name: table.copied for table in adopt(older) if table.copied} == {"product_images": 1}
    again = import_rows(older, [ImportRow(URL.format("a"), sku_id="S1"), ImportRow(URL.format("new"), sku_id="S1")])
    assert (again.known, again.inserted) == (1, 1)
    assert read(older, ProductImage.id)[-1][0] > 9


def test_a_value_that_cannot_be_read_is_named_and_once_corrected_adoption_goes_on(older):
    with older.begin() as connection:
        if older.dialect.name != "sqlite":
            connection.exec_driver_sql("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'")
        connection.exec_driver_sql("UPDATE product_images SET created_at = '0000-00-00 00:00:00' WHERE id = 5")
        connection.exec_driver_sql("UPDATE product_images SET created_at = '2024-02-30' WHERE id = 9")
    with pytest.raises(
        CatalogueError, match=r"legacy_product_images, id 9: created_at cannot be read.*Correct it there"
    ):
        adopt(older)
    with older.begin() as connection:
        connection.exec_driver_sql("UPDATE legacy_product_images SET created_at = '2024-02-28' WHERE id = 9")
    adopt(older)
    assert [row[0] for row in read(older, ProductImage.id)] == [5, 6, 9], "MySQL's zero time is no time"


def test_what_is_no_older_database_is_refused(engine):
    with pytest.raises(CatalogueError, match="no table of an older system"):
        plan_adoption(engine)
    schema.upgrade(engine)
    with pytest.raises(CatalogueError, match="already"):
        adopt(engine)
