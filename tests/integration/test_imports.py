"""Imports into a real catalogue, on SQLite and MariaDB: exact, whatever comes twice, at once, or ends midway."""

import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue.engine import CatalogueError, connect
from imgpipe_dagster.catalogue.imports import (
    MAX_BAD_LISTED,
    BadRow,
    ImportFileError,
    ImportReport,
    ImportRow,
    import_csv,
    import_json,
    import_rows,
    sample_csv,
)
from imgpipe_dagster.catalogue.tables import Base, ProductGroup, ProductImage, Sku


def open_catalogue(url):
    engine = connect(make_url(url))
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def engine(database_url):
    engine = open_catalogue(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def mariadb_engine(mariadb_url):
    engine = open_catalogue(mariadb_url)
    yield engine
    engine.dispose()


def rows_of(count, skus=7, start=0):
    return [ImportRow(f"https://h/{number}.jpg", f"S{number % skus}", "G") for number in range(start, start + count)]


def images(engine):
    """All images in the order of their ids, without the ids and times."""
    columns = ("image_url", "sku_id", "product_group_id", "temple_id", "image_type", "status", "source_key")
    with engine.connect() as connection:
        query = sa.select(*(getattr(ProductImage, name) for name in columns)).order_by(ProductImage.id)
        return [tuple(row) for row in connection.execute(query)]


def stated_counts(engine):
    with engine.connect() as connection:
        return dict(connection.execute(sa.select(Sku.sku_id, Sku.image_count)).all())


def true_counts(engine):
    return dict(Counter(sku_id for _, sku_id, *_ in images(engine) if sku_id))


def test_the_sample_comes_in_with_its_products_and_waits_to_be_processed(engine, tmp_path):
    path = tmp_path / "sample.csv"
    path.write_text(sample_csv())
    assert import_csv(engine, path) == ImportReport(read=3, inserted=3)
    assert [row[1:6] for row in images(engine)] == [
        ("MED-SKU-001", "PG-MEDICAL-001", None, "primary", "pending"),
        ("MED-SKU-001", "PG-MEDICAL-001", None, "side", "pending"),
        ("MED-SKU-002", "PG-MEDICAL-002", None, "primary", "pending"),
    ]
    assert stated_counts(engine) == {"MED-SKU-001": 2, "MED-SKU-002": 1}
    with engine.connect() as connection:
        groups = connection.scalars(sa.select(ProductGroup.product_group_id)).all()
        of_sku = dict(connection.execute(sa.select(Sku.sku_id, Sku.product_group_id)).all())
    assert sorted(groups) == ["PG-MEDICAL-001", "PG-MEDICAL-002"]
    assert of_sku == {"MED-SKU-001": "PG-MEDICAL-001", "MED-SKU-002": "PG-MEDICAL-002"}


def test_a_second_import_of_a_file_changes_nothing(engine, tmp_path):
    path = tmp_path / "images.json"
    path.write_text('[{"image_url": "a.jpg", "sku_id": 1}, {"image_url": "b.jpg", "temple_id": "T"}, {"sku_id": 2}]')
    bad = (BadRow(1, "image_url is missing"),)
    assert import_json(engine, path) == ImportReport(read=3, inserted=2, rejected=1, bad=bad)
    before = images(engine), stated_counts(engine)
    assert import_json(engine, path) == ImportReport(read=3, known=2, rejected=1, bad=bad)
    assert (images(engine), stated_counts(engine)) == before


def test_rows_that_repeat_within_a_file_or_over_transactions_count_as_known(engine):
    rows = rows_of(1200)
    assert import_rows(engine, [*rows[:5], *rows[:5], *rows, *rows]) == ImportReport(
        read=2410, inserted=1200, known=1210
    )
    assert [row[0] for row in images(engine)] == [row.image_url for row in rows]
    assert stated_counts(engine) == true_counts(engine)


def test_skus_that_differ_in_case_or_accents_only_are_two(engine):
    names = ["sku", "SKU", "sku\u0301", "sk\u00fa", "ßku", "ssku"]
    report = import_rows(engine, [ImportRow("a.jpg", name) for name in names])
    assert (report.inserted, report.known) == (6, 0)
    assert stated_counts(engine) == dict.fromkeys(names, 1)


def test_other_columns_of_a_known_row_are_left_as_they_are(engine):
    import_rows(engine, [ImportRow("a.jpg", "A", "G", "side", "T")])
    assert import_rows(engine, [ImportRow("a.jpg", "A", "G2", "primary", "T2")]).inserted == 0
    assert images(engine)[0][2:5] == ("G", "T", "side")
    with engine.connect() as connection:
        assert connection.scalars(sa.select(ProductGroup.product_group_id)).all() == ["G"]


def test_a_source_with_row_ids_of_its_own_may_bring_one_url_twice(engine):
    rows = [ImportRow("a.jpg", source_key=f"{number:064x}") for number in (1, 2, 1)]
    assert import_rows(engine, rows) == ImportReport(read=3, inserted=2, known=1)


def test_bad_rows_are_all_counted_and_the_first_thousand_listed(engine):
    rows = [BadRow(number, "bad") for number in range(1, 1501)]
    report = import_rows(engine, [*rows, ImportRow("a.jpg")])
    assert (report.read, report.inserted, report.rejected) == (1501, 1, 1500)
    assert report.bad == tuple(rows[:MAX_BAD_LISTED])


def test_progress_is_told_after_each_transaction(engine):
    told = []
    report = import_rows(engine, rows_of(2500), on_progress=lambda so_far: told.append((so_far, len(images(engine)))))
    assert [(so_far.read, so_far.inserted, stored) for so_far, stored in told] == [
        (1000, 1000, 1000),
        (2000, 2000, 2000),
        (2500, 2500, 2500),
    ]
    assert told[-1][0] == report


def test_a_file_that_turns_unreadable_keeps_what_was_imported_and_can_be_imported_again(engine, tmp_path):
    path = tmp_path / "images.csv"
    lines = ["image_url,sku_id", *(f"file name {number:06d}.jpg,S" for number in range(9000))]
    path.write_bytes("\n".join([*lines, "é.jpg,S"]).encode("cp1252"))
    with pytest.raises(ImportFileError, match=r"Line 9002 .* ascii"):
        import_csv(engine, path, encoding="ascii")
    there = len(images(engine))
    assert there >= 1000
    assert stated_counts(engine) == {"S": there}
    assert import_csv(engine, path, encoding="cp1252") == ImportReport(read=9001, inserted=9001 - there, known=there)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            ImportRow,
            st.sampled_from(["a.jpg", "A.jpg", "á.jpg", "https://h/a.jpg", "https://h/a%20b.jpg"]),
            st.sampled_from([None, "S", "s", "ş", "S "]),
            st.sampled_from([None, "G", "g"]),
        )
        | st.builds(BadRow, st.integers(1, 99), st.just("bad")),
        max_size=40,
    )
)
def test_any_rows_imported_twice_are_in_once_and_all_are_accounted_for(engine, rows):
    with engine.begin() as connection:
        for table in (ProductImage, Sku, ProductGroup):
            connection.execute(sa.delete(table))
    keys = {row.source_key for row in rows if isinstance(row, ImportRow)}
    wrong = sum(isinstance(row, BadRow) for row in rows)
    first = import_rows(engine, rows)
    assert (first.read, first.inserted, first.rejected) == (len(rows), len(keys), wrong)
    assert first.inserted + first.known + first.rejected == first.read
    after_first = images(engine), stated_counts(engine)
    assert {row[-1] for row in after_first[0]} == keys
    assert after_first[1] == true_counts(engine)
    second = import_rows(engine, rows)
    assert (second.read, second.inserted, second.known) == (len(rows), 0, len(rows) - wrong)
    assert (images(engine), stated_counts(engine)) == after_first


def test_imports_that_run_at_once_insert_every_row_once_and_count_it_once(engine):
    everything = rows_of(6000, skus=1500)
    parts = [everything[:4000], everything[2000:], everything[::-1], everything[1000:5000]]
    start = threading.Barrier(4)

    def work(rows):
        start.wait()
        return import_rows(engine, rows)

    with ThreadPoolExecutor(4) as threads:
        reports = list(threads.map(work, parts))
    assert sum(report.inserted for report in reports) == 6000
    assert sum(report.inserted + report.known for report in reports) == sum(map(len, parts))
    assert sorted(row[-1] for row in images(engine)) == sorted(row.source_key for row in everything)
    assert stated_counts(engine) == true_counts(engine)


def test_a_row_that_another_import_commits_between_look_and_insert_is_counted_by_one(mariadb_engine, mariadb_url):
    other = connect(make_url(mariadb_url))
    reports = []

    @sa.event.listens_for(mariadb_engine, "before_cursor_execute")
    def the_other_is_faster(connection, cursor, statement, parameters, context, executemany):
        if statement.startswith("INSERT IGNORE INTO product_images") and not reports:
            reports.append(import_rows(other, rows_of(10)))

    reports.append(import_rows(mariadb_engine, rows_of(30)))
    other.dispose()
    assert [(report.inserted, report.known) for report in reports] == [(10, 0), (20, 10)]
    assert stated_counts(mariadb_engine) == true_counts(mariadb_engine)


def test_rows_that_the_database_neither_takes_nor_knows_are_an_error_and_no_endless_loop(engine):
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE UNIQUE INDEX of_somebody_else ON product_images (sku_id)")
    with pytest.raises(CatalogueError, match="neither as new nor as known"):
        import_rows(engine, [ImportRow("a.jpg", "A"), ImportRow("b.jpg", "A")])
    assert (images(engine), stated_counts(engine)) == ([], {})


IMPORTER = """
import sys
from pathlib import Path
from sqlalchemy.engine import make_url
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.imports import import_csv
import_csv(connect(make_url(sys.argv[1])), Path(sys.argv[2]), on_progress=lambda report: print(report.read, flush=True))
"""


def test_an_import_that_is_killed_goes_on_where_it_stopped(database_url, engine, tmp_path):
    path = tmp_path / "images.csv"
    path.write_text("image_url,sku_id\n" + "".join(f"{number}.jpg,S{number % 900}\n" for number in range(30_000)))
    command = [sys.executable, "-c", IMPORTER, database_url, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as importer:
        assert importer.stdout is not None
        importer.stdout.readline()
        importer.kill()
    there = len(images(engine))
    assert 1000 <= there < 30_000
    assert there % 1000 == 0
    assert stated_counts(engine) == true_counts(engine)
    assert import_csv(engine, path) == ImportReport(read=30_000, inserted=30_000 - there, known=there)
    assert stated_counts(engine) == true_counts(engine)


def test_an_import_outlives_a_database_that_is_away_for_some_seconds(mariadb, mariadb_engine):
    def lose_the_database(report):
        if report.read == 2000:
            mariadb.kill()
            threading.Thread(target=lambda: (time.sleep(2), mariadb.start())).start()

    rows = rows_of(5000)
    assert import_rows(mariadb_engine, rows, on_progress=lose_the_database) == ImportReport(read=5000, inserted=5000)
    assert len(images(mariadb_engine)) == 5000
    assert stated_counts(mariadb_engine) == true_counts(mariadb_engine)
