"""Messages taken over from librdkafka's mock cluster, which speaks Kafka's protocol over real connections."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.kafka_positions import Position, load_position, save_position
from imgpipe_dagster.catalogue.tables import Alert, KafkaPosition, ProductImage
from imgpipe_dagster.sources.base import SourceError
from imgpipe_dagster.sources.kafka import KafkaConfig, KafkaSource

kafka = pytest.importorskip("confluent_kafka")

STORE = "file:///store"


class Cluster:
    """A mock cluster in this process, and a producer for it."""

    def __init__(self):
        self._host = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock"})
        listed = self._host.list_topics(timeout=30)
        (broker,) = listed.brokers.values()
        self.servers = f"{broker.host}:{broker.port}"
        self.id = listed.cluster_id
        self.producer = kafka.Producer({"bootstrap.servers": self.servers, "message.max.bytes": 20_000_000})

    def send(self, topic, *values, partition=None):
        for value in values:
            data = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
            place = {} if partition is None else {"partition": partition}
            self.producer.produce(topic, data, **place)
        assert self.producer.flush(30) == 0

    def read(self, topic):
        """Every message of a topic."""
        options = {"bootstrap.servers": self.servers, "group.id": uuid.uuid4().hex, "enable.partition.eof": True}
        consumer = kafka.Consumer(options)
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([kafka.TopicPartition(topic, number, kafka.OFFSET_BEGINNING) for number in partitions])
        messages, ended = [], 0
        while ended < len(partitions):
            message = consumer.poll(30)
            assert message is not None
            if message.error():
                ended += 1
            else:
                messages.append(message)
        consumer.close()
        return messages

    def committed(self, topic):
        """The sum of the offsets of the group with the topic's name."""
        consumer = kafka.Consumer({"bootstrap.servers": self.servers, "group.id": topic})
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        known = consumer.committed([kafka.TopicPartition(topic, number) for number in partitions], timeout=30)
        consumer.close()
        return sum(max(place.offset, 0) for place in known)


@pytest.fixture(scope="module")
def cluster():
    return Cluster()


@pytest.fixture
def topic():
    return f"images-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def source(cluster, topic, empty_engine):
    # A group of its own: one that has members takes no commits from others. Members that go are missed quickly.
    quick = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "300"}
    return KafkaSource(KafkaConfig(cluster.servers, topic, STORE, group=topic, security=quick), empty_engine)


def frames(count, start=0):
    return [{"image_path": f"images/frame_{number:06d}.jpg"} for number in range(start, start + count)]


def images(engine, *columns):
    with engine.connect() as connection:
        query = sa.select(*(getattr(ProductImage, name) for name in columns or ("image_url",)))
        return [tuple(row) for row in connection.execute(query.order_by(ProductImage.image_url, ProductImage.id))]


def urls(count):
    return [(f"store:images/frame_{number:06d}.jpg",) for number in range(count)]


def again(source):
    """As after a restart."""
    return KafkaSource(source._config, source._catalogue)


def test_messages_become_rows_once_and_their_offsets_are_committed(source, cluster, topic, empty_engine):
    cluster.send(topic, *frames(1200))
    taken = source.drain()
    assert (taken.report.inserted, taken.finished) == (1200, True)
    assert images(empty_engine) == urls(1200)
    assert images(empty_engine, "source", "report_name", "status")[7] == ("kafka", "frame_000007", "pending")
    assert cluster.committed(topic) == 1200
    assert again(source).drain().report.read == 0
    cluster.send(topic, *frames(3, start=1200))
    assert again(source).drain().report.inserted == 3


def test_a_tick_does_bounded_work_and_the_next_goes_on(source, cluster, topic, empty_engine):
    cluster.send(topic, *frames(1500))
    first = source.drain(max_messages=400)
    assert (first.finished, first.report.read) == (False, first.report.inserted)
    assert 400 <= first.report.read < 1500
    assert again(source).drain().finished
    assert images(empty_engine) == urls(1500)


KILLED = """
import os, signal, sys
from sqlalchemy.engine import make_url
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.sources.kafka import KafkaConfig, KafkaSource
KafkaSource._note = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
config = KafkaConfig(sys.argv[1], sys.argv[2], "file:///store", group=sys.argv[2])
KafkaSource(config, connect(make_url(sys.argv[3]))).drain()
"""


def test_a_reader_killed_between_rows_and_commit_gets_its_messages_again_and_doubles_none(
    source, cluster, topic, empty_engine
):
    cluster.send(topic, *frames(50), b"poison")
    url = empty_engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", KILLED, cluster.servers, topic, url]
    assert subprocess.run(command, timeout=120, capture_output=True, check=False).returncode == -signal.SIGKILL
    there = len(images(empty_engine))
    assert there > 0
    assert cluster.committed(topic) == 0
    report = source.drain().report
    assert (report.inserted, report.known, report.rejected) == (50 - there, there, 1)
    assert images(empty_engine) == urls(50)
    assert cluster.committed(topic) == 51


def test_poison_goes_to_the_dead_letter_topic_with_its_cause_and_holds_up_nothing(source, cluster, topic, empty_engine):
    huge = b"x" * 4_000_000  # beside other messages, the mock cluster keeps 5 MB a partition
    cluster.send(topic, frames(1)[0], b"{", {"image_path": 5}, None, huge, *frames(1, start=1), partition=0)
    report = source.drain().report
    assert (report.read, report.inserted, report.rejected) == (6, 2, 4)
    assert images(empty_engine) == urls(2)
    letters = cluster.read(f"{topic}.dead-letter")
    causes = {headers["source"].decode(): headers["cause"].decode() for m in letters for headers in [dict(m.headers())]}
    assert sorted(causes) == [f"{topic}/0/{offset}" for offset in (1, 2, 3, 4)]
    assert causes[f"{topic}/0/2"] == "image_path is a number, not a text"
    assert causes[f"{topic}/0/4"] == "it has 4000000 bytes, 65536 are allowed"
    sizes = {dict(m.headers())["source"].decode()[-1]: (m.value(), dict(m.headers())["size"]) for m in letters}
    assert sizes["1"] == (b"{", b"1")
    assert sizes["3"] == (None, b"0")
    assert (len(sizes["4"][0]), sizes["4"][1]) == (512 * 1024, b"4000000"), "the beginning, and how large it was"
    cluster.send(topic, b"more poison")
    assert again(source).drain().report.rejected == 1
    with empty_engine.connect() as connection:
        alerts = connection.execute(sa.select(Alert.kind, Alert.body)).all()
    assert len(alerts) in (1, 2), "one an hour"
    assert alerts[0].kind == "dead_letter"
    assert f"{topic}/0/2: image_path is a number" in alerts[0].body


def test_a_message_of_10_mb_is_put_aside_and_holds_up_nothing(source, cluster, topic, empty_engine):
    cluster.send(topic, b"x" * 10_000_000, partition=0)  # alone: beside it the mock cluster loses others
    report = source.drain().report
    assert (report.read, report.rejected, cluster.committed(topic)) == (1, 1, 1)
    (letter,) = cluster.read(f"{topic}.dead-letter")
    headers = dict(letter.headers())
    assert headers["cause"] == b"it has 10000000 bytes, 65536 are allowed"
    assert (len(letter.value()), headers["size"]) == (512 * 1024, b"10000000")
    cluster.send(topic, *frames(1), partition=1)
    assert again(source).drain().report.inserted == 1
    assert images(empty_engine) == urls(1)


def test_while_dead_letters_are_not_taken_nothing_is_committed(source, cluster, topic, empty_engine, monkeypatch):
    cluster.send(topic, *frames(2), b"poison", partition=0)

    class Refused(kafka.Producer):
        def flush(self, *_):
            return 1

    monkeypatch.setattr(kafka, "Producer", Refused)
    with pytest.raises(SourceError, match=r"dead-letter topic .* does not take a message"):
        source.drain()
    monkeypatch.undo()
    assert cluster.committed(topic) == 0
    report = again(source).drain().report
    assert (report.known, report.rejected, cluster.committed(topic)) == (2, 1, 3)


def test_an_unknown_topic_and_brokers_that_do_not_answer_are_clear_errors(source, cluster, topic, empty_engine):
    with pytest.raises(SourceError, match=rf"topic '{topic}' cannot be read .*correct IMGPIPE_KAFKA_TOPIC"):
        source.drain()
    nowhere = KafkaConfig("127.0.0.1:1", topic, STORE, timeout_s=1, security={"sasl.password": "canary"})
    with pytest.raises(SourceError, match=r"No Kafka broker answers at 127.0.0.1:1") as told:
        KafkaSource(nowhere, empty_engine).drain()
    assert "canary" not in str(told.value)


def test_a_broker_that_is_away_is_a_handful_of_lines(topic, empty_engine, caplog):
    nowhere = KafkaConfig("127.0.0.1:1", topic, STORE, timeout_s=3)
    with pytest.raises(SourceError):
        KafkaSource(nowhere, empty_engine).look()
    lines = [record.getMessage() for record in caplog.records if "librdkafka" in record.name]
    assert 1 <= len(lines) <= 5, lines
    assert "Connection refused" in lines[0]


def test_offsets_that_begin_again_after_a_topic_was_made_anew_are_new_messages(source, cluster, topic, empty_engine):
    """The mock cluster deletes no topics: what is stored is made to look as if it came from an older life of it."""
    cluster.send(topic, *frames(5), partition=0)
    source.drain()
    with empty_engine.begin() as connection:
        connection.execute(sa.update(KafkaPosition).values(last_offset=99, last_timestamp_ms=1))
    report = again(source).drain().report
    assert (report.inserted, report.known) == (5, 0), "offsets 0 to 4, in another life"
    assert load_position(empty_engine, cluster.id, topic, 0).epoch == 1
    # A topic that has grown beyond where the old one ended, and a group that has forgotten it.
    with empty_engine.begin() as connection:
        connection.execute(sa.update(KafkaPosition).values(last_offset=2, last_timestamp_ms=1))
    forgetful = KafkaSource(KafkaConfig(cluster.servers, topic, STORE, group="another"), empty_engine)
    assert forgetful.drain().report.inserted == 5
    assert load_position(empty_engine, cluster.id, topic, 0).epoch == 2
    # The same messages, and a group that has forgotten them: nothing to do.
    forgetful = KafkaSource(KafkaConfig(cluster.servers, topic, STORE, group="a third"), empty_engine)
    assert forgetful.drain().report.read == 0


def test_a_position_never_goes_back(empty_engine):
    for position in (Position(0, 5, 50), Position(0, 3, 30), Position(1, 0, 60), Position(0, 9, 90)):
        save_position(empty_engine, "c", "t", 0, position)
    assert load_position(empty_engine, "c", "t", 0) == Position(1, 0, 60)


def test_consumers_of_a_group_share_the_topic_and_hand_partitions_over_without_loss(
    source, cluster, topic, empty_engine
):
    cluster.send(topic, *frames(400))
    stop = [threading.Event(), threading.Event()]
    reports = {}

    def run(number):
        reports[number] = again(source).consume(stop[number].is_set)

    def wait_for(count):
        deadline = time.monotonic() + 100
        while len(images(empty_engine)) < count:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    threads[0].start()
    wait_for(400)
    threads[1].start()
    for start in range(400, 900, 50):
        cluster.send(topic, *frames(50, start=start))
        time.sleep(0.5)
    stop[0].set()
    threads[0].join()
    cluster.send(topic, *frames(100, start=900))
    wait_for(1000)
    stop[1].set()
    threads[1].join()
    assert images(empty_engine) == urls(1000)
    assert reports[0].inserted + reports[1].inserted == 1000
    assert source.drain().report.read == 0


def test_the_command_ends_cleanly_on_sigterm_with_everything_committed(cluster, topic, tmp_path):
    cluster.send(topic, *frames(30), b"poison")
    foreign = ("IMGPIPE_", "MYSQL_", "DAGSTER_", "AWS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
        "IMGPIPE_KAFKA_BOOTSTRAP_SERVERS": cluster.servers,
        "IMGPIPE_KAFKA_TOPIC": topic,
        "IMGPIPE_KAFKA_GROUP": topic,
    }
    program = str(Path(sys.executable).with_name("imgpipe"))
    options = {"cwd": tmp_path, "env": environment, "text": True}

    def run(*arguments):
        return subprocess.run([program, *arguments], **options, capture_output=True, timeout=120, check=True).stdout

    run("db", "upgrade")
    command = [program, "kafka", "consume", "--json"]
    with subprocess.Popen(command, **options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 100
        while cluster.committed(topic) < 31:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert (report["inserted"], report["rejected"]) == (30, 1)
    polled = json.loads(run("poll", "--json"))
    assert (polled["taken_over"], polled["waiting"], polled["sources"]["kafka"]["read"]) == (0, 30, 0)
