"""The schema on both databases: migrations and tables agree, and a second upgrade changes nothing."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import CatalogueError, connect
from imgpipe_dagster.catalogue.tables import BATCH_TABLES, Base


@pytest.fixture
def engine(database_url):
    engine = connect(make_url(database_url))
    yield engine
    engine.dispose()


def test_migrations_build_the_tables_that_the_code_describes(engine):
    assert schema.upgrade(engine) == (None, schema.head_revision())
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_second_upgrade_changes_nothing(engine):
    schema.upgrade(engine)
    assert schema.upgrade(engine) == (schema.head_revision(), schema.head_revision())


def test_upgrades_at_the_same_time_take_turns(database_url):
    start = Barrier(4)

    def upgrade(_):
        engine = connect(make_url(database_url))  # as in a process of its own
        start.wait(timeout=30)
        try:
            return schema.upgrade(engine)
        finally:
            engine.dispose()

    head = schema.head_revision()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(upgrade, range(4)))
    assert sorted(before or "" for before, _ in found) == ["", head, head, head]
    assert {after for _, after in found} == {head}


def test_work_on_a_schema_that_is_not_up_to_date_is_refused(engine):
    with pytest.raises(CatalogueError, match="imgpipe db upgrade"):
        schema.require_current(engine)


@pytest.mark.parametrize(
    "begins", ["CREATE TABLE skus", "CREATE VIEW current_raw_images", "INSERT INTO alembic_version"]
)
def test_a_first_upgrade_that_was_killed_is_made_anew(engine, begins):
    def stop(_connection, _cursor, statement, *_rest):
        if statement.strip().startswith(begins):
            raise InterruptedError

    sa.event.listen(engine, "before_cursor_execute", stop)
    with pytest.raises(InterruptedError):
        schema.upgrade(engine)
    sa.event.remove(engine, "before_cursor_execute", stop)
    with pytest.raises(CatalogueError, match="not up to date: run `imgpipe db upgrade`"):
        schema.require_current(engine)
    assert schema.upgrade(engine) == (None, schema.head_revision())
    schema.require_current(engine)


def test_each_batch_table_has_a_view_of_the_rows_that_count(engine):
    schema.upgrade(engine)
    views = {f"current_{table.__tablename__}" for table in BATCH_TABLES}
    assert views <= set(sa.inspect(engine).get_view_names())


def test_the_printed_schema_builds_the_same_tables(mariadb, mariadb_url):
    url = make_url(mariadb_url)
    for statement in schema.schema_sql("mysql").split(";"):
        if statement.strip():
            mariadb.execute(f"USE {url.database}", statement)
    engine = connect(url)
    schema.require_current(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()
