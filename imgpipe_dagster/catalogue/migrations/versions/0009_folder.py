"""Files of folder sources by their content, and the numbers that they were given."""

import sqlalchemy as sa
from alembic import op

from imgpipe_dagster.catalogue.types import HEX_DIGEST, UTC_DATETIME, utc_now

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ingested_files",
        sa.Column("sha256", HEX_DIGEST, nullable=False),
        sa.Column("frame", sa.BigInteger(), nullable=False),
        sa.Column("file_name", sa.String(length=255), nullable=False),
        sa.Column("announced_at", UTC_DATETIME, nullable=True),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_ingested_files")),
        sa.UniqueConstraint("frame", name=op.f("uq_ingested_files_frame")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )


def downgrade() -> None:
    op.drop_table("counters")
    op.drop_table("ingested_files")
