"""How each image is to be enhanced: the settings of product groups and SKUs, and what an image itself asks for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import InstrumentedAttribute, aliased

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import EnhancementConfigRow, ProcessingJob, ProductGroup, ProductImage, Sku
from imgpipe_dagster.catalogue.types import utc_now
from imgpipe_dagster.imaging.modes import EnhancementConfig


class Scope(StrEnum):
    """What settings are kept for."""

    SKU = "SKU"
    GROUP = "product group"


@dataclass(frozen=True)
class StoredSettings:
    """The settings of one SKU or product group."""

    scope: Scope
    name: str
    settings: Mapping[str, Any]


class UnknownProductError(KeyError):
    """There is no such SKU or product group."""

    def __init__(self, scope: Scope, name: str) -> None:
        super().__init__(f"There is no {scope} {name!r}: it comes with the import of its images.")

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class EnhancementRequest:
    """One image that has a SKU, with what it asks for.

    Attributes:
        image_id: The image.
        sku_id: Its SKU.
        value: The SKU's value, if it is known.
        reworked: Whether a reviewer has rejected it before.
        layers: What is laid over the installation's defaults, the later ones winning: the product group's settings, the
            SKU's, the image's own mode, those of the job that asked for it, and those that a reviewer's rejection has
            asked for since.
    """

    image_id: int
    sku_id: str
    value: float | None
    reworked: bool
    layers: tuple[Mapping[str, Any], ...]

    def config(self, defaults: EnhancementConfig) -> EnhancementConfig:
        """The image's configuration.

        Raises:
            ValueError: A layer has an unknown key or a value that is not valid; the message lists what is.
        """
        return defaults.layered(*self.layers)


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
            ProcessingJob.parameters.label("job"),
            ProductImage.rework_config,
            ProductImage.rework_count,
        )
        .outerjoin(Sku, Sku.sku_id == ProductImage.sku_id)
        .outerjoin(
            group, group.product_group_id == sa.func.coalesce(ProductImage.product_group_id, Sku.product_group_id)
        )
        .outerjoin(own, own.sku_id == ProductImage.sku_id)
        .outerjoin(ProcessingJob, ProcessingJob.job_id == ProductImage.job_id)
        .where(ProductImage.batch_key == batch_key, ProductImage.sku_id.is_not(None))
        .order_by(ProductImage.id)
    )
    rows = transact(engine, lambda connection: connection.execute(query).mappings().all(), writes=False)
    return [
        EnhancementRequest(
            image_id=row["id"],
            sku_id=row["sku_id"],
            value=row["value"],
            reworked=row["rework_count"] > 0,
            layers=(
                row["group_config"] or {},
                row["sku_config"] or {},
                {"mode": row["enhancement_mode"]} if row["enhancement_mode"] else {},
                (row["job"] or {}).get("config", {}),
                row["rework_config"] or {},
            ),
        )
        for row in rows
    ]


def change_settings(
    engine: Engine, scope: Scope, name: str, *, put: Mapping[str, Any], remove: Collection[str] = ()
) -> StoredSettings:
    """Put settings of one SKU or product group over those that are kept, and take others away.

    The next enhancement of its images uses them; what is enhanced already stays as it is.

    Args:
        engine: The catalogue.
        scope: Whether ``name`` is a SKU's or a product group's.
        name: Its id.
        put: New values, by the names of ``EnhancementConfig``.
        remove: Names of settings that are to be those of the product group, or the installation's, again.

    Returns:
        The settings that are kept now.

    Raises:
        UnknownProductError: There is no such SKU or product group.
        ValueError: An unknown setting or a value that is not valid, alone or with the others; nothing is changed then.
    """
    EnhancementConfig().overridden(dict.fromkeys(remove))  # names what is not a setting

    def change(connection: Connection) -> StoredSettings:
        of_group, kept = _layers(connection, scope, name, lock=True)
        settings = {key: value for key, value in {**kept, **put}.items() if key not in remove}
        EnhancementConfig().overridden(of_group).overridden(settings)
        mine = _column(scope) == name
        if not settings:
            connection.execute(sa.delete(EnhancementConfigRow).where(mine))
        elif kept:
            connection.execute(
                sa.update(EnhancementConfigRow).where(mine).values(config=settings, updated_at=utc_now())
            )
        else:
            connection.execute(sa.insert(EnhancementConfigRow).values({_column(scope).key: name, "config": settings}))
        return StoredSettings(scope, name, settings)

    return transact(engine, change)


def remove_settings(engine: Engine, scope: Scope, name: str) -> bool:
    """Take all settings of one SKU or product group away; False if it had none."""
    statement = sa.delete(EnhancementConfigRow).where(_column(scope) == name)
    return bool(transact(engine, lambda connection: connection.execute(statement).rowcount))


def stored_settings(engine: Engine) -> list[StoredSettings]:
    """The settings of every product group and SKU that has some, groups first, by name."""
    query = sa.select(EnhancementConfigRow).order_by(
        EnhancementConfigRow.sku_id.is_not(None), EnhancementConfigRow.product_group_id, EnhancementConfigRow.sku_id
    )
    rows = transact(engine, lambda connection: connection.execute(query).mappings().all(), writes=False)
    return [
        StoredSettings(Scope.GROUP, row["product_group_id"], row["config"])
        if row["sku_id"] is None
        else StoredSettings(Scope.SKU, row["sku_id"], row["config"])
        for row in rows
    ]


def effective_config(
    engine: Engine,
    scope: Scope,
    name: str,
    defaults: EnhancementConfig,
    *,
    put: Mapping[str, Any] = MappingProxyType({}),
) -> EnhancementConfig:
    """How the images of one SKU or product group are enhanced that ask for nothing else themselves.

    Args:
        engine: The catalogue.
        scope: Whether it is a SKU or a product group.
        name: Which one.
        defaults: The installation's settings.
        put: Settings that it would have besides, or instead of its own.

    Raises:
        UnknownProductError: There is no such SKU or product group.
        ValueError: Settings that another program has written, or those to put, are not valid.
    """
    layers = transact(engine, lambda connection: _layers(connection, scope, name), writes=False)
    return defaults.layered(*layers, put)


def _layers(
    connection: Connection, scope: Scope, name: str, *, lock: bool = False
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What is kept for the product group above a SKU (nothing above a group), and for the SKU or group itself.

    With ``lock``, two people who change the settings of one product take turns.
    """
    match scope:
        case Scope.SKU:
            product = sa.select(Sku.product_group_id).where(Sku.sku_id == name)
        case Scope.GROUP:
            product = sa.select(sa.null()).where(ProductGroup.product_group_id == name)
    found = connection.execute(product.with_for_update() if lock else product).first()
    if found is None:
        raise UnknownProductError(scope, name)

    def kept(for_whom: sa.ColumnElement[bool]) -> Mapping[str, Any]:
        return connection.scalar(sa.select(EnhancementConfigRow.config).where(for_whom)) or {}

    return kept(EnhancementConfigRow.product_group_id == found[0]) if found[0] else {}, kept(_column(scope) == name)


def _column(scope: Scope) -> InstrumentedAttribute[str | None]:
    match scope:
        case Scope.SKU:
            return EnhancementConfigRow.sku_id
        case Scope.GROUP:
            return EnhancementConfigRow.product_group_id
