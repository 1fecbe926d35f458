"""Temples: labelled pictures, versions of models, which of them serves, and who trains."""

import sqlalchemy as sa
from alembic import op

from imgpipe_dagster.catalogue.types import BIG_ID, DOUBLE, HEX_DIGEST, JSON, UTC_DATETIME, utc_now

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "temple_images",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("temple_id", sa.String(length=100), nullable=False),
        sa.Column("split", sa.String(length=10), nullable=False),
        sa.Column("category", sa.String(length=100), nullable=False),
        sa.Column("object_key", sa.String(length=512), nullable=False),
        sa.Column("sha256", HEX_DIGEST, nullable=False),
        sa.Column("byte_size", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.String(length=20), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.CheckConstraint("split IN ('train', 'test')", name=op.f("ck_temple_images_split_known")),
        sa.CheckConstraint("origin IN ('import', 'api', 'review')", name=op.f("ck_temple_images_origin_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_temple_images")),
        sa.UniqueConstraint("temple_id", "sha256", name=op.f("uq_temple_images_temple_id_sha256")),
        sqlite_autoincrement=True,
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(op.f("ix_temple_images_image_id"), "temple_images", ["image_id"], unique=False)
    op.create_index(op.f("ix_temple_images_sha256"), "temple_images", ["sha256"], unique=False)
    op.create_index(
        op.f("ix_temple_images_temple_id_split_id"), "temple_images", ["temple_id", "split", "id"], unique=False
    )
    op.create_table(
        "temple_model_versions",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("temple_id", sa.String(length=100), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("origin", sa.String(length=20), nullable=False),
        sa.Column("data_fingerprint", HEX_DIGEST, nullable=True),
        sa.Column("files", JSON, nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("input_height", sa.Integer(), nullable=False),
        sa.Column("input_width", sa.Integer(), nullable=False),
        sa.Column("train_images", sa.Integer(), nullable=False),
        sa.Column("test_images", sa.Integer(), nullable=False),
        sa.Column("trained_seconds", DOUBLE, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.CheckConstraint("origin IN ('trained', 'imported')", name=op.f("ck_temple_model_versions_origin_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_temple_model_versions")),
        sa.UniqueConstraint("temple_id", "number", name=op.f("uq_temple_model_versions_temple_id_number")),
        sa.UniqueConstraint("temple_id", "version", name=op.f("uq_temple_model_versions_temple_id_version")),
        sqlite_autoincrement=True,
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "temple_champions",
        sa.Column("temple_id", sa.String(length=100), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=True),
        sa.Column("promoted_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("promoted_by", sa.String(length=100), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("temple_id", name=op.f("pk_temple_champions")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "temple_leases",
        sa.Column("temple_id", sa.String(length=100), nullable=False),
        sa.Column("owner", sa.String(length=36), nullable=False),
        sa.Column("taken_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("heartbeat_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("temple_id", name=op.f("pk_temple_leases")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
