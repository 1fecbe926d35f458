"""TLS and SASL of the Kafka source, against brokers that want both: a proxy before librdkafka's mock cluster."""

import json
import socket
import ssl
import struct
import threading
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.tables import ProductImage
from imgpipe_dagster.polling import kafka_config
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.sources.base import SourceError
from imgpipe_dagster.sources.kafka import KafkaSource

kafka = pytest.importorskip("confluent_kafka")

TOPIC = "secured-images"
USER, PASSWORD, KEY_PASSWORD = "pipeline", "kafka-p@ss word", "key-p@ss"
API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = 18, 17, 36
AUTHENTICATION_FAILED = 58


class SecuredBroker(threading.Thread):
    """Ends TLS, asks for a client's certificate and a login, and passes all else on to a broker that asks for neither.

    It speaks as much of Kafka's protocol as that takes: every request and answer is a frame of a length and so many
    bytes, and answers come in the order of requests.
    """

    def __init__(self, broker_port: int, context: ssl.SSLContext):
        super().__init__(daemon=True)
        self._broker_port = broker_port
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.logins: list[tuple[str, str]] = []
        self.clients: set[str] = set()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with (
                self._context.wrap_socket(connection, server_side=True) as client,
                socket.create_connection(("127.0.0.1", self._broker_port)) as broker,
            ):
                certificate: Any = client.getpeercert()
                self.clients.add(dict(pair for (pair,) in certificate["subject"])["commonName"])
                logged_in = False
                while (request := self._frame(client)) is not None:
                    key, version, correlation = struct.unpack(">hhi", request[:8])
                    if key == SASL_HANDSHAKE:
                        answer = struct.pack(">ihih", correlation, 0, 1, 5) + b"PLAIN"
                    elif key == SASL_AUTHENTICATE:
                        logged_in = self._login(request)
                        answer = struct.pack(">ihhi", correlation, 0 if logged_in else AUTHENTICATION_FAILED, -1, 0)
                        answer += struct.pack(">q", 0) * version  # how long the session lasts
                    else:
                        assert logged_in or key == API_VERSIONS, "nothing goes before the login"
                        broker.sendall(struct.pack(">i", len(request)) + request)
                        answer = self._frame(broker) or b""
                        if key == API_VERSIONS:
                            answer = self._with_sasl(answer, version)
                        # Brokers tell where they are: here.
                        place = b"127.0.0.1" + struct.pack(">i", self._broker_port)
                        answer = answer.replace(place, b"127.0.0.1" + struct.pack(">i", self.port))
                    client.sendall(struct.pack(">i", len(answer)) + answer)
        except OSError:  # a client that is not let in, or has gone
            connection.close()

    def _login(self, request: bytes) -> bool:
        (name_length,) = struct.unpack(">h", request[8:10])
        _, user, password = request[10 + max(name_length, 0) + 4 :].split(b"\0")
        self.logins.append((user.decode(), password.decode()))
        return self.logins[-1] == (USER, PASSWORD)

    def _with_sasl(self, answer: bytes, version: int) -> bytes:
        """The broker's list of what it can do, with two things more."""
        more = [struct.pack(">hhh", key, 0, 1) for key in (SASL_HANDSHAKE, SASL_AUTHENTICATE)]
        if version < 3:
            (count,) = struct.unpack(">i", answer[6:10])
            return answer[:6] + struct.pack(">i", count + 2) + b"".join(more) + answer[10:]
        assert answer[6] < 126
        return answer[:6] + bytes([answer[6] + 2]) + b"".join(one + b"\0" for one in more) + answer[7:]

    def _frame(self, connection: socket.socket) -> bytes | None:
        head = self._exactly(connection, 4)
        return None if head is None else self._exactly(connection, struct.unpack(">i", head)[0])

    def _exactly(self, connection: socket.socket, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            some = connection.recv(size - len(data))
            if not some:
                return None
            data += some
        return data


@pytest.fixture(scope="module")
def certificates(tmp_path_factory, make_certificate):
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "broker": make_certificate(folder, "broker"),
        "client": make_certificate(folder, "client", key_password=KEY_PASSWORD),
        "stranger": make_certificate(folder, "stranger"),
    }


@pytest.fixture(scope="module")
def broker(certificates):
    host = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock"})
    (listed,) = host.list_topics(timeout=30).brokers.values()
    for number in range(3):
        host.produce(TOPIC, json.dumps({"image_path": f"images/frame_{number:06d}.jpg"}).encode())
    assert host.flush(30) == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates["broker"])
    context.load_verify_locations(certificates["client"][0])
    context.verify_mode = ssl.CERT_REQUIRED
    broker = SecuredBroker(listed.port, context)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def read(broker, certificates, tmp_path):
    """Reads the topic as configured, with some settings changed; the URLs of the images that came."""
    engine = connect(make_url(f"sqlite:///{tmp_path}/catalogue.db"))
    schema.upgrade(engine)

    def drain(**changed):
        ca, _ = certificates["broker"]
        certificate, key = certificates["client"]
        right = {
            "kafka_bootstrap_servers": f"127.0.0.1:{broker.port}",
            "kafka_topic": TOPIC,
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": "PLAIN",
            "kafka_sasl_username": USER,
            "kafka_sasl_password": PASSWORD,
            "kafka_ssl_ca_file": ca,
            "kafka_ssl_certificate_file": certificate,
            "kafka_ssl_key_file": key,
            "kafka_ssl_key_password": KEY_PASSWORD,
        }
        config = kafka_config(Settings.model_validate({"home": tmp_path, **right, **changed}))
        assert config
        KafkaSource(replace(config, timeout_s=4), engine).drain()
        with engine.connect() as connection:
            return connection.scalars(sa.select(ProductImage.image_url).order_by(ProductImage.image_url)).all()

    yield drain
    engine.dispose()


def test_messages_come_from_brokers_that_want_tls_a_certificate_and_a_login(read, broker):
    broker.logins.clear()
    assert read() == [f"store:images/frame_{number:06d}.jpg" for number in range(3)]
    assert set(broker.logins) == {(USER, PASSWORD)}
    assert broker.clients == {"client"}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"kafka_ssl_ca_file": "nowhere.pem"}, "ssl.ca.location"),
        ({"kafka_ssl_key_password": "wrong"}, "ssl.key.location"),
        ({"kafka_ssl_certificate_file": None}, "no certificate"),
    ],
)
def test_settings_that_do_not_fit_together_are_a_clear_error(read, changed, why):
    with pytest.raises(SourceError, match=f"make no Kafka client .*{why}.*check IMGPIPE_KAFKA") as error:
        read(**changed)
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"kafka_sasl_password": "wrong"}, "authentication"),
        ({"kafka_ssl_ca_file": "stranger"}, "certificate verify failed"),
        ({"kafka_ssl_certificate_file": None, "kafka_ssl_key_file": None, "kafka_ssl_key_password": None}, "."),
        ({"kafka_security_protocol": "SASL_PLAINTEXT"}, "."),
    ],
)
def test_whoever_is_not_let_in_is_told_so(read, certificates, changed, why):
    changed = {name: certificates[value][0] if value in certificates else value for name, value in changed.items()}
    with pytest.raises(SourceError, match=f"(?i)no kafka broker answers.*{why}") as error:
        read(**changed)
    assert PASSWORD not in str(error.value)
