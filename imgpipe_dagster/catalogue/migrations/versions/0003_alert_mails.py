"""Alerts become mails: what is sent to whom, what lasts, what is muted. How fresh each feed is."""

import sqlalchemy as sa
from alembic import op

from imgpipe_dagster.catalogue.types import BIG_ID, JSON, UTC_DATETIME, utc_now

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alert_mails",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("topic", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.String(length=190), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("recipients", JSON, nullable=True),
        sa.Column("next_attempt_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("lease_token", sa.String(length=36), nullable=True),
        sa.Column("lease_until", UTC_DATETIME, nullable=True),
        sa.Column("created_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.Column("accepted_at", UTC_DATETIME, nullable=True),
        sa.Column("closed_at", UTC_DATETIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_mails")),
        sa.UniqueConstraint("message_id", name=op.f("uq_alert_mails_message_id")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_index(
        op.f("ix_alert_mails_closed_at_next_attempt_at"), "alert_mails", ["closed_at", "next_attempt_at"], unique=False
    )
    op.create_index(op.f("ix_alert_mails_topic_id"), "alert_mails", ["topic", "id"], unique=False)
    op.create_table(
        "alert_conditions",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("episode", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("raised_at", UTC_DATETIME, nullable=True),
        sa.Column("reminders", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("noted_at", UTC_DATETIME, server_default=utc_now(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_alert_conditions")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "alert_mutes",
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("muted_until", UTC_DATETIME, nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_alert_mutes")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "feed_freshness",
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("feed", sa.String(length=100), nullable=False),
        sa.Column("last_prediction_at", UTC_DATETIME, nullable=False),
        sa.CheckConstraint("kind IN ('temple', 'source')", name=op.f("ck_feed_freshness_kind_known")),
        sa.PrimaryKeyConstraint("kind", "feed", name=op.f("pk_feed_freshness")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
    )


def downgrade() -> None:
    op.drop_table("feed_freshness")
    op.drop_table("alert_mutes")
    op.drop_table("alert_conditions")
    op.drop_index(op.f("ix_alert_mails_topic_id"), table_name="alert_mails")
    op.drop_index(op.f("ix_alert_mails_closed_at_next_attempt_at"), table_name="alert_mails")
    op.drop_table("alert_mails")
