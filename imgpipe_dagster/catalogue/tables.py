"""Every table of the catalogue, as SQLAlchemy typed classes: the schema that the migrations build. No queries."""

import datetime as dt
from enum import StrEnum
from typing import Annotated, Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from imgpipe_dagster.catalogue.types import BIG_ID, DOUBLE, HEX_DIGEST, JSON, LONG_BYTES, UTC_DATETIME, utc_now


class ImageStatus(StrEnum):
    """Where an image stands."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class QcStatus(StrEnum):
    """Where the enhanced picture of an image stands."""

    PENDING = "pending"
    AUTO_APPROVED = "auto_approved"
    NEEDS_REVIEW = "needs_review"
    APPROVED = "approved"
    REJECTED = "rejected"


class BatchState(StrEnum):
    """Where a batch stands: which job it needs next, or none.

    ``claimed`` needs the analyse job and ``analysed`` the enhance job, unless nothing of it is to be enhanced: then it
    is ``enhanced`` at once. A failed or held enhancement leaves the batch's answers as they are.
    """

    CLAIMED = "claimed"
    ANALYSED = "analysed"
    ENHANCED = "enhanced"
    FAILED = "failed"
    HELD = "held"
    ENHANCEMENT_FAILED = "enhancement_failed"
    ENHANCEMENT_HELD = "enhancement_held"


class Claimant(StrEnum):
    """Who claimed a batch, and so who starts its first run."""

    SENSOR = "sensor"
    CLI = "cli"


class Severity(StrEnum):
    """How much an alert matters; ``info`` tells of an end, such as a recovery."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class FeedKind(StrEnum):
    """What tells one feed of images from another."""

    TEMPLE = "temple"
    SOURCE = "source"


class AlertState(StrEnum):
    """Where an alert stands. ``sent`` means that a mail server took it for at least one recipient."""

    WAITING = "waiting"
    SENT = "sent"
    MUTED = "muted"


class PredictionStatus(StrEnum):
    """The answer for one image of a batch."""

    PREDICTED = "predicted"
    REJECTED = "rejected"


class TempleSplit(StrEnum):
    """What a labelled picture of a temple is for."""

    TRAIN = "train"
    TEST = "test"  # frozen: no model was ever trained on it


class TempleImageOrigin(StrEnum):
    """Where a labelled picture of a temple comes from."""

    IMPORT = "import"  # a folder on the command line
    API = "api"
    REVIEW = "review"  # a person's label of an image of the catalogue


class TempleModelOrigin(StrEnum):
    """Where a model of a temple comes from."""

    TRAINED = "trained"
    IMPORTED = "imported"  # the older system trained it


BatchKey = Annotated[str, mapped_column(sa.String(64))]
Code = Annotated[str, mapped_column(sa.String(64))]
Created = Annotated[dt.datetime, mapped_column(UTC_DATETIME, server_default=utc_now())]
Digest = Annotated[str, mapped_column(HEX_DIGEST)]
Identifier = Annotated[str, mapped_column(sa.String(100))]
ObjectKey = Annotated[str, mapped_column(sa.String(512))]
Real = Annotated[float, mapped_column(DOUBLE)]
Text = Annotated[str, mapped_column(sa.Text)]
Uuid = Annotated[str, mapped_column(sa.String(36))]


def _one_of(column: str, values: type[StrEnum]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


class Base(DeclarativeBase):
    """The registry of all tables."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


# --- What there is to process -----------------------------------------------------------------------------------------


class ProductGroup(Base):
    """A category of products."""

    __tablename__ = "product_groups"

    product_group_id: Mapped[Identifier] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(sa.String(255))
    description: Mapped[Text | None]
    created_at: Mapped[Created]
    updated_at: Mapped[Created]


class Sku(Base):
    """A product that is sold; ``image_count`` is kept up by the imports."""

    __tablename__ = "skus"

    sku_id: Mapped[Identifier] = mapped_column(primary_key=True)
    product_group_id: Mapped[Identifier | None] = mapped_column(index=True)
    name: Mapped[str | None] = mapped_column(sa.String(255))
    value: Mapped[Real | None]
    image_count: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("0"))
    created_at: Mapped[Created]
    updated_at: Mapped[Created]


class ProductImage(Base):
    """One image of the catalogue. Plain INSERTs need ``image_url`` only: the server fills the rest."""

    __tablename__ = "product_images"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    product_group_id: Mapped[Identifier | None]
    sku_id: Mapped[Identifier | None] = mapped_column(index=True)
    temple_id: Mapped[Identifier | None] = mapped_column(index=True)
    image_url: Mapped[str | None] = mapped_column(sa.String(2048))
    image_type: Mapped[str] = mapped_column(sa.String(50), server_default="primary")
    source: Mapped[str | None] = mapped_column(sa.String(50))
    source_ref: Mapped[str | None] = mapped_column(sa.String(190))  # the row's id in its source, for answers to it
    source_key: Mapped[Digest | None] = mapped_column(unique=True)
    report_name: Mapped[str | None] = mapped_column(sa.String(190))  # where the source gives its images names
    enhancement_mode: Mapped[str | None] = mapped_column(sa.String(20))
    job_id: Mapped[str | None] = mapped_column(sa.String(36), index=True)
    status: Mapped[str] = mapped_column(sa.String(20), server_default=ImageStatus.PENDING.value)
    qc_status: Mapped[str] = mapped_column(sa.String(20), server_default=QcStatus.PENDING.value)
    qc_priority: Mapped[Real] = mapped_column(server_default=sa.text("0"))
    qc_claimed_by: Mapped[Identifier | None]
    qc_claimed_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)
    rework_count: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("0"))
    rework_config: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    enhanced_image_url: Mapped[str | None] = mapped_column(sa.String(2048))  # only of what is approved
    enhanced_sha256: Mapped[Digest | None]  # the file that qc_status is about
    batch_key: Mapped[BatchKey | None] = mapped_column(index=True)
    reason: Mapped[Code | None]
    written_back: Mapped[Digest | None]  # of the answer that the SQL source was told last
    written_back_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)  # the updated_at that this covers
    # Kept by the database itself, so that no writer of a status has to think of the source.
    write_back_due: Mapped[int | None] = mapped_column(
        sa.Integer,
        sa.Computed(
            "CASE WHEN source = 'sql' AND status IN ('completed', 'failed') "
            "AND (written_back_at IS NULL OR written_back_at <> updated_at) THEN 1 END",
            persisted=True,
        ),
    )
    created_at: Mapped[Created] = mapped_column(index=True)
    updated_at: Mapped[Created]

    __table_args__ = (
        sa.Index(None, "write_back_due", "id"),
        sa.Index(None, "status", "id"),  # claims and status counts
        sa.Index(None, "status", "updated_at"),  # the longest wait: ids do not tell it of images that were put back
        sa.Index(None, "status", "reason"),  # retry by reason
        sa.Index(None, "qc_status", "qc_priority", "id"),  # the review queue
        _one_of("status", ImageStatus),
        _one_of("qc_status", QcStatus),
        {"sqlite_autoincrement": True},  # an id is never given out twice: object keys contain it
    )


class ImageBatch(Base):
    """Images claimed together: one Dagster partition, one run for each attempt."""

    __tablename__ = "image_batches"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    batch_key: Mapped[BatchKey] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(sa.String(20), server_default=BatchState.CLAIMED.value)
    attempt: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("1"))
    claimed_by: Mapped[str] = mapped_column(sa.String(20), server_default=Claimant.SENSOR.value)
    image_count: Mapped[int] = mapped_column(sa.Integer)
    reason: Mapped[Text | None]
    heartbeat_at: Mapped[Created]
    created_at: Mapped[Created]
    analysed_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)
    enhanced_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)
    updated_at: Mapped[Created]

    __table_args__ = (
        sa.Index(None, "state", "id"),
        _one_of("state", BatchState),
        _one_of("claimed_by", Claimant),
        {"sqlite_autoincrement": True},
    )


# --- What the assets write: one table an asset, keyed by batch --------------------------------------------------------


class RawImage(Base):
    """One row an image of the batch: what the download gave."""

    __tablename__ = "raw_images"

    batch_key: Mapped[BatchKey] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, index=True)
    image_url: Mapped[str | None] = mapped_column(sa.String(2048))
    object_key: Mapped[ObjectKey | None]
    sha256: Mapped[Digest | None]
    byte_size: Mapped[int | None] = mapped_column(sa.BigInteger)
    http_status: Mapped[int | None] = mapped_column(sa.Integer)
    fetch_attempts: Mapped[int] = mapped_column(sa.Integer)
    fetch_seconds: Mapped[Real]
    reason: Mapped[Code | None]
    detail: Mapped[Text | None]


class ValidatedImage(Base):
    """One row an image of the batch: whether its pixels can be trusted."""

    __tablename__ = "validated_images"

    batch_key: Mapped[BatchKey] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, index=True)
    object_key: Mapped[ObjectKey | None]
    sha256: Mapped[Digest | None]
    image_format: Mapped[str | None] = mapped_column(sa.String(10))
    width: Mapped[int | None] = mapped_column(sa.Integer)
    height: Mapped[int | None] = mapped_column(sa.Integer)
    frames: Mapped[int | None] = mapped_column(sa.Integer)
    orientation: Mapped[int | None] = mapped_column(sa.Integer)
    color_mode: Mapped[str | None] = mapped_column(sa.String(20))
    reason: Mapped[Code | None]
    detail: Mapped[Text | None]


class DetectedImage(Base):
    """One row a valid image of the batch: which detector looked at it and how many objects it found."""

    __tablename__ = "detected_images"

    batch_key: Mapped[BatchKey] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, index=True)
    object_count: Mapped[int] = mapped_column(sa.Integer)
    model_version: Mapped[str] = mapped_column(sa.String(100), index=True)


class Detection(Base):
    """One row a box, in pixels of the upright image."""

    __tablename__ = "detections"

    # The id starts with the batch key: rows of a batch lie together, and replacing them stays cheap.
    detection_id: Mapped[str] = mapped_column(sa.String(100), primary_key=True)
    batch_key: Mapped[BatchKey] = mapped_column(index=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, index=True)
    class_id: Mapped[int] = mapped_column(sa.Integer)
    class_name: Mapped[str] = mapped_column(sa.String(100))
    confidence: Mapped[Real]
    x1: Mapped[Real]
    y1: Mapped[Real]
    x2: Mapped[Real]
    y2: Mapped[Real]
    model_version: Mapped[str] = mapped_column(sa.String(100))

    __table_args__ = (sa.Index(None, "class_name", "image_id"),)


BOTTLE_STATUS = "bottle_status"
"""The classifier that looks at every valid image; also the kind of its registered models."""

TEMPLE_CATEGORY = "temple_category"
"""The classifier that looks at the images of temples: each temple's champion."""

NO_MODEL = "no_model"
"""The class of an image whose temple has no model, or none that can be used."""


class Classification(Base):
    """One row a classified picture: each valid image, and each crop of a configured class (with its detection)."""

    __tablename__ = "classifications"

    # The id starts with the batch key, as that of a detection.
    classification_id: Mapped[str] = mapped_column(sa.String(150), primary_key=True)
    batch_key: Mapped[BatchKey] = mapped_column(index=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, index=True)
    detection_id: Mapped[str | None] = mapped_column(sa.String(100))
    classifier: Mapped[str] = mapped_column(sa.String(50))
    class_name: Mapped[str] = mapped_column(sa.String(100))
    confidence_score: Mapped[Real | None]
    probabilities: Mapped[dict[str, float] | None] = mapped_column(JSON)
    anomaly: Mapped[bool | None] = mapped_column(sa.Boolean)
    anomaly_score: Mapped[Real | None]
    model_version: Mapped[str | None] = mapped_column(sa.String(100), index=True)

    __table_args__ = (sa.Index(None, "classifier", "class_name", "image_id"),)


class ImagePrediction(Base):
    """One row an image of the batch, rejected ones included. ``created_at`` is the image's first answer."""

    __tablename__ = "image_predictions"

    batch_key: Mapped[BatchKey] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, index=True)
    status: Mapped[str] = mapped_column(sa.String(20))
    reason: Mapped[Code | None]
    object_count: Mapped[int] = mapped_column(sa.Integer)
    top_class: Mapped[str | None] = mapped_column(sa.String(100))
    top_confidence: Mapped[Real | None]
    detector_version: Mapped[str | None] = mapped_column(sa.String(100))
    bottle_status: Mapped[str | None] = mapped_column(sa.String(100))
    bottle_confidence: Mapped[Real | None]
    classifier_version: Mapped[str | None] = mapped_column(sa.String(100))
    temple_category: Mapped[str | None] = mapped_column(sa.String(100))
    temple_confidence: Mapped[Real | None]
    temple_version: Mapped[str | None] = mapped_column(sa.String(100))
    created_at: Mapped[Created] = mapped_column(index=True)
    updated_at: Mapped[Created]

    __table_args__ = (sa.Index(None, "top_class", "image_id"), _one_of("status", PredictionStatus))


class MetadataReport(Base):
    """One row an image of the batch: where its JSON report lies in the store."""

    __tablename__ = "metadata_reports"

    batch_key: Mapped[BatchKey] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, index=True)
    object_key: Mapped[ObjectKey]
    sha256: Mapped[Digest]
    byte_size: Mapped[int] = mapped_column(sa.BigInteger)


class PublishedPrediction(Base):
    """One row an image of the batch: the status and reason that ``product_images`` was given."""

    __tablename__ = "published_predictions"

    batch_key: Mapped[BatchKey] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, index=True)
    status: Mapped[str] = mapped_column(sa.String(20))
    reason: Mapped[Code | None]


# --- Enhancement and review -------------------------------------------------------------------------------------------


class EnhancedImage(Base):
    """One row an image that has a SKU: what enhancement made of it and why, or the reason why it made nothing."""

    __tablename__ = "enhanced_images"

    batch_key: Mapped[BatchKey] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, index=True)
    object_key: Mapped[ObjectKey | None]
    sha256: Mapped[Digest | None]
    byte_size: Mapped[int | None] = mapped_column(sa.BigInteger)
    width: Mapped[int | None] = mapped_column(sa.Integer)
    height: Mapped[int | None] = mapped_column(sa.Integer)
    image_format: Mapped[str | None] = mapped_column(sa.String(10))
    encoder_quality: Mapped[int | None] = mapped_column(sa.Integer)
    mode: Mapped[str] = mapped_column(sa.String(20))
    profile: Mapped[str | None] = mapped_column(sa.String(100))
    config: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    steps: Mapped[list[dict[str, str]] | None] = mapped_column(JSON)
    failed_rules: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON)
    review_reasons: Mapped[list[str] | None] = mapped_column(JSON)
    background_replaced: Mapped[bool | None] = mapped_column(sa.Boolean)
    seconds: Mapped[Real | None]
    reason: Mapped[Code | None]
    detail: Mapped[Text | None]
    model_version: Mapped[str] = mapped_column(sa.String(100), index=True)


class PublishedEnhancement(Base):
    """One row an enhanced image of the batch: the verdict without a person, and why.

    ``product_images`` was given it unless a person had decided on the same file. There is a URL only where the verdict
    is ``auto_approved``.
    """

    __tablename__ = "published_enhancements"

    batch_key: Mapped[BatchKey] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, index=True)
    sha256: Mapped[Digest | None]
    qc_status: Mapped[str] = mapped_column(sa.String(20))
    qc_priority: Mapped[Real]
    score: Mapped[Real | None]
    review_reasons: Mapped[list[str] | None] = mapped_column(JSON)
    audited: Mapped[bool] = mapped_column(sa.Boolean)
    enhanced_image_url: Mapped[str | None] = mapped_column(sa.String(2048))


class ImageMetric(Base):
    """Quality of one image before and after enhancement."""

    __tablename__ = "image_metrics"

    batch_key: Mapped[BatchKey] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, index=True)
    phase: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
    score: Mapped[Real]
    components: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    issues: Mapped[list[str] | None] = mapped_column(JSON)
    width: Mapped[int] = mapped_column(sa.Integer)
    height: Mapped[int] = mapped_column(sa.Integer)
    byte_size: Mapped[int] = mapped_column(sa.BigInteger)

    __table_args__ = (sa.CheckConstraint("phase IN ('before', 'after')", name="phase_known"),)


class ProcessingJob(Base):
    """Work that a client asked for: enhancement of some images, training of a model."""

    __tablename__ = "processing_jobs"

    job_id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(20), server_default="enhance")
    status: Mapped[str] = mapped_column(sa.String(20), server_default=ImageStatus.PENDING.value)
    parameters: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    total_images: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("0"))
    processed_images: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("0"))
    failed_images: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("0"))
    error: Mapped[Text | None]
    created_at: Mapped[Created]
    started_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)
    completed_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)

    __table_args__ = (sa.Index(None, "status", "created_at"), _one_of("status", ImageStatus))


class ProcessingJobImage(Base):
    """An image of a job, and the batch that it was processed in for the job, once there is one."""

    __tablename__ = "processing_job_images"

    job_id: Mapped[Uuid] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    batch_key: Mapped[BatchKey | None]

    __table_args__ = (sa.Index(None, "job_id", "batch_key"),)


class EnhancementConfigRow(Base):
    """Enhancement settings of one product group or one SKU; the SKU's win."""

    __tablename__ = "enhancement_configs"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    product_group_id: Mapped[Identifier | None] = mapped_column(unique=True)
    sku_id: Mapped[Identifier | None] = mapped_column(unique=True)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[Created]
    updated_at: Mapped[Created]


class QcReviewLog(Base):
    """One decision of a reviewer, or the undoing of one: then ``undoes_id`` names it.

    ``status`` is the ``qc_status`` that it led to: after a rejection ``pending`` where the image is enhanced again, and
    ``rejected`` where that was final. ``previous`` is what an undo restores.
    """

    __tablename__ = "qc_review_logs"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    image_id: Mapped[int] = mapped_column(sa.BigInteger, index=True)
    reviewer_id: Mapped[Identifier | None]
    previous_status: Mapped[str] = mapped_column(sa.String(20))
    status: Mapped[str] = mapped_column(sa.String(20))
    reason: Mapped[Code | None]
    notes: Mapped[Text | None]
    score: Mapped[Real | None]
    audited: Mapped[bool] = mapped_column(sa.Boolean, server_default=sa.false())
    seconds: Mapped[Real | None]  # since the reviewer's claim
    enhanced_sha256: Mapped[Digest | None]
    previous: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    undoes_id: Mapped[int | None] = mapped_column(sa.BigInteger, unique=True)
    created_at: Mapped[Created] = mapped_column(index=True)


# --- Sources ----------------------------------------------------------------------------------------------------------


class SourceState(Base):
    """How far a source has been read; what the state means is the source's own affair."""

    __tablename__ = "source_states"

    source: Mapped[str] = mapped_column(sa.String(50), primary_key=True)
    state: Mapped[dict[str, Any]] = mapped_column(JSON)
    version: Mapped[int] = mapped_column(sa.Integer)
    updated_at: Mapped[Created]


class KafkaPosition(Base):
    """The last message of a partition whose row is durable, and in which life of its topic that was."""

    __tablename__ = "kafka_positions"

    cluster: Mapped[str] = mapped_column(sa.String(100), primary_key=True)
    topic: Mapped[str] = mapped_column(sa.String(249), primary_key=True)
    partition: Mapped[int] = mapped_column(sa.Integer, primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(sa.Integer)
    last_offset: Mapped[int] = mapped_column(sa.BigInteger)
    last_timestamp_ms: Mapped[int] = mapped_column(sa.BigInteger)
    updated_at: Mapped[Created]


class IngestedFile(Base):
    """A file of a folder source, by its content: which number it has in the store, and whether that was announced."""

    __tablename__ = "ingested_files"

    sha256: Mapped[Digest] = mapped_column(primary_key=True)
    frame: Mapped[int] = mapped_column(sa.BigInteger, unique=True)
    file_name: Mapped[str] = mapped_column(sa.String(255))
    announced_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)
    created_at: Mapped[Created]


class Counter(Base):
    """A number that is given out once."""

    __tablename__ = "counters"

    name: Mapped[Identifier] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(sa.BigInteger)


# --- Models -----------------------------------------------------------------------------------------------------------


class ModelVersion(Base):
    """A model that was trained here: where its files are and what it could do. Rows are added, never changed."""

    __tablename__ = "model_versions"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    kind: Mapped[Code]
    version: Mapped[str] = mapped_column(sa.String(100))
    sha256: Mapped[Digest]
    files: Mapped[dict[str, str]] = mapped_column(JSON)  # the store's keys by name
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[Created]

    __table_args__ = (sa.UniqueConstraint("kind", "version"),)


# --- Operation --------------------------------------------------------------------------------------------------------


class Option(Base):
    """Settings that people keep in the database, such as the recipients of alerts."""

    __tablename__ = "options"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    option_group: Mapped[Identifier]
    option_key: Mapped[Identifier]
    option_value: Mapped[Text | None]
    option_meta: Mapped[Text | None]

    __table_args__ = (sa.Index(None, "option_group", "option_key"),)


class Alert(Base):
    """The outbox: an alert is written here first and delivered afterwards."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    kind: Mapped[Code]
    severity: Mapped[str] = mapped_column(sa.String(10), server_default=Severity.ERROR.value)
    subject: Mapped[str] = mapped_column(sa.String(255))
    body: Mapped[Text]
    details: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    run_id: Mapped[str | None] = mapped_column(sa.String(36))
    dedupe_key: Mapped[str | None] = mapped_column(sa.String(190), unique=True)
    state: Mapped[str] = mapped_column(sa.String(10), server_default=AlertState.WAITING.value)
    mail_id: Mapped[int | None] = mapped_column(sa.BigInteger, index=True)
    created_at: Mapped[Created]
    sent_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)

    __table_args__ = (
        sa.Index(None, "state", "mail_id", "id"),  # what waits for a mail
        _one_of("severity", Severity),
        _one_of("state", AlertState),
    )


class AlertMail(Base):
    """One mail about one or many alerts. What is in it is fixed when it is formed, so that a retry is the same mail."""

    __tablename__ = "alert_mails"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    topic: Mapped[Code]
    message_id: Mapped[str] = mapped_column(sa.String(190), unique=True)
    attempts: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("0"))
    last_error: Mapped[Text | None]
    recipients: Mapped[dict[str, str] | None] = mapped_column(JSON)  # each address with what became of it
    next_attempt_at: Mapped[Created]
    lease_token: Mapped[str | None] = mapped_column(sa.String(36))
    lease_until: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)
    created_at: Mapped[Created]
    accepted_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)  # the first recipient has it
    closed_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)  # nobody is left to send it to

    __table_args__ = (sa.Index(None, "closed_at", "next_attempt_at"), sa.Index(None, "topic", "id"))


class AlertCondition(Base):
    """Something that lasts, such as stale predictions: it is raised once, reminded of, and cleared once."""

    __tablename__ = "alert_conditions"

    name: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    kind: Mapped[Code]
    episode: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("0"))
    raised_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)  # NULL while all is well
    reminders: Mapped[int] = mapped_column(sa.Integer, server_default=sa.text("0"))
    noted_at: Mapped[Created]  # when it was last raised, reminded of or cleared


class AlertMute(Base):
    """A kind of alert that nobody wants mail about for a while."""

    __tablename__ = "alert_mutes"

    kind: Mapped[Code] = mapped_column(primary_key=True)
    muted_until: Mapped[dt.datetime] = mapped_column(UTC_DATETIME)


class FeedFreshness(Base):
    """When each feed last got a first answer: kept beside the rows, as one fresh feed hides a stale one."""

    __tablename__ = "feed_freshness"

    kind: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
    feed: Mapped[Identifier] = mapped_column(primary_key=True)
    last_prediction_at: Mapped[dt.datetime] = mapped_column(UTC_DATETIME)

    __table_args__ = (_one_of("kind", FeedKind),)


class SensorTick(Base):
    """When each sensor last ran to its end, for the watchdog."""

    __tablename__ = "sensor_ticks"

    sensor_name: Mapped[Identifier] = mapped_column(primary_key=True)
    ticked_at: Mapped[Created]
    outcome: Mapped[Text | None]


# --- The HTTP API -----------------------------------------------------------------------------------------------------


class User(Base):
    """Somebody who has called the API under a name of their own."""

    __tablename__ = "users"

    user_id: Mapped[Uuid] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(sa.String(190), unique=True)
    email: Mapped[str] = mapped_column(sa.String(190), unique=True)
    created_at: Mapped[Created]


class ApiKey(Base):
    """A key to the API. The key itself is shown once and never stored: only its SHA-256 is."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    name: Mapped[Identifier] = mapped_column(unique=True)
    key_sha256: Mapped[Digest] = mapped_column(unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    user_id: Mapped[Uuid | None] = mapped_column(sa.ForeignKey("users.user_id"))
    created_at: Mapped[Created]
    expires_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)
    last_used_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)
    revoked_at: Mapped[dt.datetime | None] = mapped_column(UTC_DATETIME)


class IdempotencyKey(Base):
    """One request with an Idempotency-Key, and its answer once there is one."""

    __tablename__ = "idempotency_keys"

    # Of who called, the path and the client's key: two clients may use the same key.
    key_sha256: Mapped[Digest] = mapped_column(primary_key=True)
    request_sha256: Mapped[Digest]
    status: Mapped[int | None] = mapped_column(sa.Integer)
    headers: Mapped[dict[str, str] | None] = mapped_column(JSON)
    body: Mapped[bytes | None] = mapped_column(LONG_BYTES)
    created_at: Mapped[Created] = mapped_column(index=True)


class ClassifyRequest(Base):
    """One request to classify a picture."""

    __tablename__ = "requests"

    request_id: Mapped[Uuid] = mapped_column(primary_key=True)
    user_id: Mapped[Uuid | None] = mapped_column(sa.ForeignKey("users.user_id"))
    model_version: Mapped[str | None] = mapped_column(sa.String(100))
    timestamp: Mapped[Created] = mapped_column(index=True)
    ip_address: Mapped[str | None] = mapped_column(sa.String(45))  # goes after a while, the row stays
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    image_id: Mapped[Uuid] = mapped_column(unique=True)
    object_key: Mapped[ObjectKey | None]  # only where uploads are kept


class RequestClassification(Base):
    """The answer to one request."""

    __tablename__ = "request_classifications"

    classification_id: Mapped[Uuid] = mapped_column(primary_key=True)
    request_id: Mapped[Uuid] = mapped_column(sa.ForeignKey("requests.request_id", ondelete="CASCADE"), index=True)
    class_name: Mapped[str] = mapped_column(sa.String(100))
    confidence_score: Mapped[Real]


# --- Temples ----------------------------------------------------------------------------------------------------------


class TempleImage(Base):
    """One labelled picture of a temple. No content is twice in one temple: training never sees a test picture."""

    __tablename__ = "temple_images"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    temple_id: Mapped[Identifier]
    split: Mapped[str] = mapped_column(sa.String(10))
    category: Mapped[Identifier]
    object_key: Mapped[ObjectKey]
    sha256: Mapped[Digest] = mapped_column(index=True)
    byte_size: Mapped[int] = mapped_column(sa.BigInteger)
    origin: Mapped[str] = mapped_column(sa.String(20))
    image_id: Mapped[int | None] = mapped_column(sa.BigInteger, index=True)  # where it is one of product_images
    created_at: Mapped[Created]

    __table_args__ = (
        sa.UniqueConstraint("temple_id", "sha256"),
        sa.Index(None, "temple_id", "split", "id"),
        _one_of("split", TempleSplit),
        _one_of("origin", TempleImageOrigin),
        {"sqlite_autoincrement": True},
    )


class TempleModelVersion(Base):
    """One model of a temple, for ever. Files lie in the store; what they must hash to is here."""

    __tablename__ = "temple_model_versions"

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    temple_id: Mapped[Identifier]
    version: Mapped[Code]
    number: Mapped[int] = mapped_column(sa.Integer)  # 1, 2, 3, … in each temple
    origin: Mapped[str] = mapped_column(sa.String(20))
    data_fingerprint: Mapped[Digest | None]  # of the pictures it was trained on; None if that was elsewhere
    files: Mapped[dict[str, dict[str, Any]]] = mapped_column(JSON)  # by name: object_key, sha256, byte_size
    labels: Mapped[list[str]] = mapped_column(JSON)
    input_height: Mapped[int] = mapped_column(sa.Integer)
    input_width: Mapped[int] = mapped_column(sa.Integer)
    train_images: Mapped[int] = mapped_column(sa.Integer)
    test_images: Mapped[int] = mapped_column(sa.Integer)
    trained_seconds: Mapped[Real]
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)
    verdict: Mapped[Text]  # why it became champion, or why not
    created_at: Mapped[Created]

    __table_args__ = (
        sa.UniqueConstraint("temple_id", "version"),
        sa.UniqueConstraint("temple_id", "number"),
        _one_of("origin", TempleModelOrigin),
        {"sqlite_autoincrement": True},
    )


class TempleChampion(Base):
    """Which model of a temple serves."""

    __tablename__ = "temple_champions"

    temple_id: Mapped[Identifier] = mapped_column(primary_key=True)
    version: Mapped[Code]
    previous: Mapped[Code | None]
    promoted_at: Mapped[Created]
    promoted_by: Mapped[Identifier]
    why: Mapped[Text]


class TempleLease(Base):
    """Who makes a model of a temple just now: one at a time."""

    __tablename__ = "temple_leases"

    temple_id: Mapped[Identifier] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(sa.String(36))
    taken_at: Mapped[Created]
    heartbeat_at: Mapped[Created]


BATCH_TABLES: tuple[type[Base], ...] = (
    RawImage,
    ValidatedImage,
    DetectedImage,
    Detection,
    Classification,
    ImagePrediction,
    MetadataReport,
    PublishedPrediction,
    EnhancedImage,
    ImageMetric,
    PublishedEnhancement,
)
"""Tables that are replaced a batch at a time; each has a view ``current_<table>`` of the rows that count."""

for _table in Base.metadata.tables.values():
    # A binary collation compares texts as SQLite does: SKU-a and SKU-A stay two.
    _table.kwargs.update(mysql_engine="InnoDB", mysql_charset="utf8mb4", mysql_collate="utf8mb4_bin")
