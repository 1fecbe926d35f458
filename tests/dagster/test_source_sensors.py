"""The sensors that take rows over: what a tick does and says, whatever state the source is in."""

import dagster as dg
import pytest
import sqlalchemy as sa

from imgpipe_dagster.build import build_defs
from imgpipe_dagster.settings import Settings

QUERY = "SELECT id AS image_id, file AS image FROM shelf"


@pytest.fixture
def tick(pipeline):
    """Ticks a sensor once: what it says."""

    def evaluate(name, **settings):
        defs = build_defs(Settings(home=pipeline.settings.home, **settings))
        sensor = defs.resolve_sensor_def(name)
        resources = {key: defs.resources[key] for key in sensor.required_resource_keys}
        with dg.build_sensor_context(instance=pipeline.instance, resources=resources) as context:
            return sensor.evaluate_tick(context).skip_message

    return evaluate


def test_a_tick_of_the_sql_source_takes_rows_over_and_tells_the_answers(pipeline, tick):
    assert tick("sql_source_sensor") == "There is no SQL source: set IMGPIPE_SQL_SOURCE_QUERY."
    assert "cannot be used (IMGPIPE_SQL_SOURCE_QUERY): no such table: shelf" in tick(
        "sql_source_sensor", sql_source_query=QUERY
    )
    with pipeline.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE shelf (id INTEGER PRIMARY KEY, file TEXT, limited INT DEFAULT 1, state TEXT, "
            "CHECK (limited = 0 OR length(state) < 14))"
        )
        connection.exec_driver_sql("INSERT INTO shelf (file) VALUES ('nowhere.jpg'), ('page.jpg')")
    pipeline.write("page.jpg", b"<!doctype html>")
    source = {
        "sql_source_query": QUERY,
        "sql_source_update": "UPDATE shelf SET state = :reason WHERE id = :image_id",
        "sql_source_base_url": pipeline.cdn.url_for(""),
    }
    assert tick("sql_source_sensor", **source) == "2 rows taken over, 0 refused; 0 answers told, 0 refused."
    pipeline.run(pipeline.claim())
    assert tick("sql_source_sensor", **source) == "0 rows taken over, 0 refused; 1 answers told, 1 refused."
    assert tick("sql_source_sensor", **source) == "0 rows taken over, 0 refused; 0 answers told, 0 refused."
    with pipeline.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE shelf SET limited = 0")
    source["sql_source_update"] += " AND id > 0"
    assert tick("sql_source_sensor", **source) == "0 rows taken over, 0 refused; 1 answers told, 0 refused."
    assert pipeline.rows("shelf", "id", "state") == [(1, "http_not_found"), (2, "not_an_image")]
    assert pipeline.rows("sensor_ticks", "sensor_name", "outcome") == [
        ("sql_source_sensor", "0 rows taken over, 0 refused; 1 answers told, 0 refused.")
    ]
    with pipeline.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE source_states"))
    assert "The catalogue cannot be used: no such table: source_states" in tick("sql_source_sensor", **source)


def test_a_tick_of_the_kafka_source_says_what_is_missing_and_takes_messages_over(pipeline, tick):
    kafka = pytest.importorskip("confluent_kafka")
    missing = "There is no Kafka source: set IMGPIPE_KAFKA_BOOTSTRAP_SERVERS and IMGPIPE_KAFKA_TOPIC."
    assert tick("kafka_source_sensor") == missing
    host = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock"})
    (broker,) = host.list_topics(timeout=30).brokers.values()
    source = {"kafka_bootstrap_servers": f"{broker.host}:{broker.port}", "kafka_topic": "images"}
    assert "The Kafka topic 'images' cannot be read" in tick("kafka_source_sensor", **source)
    producer = kafka.Producer({"bootstrap.servers": source["kafka_bootstrap_servers"]})
    for value in (b'{"image_path": "images/frame_000001.jpg"}', b"poison"):
        producer.produce("images", value)
    assert producer.flush(30) == 0
    assert tick("kafka_source_sensor", **source) == "1 messages taken over, 1 put aside."
    assert pipeline.rows("product_images", "source", "report_name") == [("kafka", "frame_000001")]
    assert pipeline.rows("sensor_ticks", "sensor_name", "outcome") == [
        ("kafka_source_sensor", "1 messages taken over, 1 put aside.")
    ]
