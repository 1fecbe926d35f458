"""How each image is to be enhanced: the settings of product groups and SKUs, and what an image itself asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import aliased

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import EnhancementConfigRow, ProductImage, Sku
from imgpipe_dagster.imaging.modes import EnhancementConfig


@dataclass(frozen=True)
class EnhancementRequest:
    """One image that has a SKU, with what it asks for.

    Attributes:
        image_id: The image.
        sku_id: Its SKU.
        value: The SKU's value, if it is known.
        layers: What is laid over the installation's defaults, the later ones winning: the product group's settings, the
            SKU's, the image's own mode, and those that a reviewer's rejection has asked for.
    """

    image_id: int
    sku_id: str
    value: float | None
    layers: tuple[Mapping[str, Any], ...]

    def config(self, defaults: EnhancementConfig) -> EnhancementConfig:
        """The image's configuration.

        Raises:
            ValueError: A layer has an unknown key or a value that is not valid; the message lists what is.
        """
        config = defaults
        for layer in self.layers:
            config = config.overridden(layer)
        return config


def enhancement_requests(engine: Engine, batch_key: str) -> list[EnhancementRequest]:
    """The images that count for a batch and have a SKU, by id. The product group is the image's, else the SKU's."""
    group, own = aliased(EnhancementConfigRow), aliased(EnhancementConfigRow)
    query = (
        sa.select(
            ProductImage.id,
            ProductImage.sku_id,
            Sku.value,
            group.config.label("group_config"),
            own.config.label("sku_config"),
            ProductImage.enhancement_mode,
            ProductImage.rework_config,
        )
        .outerjoin(Sku, Sku.sku_id == ProductImage.sku_id)
        .outerjoin(
            group, group.product_group_id == sa.func.coalesce(ProductImage.product_group_id, Sku.product_group_id)
        )
        .outerjoin(own, own.sku_id == ProductImage.sku_id)
        .where(ProductImage.batch_key == batch_key, ProductImage.sku_id.is_not(None))
        .order_by(ProductImage.id)
    )
    rows = transact(engine, lambda connection: connection.execute(query).mappings().all(), writes=False)
    return [
        EnhancementRequest(
            image_id=row["id"],
            sku_id=row["sku_id"],
            value=row["value"],
            layers=(
                row["group_config"] or {},
                row["sku_config"] or {},
                {"mode": row["enhancement_mode"]} if row["enhancement_mode"] else {},
                row["rework_config"] or {},
            ),
        )
        for row in rows
    ]
