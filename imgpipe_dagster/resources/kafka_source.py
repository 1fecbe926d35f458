"""The Kafka source as a resource. No logic."""

import dagster as dg
from pydantic import Field

from imgpipe_dagster.sources.kafka import KafkaConfig, security_options


class KafkaSourceResource(dg.ConfigurableResource):
    """Which topic announces images, and how its brokers are reached."""

    bootstrap_servers: str = Field(default="", description="Brokers; without them there is no Kafka source.")
    topic: str = Field(default="", description="The topic; without it there is no Kafka source.")
    store_url: str = Field(description="The store, whose own images messages name by key.")
    group: str = Field(default="imgpipe", description="Consumer group.")
    dead_letter_topic: str | None = Field(default=None, description="Where messages go that cannot be used.")
    security_protocol: str = Field(default="PLAINTEXT", description="How brokers are reached.")
    sasl_mechanism: str | None = Field(default=None, description="How to log in.")
    sasl_username: str | None = Field(default=None, description="User.")
    sasl_password: str = Field(default="", description="Password, from the environment.")
    ssl_ca_file: str | None = Field(default=None, description="Certificates that brokers are verified with.")
    ssl_certificate_file: str | None = Field(default=None, description="Certificate of this client.")
    ssl_key_file: str | None = Field(default=None, description="Its private key.")
    ssl_key_password: str = Field(default="", description="Password of that key, from the environment.")

    def config(self) -> KafkaConfig | None:
        """The source as the reader takes it, or None where there is none."""
        if not (self.bootstrap_servers and self.topic):
            return None
        security = security_options(
            protocol=self.security_protocol,
            sasl_mechanism=self.sasl_mechanism,
            sasl_username=self.sasl_username,
            sasl_password=self.sasl_password,
            ca_file=self.ssl_ca_file,
            certificate_file=self.ssl_certificate_file,
            key_file=self.ssl_key_file,
            key_password=self.ssl_key_password,
        )
        return KafkaConfig(
            bootstrap_servers=self.bootstrap_servers,
            topic=self.topic,
            store_url=self.store_url,
            group=self.group,
            dead_letter_topic=self.dead_letter_topic,
            security=security,
        )
