"""The images of jobs, and the batches that they were processed in."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "processing_job_images",
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("batch_key", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "image_id", name=op.f("pk_processing_job_images")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(
        op.f("ix_processing_job_images_job_id_batch_key"),
        "processing_job_images",
        ["job_id", "batch_key"],
        unique=False,
    )


def downgrade() -> None:
    op.drop_table("processing_job_images")
