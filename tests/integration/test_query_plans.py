"""No statement that runs per tick, per batch or per page reads a whole table, on either database."""

import importlib.util
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "query_plans.py"
COUNTS = {
    "status: count_by_status",
    "status: count_batches_by_state",
    "status: review_figures",
    "status: temple_ids",
}  # a count or a list of everything reads an index of it
FEW = {"sqlite": 10, "mysql": 500}  # of 10,000 images: thousands of SQLite's steps, rows that MariaDB read


@pytest.fixture(scope="module")
def query_plans():
    """The benchmark, which does the same with a thousand times the rows."""
    spec = importlib.util.spec_from_file_location("query_plans", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def engine(database_url, query_plans):
    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    query_plans.fill(engine, image_count=10_000, box_count=20_000, batch_size=50)
    yield engine
    engine.dispose()


def test_no_statement_reads_a_whole_table(engine, query_plans):
    plans = query_plans.examine(engine)
    kinds = {plan.statement.call.split(":")[0] for plan in plans}
    assert kinds == {"tick", "batch", "import", "retry", "status", "review", "export", "api", "page"}
    assert [(plan.statement.call, plan.steps) for plan in plans if plan.full_scans] == []
    assert {plan.statement.call for plan in plans if plan.index_scans} <= COUNTS
    pages = [plan for plan in plans if plan.statement.call.startswith(("page", "review", "api"))]
    assert [(plan.statement.call, plan.rows) for plan in pages if plan.rows > FEW[engine.dialect.name]] == []


def test_a_scan_would_be_noticed(engine, query_plans):
    scan = query_plans.Statement("a page", "SELECT * FROM product_images WHERE image_type = 'x' LIMIT 50", ())
    plan = query_plans.explain(engine, scan)
    assert len(plan.full_scans) == 1
    by_index = query_plans.Statement("a count", "SELECT COUNT(sku_id) FROM product_images", ())
    assert len(query_plans.explain(engine, by_index).index_scans) == 1


def test_what_a_plan_examined_leaves_no_trace(engine, query_plans):
    delete = query_plans.Statement("a page", "DELETE FROM detections WHERE batch_key = '20261120-100001'", ())
    with engine.connect() as connection:
        before = connection.scalar(sa.text("SELECT COUNT(*) FROM detections"))
    query_plans.explain(engine, delete)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT COUNT(*) FROM detections")) == before > 0
