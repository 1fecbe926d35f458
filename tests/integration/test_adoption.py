"""Databases of the older systems are taken over in place, on both kinds: every row is kept."""

from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.adoption import adopt, plan_adoption
from imgpipe_dagster.catalogue.engine import CatalogueError, connect
from imgpipe_dagster.catalogue.import_files import ImportRow
from imgpipe_dagster.catalogue.imports import import_rows
from imgpipe_dagster.catalogue.tables import Option, ProcessingJob, ProductImage, QcReviewLog, Sku

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
    "CREATE TABLE processing_jobs (job_id VARCHAR(36) PRIMARY KEY, status VARCHAR(20), total_images INT)",
    "INSERT INTO processing_jobs VALUES ('a', 'processing', 4), ('b', 'completed', 2), ('c', 'queued', 1)",
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


class Killed(Exception):
    pass


@contextmanager
def killed_at(engine, begins):
    """Stop whatever comes to a statement that begins so."""

    def stop(_connection, _cursor, statement, *_rest):
        if statement.strip().startswith(begins):
            raise Killed

    sa.event.listen(engine, "before_cursor_execute", stop)
    try:
        yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", stop)


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
        "processing_jobs": 3,
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
    assert read(older, ProcessingJob.job_id, ProcessingJob.status) == [
        *[("a", "failed"), ("b", "completed"), ("c", "failed")]
    ], "no job is open that nobody works on"
    schema.require_current(older)


def test_adopting_again_goes_on_and_imports_know_what_was_adopted(older):
    adopt(older)
    with older.begin() as connection:
        connection.execute(sa.delete(ProductImage).where(ProductImage.id == 6))  # as if it had been interrupted
        connection.execute(sa.delete(Option))
    planned = plan_adoption(older)
    assert {table.name: table.missing for table in planned if table.missing} == {"product_images": 1, "options": 1}
    copied = {table.name: table.copied for table in adopt(older) if table.copied}
    assert copied == {"product_images": 1, "options": 1}
    assert [table.name for table in plan_adoption(older) if table.missing or not table.is_aside] == []
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
    engine.connect().close()  # makes an empty file
    with pytest.raises(CatalogueError, match="no table of an older system"):
        plan_adoption(engine)
    schema.upgrade(engine)
    with pytest.raises(CatalogueError, match="already"):
        adopt(engine)


def test_an_upgrade_of_an_older_database_is_refused_before_it_changes_anything(older):
    before = sorted(sa.inspect(older).get_table_names())
    for refused in (schema.upgrade, schema.require_current):
        with pytest.raises(schema.OlderDatabaseError, match=r"imgpipe db adopt --dry-run.*then `imgpipe db adopt`"):
            refused(older)
    assert sorted(sa.inspect(older).get_table_names()) == before


def test_what_a_refused_upgrade_once_left_is_not_taken_for_older_tables(older, monkeypatch):
    names = set(sa.inspect(older).get_table_names())
    with monkeypatch.context() as patched:
        patched.setattr(schema, "older_tables", lambda _connection: [])  # it was not looked for
        with pytest.raises(DBAPIError, match="already exists"):
            schema.upgrade(older)
    with pytest.raises(schema.OlderDatabaseError):
        schema.upgrade(older)
    assert {table.name for table in plan_adoption(older)} == names
    adopt(older)
    assert {name for name in sa.inspect(older).get_table_names() if name.startswith("legacy_")} == {
        f"legacy_{name}" for name in names
    }
    schema.require_current(older)


def test_an_adoption_that_was_killed_as_it_made_the_schema_goes_on(older):
    names = set(sa.inspect(older).get_table_names())
    with killed_at(older, "CREATE TABLE skus"), pytest.raises(Killed):
        adopt(older)
    assert {table.name: table.copied for table in adopt(older)}["product_images"] == 3
    assert {name for name in sa.inspect(older).get_table_names() if name.startswith("legacy_")} == {
        f"legacy_{name}" for name in names
    }
    schema.require_current(older)


def test_the_path_of_a_database_that_is_not_there_is_named(tmp_path):
    engine = connect(make_url(f"sqlite:///{tmp_path}/missing/older.db"))
    with pytest.raises(CatalogueError, match=r"There is no database at .*/missing/older\.db"):
        adopt(engine)
