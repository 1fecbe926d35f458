"""The first schema: images, batches, what the assets write, review, operation."""

import sqlalchemy as sa
from alembic import op

from imgpipe_dagster.catalogue.types import BIG_ID, DOUBLE, HEX_DIGEST, JSON, UTC_DATETIME, utc_now

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BATCH_TABLES = (
    "raw_images",
    "validated_images",
    "detected_images",
    "detections",
    "image_predictions",
    "metadata_reports",
    "published_predictions",
    "enhanced_images",
    "image_metrics",
    "published_enhancements",
)


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("severity", sa.String(length=10), server_default="error", nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("details", JSON, nullable=True),
        sa.Column("run_id", sa.String(length=36), nullable=True),
        sa.Column("dedupe_key", sa.String(length=190), nullable=True),
        sa.Column("state", sa.String(length=10), server_default="waiting", nullable=False),
        sa.Column("mail_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("sent_at", UTC_DATETIME, nullable=True),
        sa.CheckConstraint("severity IN ('error', 'warning', 'info')", name=op.f("ck_alerts_severity_known")),
        sa.CheckConstraint("state IN ('waiting', 'sent', 'muted')", name=op.f("ck_alerts_state_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_alerts_dedupe_key")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_alerts_mail_id"), "alerts", ["mail_id"], unique=False)
    op.create_index(op.f("ix_alerts_state_mail_id_id"), "alerts", ["state", "mail_id", "id"], unique=False)
    op.create_table(
        "detected_images",
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("object_count", sa.Integer(), nullable=False),
        sa.Column("model_version", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("batch_key", "image_id", name=op.f("pk_detected_images")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_detected_images_image_id"), "detected_images", ["image_id"], unique=False)
    op.create_index(op.f("ix_detected_images_model_version"), "detected_images", ["model_version"], unique=False)
    op.create_table(
        "detections",
        sa.Column("detection_id", sa.String(length=100), nullable=False),
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("class_id", sa.Integer(), nullable=False),
        sa.Column("class_name", sa.String(length=100), nullable=False),
        sa.Column("confidence", DOUBLE, nullable=False),
        sa.Column("x1", DOUBLE, nullable=False),
        sa.Column("y1", DOUBLE, nullable=False),
        sa.Column("x2", DOUBLE, nullable=False),
        sa.Column("y2", DOUBLE, nullable=False),
        sa.Column("model_version", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("detection_id", name=op.f("pk_detections")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_detections_batch_key"), "detections", ["batch_key"], unique=False)
    op.create_index(op.f("ix_detections_class_name_image_id"), "detections", ["class_name", "image_id"], unique=False)
    op.create_index(op.f("ix_detections_image_id"), "detections", ["image_id"], unique=False)
    op.create_table(
        "enhanced_images",
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("object_key", sa.String(length=512), nullable=True),
        sa.Column("sha256", HEX_DIGEST, nullable=True),
        sa.Column("byte_size", sa.BigInteger(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("image_format", sa.String(length=10), nullable=True),
        sa.Column("encoder_quality", sa.Integer(), nullable=True),
        sa.Column("mode", sa.String(length=20), nullable=False),
        sa.Column("profile", sa.String(length=100), nullable=True),
        sa.Column("config", JSON, nullable=True),
        sa.Column("steps", JSON, nullable=True),
        sa.Column("failed_rules", JSON, nullable=True),
        sa.Column("review_reasons", JSON, nullable=True),
        sa.Column("background_replaced", sa.Boolean(), nullable=True),
        sa.Column("seconds", DOUBLE, nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("model_version", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("batch_key", "image_id", name=op.f("pk_enhanced_images")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_enhanced_images_image_id"), "enhanced_images", ["image_id"], unique=False)
    op.create_index(op.f("ix_enhanced_images_model_version"), "enhanced_images", ["model_version"], unique=False)
    op.create_table(
        "enhancement_configs",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("product_group_id", sa.String(length=100), nullable=True),
        sa.Column("sku_id", sa.String(length=100), nullable=True),
        sa.Column("config", JSON, nullable=False),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("updated_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enhancement_configs")),
        sa.UniqueConstraint("product_group_id", name=op.f("uq_enhancement_configs_product_group_id")),
        sa.UniqueConstraint("sku_id", name=op.f("uq_enhancement_configs_sku_id")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "image_batches",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=20), server_default="claimed", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("claimed_by", sa.String(length=20), server_default="sensor", nullable=False),
        sa.Column("image_count", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("heartbeat_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("analysed_at", UTC_DATETIME, nullable=True),
        sa.Column("enhanced_at", UTC_DATETIME, nullable=True),
        sa.Column("updated_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.CheckConstraint("claimed_by IN ('sensor', 'cli')", name=op.f("ck_image_batches_claimed_by_known")),
        sa.CheckConstraint(
            "state IN ('claimed', 'analysed', 'enhanced', 'failed', 'held', 'enhancement_failed', 'enhancement_held')",
            name=op.f("ck_image_batches_state_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image_batches")),
        sa.UniqueConstraint("batch_key", name=op.f("uq_image_batches_batch_key")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_image_batches_state_id"), "image_batches", ["state", "id"], unique=False)
    op.create_table(
        "image_metrics",
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.String(length=10), nullable=False),
        sa.Column("score", DOUBLE, nullable=False),
        sa.Column("components", JSON, nullable=True),
        sa.Column("issues", JSON, nullable=True),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("byte_size", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("phase IN ('before', 'after')", name=op.f("ck_image_metrics_phase_known")),
        sa.PrimaryKeyConstraint("batch_key", "image_id", "phase", name=op.f("pk_image_metrics")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_image_metrics_image_id"), "image_metrics", ["image_id"], unique=False)
    op.create_table(
        "image_predictions",
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("object_count", sa.Integer(), nullable=False),
        sa.Column("top_class", sa.String(length=100), nullable=True),
        sa.Column("top_confidence", DOUBLE, nullable=True),
        sa.Column("detector_version", sa.String(length=100), nullable=True),
        sa.Column("bottle_status", sa.String(length=100), nullable=True),
        sa.Column("bottle_confidence", DOUBLE, nullable=True),
        sa.Column("classifier_version", sa.String(length=100), nullable=True),
        sa.Column("temple_category", sa.String(length=100), nullable=True),
        sa.Column("temple_confidence", DOUBLE, nullable=True),
        sa.Column("temple_version", sa.String(length=100), nullable=True),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("updated_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.CheckConstraint("status IN ('predicted', 'rejected')", name=op.f("ck_image_predictions_status_known")),
        sa.PrimaryKeyConstraint("batch_key", "image_id", name=op.f("pk_image_predictions")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_image_predictions_created_at"), "image_predictions", ["created_at"], unique=False)
    op.create_index(op.f("ix_image_predictions_image_id"), "image_predictions", ["image_id"], unique=False)
    op.create_index(
        op.f("ix_image_predictions_top_class_image_id"), "image_predictions", ["top_class", "image_id"], unique=False
    )
    op.create_table(
        "metadata_reports",
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("object_key", sa.String(length=512), nullable=False),
        sa.Column("sha256", HEX_DIGEST, nullable=False),
        sa.Column("byte_size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("batch_key", "image_id", name=op.f("pk_metadata_reports")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_metadata_reports_image_id"), "metadata_reports", ["image_id"], unique=False)
    op.create_table(
        "options",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("option_group", sa.String(length=100), nullable=False),
        sa.Column("option_key", sa.String(length=100), nullable=False),
        sa.Column("option_value", sa.Text(), nullable=True),
        sa.Column("option_meta", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_options")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_options_option_group_option_key"), "options", ["option_group", "option_key"], unique=False)
    op.create_table(
        "processing_jobs",
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=20), server_default="enhance", nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("parameters", JSON, nullable=True),
        sa.Column("total_images", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("processed_images", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_images", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("started_at", UTC_DATETIME, nullable=True),
        sa.Column("completed_at", UTC_DATETIME, nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'processing', 'completed', 'failed')", name=op.f("ck_processing_jobs_status_known")
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_processing_jobs")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(
        op.f("ix_processing_jobs_status_created_at"), "processing_jobs", ["status", "created_at"], unique=False
    )
    op.create_table(
        "product_groups",
        sa.Column("product_group_id", sa.String(length=100), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("updated_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("product_group_id", name=op.f("pk_product_groups")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "product_images",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("product_group_id", sa.String(length=100), nullable=True),
        sa.Column("sku_id", sa.String(length=100), nullable=True),
        sa.Column("temple_id", sa.String(length=100), nullable=True),
        sa.Column("image_url", sa.String(length=2048), nullable=True),
        sa.Column("image_type", sa.String(length=50), server_default="primary", nullable=False),
        sa.Column("source", sa.String(length=50), nullable=True),
        sa.Column("source_ref", sa.String(length=190), nullable=True),
        sa.Column("source_key", HEX_DIGEST, nullable=True),
        sa.Column("report_name", sa.String(length=190), nullable=True),
        sa.Column("enhancement_mode", sa.String(length=20), nullable=True),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("qc_status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("qc_priority", DOUBLE, server_default=sa.text("0"), nullable=False),
        sa.Column("qc_claimed_by", sa.String(length=100), nullable=True),
        sa.Column("qc_claimed_at", UTC_DATETIME, nullable=True),
        sa.Column("rework_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("rework_config", JSON, nullable=True),
        sa.Column("enhanced_image_url", sa.String(length=2048), nullable=True),
        sa.Column("enhanced_sha256", HEX_DIGEST, nullable=True),
        sa.Column("batch_key", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("written_back", HEX_DIGEST, nullable=True),
        sa.Column("written_back_at", UTC_DATETIME, nullable=True),
        sa.Column(
            "write_back_due",
            sa.Integer(),
            sa.Computed(
                "CASE WHEN source = 'sql' AND status IN ('completed', 'failed') "
                "AND (written_back_at IS NULL OR written_back_at <> updated_at) THEN 1 END",
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("updated_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.CheckConstraint(
            "qc_status IN ('pending', 'auto_approved', 'needs_review', 'approved', 'rejected')",
            name=op.f("ck_product_images_qc_status_known"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'processing', 'completed', 'failed')", name=op.f("ck_product_images_status_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_product_images")),
        sa.UniqueConstraint("source_key", name=op.f("uq_product_images_source_key")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_product_images_batch_key"), "product_images", ["batch_key"], unique=False)
    op.create_index(op.f("ix_product_images_created_at"), "product_images", ["created_at"], unique=False)
    op.create_index(
        op.f("ix_product_images_qc_status_qc_priority_id"),
        "product_images",
        ["qc_status", "qc_priority", "id"],
        unique=False,
    )
    op.create_index(op.f("ix_product_images_job_id"), "product_images", ["job_id"], unique=False)
    op.create_index(op.f("ix_product_images_sku_id"), "product_images", ["sku_id"], unique=False)
    op.create_index(op.f("ix_product_images_status_id"), "product_images", ["status", "id"], unique=False)
    op.create_index(op.f("ix_product_images_status_reason"), "product_images", ["status", "reason"], unique=False)
    op.create_index(op.f("ix_product_images_temple_id"), "product_images", ["temple_id"], unique=False)
    op.create_index(
        op.f("ix_product_images_write_back_due_id"), "product_images", ["write_back_due", "id"], unique=False
    )
    op.create_table(
        "published_enhancements",
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("sha256", HEX_DIGEST, nullable=True),
        sa.Column("qc_status", sa.String(length=20), nullable=False),
        sa.Column("qc_priority", DOUBLE, nullable=False),
        sa.Column("score", DOUBLE, nullable=True),
        sa.Column("review_reasons", JSON, nullable=True),
        sa.Column("audited", sa.Boolean(), nullable=False),
        sa.Column("enhanced_image_url", sa.String(length=2048), nullable=True),
        sa.PrimaryKeyConstraint("batch_key", "image_id", name=op.f("pk_published_enhancements")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_published_enhancements_image_id"), "published_enhancements", ["image_id"], unique=False)
    op.create_table(
        "published_predictions",
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("batch_key", "image_id", name=op.f("pk_published_predictions")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_published_predictions_image_id"), "published_predictions", ["image_id"], unique=False)
    op.create_table(
        "qc_review_logs",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("reviewer_id", sa.String(length=100), nullable=True),
        sa.Column("previous_status", sa.String(length=20), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("score", DOUBLE, nullable=True),
        sa.Column("audited", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("seconds", DOUBLE, nullable=True),
        sa.Column("enhanced_sha256", HEX_DIGEST, nullable=True),
        sa.Column("previous", JSON, nullable=True),
        sa.Column("undoes_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_qc_review_logs")),
        sa.UniqueConstraint("undoes_id", name=op.f("uq_qc_review_logs_undoes_id")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_qc_review_logs_created_at"), "qc_review_logs", ["created_at"], unique=False)
    op.create_index(op.f("ix_qc_review_logs_image_id"), "qc_review_logs", ["image_id"], unique=False)
    op.create_table(
        "raw_images",
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("image_url", sa.String(length=2048), nullable=True),
        sa.Column("object_key", sa.String(length=512), nullable=True),
        sa.Column("sha256", HEX_DIGEST, nullable=True),
        sa.Column("byte_size", sa.BigInteger(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("fetch_attempts", sa.Integer(), nullable=False),
        sa.Column("fetch_seconds", DOUBLE, nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("batch_key", "image_id", name=op.f("pk_raw_images")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_raw_images_image_id"), "raw_images", ["image_id"], unique=False)
    op.create_table(
        "sensor_ticks",
        sa.Column("sensor_name", sa.String(length=100), nullable=False),
        sa.Column("ticked_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("sensor_name", name=op.f("pk_sensor_ticks")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "skus",
        sa.Column("sku_id", sa.String(length=100), nullable=False),
        sa.Column("product_group_id", sa.String(length=100), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("value", DOUBLE, nullable=True),
        sa.Column("image_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("updated_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("sku_id", name=op.f("pk_skus")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_skus_product_group_id"), "skus", ["product_group_id"], unique=False)
    op.create_table(
        "validated_images",
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("object_key", sa.String(length=512), nullable=True),
        sa.Column("sha256", HEX_DIGEST, nullable=True),
        sa.Column("image_format", sa.String(length=10), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("frames", sa.Integer(), nullable=True),
        sa.Column("orientation", sa.Integer(), nullable=True),
        sa.Column("color_mode", sa.String(length=20), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("batch_key", "image_id", name=op.f("pk_validated_images")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_validated_images_image_id"), "validated_images", ["image_id"], unique=False)
    for name in BATCH_TABLES:
        # The rows that count: an image that came again has moved to a newer batch.
        op.execute(
            f"CREATE VIEW current_{name} AS SELECT t.* FROM {name} t "
            "JOIN product_images i ON i.id = t.image_id AND i.batch_key = t.batch_key"
        )


def downgrade() -> None:
    for name in BATCH_TABLES:
        op.execute(f"DROP VIEW current_{name}")
    op.drop_index(op.f("ix_validated_images_image_id"), table_name="validated_images")
    op.drop_table("validated_images")
    op.drop_index(op.f("ix_skus_product_group_id"), table_name="skus")
    op.drop_table("skus")
    op.drop_table("sensor_ticks")
    op.drop_index(op.f("ix_raw_images_image_id"), table_name="raw_images")
    op.drop_table("raw_images")
    op.drop_index(op.f("ix_qc_review_logs_image_id"), table_name="qc_review_logs")
    op.drop_index(op.f("ix_qc_review_logs_created_at"), table_name="qc_review_logs")
    op.drop_table("qc_review_logs")
    op.drop_index(op.f("ix_published_predictions_image_id"), table_name="published_predictions")
    op.drop_table("published_predictions")
    op.drop_index(op.f("ix_published_enhancements_image_id"), table_name="published_enhancements")
    op.drop_table("published_enhancements")
    op.drop_index(op.f("ix_product_images_temple_id"), table_name="product_images")
    op.drop_index(op.f("ix_product_images_status_reason"), table_name="product_images")
    op.drop_index(op.f("ix_product_images_status_id"), table_name="product_images")
    op.drop_index(op.f("ix_product_images_sku_id"), table_name="product_images")
    op.drop_index(op.f("ix_product_images_job_id"), table_name="product_images")
    op.drop_index(op.f("ix_product_images_qc_status_qc_priority_id"), table_name="product_images")
    op.drop_index(op.f("ix_product_images_created_at"), table_name="product_images")
    op.drop_index(op.f("ix_product_images_batch_key"), table_name="product_images")
    op.drop_table("product_images")
    op.drop_table("product_groups")
    op.drop_index(op.f("ix_processing_jobs_status_created_at"), table_name="processing_jobs")
    op.drop_table("processing_jobs")
    op.drop_index(op.f("ix_options_option_group_option_key"), table_name="options")
    op.drop_table("options")
    op.drop_index(op.f("ix_metadata_reports_image_id"), table_name="metadata_reports")
    op.drop_table("metadata_reports")
    op.drop_index(op.f("ix_image_predictions_top_class_image_id"), table_name="image_predictions")
    op.drop_index(op.f("ix_image_predictions_image_id"), table_name="image_predictions")
    op.drop_index(op.f("ix_image_predictions_created_at"), table_name="image_predictions")
    op.drop_table("image_predictions")
    op.drop_index(op.f("ix_image_metrics_image_id"), table_name="image_metrics")
    op.drop_table("image_metrics")
    op.drop_index(op.f("ix_image_batches_state_id"), table_name="image_batches")
    op.drop_table("image_batches")
    op.drop_table("enhancement_configs")
    op.drop_index(op.f("ix_enhanced_images_model_version"), table_name="enhanced_images")
    op.drop_index(op.f("ix_enhanced_images_image_id"), table_name="enhanced_images")
    op.drop_table("enhanced_images")
    op.drop_index(op.f("ix_detections_image_id"), table_name="detections")
    op.drop_index(op.f("ix_detections_class_name_image_id"), table_name="detections")
    op.drop_index(op.f("ix_detections_batch_key"), table_name="detections")
    op.drop_table("detections")
    op.drop_index(op.f("ix_detected_images_model_version"), table_name="detected_images")
    op.drop_index(op.f("ix_detected_images_image_id"), table_name="detected_images")
    op.drop_table("detected_images")
    op.drop_index(op.f("ix_alerts_state_mail_id_id"), table_name="alerts")
    op.drop_index(op.f("ix_alerts_mail_id"), table_name="alerts")
    op.drop_table("alerts")
