"""Pages of images for readers, and all that is known of one. Reads only, and never more than a window of rows."""

import datetime as dt
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import InstrumentedAttribute

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import (
    Base,
    Classification,
    Detection,
    EnhancedImage,
    ImageMetric,
    ImagePrediction,
    ImageStatus,
    MetadataReport,
    ProductImage,
    PublishedEnhancement,
    RawImage,
    ValidatedImage,
)
from imgpipe_dagster.streams import chunks

WINDOW = 5000
"""Rows that one page may look at: where few of them fit, the page is short and the next one goes on behind them."""

_CHUNK = 500
_LOOK_FOR_S = 5.0  # a reader is told that the catalogue is away rather than kept waiting
_MOST_OBJECTS = 1000

Row = Mapping[Any, Any]
Position = tuple[Any, ...]
"""Where a page ended: the values that its images are ordered by."""


@dataclass(frozen=True)
class ImageFilter:
    """Which images; a condition that is None does not count. Texts compare exactly.

    Attributes:
        status: Where the image stands.
        sku_id: The product that it shows.
        temple_id: The site that it comes from.
        class_name: An object that was found in it.
        confidence: Lowest and highest confidence of such an object; of any one where no class is named.
        reason: Why it was rejected.
        created_from: Not before this time, in UTC without a zone.
        created_to: Before this time, in UTC without a zone.
    """

    status: ImageStatus | None = None
    sku_id: str | None = None
    temple_id: str | None = None
    class_name: str | None = None
    confidence: tuple[float, float] | None = None
    reason: str | None = None
    created_from: dt.datetime | None = None
    created_to: dt.datetime | None = None

    @property
    def is_by_time(self) -> bool:
        """Whether the time alone leads to the images: they are then ordered by it, and otherwise by their id."""
        others = (self.status, self.sku_id, self.temple_id, self.class_name, self.reason)
        return all(value is None for value in others) and not (self.created_from is None and self.created_to is None)


@dataclass(frozen=True)
class ImagePage:
    """Some images, and where the next page begins; None after the last one."""

    images: tuple[Row, ...]
    next: Position | None


def list_images(
    engine: Engine, which: ImageFilter, *, after: Position | None, at_most: int, newest_first: bool = False
) -> ImagePage:
    """A page of images.

    One condition, the most telling one, is followed through its index; the others are checked on what it leads to, up
    to `WINDOW` rows. So a page costs a bounded amount of work on a table of any size, and may hold fewer images than
    asked for, or none, and still have a next one.

    Args:
        engine: The catalogue.
        which: The conditions.
        after: Where the page before ended.
        at_most: Images in a page.
        newest_first: Go backwards. ``after`` is then where a page that went backwards ended.

    Returns:
        The images with their answers, in the order of their ids (of their times, where only the time is asked for).
    """

    def read(connection: Connection) -> ImagePage:
        found: list[Row] = []
        positions: dict[int, Position] = {}
        position, looked_at, size = after, 0, at_most + 1
        while size > 0:
            window = connection.execute(_leading(which, position, newest_first).limit(size)).all()
            fresh = {row[-1]: tuple(row) for row in window}  # a class may be found several times in one image
            positions |= fresh
            for ids in chunks(list(fresh), _CHUNK):
                rows = {row["id"]: row for row in connection.execute(_chosen(which, ids)).mappings()}
                found += [rows[image_id] for image_id in ids if image_id in rows]
            if len(found) > at_most:
                return ImagePage(tuple(found[:at_most]), positions[found[at_most - 1]["id"]])
            if len(window) < size:
                return ImagePage(tuple(found), None)
            position = tuple(window[-1])
            looked_at += size
            size = min(4 * size, WINDOW - looked_at)
        return ImagePage(tuple(found), position)

    return transact(engine, read, writes=False, retry_for_s=_LOOK_FOR_S)


@dataclass(frozen=True)
class ImageDetails:
    """All that is known of one image; each part is None, or empty, where there is nothing of the kind.

    Attributes:
        image: Its row in ``product_images``.
        file: What was downloaded and found valid.
        prediction: Its answer.
        objects: What was found in it, the most confident first, at most 1,000.
        classifications: What classifiers called it and its objects, at most 1,000.
        report: Where its report lies.
        enhanced: What enhancement made of it.
        quality: Its quality, by phase: ``before`` and ``after``.
        verdict: The verdict without a person.
    """

    image: Row
    file: Row
    prediction: Row | None
    objects: Sequence[Row]
    classifications: Sequence[Row]
    report: Row | None
    enhanced: Row | None
    quality: Mapping[str, Row]
    verdict: Row | None


def image_details(engine: Engine, image_id: int) -> ImageDetails | None:
    """All that counts for one image, or None if there is no such image."""

    def read(connection: Connection) -> ImageDetails | None:
        image = connection.execute(_of(ProductImage, ProductImage.id == image_id)).mappings().first()
        if image is None:
            return None

        def rows(table: type[Base]) -> Sequence[Row]:
            counting = _of(table, table.image_id == image_id, table.batch_key == image["batch_key"])  # type: ignore[attr-defined]
            if table is Detection:
                counting = counting.order_by(Detection.confidence.desc(), Detection.detection_id).limit(_MOST_OBJECTS)
            elif table is Classification:
                counting = counting.order_by(Classification.classification_id).limit(_MOST_OBJECTS)
            return connection.execute(counting).mappings().all()

        def row(table: type[Base]) -> Row | None:
            return next(iter(rows(table)), None)

        return ImageDetails(
            image=image,
            file={**(row(RawImage) or {}), **(row(ValidatedImage) or {})},
            prediction=row(ImagePrediction),
            objects=rows(Detection),
            classifications=rows(Classification),
            report=row(MetadataReport),
            enhanced=row(EnhancedImage),
            quality={metric["phase"]: metric for metric in rows(ImageMetric)},
            verdict=row(PublishedEnhancement),
        )

    return transact(engine, read, writes=False, retry_for_s=_LOOK_FOR_S)


def newest_enhanced(engine: Engine, *, sku_id: str | None = None, at_most: int = 50) -> Sequence[Row]:
    """Images that were enhanced, the youngest first: ``image_id``, ``sku_id``, ``qc_status``.

    Args:
        engine: The catalogue.
        sku_id: Only of this product.
        at_most: How many.
    """
    image, made = ProductImage, EnhancedImage
    query = (
        sa.select(image.id.label("image_id"), image.sku_id, image.qc_status)
        .join(made, sa.and_(made.image_id == image.id, made.batch_key == image.batch_key))
        .where(made.object_key.is_not(None))
        .limit(at_most)
    )
    # With a product its images lead, and else the enhanced ones: there may be many others between them.
    leading = made.image_id if sku_id is None else image.id
    query = query.where(leading > 0).order_by(leading.desc())
    if sku_id is not None:
        query = query.where(image.sku_id == sku_id)
    return transact(
        engine, lambda connection: connection.execute(query).mappings().all(), writes=False, retry_for_s=_LOOK_FOR_S
    )


def _of(table: type[Base], *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(Base.metadata.tables[table.__tablename__]).where(*where)


def _leading(which: ImageFilter, after: Position | None, newest_first: bool) -> sa.Select[*tuple[Any, ...]]:
    """The images that fit the condition with the best index, from a position on: ids, or times and ids."""
    behind = operator.lt if newest_first else operator.gt
    reach = operator.le if newest_first else operator.ge

    def ordered(*columns: InstrumentedAttribute[Any]) -> list[sa.ColumnElement[Any]]:
        return [column.desc() if newest_first else column.asc() for column in columns]

    if which.is_by_time:
        query = sa.select(ProductImage.created_at, ProductImage.id).where(*_times(which, ProductImage.created_at))
        if after is not None:
            # Written so that both databases enter the index at the time.
            created_at, image_id = after
            query = query.where(
                reach(ProductImage.created_at, created_at),
                sa.or_(behind(ProductImage.created_at, created_at), behind(ProductImage.id, image_id)),
            )
        return query.order_by(*ordered(ProductImage.created_at, ProductImage.id))
    images = sa.select(ProductImage.id)
    index = None
    if which.sku_id is not None:
        query, column = images.where(ProductImage.sku_id == which.sku_id), ProductImage.id
    elif which.temple_id is not None:
        query, column = images.where(ProductImage.temple_id == which.temple_id), ProductImage.id
    elif which.class_name is not None:
        column = Detection.image_id
        query = sa.select(column).where(Detection.class_name == which.class_name)
    elif which.reason is not None:
        # Only failed images have a reason, and the index begins with the status.
        query = images.where(ProductImage.status == ImageStatus.FAILED, ProductImage.reason == which.reason)
        column, index = ProductImage.id, "ix_product_images_status_reason"
    elif which.status is not None:
        query, column = images.where(ProductImage.status == which.status), ProductImage.id
        index = "ix_product_images_status_id"
    else:
        query, column = images, ProductImage.id
    if index is not None:
        # Left to itself, MariaDB reads such an index from the status on and passes over all ids of the pages before.
        query = query.with_hint(ProductImage, f"FORCE INDEX ({index})", "mysql")
    # Ids begin at 1: with a bound the databases enter the index instead of reading all of it.
    return query.where(column > 0 if after is None else behind(column, after[-1])).order_by(*ordered(column))


def _chosen(which: ImageFilter, ids: Sequence[int]) -> sa.Select[*tuple[Any, ...]]:
    """Those of some images that fit all conditions, with their answers."""
    image, answer = ProductImage, ImagePrediction
    counts = sa.and_(answer.image_id == image.id, answer.batch_key == image.batch_key)
    query = (
        sa.select(
            image.id,
            image.product_group_id,
            image.sku_id,
            image.temple_id,
            image.image_url,
            image.image_type,
            image.status,
            image.reason,
            image.qc_status,
            image.enhanced_image_url,
            image.created_at,
            image.updated_at,
            answer.object_count,
            answer.top_class,
            answer.top_confidence,
        )
        .outerjoin(answer, counts)
        .where(image.id.in_(ids), *_times(which, _checked(image.created_at)))
    )
    for column, wanted in {
        image.status: which.status,
        image.sku_id: which.sku_id,
        image.temple_id: which.temple_id,
        image.reason: which.reason,
    }.items():
        if wanted is not None:
            query = query.where(_checked(column) == wanted)
    if which.class_name is not None or which.confidence is not None:
        found = sa.exists().where(Detection.image_id == image.id, Detection.batch_key == image.batch_key)
        if which.class_name is not None:
            found = found.where(Detection.class_name == which.class_name)
        if which.confidence is not None:
            found = found.where(Detection.confidence.between(*which.confidence))
        query = query.where(found)
    return query


def _checked(column: InstrumentedAttribute[Any]) -> sa.ColumnElement[Any]:
    """A column that rows are checked by, and not found by: no index is on such an expression."""
    return sa.func.coalesce(column, column)


def _times(which: ImageFilter, column: sa.SQLColumnExpression[Any]) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if which.created_from is not None:
        conditions.append(column >= which.created_from)
    if which.created_to is not None:
        conditions.append(column < which.created_to)
    return conditions
