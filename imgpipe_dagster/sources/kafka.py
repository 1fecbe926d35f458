"""Messages of a Kafka topic as images: taken over, put aside if they are poison, and only then committed.

What a message means is decided in ``messages.py``. The library is an extra and is imported in functions.
"""

import datetime as dt
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.alerts import AlertKind, write_alert
from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.imports import BadRow, ImportReport, import_rows, source_key
from imgpipe_dagster.catalogue.kafka_positions import Position, load_position, save_position
from imgpipe_dagster.sources.base import Frame, SourceError, Taken, add_reports
from imgpipe_dagster.sources.messages import SOURCE, PoisonError, to_import_row

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, Producer

log = logging.getLogger(__name__)
library_log = logging.getLogger(f"{__name__}.librdkafka")

BATCH_MESSAGES = 500
BATCH_BYTES = 16 * 2**20
DEAD_LETTER_BYTES = 512 * 1024
"""A dead letter holds the message up to this size, and the beginning of a larger one: brokers refuse more than 1 MB."""

_REPEAT_S = 60.0


@dataclass(frozen=True)
class KafkaConfig:
    """Which topic is read, and how the brokers are reached.

    Attributes:
        bootstrap_servers: ``host:port``, several with commas.
        topic: The topic.
        group: The consumer group whose offsets are committed.
        dead_letter_topic: Where poison goes; by default the topic's name with ``.dead-letter``.
        security: Options of librdkafka about TLS and SASL, such as ``sasl.username``.
        store_url: The store, whose own images messages name by key.
        timeout_s: How long brokers may take to answer.
    """

    bootstrap_servers: str
    topic: str
    store_url: str
    group: str = "imgpipe"
    dead_letter_topic: str | None = None
    security: Mapping[str, str] = field(default_factory=dict, repr=False)  # passwords
    timeout_s: float = 10

    @property
    def dead_letters(self) -> str:
        """The topic for poison."""
        return self.dead_letter_topic or f"{self.topic}.dead-letter"


def security_options(
    *,
    protocol: str,
    sasl_mechanism: str | None = None,
    sasl_username: str | None = None,
    sasl_password: str | None = None,
    ca_file: str | None = None,
    certificate_file: str | None = None,
    key_file: str | None = None,
    key_password: str | None = None,
) -> dict[str, str]:
    """The options of librdkafka for TLS and SASL; what is None or empty is left out."""
    options = {
        "security.protocol": protocol,
        "sasl.mechanism": sasl_mechanism,
        "sasl.username": sasl_username,
        "sasl.password": sasl_password,
        "ssl.ca.location": ca_file,
        "ssl.certificate.location": certificate_file,
        "ssl.key.location": key_file,
        "ssl.key.password": key_password,
    }
    return {name: value for name, value in options.items() if value}


def recognise(stored: Position, high: int, found_timestamp_ms: int | None) -> Position:
    """The position to go on from: the stored one, or the beginning of a new life of the partition.

    Not every broker has a name for a partition's life. But a topic that was made anew has no message, or another one,
    where the last message was.

    Args:
        stored: Where the partition was left.
        high: One more than the last offset.
        found_timestamp_ms: The timestamp of the message at the stored offset now; None where it was not looked for, or
            is not there any more.
    """
    is_gone = stored.offset >= high  # what retention took is below the first offset, not above the last
    differs = found_timestamp_ms is not None and found_timestamp_ms != stored.timestamp_ms
    if stored.offset < 0 or not (is_gone or differs):
        return stored
    return Position(epoch=stored.epoch + 1)


class KafkaAnnouncer:
    """Announces images that are in the store as messages of the topic, as the older producer did.

    A message that brokers have taken and that is not noted before a crash is sent again: then the image comes twice.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._producer: Producer | None = None

    def __call__(self, frames: Sequence[Frame]) -> None:
        """Send a message for each image and wait until the brokers have them.

        Raises:
            SourceError: They do not take them.
        """
        self._producer = self._producer or make_producer(self._config)
        messages = []
        for frame in frames:
            fields = {"image_path": frame.key, "sku_id": frame.sku_id, "temple_id": frame.temple_id}
            told = {name: value for name, value in fields.items() if value is not None}
            messages.append((frame.key, json.dumps(told).encode(), {}))
        why = send_all(self._producer, self._config.topic, messages, self._config.timeout_s)
        if why is not None:
            raise SourceError(
                f"The Kafka topic {self._config.topic!r} at {self._config.bootstrap_servers} does not take messages "
                f"({why}): check IMGPIPE_KAFKA_BOOTSTRAP_SERVERS and the topic."
            )


class KafkaSource:
    """A topic and the catalogue that its messages go to; one thread uses it."""

    def __init__(self, config: KafkaConfig, catalogue: Engine) -> None:
        self._config = config
        self._catalogue = catalogue
        self._cluster = ""
        self._positions: dict[int, Position] = {}
        self._producer: Producer | None = None
        self._last_error = ""

    def look(self) -> None:
        """Read nothing: only ask whether the brokers answer and have the topic.

        Raises:
            SourceError: They do not.
        """
        with self._consumer({}) as consumer:
            self._partitions(consumer)

    def drain(self, *, max_messages: int | None = None, max_seconds: float | None = None) -> Taken:
        """Take over what the topic has now, without joining the group: quick, for a tick or a poll.

        Raises:
            SourceError: No broker answers, there is no such topic, or the dead-letter topic takes nothing.
            sqlalchemy.exc.DBAPIError: The catalogue is away; nothing is lost, as nothing is committed.
        """
        stop = time.monotonic() + (max_seconds if max_seconds is not None else float("inf"))
        total = ImportReport()
        with self._consumer({"enable.partition.eof": True}) as consumer:
            partitions = self._partitions(consumer)
            consumer.assign(self._starts(consumer, partitions))
            unfinished = set(partitions)
            while unfinished:
                messages, ended = self._gather(consumer, wait_s=self._config.timeout_s)
                if messages:
                    total = add_reports(total, self._take_over(consumer, messages))
                unfinished -= ended
                enough = max_messages is not None and total.read >= max_messages
                if enough or time.monotonic() >= stop or not (messages or ended):
                    break
        return Taken(total, finished=not unfinished)

    def consume(
        self, is_stopped: Callable[[], bool], on_progress: Callable[[ImportReport], None] = lambda _report: None
    ) -> ImportReport:
        """Take over messages as a member of the group until ``is_stopped``; several may share the topic's partitions.

        Every batch is durable and committed before the next is asked for, so partitions may change hands at any time.

        Raises:
            SourceError: As for `drain`.
            sqlalchemy.exc.DBAPIError: The catalogue is away; nothing is lost, as nothing is committed.
        """
        total = ImportReport()
        with self._consumer({}) as consumer:
            self._partitions(consumer)
            consumer.subscribe([self._config.topic], on_assign=self._on_assign)
            while not is_stopped():
                messages, _ = self._gather(consumer, wait_s=1.0)
                if messages:
                    total = add_reports(total, self._take_over(consumer, messages))
                    on_progress(total)
        return total

    def _on_assign(self, consumer: "Consumer", partitions: list[Any]) -> None:
        starts = self._starts(consumer, [partition.partition for partition in partitions])
        log.info("Partitions of %s here now: %s", self._config.topic, [start.partition for start in starts])
        consumer.assign(starts)

    @contextmanager
    def _consumer(self, more: Mapping[str, Any]) -> Iterator["Consumer"]:
        own = {
            "group.id": self._config.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "queued.max.messages.kbytes": 16 * 1024,
        }
        consumer = _client("Consumer", self._config, {"error_cb": self._note_error, **own, **more})
        try:
            yield consumer
        finally:
            consumer.close()

    def _note_error(self, error: Any) -> None:  # noqa: ANN401 - KafkaError
        self._last_error = error.str()

    def _partitions(self, consumer: "Consumer") -> list[int]:
        """The topic's partitions; also notes which cluster it is."""
        from confluent_kafka import KafkaException

        topic = self._config.topic
        try:
            listed = consumer.list_topics(topic, timeout=self._config.timeout_s)
        except KafkaException as error:
            consumer.poll(0)  # serves the callback that knows more
            why = self._last_error or error.args[0].str()
            raise SourceError(
                f"No Kafka broker answers at {self._config.bootstrap_servers} ({why}): check "
                "IMGPIPE_KAFKA_BOOTSTRAP_SERVERS, IMGPIPE_KAFKA_SECURITY_PROTOCOL and the broker."
            ) from error
        found = listed.topics[topic]
        if found.error is not None:
            raise SourceError(
                f"The Kafka topic {topic!r} cannot be read ({found.error.str()}): create it or correct "
                "IMGPIPE_KAFKA_TOPIC."
            )
        self._cluster = (listed.cluster_id or "")[:100]
        return sorted(found.partitions)

    def _starts(self, consumer: "Consumer", partitions: list[int]) -> list[Any]:
        """Where each partition is read from: after what is durable, and from the beginning in a new life of it."""
        from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

        topic = self._config.topic
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        starts: list[Any] = []
        try:
            for known in consumer.committed(wanted, timeout=self._config.timeout_s) if wanted else []:
                low, high = consumer.get_watermark_offsets(known, timeout=self._config.timeout_s)
                stored = load_position(self._catalogue, self._cluster, topic, known.partition)
                # A group forgets a topic that is deleted: one that it remembers is the same one.
                look = known.offset <= stored.offset and low <= stored.offset < high
                found = self._timestamp_at(known.partition, stored.offset) if look else None
                position = recognise(stored, high, found)
                if position != stored:
                    log.warning("Topic %s, partition %d was made anew: read from its beginning", topic, known.partition)
                committed = known.offset if position == stored else -1
                start = max(committed, position.offset + 1)
                self._positions[known.partition] = position
                starts.append(TopicPartition(topic, known.partition, start if start > 0 else OFFSET_BEGINNING))
        except KafkaException as error:
            raise SourceError(f"The offsets of {topic!r} cannot be read: {error.args[0].str()}") from error
        return starts

    def _timestamp_at(self, partition: int, offset: int) -> int | None:
        from confluent_kafka import TopicPartition

        with self._consumer({"group.id": f"{self._config.group}.look"}) as consumer:
            consumer.assign([TopicPartition(self._config.topic, partition, offset)])
            deadline = time.monotonic() + self._config.timeout_s
            while time.monotonic() < deadline:
                message = consumer.poll(0.2)
                if message is not None and message.error() is None:
                    return message.timestamp()[1] if message.offset() == offset else None
        raise SourceError(f"Topic {self._config.topic!r}, partition {partition} does not answer: try again later.")

    def _gather(self, consumer: "Consumer", *, wait_s: float) -> tuple[list["Message"], set[int]]:
        """Messages that are there now, a bounded batch of them, and the partitions whose end was reached."""
        from confluent_kafka import KafkaError

        messages: list[Message] = []
        ended: set[int] = set()
        size = 0
        message = consumer.poll(wait_s)
        while message is not None:
            error = message.error()
            if error is None:
                messages.append(message)
                size += len(message.value() or b"")
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(int(message.partition() or 0))
            elif not error.retriable():
                raise SourceError(f"The Kafka topic {self._config.topic!r} cannot be read: {error.str()}")
            if len(messages) >= BATCH_MESSAGES or size >= BATCH_BYTES:
                break
            message = consumer.poll(0.05)
        return messages, ended

    def _take_over(self, consumer: "Consumer", messages: list["Message"]) -> ImportReport:
        """Make rows of messages, put the poison aside, and note how far that is: in this order."""
        rows: list[Any] = []
        poison: list[tuple[Message, str]] = []
        for message in messages:
            try:
                rows.append(self._row(message))
            except PoisonError as error:
                poison.append((message, str(error)))
                rows.append(BadRow(int(message.offset() or 0), f"{_place(message)}: {error}"))
        report = import_rows(self._catalogue, rows)
        if poison:
            self._put_aside(poison)
        self._note(consumer, messages)
        return report

    def _row(self, message: "Message") -> Any:  # noqa: ANN401 - ImportRow
        partition, offset = int(message.partition() or 0), int(message.offset() or 0)
        epoch = self._positions[partition].epoch
        return to_import_row(
            message.value(),
            source_ref=_place(message),
            source_key=source_key(SOURCE, self._cluster, self._config.topic, partition, epoch, offset),
            store_url=self._config.store_url,
        )

    def _put_aside(self, poison: list[tuple["Message", str]]) -> None:
        """Send messages to the dead-letter topic, each with its cause, and write one alert an hour about them."""
        self._producer = self._producer or make_producer(self._config)
        letters = []
        for message, cause in poison:
            value = message.value()
            headers: dict[str, str | bytes | None] = {
                "cause": cause[:1000],
                "source": _place(message),
                "size": str(len(value or b"")),
                "sha256": hashlib.sha256(value or b"").hexdigest(),
            }
            letters.append((_place(message), value[:DEAD_LETTER_BYTES] if value is not None else None, headers))
        why = send_all(self._producer, self._config.dead_letters, letters, self._config.timeout_s)
        if why is not None:
            raise SourceError(
                f"The dead-letter topic {self._config.dead_letters!r} does not take a message ({why}): create it. "
                "Nothing is committed until it does."
            )
        topic, now = self._config.topic, dt.datetime.now(dt.UTC)
        key = f"dead_letter:{hashlib.sha256(topic.encode()).hexdigest()[:16]}:{now:%Y%m%d%H}"
        listed = "\n".join(f"{_place(message)}: {cause}" for message, cause in poison[:10])
        transact(
            self._catalogue,
            lambda connection: write_alert(
                connection,
                kind=AlertKind.DEAD_LETTER,
                subject=f"Messages of the Kafka topic {topic[:100]} cannot be used",
                body=f"{listed}\nThey are in the topic {self._config.dead_letters}, with their causes in the headers. "
                "Further ones of this hour are there as well and are not told.",
                dedupe_key=key,
            ),
        )

    def _note(self, consumer: "Consumer", messages: list["Message"]) -> None:
        """Note how far each partition is durable, and commit it."""
        from confluent_kafka import KafkaException, TopicPartition

        last = {int(message.partition() or 0): message for message in messages}
        offsets = []
        for partition, message in last.items():
            offset = int(message.offset() or 0)
            position = Position(self._positions[partition].epoch, offset, message.timestamp()[1])
            save_position(self._catalogue, self._cluster, self._config.topic, partition, position)
            offsets.append(TopicPartition(self._config.topic, partition, offset + 1))
        try:
            consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # Another member has the partition now, or the broker is away. What is delivered again is known.
            log.warning("Offsets of %s were not committed: %s", self._config.topic, error.args[0].str())


def connection_options(config: KafkaConfig) -> dict[str, Any]:
    """How brokers are reached, as librdkafka takes it. Holds passwords."""
    return {"bootstrap.servers": config.bootstrap_servers, "client.id": "imgpipe", **config.security}


def make_producer(config: KafkaConfig) -> "Producer":
    """A producer whose retries never double a message or change the order."""
    safe = {"enable.idempotence": True, "message.timeout.ms": int(config.timeout_s * 1000)}
    return _client("Producer", config, safe)


def send_all(
    producer: "Producer",
    topic: str,
    messages: Iterable[tuple[str, bytes | None, dict[str, str | bytes | None]]],
    timeout_s: float,
) -> str | None:
    """Send messages and wait until the brokers have them.

    Args:
        producer: Sends.
        topic: Where to.
        messages: Key, value and headers of each.
        timeout_s: How long to wait.

    Returns:
        None if they have all of them, else why not.
    """
    failed: list[str] = []
    for key, value, headers in messages:
        producer.produce(
            topic,
            value,
            key,
            headers=headers,
            on_delivery=lambda error, _sent: failed.append(error.str()) if error else None,
        )
        producer.poll(0)
    left = producer.flush(timeout_s + 1)
    return failed[0] if failed else "no answer" if left else None


class _OnceAMinute(logging.Filter):
    """Passes a text once a minute: librdkafka writes that a broker is away twenty times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        text, _, _ = record.getMessage().partition(" (after ")  # how long it took differs
        now = time.monotonic()
        self._passed = {known: at for known, at in self._passed.items() if now - at < _REPEAT_S}
        is_new = text not in self._passed
        self._passed.setdefault(text, now)
        return is_new


library_log.addFilter(_OnceAMinute())


def _client(kind: Literal["Consumer", "Producer"], config: KafkaConfig, own: Mapping[str, Any]) -> Any:  # noqa: ANN401
    try:
        import confluent_kafka
    except ImportError as error:
        raise SourceError("Kafka needs an extra: pip install 'imgpipe-dagster[kafka]'") from error
    try:
        return getattr(confluent_kafka, kind)({**connection_options(config), **own}, logger=library_log)
    except confluent_kafka.KafkaException as error:
        raise SourceError(
            f"These settings make no Kafka client ({error.args[0].str()}): check IMGPIPE_KAFKA_SECURITY_PROTOCOL, "
            "IMGPIPE_KAFKA_SASL_* and the files of IMGPIPE_KAFKA_SSL_*."
        ) from error


def _place(message: "Message") -> str:
    """Where a message lies, for people."""
    return f"{str(message.topic())[:140]}/{message.partition()}/{message.offset()}"
