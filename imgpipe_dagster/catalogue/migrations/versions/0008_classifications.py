"""What classifiers say about images, and the models that were trained here."""

import sqlalchemy as sa
from alembic import op

from imgpipe_dagster.catalogue.types import BIG_ID, DOUBLE, HEX_DIGEST, JSON, UTC_DATETIME, utc_now

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "classifications",
        sa.Column("classification_id", sa.String(length=150), nullable=False),
        sa.Column("batch_key", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("detection_id", sa.String(length=100), nullable=True),
        sa.Column("classifier", sa.String(length=50), nullable=False),
        sa.Column("class_name", sa.String(length=100), nullable=False),
        sa.Column("confidence_score", DOUBLE, nullable=True),
        sa.Column("probabilities", JSON, nullable=True),
        sa.Column("anomaly", sa.Boolean(), nullable=True),
        sa.Column("anomaly_score", DOUBLE, nullable=True),
        sa.Column("model_version", sa.String(length=100), nullable=True),
        sa.PrimaryKeyConstraint("classification_id", name=op.f("pk_classifications")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_classifications_batch_key"), "classifications", ["batch_key"], unique=False)
    op.create_index(op.f("ix_classifications_image_id"), "classifications", ["image_id"], unique=False)
    op.create_index(op.f("ix_classifications_model_version"), "classifications", ["model_version"], unique=False)
    op.create_index(
        op.f("ix_classifications_classifier_class_name_image_id"),
        "classifications",
        ["classifier", "class_name", "image_id"],
        unique=False,
    )
    # The rows that count: an image that came again has moved to a newer batch.
    op.execute(
        "CREATE VIEW current_classifications AS SELECT t.* FROM classifications t "
        "JOIN product_images i ON i.id = t.image_id AND i.batch_key = t.batch_key"
    )
    op.create_table(
        "model_versions",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=100), nullable=False),
        sa.Column("sha256", HEX_DIGEST, nullable=False),
        sa.Column("files", JSON, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("kind", "version", name=op.f("uq_model_versions_kind_version")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )


def downgrade() -> None:
    op.drop_table("model_versions")
    op.execute("DROP VIEW current_classifications")
    for columns in ("classifier_class_name_image_id", "model_version", "image_id", "batch_key"):
        op.drop_index(op.f(f"ix_classifications_{columns}"), table_name="classifications")
    op.drop_table("classifications")
