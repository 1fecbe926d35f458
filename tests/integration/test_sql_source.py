"""Rows of a foreign table taken over, and answers told to it: in the catalogue's database and in one of its own."""

import datetime as dt
import random
import threading
import time
import tracemalloc

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.batches import BatchLimits, claim_batch, fail_batch, retry_images
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.frames import replace_batch
from imgpipe_dagster.catalogue.publishing import publish_batch
from imgpipe_dagster.catalogue.tables import Alert, Claimant, ProductImage
from imgpipe_dagster.sources.base import SourceError, WrittenBack
from imgpipe_dagster.sources.sql import PAGE_ROWS, WRITE_BACK_ROWS, SqlSourceConfig, open_sql_source, to_import_row

ALL = "SELECT id AS image_id, file AS image, sku AS sku_id, shop AS temple_id FROM shelf"
BY_TIME = f"{ALL} WHERE created_at >= :since"
BY_ID = f"{ALL} WHERE id > :after_id;"
STATEMENT = (
    "UPDATE shelf SET told = told + 1, status = :status, why = :reason, found = :objects_by_class, "
    "confidence = :top_confidence, answered = :answered_at WHERE id = :image_id"
)
REFUSED_BELOW = (
    "UPDATE shelf SET told = told + 1, status = CASE WHEN id < {} THEN 'very, very long' ELSE :status END "
    "WHERE id = :image_id"
)


class Source:
    """A table of somebody else, and the catalogue beside it."""

    def __init__(self, catalogue, engine):
        self.catalogue = catalogue
        self.engine = engine
        sqlite = engine.dialect.name == "sqlite"
        number = "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "INT AUTO_INCREMENT PRIMARY KEY"
        now = "(strftime('%Y-%m-%d %H:%M:%f', 'now'))" if sqlite else "UTC_TIMESTAMP(3)"
        limit = "CHECK (length(status) < 10)" if sqlite else ""
        self.execute(
            f"CREATE TABLE shelf (id {number}, file VARCHAR(300), sku VARCHAR(50), shop VARCHAR(50), "
            f"created_at DATETIME(3) NOT NULL DEFAULT {now}, told INT NOT NULL DEFAULT 0, status VARCHAR(9) {limit}, "
            "why VARCHAR(64), found TEXT, confidence DOUBLE, answered DATETIME(6))"
        )
        self.config = {"url": None if engine is catalogue else engine.url, "overlap_s": 5}

    def execute(self, sql, **values):
        with self.engine.begin() as connection:
            return connection.execute(sa.text(sql), values)

    def add(self, *files):
        with self.engine.connect().execution_options(imgpipe_writes=True) as connection, connection.begin():
            values = [{"file": file} for file in files]
            connection.execute(sa.text("INSERT INTO shelf (file, sku, shop) VALUES (:file, 'S', 'T')"), values)

    def rows(self, sql="SELECT id, told, status, why, found, confidence FROM shelf ORDER BY id"):
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(sql))]

    def open(self, query=ALL, update=None, **config):
        return open_sql_source(SqlSourceConfig(query, update=update, **{**self.config, **config}), self.catalogue)

    def take(self, query=ALL, *, anew=False, **config):
        with self.open(query, **config) as source:
            return source.take(anew=anew)

    def tell(self, statement=STATEMENT, **config):
        return self.write_back(statement, **config).told

    def write_back(self, statement=STATEMENT, *, anew=False, **config):
        with self.open(update=statement, **config) as source:
            return source.write_back(anew=anew)

    def images(self, *columns):
        with self.catalogue.connect() as connection:
            query = sa.select(*(getattr(ProductImage, name) for name in columns or ("source_ref",)))
            return [tuple(row) for row in connection.execute(query.order_by(ProductImage.id))]

    def alerts(self):
        with self.catalogue.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.select(Alert.kind, Alert.subject, Alert.body))]

    def answer(self, boxes=(), reason=None):
        """Answer all that waits as a run would: the same boxes, or the same reason, for every image."""
        batch = claim_batch(self.catalogue, BatchLimits(max_wait_s=0), Claimant.CLI)
        self.answer_batch(batch.key, boxes, reason)
        return batch.key

    def answer_batch(self, key, boxes=(), reason=None):
        with self.catalogue.connect() as connection:
            ids = connection.scalars(sa.select(ProductImage.id).where(ProductImage.batch_key == key)).all()
        found = [
            {"detection_id": f"{key}:{i}:{n}", "image_id": i, "class_id": 0, "class_name": name, "confidence": score}
            | {"x1": 0.0, "y1": 0.0, "x2": 1.0, "y2": 1.0, "model_version": "v"}
            for i in ids
            for n, (name, score) in enumerate(boxes)
        ]
        top = max(boxes, key=lambda box: box[1], default=(None, None))
        status = "rejected" if reason else "predicted"
        told = {"status": status, "reason": reason, "object_count": len(boxes), "top_class": top[0]}
        answers = pd.DataFrame(
            [{"image_id": i, **told, "top_confidence": top[1], "detector_version": "v"} for i in ids]
        )
        replace_batch(self.catalogue, "detections", key, pd.DataFrame(found))
        replace_batch(self.catalogue, "image_predictions", key, answers)
        published = answers[["image_id", "reason"]].assign(status="failed" if reason else "completed")
        publish_batch(self.catalogue, "published_predictions", key, published)


@pytest.fixture(params=["shared", "apart"])
def source(request, empty_engine, tmp_path):
    engine = catalogue = empty_engine
    kind = catalogue.dialect.name
    if request.param == "apart":
        (tmp_path / "foreign.db").touch()
        url = make_url(f"sqlite:///{tmp_path}/foreign.db")
        if kind == "mysql":
            url = catalogue.url.set(database=f"{catalogue.url.database}_foreign")
            with catalogue.begin() as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {url.database} CHARACTER SET utf8mb4")
        engine = connect(url, own=False)
    yield Source(catalogue, engine)
    with engine.begin() as connection:
        for table in ("shelf", "plain"):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
        if engine is not catalogue and kind == "mysql":
            connection.exec_driver_sql(f"DROP DATABASE {engine.url.database}")
    if engine is not catalogue:
        engine.dispose()


def test_rows_are_taken_over_with_what_the_query_gives_and_once_only(source):
    source.add("a.jpg", "https://cdn.example.com/b.jpg")
    source.add(None)
    taken = source.take(base_url="https://cdn.example.com/shelf")
    assert (taken.report.read, taken.report.inserted, taken.finished) == (3, 3, True)
    assert source.images("source", "source_ref", "image_url", "sku_id", "temple_id", "status") == [
        ("sql", "1", "https://cdn.example.com/shelf/a.jpg", "S", "T", "pending"),
        ("sql", "2", "https://cdn.example.com/b.jpg", "S", "T", "pending"),
        ("sql", "3", None, "S", "T", "pending"),
    ]
    for query in (ALL, BY_TIME, BY_ID):
        assert source.take(query).report.inserted == 0
    source.add("c.jpg")
    assert source.take(BY_TIME).report.inserted == 1


@pytest.mark.parametrize("query", [BY_TIME, BY_ID, ALL], ids=["by time", "by id", "all"])
def test_eight_writers_that_commit_in_any_order_lose_no_row_and_double_none(source, query):
    writers, each = 8, 12
    stop = threading.Event()

    def write(seed):
        dice = random.Random(seed)
        for number in range(each):
            with source.engine.connect().execution_options(imgpipe_writes=True) as connection, connection.begin():
                connection.execute(sa.text("INSERT INTO shelf (file) VALUES (:file)"), {"file": f"{seed}-{number}.jpg"})
                time.sleep(dice.random() * 0.05)

    def poll():
        while not stop.is_set():
            source.take(query)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(writers)]
    pollers = [threading.Thread(target=poll) for _ in range(2)]
    for thread in threads + pollers:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    for thread in pollers:
        thread.join()
    while not source.take(query).finished:
        pass
    references = sorted(int(reference) for (reference,) in source.images())
    assert references == [row[0] for row in source.rows()]
    assert len(references) == writers * each


def test_a_late_commit_within_the_overlap_is_found_and_what_is_older_is_not_read_again(source):
    if source.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time: nothing commits late")
    source.add("early.jpg")
    with source.engine.connect() as late:
        late.exec_driver_sql("INSERT INTO shelf (file) VALUES ('late.jpg')")
        source.add("after.jpg")
        for query in (BY_TIME, BY_ID):
            assert [source.take(query).report.inserted for _ in range(3)] == [2 if query == BY_TIME else 0, 0, 0]
        late.commit()
    assert source.take(BY_ID).report.inserted == 1
    assert sorted(source.images()) == [("1",), ("2",), ("3",)]
    time.sleep(1.2)
    counts = [source.take(BY_ID, overlap_s=0.5).report.read for _ in range(3)]
    assert counts[-1] == 0, "three rows that are older than the overlap"


def test_a_long_table_is_read_a_page_at_a_time_and_goes_on_where_a_tick_stopped(source):
    count = 3 * PAGE_ROWS + 10
    source.add(*(f"{number}.jpg" for number in range(count)))
    with source.open() as opened:
        first = opened.take(max_rows=1)
        assert (first.report.read, first.finished) == (PAGE_ROWS, False)
    tracemalloc.start()
    with source.open() as opened:
        rest = opened.take()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (rest.report.inserted, rest.finished) == (count - PAGE_ROWS, True)
    assert len(source.images()) == count
    assert peak < 20e6
    assert source.take(anew=True).report.known == count


def test_a_tick_with_nothing_new_costs_a_few_short_queries(source):
    source.add(*(f"{number}.jpg" for number in range(500)))
    with source.open(BY_ID, STATEMENT, overlap_s=0) as opened:
        opened.take()
        opened.write_back()  # the first with this statement
        opened.take()
        statements = []

        def note(connection, cursor, statement, *_):
            if statement not in ("BEGIN", "BEGIN IMMEDIATE"):
                statements.append(statement)

        engines = {source.catalogue, opened._engine}
        for engine in engines:
            sa.event.listen(engine, "before_cursor_execute", note)
        taken, told = opened.take(), opened.write_back()
        for engine in engines:
            sa.event.remove(engine, "before_cursor_execute", note)
    assert (taken.report.read, told) == (0, WrittenBack())
    # The state with the clock, one page; what is due for the answers.
    assert len(statements) == 3, statements


def test_ids_may_be_texts(source):
    source.execute("CREATE TABLE plain (id VARCHAR(36) PRIMARY KEY, file VARCHAR(50), told INT NOT NULL DEFAULT 0)")
    for name in ("b7", "A1", "042", "42"):
        source.execute("INSERT INTO plain (id, file) VALUES (:name, 'a.jpg')", name=name)
    query = "SELECT id AS image_id, file AS image FROM plain"
    assert source.take(query).report.inserted == 4
    assert source.take(query).report.known == 4
    source.answer()
    assert source.tell("UPDATE plain SET told = told + 1 WHERE id = :image_id") == 4
    assert source.rows("SELECT DISTINCT told FROM plain") == [(1,)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT id, file AS image FROM shelf", "gives no column image_id. It gives id, image"),
        ("SELECT id, file FROM shelf", "gives no column image_id and no image"),
        ("SELECT id AS image_id, file AS image FROM shelf WHERE id > :last", "has no parameters last; there are after"),
        ("SELECT id AS image_id, file AS image FROM nowhere", "cannot be used .IMGPIPE_SQL_SOURCE_QUERY.: .*nowhere"),
        ("SELECT NULL AS image_id, file AS image FROM shelf", "a row without an image_id, .* WHERE … IS NOT NULL"),
        ("DELETE FROM shelf", "cannot be used .IMGPIPE_SQL_SOURCE_QUERY."),
    ],
)
def test_a_query_that_does_not_fit_is_a_clear_error(source, query, message):
    source.add("a.jpg")
    with pytest.raises(SourceError, match=message):
        source.take(query)
    assert len(source.rows()) == 1


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE shelf SET status = :status", "must say which row"),
        ("UPDATE shelf SET status = :state WHERE id = :image_id", "has no parameters state; there are answered_at"),
        ("UPDATE shelf SET colour = :status WHERE id = :image_id", "IMGPIPE_SQL_SOURCE_UPDATE.: .*colour"),
    ],
)
def test_a_statement_that_does_not_fit_is_a_clear_error_and_nothing_counts_as_told(source, statement, message):
    source.add("a.jpg")
    source.take()
    source.answer()
    with pytest.raises(SourceError, match=message):
        source.tell(statement)
    assert source.tell() == 1


def test_a_row_that_cannot_be_taken_over_is_told_once_and_the_others_come_in(source):
    source.execute("INSERT INTO shelf (file, sku) VALUES ('a.jpg', :sku), ('b.jpg', 'S')", sku="line\nbreak")
    for _ in range(2):
        report = source.take().report
        assert (report.rejected, report.bad[0].reason[:22]) == (1, "image_id 1: sku_id has")
    assert source.images() == [("2",)]
    assert [(kind, "image_id 1: sku_id" in body) for kind, _, body in source.alerts()] == [("source_rejected", True)]


def test_an_answer_is_told_once_however_often_it_is_given(source):
    source.add("a.jpg", "b.jpg")
    source.take()
    assert source.tell() == 0
    key = source.answer(boxes=[("bottle", 0.5), ("bottle", 0.75), ("can", 0.25)])
    assert source.tell() == 2
    found = '{"bottle": 2, "can": 1}'
    assert source.rows() == [(n, 1, "completed", None, found, 0.75) for n in (1, 2)]
    source.answer_batch(key, boxes=[("bottle", 0.5), ("bottle", 0.75), ("can", 0.25)])  # a backfill, the same weights
    assert (source.tell(), source.tell()) == (0, 0)
    source.answer_batch(key, boxes=[("bottle", 0.5)])  # other weights
    assert (source.tell(), source.tell()) == (2, 0)
    assert source.rows() == [(n, 2, "completed", None, '{"bottle": 1}', 0.5) for n in (1, 2)]


def test_failures_are_told_and_what_a_retry_makes_of_them(source):
    source.add("a.jpg")
    source.take()
    batch = claim_batch(source.catalogue, BatchLimits(max_wait_s=0), Claimant.CLI)
    assert source.tell() == 0, "it is being processed"
    fail_batch(source.catalogue, batch, "Its runs were lost.")
    assert source.tell() == 1
    assert source.rows()[0][1:4] == (1, "failed", "batch_failed")
    retry_images(source.catalogue)
    assert source.tell() == 0
    source.answer(reason="truncated")
    assert source.tell() == 1
    assert source.rows()[0][1:4] == (2, "failed", "truncated")


def test_images_of_other_origin_are_never_told(source):
    source.add("a.jpg")
    with source.catalogue.begin() as connection:
        connection.execute(sa.insert(ProductImage).values(image_url="b.jpg", source="kafka", source_ref="1"))
        connection.execute(sa.insert(ProductImage).values(image_url="c.jpg"))
    source.answer()
    assert source.tell() == 0


def test_two_who_tell_at_once_tell_each_answer_once(source):
    source.add(*(f"{number}.jpg" for number in range(450)))
    source.take()
    source.answer(boxes=[("bottle", 0.5)])
    told = []
    threads = [threading.Thread(target=lambda: told.append(source.tell())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    source.tell()
    assert source.rows("SELECT told, COUNT(*) FROM shelf GROUP BY told") == [(1, 450)]


def test_an_answer_that_the_source_refuses_is_an_alert_and_holds_up_no_other(source):
    source.add("a.jpg", "b.jpg")
    source.take()
    source.answer()
    assert source.write_back(REFUSED_BELOW.format(2)) == WrittenBack(told=1, refused=1)
    assert source.rows("SELECT id, told FROM shelf ORDER BY id") == [(1, 0), (2, 1)]
    assert [(kind, "its row 1," in body) for kind, _, body in source.alerts()] == [("write_back_refused", True)]
    assert source.write_back(REFUSED_BELOW.format(2)) == WrittenBack(), "it is not tried again by itself"


def test_an_answer_that_a_constraint_forbids_is_refused_and_holds_up_no_other(source):
    source.execute(
        "CREATE TABLE plain (id INT PRIMARY KEY, status VARCHAR(20), CHECK (id > 1 OR status <> 'completed'))"
    )
    source.execute("INSERT INTO plain VALUES (1, ''), (2, '')")
    source.add("a.jpg", "b.jpg")
    source.take()
    source.answer()
    told = source.write_back("UPDATE plain SET status = :status WHERE id = :image_id")
    assert told == WrittenBack(told=1, refused=1)
    assert source.rows("SELECT * FROM plain ORDER BY id") == [(1, ""), (2, "completed")]


def test_what_was_refused_is_told_anew_when_somebody_asks_and_what_was_told_is_not(source, monkeypatch):
    monkeypatch.setattr("imgpipe_dagster.catalogue.write_backs._PAGE", 2)
    source.add(*(f"{number}.jpg" for number in range(9)))
    source.execute("CREATE TABLE plain (narrow INT)")
    source.execute("INSERT INTO plain VALUES (6)")
    source.take()
    source.answer()
    statement = REFUSED_BELOW.format("(SELECT narrow FROM plain)")
    assert source.write_back(statement) == WrittenBack(told=4, refused=5)
    assert source.write_back(statement, anew=True) == WrittenBack(refused=5)
    source.execute("UPDATE plain SET narrow = 0")  # as if the column were widened
    source.take(anew=True)
    assert source.write_back(statement) == WrittenBack(), "nobody has asked"
    assert source.write_back(statement, anew=True) == WrittenBack(told=5)
    assert source.write_back(statement, anew=True) == WrittenBack()
    assert source.rows("SELECT told, status, COUNT(*) FROM shelf GROUP BY told, status") == [(1, "completed", 9)]


def test_what_was_refused_is_told_anew_with_another_statement_and_what_was_told_is_not(source):
    source.add("a.jpg", "b.jpg", "c.jpg")
    source.take()
    source.answer()
    assert source.write_back(REFUSED_BELOW.format(3)) == WrittenBack(told=1, refused=2)
    with source.open(update=REFUSED_BELOW.format(2)) as opened:
        opened.take()
        assert opened.write_back() == WrittenBack(told=1, refused=1)
        assert opened.write_back() == WrittenBack(), "the statement is known by now"
    with source.open(BY_ID, REFUSED_BELOW.format(2)) as opened:
        assert opened.take(anew=True).report.known == 3, "reading another query forgets no statement"
        assert opened.write_back() == WrittenBack()
    assert source.write_back() == WrittenBack(told=1)
    assert source.rows("SELECT told, status, COUNT(*) FROM shelf GROUP BY told, status") == [(1, "completed", 3)]
    with source.catalogue.connect().execution_options(imgpipe_writes=True) as connection, connection.begin():
        connection.exec_driver_sql(
            "UPDATE product_images SET written_back = NULL, written_back_at = NULL WHERE source = 'sql'"
        )
    assert source.write_back() == WrittenBack(told=3), "docs/sources.md: all of them once more"


def test_refused_answers_are_one_alert_a_cause_however_often_they_are_told_anew(source):
    count = 2 * WRITE_BACK_ROWS + 10
    source.add(*(f"{number}.jpg" for number in range(count)))
    source.take()
    source.answer()
    statement = REFUSED_BELOW.format(count).replace("told + 1", "CASE WHEN id = 7 THEN NULL ELSE told + 1 END")
    statement = statement.replace("WHEN id <", "WHEN id <> 7 AND id <")
    for _ in range(2):
        assert source.write_back(statement, anew=True).refused == count - 1
        (many, one) = source.alerts()
        assert many[1].startswith("The SQL source refuses answers: ")
        assert "status" in many[1]
        assert many[2].startswith("For its row 1, for example: ")
        assert "`imgpipe poll --all`" in many[2]
        assert one[1].startswith("The SQL source refuses answers: ")
        assert "told" in one[1]
        assert one[2].startswith("For its row 7, for example: ")
    assert source.write_back(statement.replace("status =", "why = :reason, status =")).refused == count - 1
    assert len(source.alerts()) == 4, "what the answers say is something else now"


def test_refused_values_that_differ_are_one_cause_and_those_of_other_columns_another(source):
    source.execute("CREATE TABLE plain (id INT PRIMARY KEY, name VARCHAR(20) UNIQUE, other VARCHAR(20) UNIQUE)")
    source.add(*(f"{number}.jpg" for number in range(9)))
    for number in range(1, 11):
        source.execute("INSERT INTO plain VALUES (:id, :id, :id)", id=number)
    source.take()
    source.answer()
    name, other = (f"UPDATE plain SET {column} = :image_id + 1 WHERE id = :image_id" for column in ("name", "other"))
    for statement, alerts in ((name, 1), (name, 1), (other, 2)):
        assert source.write_back(statement, anew=True) == WrittenBack(refused=9)
        assert len(source.alerts()) == alerts
    assert all(subject.startswith("The SQL source refuses answers: ") for _, subject, _ in source.alerts())


def test_alerts_about_what_was_refused_are_written_though_the_source_goes_away(source, monkeypatch):
    source.add(*(f"{number}.jpg" for number in range(WRITE_BACK_ROWS + 1)))
    source.take()
    source.answer()
    with source.open(update=REFUSED_BELOW.format(3)) as opened:
        update = opened._update

        def go_away(connection, answers, integers):
            if len(answers) == 1:
                raise SourceError
            return update(connection, answers, integers)

        monkeypatch.setattr(opened, "_update", go_away)
        with pytest.raises(SourceError):
            opened.write_back()
    ((_, subject, _),) = source.alerts()
    assert subject.startswith("The SQL source refuses answers: ")


def test_what_was_told_before_a_crash_is_told_again_with_the_same_values(source, monkeypatch):
    """Between two databases there is no common transaction: the mark comes after the statement."""
    if source.engine is source.catalogue:
        pytest.skip("One transaction there: the other test of it")
    source.add("a.jpg")
    source.take()
    source.answer(boxes=[("bottle", 0.5)])
    monkeypatch.setattr("imgpipe_dagster.sources.sql.mark_told", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        source.tell()
    monkeypatch.undo()
    before = source.rows()
    assert source.tell() == 1
    assert [row[:1] + row[2:] for row in source.rows()] == [row[:1] + row[2:] for row in before]


def test_within_one_database_statement_and_mark_are_one_transaction(source, monkeypatch):
    if source.engine is not source.catalogue:
        pytest.skip("Two databases: the other test of it")
    source.add("a.jpg")
    source.take()
    source.answer()
    monkeypatch.setattr("imgpipe_dagster.sources.sql.mark_told", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        source.tell()
    monkeypatch.undo()
    assert source.rows()[0][1] == 0
    assert source.tell() == 1
    assert source.rows()[0][1] == 1


def test_times_are_those_of_the_sources_zone(source):
    source.add("old.jpg", "new.jpg")
    india = dt.datetime.now(dt.UTC) + dt.timedelta(hours=5, minutes=30)
    for row, minutes in ((1, 10), (2, 0)):
        source.execute(
            "UPDATE shelf SET created_at = :at WHERE id = :id",
            at=(india - dt.timedelta(minutes=minutes)).strftime("%Y-%m-%d %H:%M:%S"),
            id=row,
        )
    assert source.take(BY_TIME, time_zone="Asia/Kolkata", overlap_s=60).report.read == 2
    assert source.take(BY_TIME, time_zone="Asia/Kolkata", overlap_s=60).report.read == 1
    source.answer()
    source.tell(time_zone="Asia/Kolkata")
    (answered,) = source.rows("SELECT answered FROM shelf WHERE id = 1")[0]
    assert abs(dt.datetime.fromisoformat(str(answered)) - india.replace(tzinfo=None)) < dt.timedelta(minutes=2)


def test_a_source_that_is_away_is_a_clear_error_without_its_password(tmp_path):
    catalogue = connect(make_url(f"sqlite:///{tmp_path}/catalogue.db"))
    schema.upgrade(catalogue)
    url = make_url("mysql+pymysql://me:canary@127.0.0.1:1/shop")
    with (
        open_sql_source(SqlSourceConfig(ALL, url), catalogue) as source,
        pytest.raises(SourceError, match="SQL source cannot be used") as told,
    ):
        source.take()
    assert "canary" not in str(told.value)
    catalogue.dispose()


def test_a_foreign_sqlite_file_that_is_not_there_is_told_and_not_made(tmp_path):
    catalogue = connect(make_url(f"sqlite:///{tmp_path}/catalogue.db"))
    schema.upgrade(catalogue)
    config = SqlSourceConfig(ALL, make_url(f"sqlite:///{tmp_path}/shop.db"))
    with open_sql_source(config, catalogue) as source, pytest.raises(SourceError, match=r"there is no file .*shop\.db"):
        source.take()
    assert not (tmp_path / "shop.db").exists()
    catalogue.dispose()


def test_a_foreign_sqlite_file_keeps_its_kind_of_journal(tmp_path):
    (tmp_path / "foreign.db").touch()
    engine = connect(make_url(f"sqlite:///{tmp_path}/foreign.db"), own=False)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER)")
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
    engine.dispose()


def test_a_rows_base_url_wins_over_the_setting_and_urls_are_left_alone():
    row = {"image_id": 7, "image": "a b.jpg", "base_url": "https://one/"}
    assert to_import_row(row, "https://two/").image_url == "https://one/a%20b.jpg"
    assert to_import_row({"image_id": 7, "image": "a.jpg"}, "https://two").image_url == "https://two/a.jpg"
    assert to_import_row({"image_id": 7, "image": "a.jpg"}).image_url == "a.jpg"
    assert to_import_row({"image_id": 7, "image": "s3://b/a.jpg"}, "https://two").image_url == "s3://b/a.jpg"
    with pytest.raises(ValueError, match="enhancement_mode 'shiny'"):
        to_import_row({"image_id": 7, "image": "a.jpg", "enhancement_mode": "shiny"})
