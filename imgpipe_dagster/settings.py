"""Every setting, in one class: read once at the edge (definitions, CLI) and passed down as plain values."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Literal, Self
from zoneinfo import available_timezones

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from imgpipe_dagster.alerts.smtp import SMTP_URL_HELP, open_mailer

DATABASE_URL_VARIABLE = "IMGPIPE_DATABASE_URL"
SQL_SOURCE_URL_VARIABLE = "IMGPIPE_SQL_SOURCE_URL"
KAFKA_SASL_PASSWORD_VARIABLE = "IMGPIPE_KAFKA_SASL_PASSWORD"  # noqa: S105 - the variable's name
KAFKA_SSL_KEY_PASSWORD_VARIABLE = "IMGPIPE_KAFKA_SSL_KEY_PASSWORD"  # noqa: S105 - the variable's name
API_SCOPES = ("read", "write", "review", "train")
SMTP_URL_VARIABLE = "IMGPIPE_SMTP_URL"
DEMO_WEIGHTS = Path(__file__).parent / "demo" / "weights" / "shelf_yolo11n.pt"
DEMO_BOTTLE_WEIGHTS = DEMO_WEIGHTS.with_name("bottle_yolo11n-cls.pt")


class DagsterHomeError(RuntimeError):
    """The environment names a home for Dagster that there is not."""


class Settings(BaseSettings):
    """The settings of one installation: ``IMGPIPE_*`` in the environment or in ``.env``."""

    model_config = SettingsConfigDict(
        env_prefix="IMGPIPE_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # an error must not print a password
    )

    home: Path = Field(default=Path(".imgpipe"), description="Folder for all that the pipeline leaves behind.")

    # Catalogue
    database_url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL of the catalogue, such as mysql+pymysql://user:password@host/imgpipe. "
        "Default: SQLite under the home folder.",
    )
    mysql_host: str | None = Field(
        default=None,
        validation_alias=AliasChoices("IMGPIPE_MYSQL_HOST", "MYSQL_HOST"),
        description="With MYSQL_PORT, MYSQL_USER, MYSQL_PASSWORD, MYSQL_DATABASE: another way to name the catalogue.",
    )
    mysql_port: int = Field(
        default=3306,
        validation_alias=AliasChoices("IMGPIPE_MYSQL_PORT", "MYSQL_PORT"),
        description="Port of MYSQL_HOST.",
    )
    mysql_user: str = Field(
        default="root", validation_alias=AliasChoices("IMGPIPE_MYSQL_USER", "MYSQL_USER"), description="User there."
    )
    mysql_password: SecretStr = Field(
        default=SecretStr(""),
        validation_alias=AliasChoices("IMGPIPE_MYSQL_PASSWORD", "MYSQL_PASSWORD"),
        description="Password there.",
    )
    mysql_database: str = Field(
        default="image_enhancer",
        validation_alias=AliasChoices("IMGPIPE_MYSQL_DATABASE", "MYSQL_DATABASE"),
        description="Database there.",
    )

    # Store
    store_url: str | None = Field(
        default=None, description="file:///folder or s3://bucket/prefix. Default: a folder under the home folder."
    )
    s3_endpoint_url: str | None = Field(
        default=None,
        description="Endpoint of an S3-compatible store; credentials come from AWS_ACCESS_KEY_ID and the like.",
    )
    s3_region: str | None = Field(default=None, description="Region of the bucket, where the endpoint wants one.")

    # Batches
    batch_size: int = Field(
        default=500, ge=1, le=5000, description="Images claimed together: one batch, partition and run."
    )
    batch_max_size: int = Field(default=5000, ge=1, description="How far a batch grows when the backlog is long.")
    batch_max_wait_s: float = Field(
        default=120, ge=0, description="A batch that is not full is closed when its oldest row waited so long."
    )
    max_attempts: int = Field(default=3, ge=1, description="Runs of a batch before it counts as failed.")
    max_concurrent_batches: int = Field(
        default=2, ge=1, description="The sensor claims no more while so many batches are open."
    )
    heartbeat_limit_s: float = Field(default=600, gt=0, description="A run silent for longer counts as lost.")

    # Fetch
    cdn_base_url: str | None = Field(default=None, description="Prefix for rows whose image_url is only a file name.")
    fetch_connections: int = Field(default=64, ge=1, le=1024, description="Connections at once.")
    fetch_timeout_s: float = Field(default=30, gt=0, description="Time for one whole download attempt.")
    fetch_connect_timeout_s: float = Field(default=10, gt=0, description="Time to connect.")
    fetch_attempts: int = Field(
        default=4, ge=1, description="Tries of one URL on 429, 5xx, timeouts and lost connections."
    )
    fetch_max_bytes: int = Field(default=32 * 2**20, ge=1, description="Largest file that is taken.")
    fetch_memory_bytes: int = Field(
        default=256 * 2**20, ge=1, description="Files on their way take no more memory at once; one more gets through."
    )
    fetch_max_redirects: int = Field(default=5, ge=0, description="Redirects followed; each hop is checked again.")
    fetch_allow_networks: list[str] = Field(
        default_factory=list,
        description='Private networks that may be fetched from, as a JSON list such as ["10.1.0.0/16"].',
    )

    # Validation
    max_pixels: int = Field(default=50_000_000, ge=1, description="Largest picture that is decoded.")
    decode_timeout_s: float = Field(default=20, gt=0, description="Time for decoding one picture.")
    decode_memory_mb: int = Field(default=2048, ge=256, description="Memory of one decoding child process.")

    # Detection
    detector_weights: str = Field(
        default=str(DEMO_WEIGHTS),
        description="Ultralytics weights: .pt, .onnx, an OpenVINO folder, or a name such as yolo11n.pt.",
    )
    detector_sha256: str | None = Field(default=None, description="Refuse weights with another SHA-256.")
    detector_precision: Literal["fp32", "bf16", "int8"] = Field(
        default="fp32", description="fp32 is exact; bf16 and int8 are faster and slightly different."
    )
    detector_calibration_dir: Path | None = Field(
        default=None, description="Folder of pictures that int8 is calibrated with."
    )
    detector_confidence: float = Field(default=0.25, ge=0, le=1, description="Boxes below are dropped.")
    detector_iou: float = Field(default=0.7, ge=0, le=1, description="Of two boxes that overlap more, the weaker goes.")
    detector_image_size: int | None = Field(
        default=None, ge=32, description="Input size in pixels; default: that of the weights."
    )
    detector_device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto uses CUDA where there is one."
    )

    # Enhancement
    enhance: bool = Field(default=True, description="Enhance images that have a SKU, after their predictions.")
    enhancement_mode: Literal["auto", "full", "sharpen", "denoise", "upscale", "optimize"] = Field(
        default="auto", description="auto, full, sharpen, denoise, upscale or optimize; groups and SKUs may differ."
    )
    enable_background_removal: bool = Field(
        default=True,
        validation_alias=AliasChoices("IMGPIPE_ENABLE_BACKGROUND_REMOVAL", "ENABLE_BACKGROUND_REMOVAL"),
        description="Replace backgrounds; false keeps them unless a group or SKU asks for another one.",
    )
    background_color: str = Field(
        default="#FFFFFF",
        validation_alias=AliasChoices(
            "IMGPIPE_BACKGROUND_COLOR",
            "DEFAULT_BACKGROUND_COLOR",
            "BACKGROUND_COLOR",
        ),
        description="What is put behind products: white, #RRGGBB or transparent.",
    )
    background_method: Literal["grabcut", "rembg"] = Field(
        default="grabcut", description="How products are found: grabcut or rembg."
    )
    rembg_model: str = Field(default="u2netp", description="For rembg: a model's name or a local ONNX file.")
    target_min_dimension: int = Field(
        default=1500,
        ge=16,
        le=10_000,
        validation_alias=AliasChoices("IMGPIPE_TARGET_MIN_DIMENSION", "TARGET_MIN_DIMENSION"),
        description="Pictures are enlarged until their longer side has so many pixels.",
    )
    target_kb: float = Field(default=500, gt=0, description="Largest size of an enhanced file, in KB of 1,024 bytes.")
    enhancement_profile: Literal["amazon_main", "web_square"] | None = Field(
        default=None, description="A marketplace's rules to aim at, such as amazon_main; groups and SKUs may differ."
    )
    enhancement_box_classes: list[str] | None = Field(
        default=None,
        description="Detected classes that are products: their boxes help to find the product. A JSON list. Default: "
        "all classes, but none of the demo model, which knows shelves only.",
    )
    enhancement_box_confidence: float = Field(
        default=0.5, ge=0, le=1, description="Boxes below do not help to find the product."
    )
    enhancement_workers: int | None = Field(
        default=None, ge=1, description="Threads that enhance. Default: as many as there are processors."
    )
    machine_hour_price: float = Field(
        default=0.1, ge=0, description="What an hour of the machine costs, for the reported cost of 1,000 images."
    )

    # Review
    auto_approve_threshold: float = Field(
        default=75,
        ge=0,
        le=100,
        validation_alias=AliasChoices("IMGPIPE_AUTO_APPROVE_THRESHOLD", "AUTO_APPROVE_THRESHOLD"),
        description="Enhanced pictures with a score above need no review.",
    )
    high_value_threshold: float = Field(
        default=1000, gt=0, description="Pictures of SKUs of this value or more are always reviewed."
    )
    audit_share: float = Field(
        default=0.03, ge=0, le=1, description="Share of the pictures that need no review which get one all the same."
    )
    review_claim_minutes: float = Field(
        default=10, gt=0, description="A picture that a reviewer has claimed is free again after this time."
    )
    review_undo_s: float = Field(default=10, ge=0, description="A decision can be undone for so many seconds.")
    max_reworks: int = Field(default=2, ge=0, description="After so many reworks the rejection of a picture is final.")

    # HTTP API
    api_host: str = Field(
        default="127.0.0.1",
        description="Address that `imgpipe serve` listens on. Without any key, issuer or open network it is 127.0.0.1.",
    )
    api_port: int = Field(default=8000, ge=0, le=65535, description="Port of the API; 0 takes a free one.")
    api_open_networks: list[str] = Field(
        default_factory=list,
        description="Networks whose clients reach the paths of the older systems without a key, as a JSON list such as "
        '["10.1.0.0/16"].',
    )
    api_hosts: list[str] = Field(
        default_factory=list,
        description="Host names under which clients without a key may reach the API, besides localhost, addresses and "
        "names without a dot; others are refused, so that a web page cannot borrow a client's address.",
    )
    api_trusted_proxies: list[str] = Field(
        default_factory=list,
        description="Addresses or networks of proxies whose X-Forwarded-For is believed, as a JSON list.",
    )
    api_cors_origins: list[str] = Field(
        default_factory=list, description="Web origins that may call the API from a browser, as a JSON list."
    )
    api_rate_limit: str = Field(
        default="600/minute",
        description="Requests of one key, or of one address without a key, such as 20/second; off for no limit.",
    )
    api_deadline_s: float = Field(default=30, gt=0, description="Time for one request; then 504.")
    api_drain_s: float = Field(default=30, ge=0, description="Time that requests get to end after SIGTERM.")
    api_max_upload_bytes: int = Field(default=16 * 2**20, ge=1, description="Largest image file in a request.")
    api_max_json_bytes: int = Field(
        default=8 * 2**20, ge=1024, description="Largest JSON body, but for those that hold images."
    )
    api_warm: bool = Field(
        default=True, description="Load the models when the server starts, and not when they are first asked."
    )
    api_queue_limit: int = Field(
        default=64,
        ge=0,
        description="Pictures that may wait for the models. One more is refused at once with 503, and the queue is "
        "kept short until it has been worked off.",
    )
    api_cached_answers: int = Field(
        default=10_000, ge=0, description="Answers that are kept for pictures that come again; 0 keeps none."
    )
    api_max_connections: int = Field(
        default=1000,
        ge=1,
        description="Connections to one API process, idle ones included. One more is closed at once with 503.",
    )
    api_keep_uploads: bool = Field(default=False, description="Keep pictures that were classified, in the store.")
    api_address_days: float = Field(
        default=30, gt=0, description="IP addresses in the log of requests are forgotten after so many days."
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis for rate limits and cached answers, such as redis://:password@host:6379/0, shared by all "
        "processes and kept over restarts. Default: the memory of each process.",
    )
    oidc_issuer: str | None = Field(
        default=None,
        description="OpenID Connect issuer whose tokens are accepted, such as https://accounts.google.com.",
    )
    oidc_audience: str | None = Field(
        default=None, description="What a token's audience must be: the client's id at the issuer."
    )
    oidc_grants: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Who may do what, by verified e-mail address, @domain, subject or *, as a JSON object such as "
        '{"ann@example.com": ["read", "review"], "@example.com": ["read"]}; scopes such as imgpipe:read in the token '
        "count as well.",
    )
    source_url: str | None = Field(
        default=None,
        description="Where users of the API and the dashboard find the source of what they use (AGPL, section 13).",
    )

    # Dashboard
    dashboard_host: str = Field(
        default="127.0.0.1",
        description="Address that `imgpipe dashboard` listens on. Without a login (oidc_issuer) it is 127.0.0.1.",
    )
    dashboard_port: int = Field(default=8501, ge=1, le=65535, description="Port of the dashboard.")
    dashboard_url: str | None = Field(
        default=None,
        description="Where people find the dashboard, such as https://images.example.com: the issuer sends them back "
        "to /oauth2callback there. Default: http://localhost with the port.",
    )
    dashboard_oidc_client_secret: SecretStr | None = Field(
        default=None,
        description="With OIDC_ISSUER and OIDC_AUDIENCE (the client's id), the secret that the dashboard logs people "
        "in with; OIDC_GRANTS says who may read, review and train.",
    )
    dashboard_cookie_secret: SecretStr | None = Field(
        default=None,
        description="Long random text that login cookies are signed with. Default: another one at each start, so that "
        "people log in again.",
    )

    # Temples
    temple_scale_factor: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="A temple's first training picture times this is what its network takes, at least 32 pixels.",
    )
    temple_min_confidence: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Below this probability a picture of a temple has no category; kept in each model at its training.",
    )
    temple_epochs: int = Field(default=100, ge=1, description="Most passes of a training over its pictures.")
    temple_training_limit_s: float = Field(
        default=1800, gt=0, description="A training ends after so long, with its best weights until then."
    )
    temple_training_memory_mb: int = Field(
        default=4096, ge=64, description="A training that would take more memory is refused."
    )
    temple_retrain_after: int = Field(
        default=50, ge=0, description="New training pictures after which a temple is trained again by itself; 0: never."
    )

    # Bottle status
    bottle_weights: str = Field(
        default=str(DEMO_BOTTLE_WEIGHTS),
        description="Weights of an Ultralytics classifier: .pt, .onnx, an OpenVINO folder, or a name.",
    )
    bottle_sha256: str | None = Field(default=None, description="Refuse weights with another SHA-256.")
    bottle_crop_classes: list[str] = Field(
        default=["bottle"],
        description="Classes of the detector whose boxes are classified as crops too, as a JSON list.",
    )
    bottle_precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="fp32 is exact; bf16 is faster and slightly different."
    )
    bottle_device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto uses CUDA where there is one."
    )

    # Freshness
    freshness_minutes: float = Field(default=60, gt=0, description="Predictions older than this are stale.")
    freshness_warn_minutes: float | None = Field(
        default=None,
        gt=0,
        description="Predictions older than this warn in the UI. Default: half of what makes them stale.",
    )
    freshness_only_waiting: bool = Field(
        default=False,
        description="Old predictions are stale only while images wait: for feeds that may be silent.",
    )

    feed_freshness_minutes: float = Field(
        default=1440, gt=0, description="A temple or source whose newest prediction is older is stale by itself."
    )
    feed_forget_days: float = Field(
        default=30, gt=0, description="A temple or source that has been silent for longer is no longer expected."
    )

    # Watchdog
    watchdog_interval_s: float = Field(default=30, gt=0, description="How often imgpipe watchdog looks.")
    watchdog_heartbeat_limit_s: float = Field(
        default=100, gt=0, description="A Dagster daemon that is silent for longer is down; it beats every 30 s."
    )
    watchdog_tick_limit_s: float = Field(
        default=300, gt=0, description="A sensor that has not ticked for longer has stopped."
    )
    watchdog_outbox_minutes: float = Field(
        default=30, gt=0, description="Alerts that nobody has got for longer are reported."
    )

    # Alerts
    smtp_url: SecretStr | None = Field(
        default=None, description=f"Where alert mails go: {SMTP_URL_HELP}. Recipients are in the table options."
    )
    smtp_timeout_s: float = Field(default=15, gt=0, le=60, description="Time for each step of a mail's delivery.")
    alert_subject_prefix: str = Field(default="[imgpipe]", description="What the subjects of alert mails begin with.")
    alert_cool_down_s: float = Field(
        default=300, ge=0, description="Alerts about failures share a mail; the next one comes no sooner."
    )
    alert_reminder_minutes: float = Field(
        default=240, ge=0, description="What lasts, such as stale predictions, is told again after so long; 0: never."
    )
    backlog_alert_minutes: float = Field(default=120, gt=0, description="An image that waits longer is an alert.")
    disk_low_gib: float = Field(default=2, ge=0, description="Less free disk for home or store is an alert.")
    dagster_url: str | None = Field(
        default=None, description="Where Dagster's UI is, for links in alert mails and in the dashboard."
    )

    # SQL source
    sql_source_query: str | None = Field(
        default=None,
        description="SELECT of the rows to take over, with the columns image_id and image, and any of sku_id, "
        "product_group_id, temple_id, image_type, enhancement_mode, base_url; see sources.md.",
    )
    sql_source_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the database that it runs on. Default: the catalogue itself."
    )
    sql_source_update: str | None = Field(
        default=None,
        description="Statement that tells that database each answer, such as UPDATE shelf SET status = :status "
        "WHERE id = :image_id; see sources.md.",
    )
    sql_source_base_url: str | None = Field(
        default=None, description="Prefix of images that are only a file name; CDN_BASE_URL where it is not set."
    )
    sql_source_time_zone: str = Field(
        default="UTC", description="Zone of the times in that database, such as Asia/Kolkata."
    )
    sql_source_overlap_s: float = Field(
        default=900, ge=0, description="How long a transaction there may take until its commit."
    )
    sql_source_interval_s: int = Field(default=30, ge=1, description="The sensor reads the source so often.")

    # Kafka
    kafka_bootstrap_servers: str | None = Field(
        default=None, description="Brokers, host:port with commas between. With KAFKA_TOPIC, this makes a Kafka source."
    )
    kafka_topic: str | None = Field(default=None, description="Topic whose messages announce images; see sources.md.")
    kafka_group: str = Field(default="imgpipe", description="Consumer group.")
    kafka_dead_letter_topic: str | None = Field(
        default=None, description="Where messages go that cannot be used. Default: the topic with .dead-letter."
    )
    kafka_interval_s: int = Field(default=30, ge=1, description="The sensor reads the topic so often.")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How brokers are reached."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="How to log in, with the SASL protocols."
    )
    kafka_sasl_username: str | None = Field(default=None, description="User there.")
    kafka_sasl_password: SecretStr | None = Field(default=None, description="Password there.")
    kafka_ssl_ca_file: Path | None = Field(
        default=None, description="Certificates that brokers are verified with. Default: those of the system."
    )
    kafka_ssl_certificate_file: Path | None = Field(default=None, description="Certificate of this client.")
    kafka_ssl_key_file: Path | None = Field(default=None, description="Its private key.")
    kafka_ssl_key_password: SecretStr | None = Field(default=None, description="Password of that key.")

    retention_days: float = Field(
        default=90,
        ge=0,
        description="What has had its time goes when it is older: see `imgpipe prune`. 0: only addresses do.",
    )
    prune_cron: str = Field(default="17 3 * * *", description="When it goes, in cron's notation and UTC.")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="What is logged.")
    log_format: Literal["text", "json"] = Field(
        default="text", description="How lines look: json has the batch, attempt, image and request that each is about."
    )

    @field_validator("background_color")
    @classmethod
    def _colour(cls, value: str) -> str:
        if not re.fullmatch(r"white|black|gr[ae]y|transparent|#?[0-9A-Fa-f]{6}", value):
            raise ValueError(f"{value!r} is no colour: use white, black, grey, #RRGGBB or transparent")
        return value

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("database_url", "sql_source_url")
    @classmethod
    def _readable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            url = make_url(value.get_secret_value())
        except (ArgumentError, ValueError):
            raise ValueError("it is not a database URL such as mysql+pymysql://user:password@host/imgpipe") from None
        if "@" in (url.host or ""):
            raise ValueError("characters such as @ : / in the user or password must be percent-encoded (@ is %40)")
        if {"password", "passwd"} & set(url.query):
            raise ValueError("the password belongs before the host, as in mysql+pymysql://user:password@host/imgpipe")
        return value

    @field_validator("store_url")
    @classmethod
    def _names_a_store(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("file:///", "s3://")):
            raise ValueError("a store is file:///folder (three slashes) or s3://bucket/prefix")
        return value

    @field_validator("sql_source_time_zone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("it is not a time zone such as Europe/Berlin or UTC")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _names_a_mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            open_mailer(value.get_secret_value())  # its ValueError says what is wrong, without the password
        return value

    @field_validator("cdn_base_url", "dagster_url", "dashboard_url", "sql_source_base_url")
    @classmethod
    def _names_a_server(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("it must begin with http:// or https://")
        return value

    @field_validator("fetch_allow_networks", "api_open_networks", "api_trusted_proxies")
    @classmethod
    def _are_networks(cls, value: list[str]) -> list[str]:
        for network in value:
            ipaddress.ip_network(network)  # its ValueError says what is wrong
        return value

    @field_validator("api_rate_limit")
    @classmethod
    def _is_a_rate(cls, value: str) -> str:
        if value != "off" and not re.fullmatch(r"\d{1,9} ?/ ?(\d{1,6} ?)?(second|minute|hour|day)", value):
            raise ValueError("a rate is a number and a time, such as 20/second or 600/minute, or off")
        return value

    @field_validator("redis_url")
    @classmethod
    def _names_a_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("it must begin with redis:// or rediss://")
        return value

    @field_validator("oidc_issuer")
    @classmethod
    def _names_an_issuer(cls, value: str | None) -> str | None:
        local = ("http://127.0.0.1:", "http://localhost:")
        if value is not None and not value.startswith(("https://", *local)):
            raise ValueError("an issuer is an https:// URL")
        return value

    @field_validator("oidc_grants")
    @classmethod
    def _grant_known_scopes(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        unknown = {scope for scopes in value.values() for scope in scopes} - set(API_SCOPES)
        if unknown:
            raise ValueError(f"there are the scopes {', '.join(API_SCOPES)}, and not {', '.join(sorted(unknown))}")
        return value

    @model_validator(mode="after")
    def _issuer_has_an_audience(self) -> Self:
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("oidc_issuer needs oidc_audience: without it, a token for any other service would do")
        return self

    @model_validator(mode="after")
    def _warnings_come_first(self) -> Self:
        if self.freshness_warn_minutes is not None and self.freshness_warn_minutes >= self.freshness_minutes:
            raise ValueError("freshness_warn_minutes must be less than freshness_minutes: a warning comes before")
        return self

    @property
    def effective_freshness_warn_minutes(self) -> float:
        """``freshness_warn_minutes``, or half of ``freshness_minutes``."""
        return self.freshness_warn_minutes or self.freshness_minutes / 2

    @property
    def catalogue_url(self) -> URL:
        """The catalogue's SQLAlchemy URL, with its password. Never log it."""
        if self.database_url is not None:
            return _with_driver(self.database_url)
        if self.mysql_host:
            return URL.create(
                "mysql+pymysql",
                self.mysql_user,
                self.mysql_password.get_secret_value() or None,
                self.mysql_host,
                self.mysql_port,
                self.mysql_database,
            )
        return URL.create("sqlite", database=str(self.home / "catalogue.db"))

    @property
    def effective_sql_source_url(self) -> URL | None:
        """The SQL source's URL, with its password; None for the catalogue itself. Never log it."""
        return None if self.sql_source_url is None else _with_driver(self.sql_source_url)

    @property
    def effective_store_url(self) -> str:
        """The store's URL: as set, else a folder under the home folder."""
        return self.store_url or (self.home / "store").as_uri()


def export_secrets(settings: Settings) -> None:
    """Put the URLs that hold passwords into the environment, wherever they came from (``.env``, MYSQL_*).

    Dagster shows the literal configuration of resources to everybody who can open its UI; resources therefore read
    secrets from the environment, and this makes sure that they are there, in child processes too.
    """
    for variable, url in (
        (DATABASE_URL_VARIABLE, settings.catalogue_url),
        (SQL_SOURCE_URL_VARIABLE, settings.effective_sql_source_url),
    ):
        if url is not None and url.password:
            os.environ[variable] = url.render_as_string(hide_password=False)
    for variable, secret in (
        (SMTP_URL_VARIABLE, settings.smtp_url),
        (KAFKA_SASL_PASSWORD_VARIABLE, settings.kafka_sasl_password),
        (KAFKA_SSL_KEY_PASSWORD_VARIABLE, settings.kafka_ssl_key_password),
    ):
        if secret is not None:
            os.environ[variable] = secret.get_secret_value()


def _with_driver(secret: SecretStr) -> URL:
    url = make_url(secret.get_secret_value())
    return url.set(drivername="mysql+pymysql") if url.drivername in {"mysql", "mariadb"} else url
