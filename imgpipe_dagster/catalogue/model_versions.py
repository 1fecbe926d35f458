"""Which batches hold what, and which of their rows an older model made: questions to the rows. Reads only."""

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.enhancement_configs import EnhancementRequest, enhancement_requests
from imgpipe_dagster.catalogue.tables import (
    BOTTLE_STATUS,
    NO_MODEL,
    TEMPLE_CATEGORY,
    BatchState,
    Classification,
    DetectedImage,
    EnhancedImage,
    ImageBatch,
    ProductImage,
    TempleChampion,
)
from imgpipe_dagster.imaging.modes import EnhancementConfig
from imgpipe_dagster.imaging.versions import enhancement_version

ANSWERED = (BatchState.ANALYSED, BatchState.ENHANCED, BatchState.ENHANCEMENT_FAILED, BatchState.ENHANCEMENT_HELD)
"""States of batches whose images have their answers. The others are the sensor's and ``imgpipe retry``'s affair."""


@dataclass(frozen=True)
class Scope:
    """Some stretch of the past; None leaves a side open.

    Attributes:
        since: First day (UTC) on which the batch was claimed.
        until: Last day, inclusive.
        sku: Only batches with an image of this SKU.
        temple: Only batches with an image of this temple.
    """

    since: dt.date | None = None
    until: dt.date | None = None
    sku: str | None = None
    temple: str | None = None

    def __post_init__(self) -> None:
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError(f"The first day, {self.since}, is after the last, {self.until}.")

    def images(self) -> list[sa.ColumnElement[bool]]:
        """Conditions on the images of a batch."""
        wanted = ((ProductImage.sku_id, self.sku), (ProductImage.temple_id, self.temple))
        return [column == value for column, value in wanted if value is not None]

    def batches(self) -> list[sa.ColumnElement[bool]]:
        """Conditions on a batch."""
        conditions: list[sa.ColumnElement[bool]] = [ImageBatch.state.in_(ANSWERED)]
        if self.since is not None:
            conditions.append(ImageBatch.created_at >= _midnight(self.since))
        if self.until is not None:
            conditions.append(ImageBatch.created_at < _midnight(self.until + dt.timedelta(days=1)))
        return conditions


@dataclass(frozen=True)
class OldRows:
    """Images of a batch whose rows another than today's model made."""

    batch_key: str
    model_version: str
    images: int


def answered_batches(engine: Engine, scope: Scope) -> list[str]:
    """Keys of the answered batches in a scope that an image still belongs to, oldest first."""
    holds_one = sa.exists().where(ProductImage.batch_key == ImageBatch.batch_key, *scope.images())
    query = sa.select(ImageBatch.batch_key).where(*scope.batches(), holds_one).order_by(ImageBatch.id)
    return list(transact(engine, lambda connection: connection.scalars(query).all(), writes=False))


def old_detections(engine: Engine, current: str, scope: Scope) -> list[OldRows]:
    """What a detector of another version than ``current`` has looked at, and still counts, oldest batch first."""
    return _of_other_versions(engine, DetectedImage, current, scope)


def old_bottle_statuses(engine: Engine, current: str, scope: Scope) -> list[OldRows]:
    """What a bottle classifier of another version than ``current`` has said, and still counts, oldest batch first."""
    return _of_other_versions(engine, Classification, current, scope, Classification.classifier == BOTTLE_STATUS)


def old_temple_classifications(engine: Engine, scope: Scope) -> list[OldRows]:
    """What another than its temple's champion has classified, and still counts, oldest batch first.

    A new champion ages the images of its temple and no others. The version of rows without a model is ``no_model``.
    """
    version = sa.func.coalesce(Classification.model_version, NO_MODEL)
    counts = ProductImage.id == Classification.image_id, ProductImage.batch_key == Classification.batch_key
    query = (
        sa.select(Classification.batch_key, version, sa.func.count())
        .join(ProductImage, sa.and_(*counts))
        .join(ImageBatch, ImageBatch.batch_key == Classification.batch_key)
        .join(TempleChampion, TempleChampion.temple_id == ProductImage.temple_id)
        .where(
            Classification.classifier == TEMPLE_CATEGORY,
            version != TempleChampion.version,
            *scope.images(),
            *scope.batches(),
        )
        .group_by(ImageBatch.id, Classification.batch_key, version)
        .order_by(ImageBatch.id, version)
    )
    rows = transact(engine, lambda connection: connection.execute(query).all(), writes=False)
    return [OldRows(*row) for row in rows]


def old_enhancements(engine: Engine, defaults: EnhancementConfig, scope: Scope) -> Iterator[OldRows]:
    """What was enhanced otherwise than it would be today, by other code or settings, and still counts.

    Args:
        engine: The catalogue.
        defaults: The configuration of images whose group, SKU and reviewer ask for nothing else.
        scope: Where to look.
    """
    for batch_key in answered_batches(engine, scope):
        query = (
            sa.select(EnhancedImage.image_id, EnhancedImage.model_version)
            .join(ProductImage, ProductImage.id == EnhancedImage.image_id)
            .where(EnhancedImage.batch_key == batch_key, ProductImage.batch_key == batch_key, *scope.images())
        )
        made = transact(engine, lambda connection, query=query: connection.execute(query).all(), writes=False)
        if not made:
            continue
        today = {
            request.image_id: _version_today(request, defaults) for request in enhancement_requests(engine, batch_key)
        }
        old = Counter(version for image_id, version in made if today.get(image_id, version) != version)
        for version, images in sorted(old.items()):
            yield OldRows(batch_key, version, images)


def _of_other_versions(
    engine: Engine,
    table: type[DetectedImage] | type[Classification],
    current: str,
    scope: Scope,
    *more: sa.ColumnElement[bool],
) -> list[OldRows]:
    counts = ProductImage.id == table.image_id, ProductImage.batch_key == table.batch_key
    query = (
        sa.select(table.batch_key, table.model_version, sa.func.count(table.image_id.distinct()))
        .join(ProductImage, sa.and_(*counts))
        .join(ImageBatch, ImageBatch.batch_key == table.batch_key)
        .where(table.model_version != current, *more, *scope.images(), *scope.batches())
        .group_by(ImageBatch.id, table.batch_key, table.model_version)
        .order_by(ImageBatch.id, table.model_version)
    )
    rows = transact(engine, lambda connection: connection.execute(query).all(), writes=False)
    return [OldRows(*row) for row in rows]


def _version_today(request: EnhancementRequest, defaults: EnhancementConfig) -> str:
    try:
        return enhancement_version(request.config(defaults))
    except ValueError:  # settings that are not valid: the row says so and carries the defaults
        return enhancement_version(defaults)


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime(day.year, day.month, day.day)  # noqa: DTZ001 - UTC, as in the catalogue
