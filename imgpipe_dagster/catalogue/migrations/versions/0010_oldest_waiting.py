"""An index by how long images have waited: one that was put back late may have a low id."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_INDEX = "ix_product_images_status_updated_at"


def upgrade() -> None:
    op.create_index(_INDEX, "product_images", ["status", "updated_at"], unique=False)


def downgrade() -> None:
    op.drop_index(_INDEX, table_name="product_images")
