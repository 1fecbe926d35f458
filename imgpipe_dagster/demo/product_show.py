"""The demo's product photographs: their rows, the table of scores before and after, and a sheet to look at."""

from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import Engine, RowMapping
from sqlalchemy.orm import aliased

from imgpipe_dagster.catalogue.imports import ImportRow, import_rows
from imgpipe_dagster.catalogue.tables import (
    EnhancedImage,
    ImageMetric,
    ProductImage,
    PublishedEnhancement,
    Sku,
    ValidatedImage,
)
from imgpipe_dagster.demo.cdn import DemoCdn
from imgpipe_dagster.demo.product_files import ProductFile
from imgpipe_dagster.settings import Settings

TILE_WIDTH, TILE_HEIGHT = 400, 320


def add_product_rows(engine: Engine, cdn: DemoCdn, files: list[ProductFile]) -> None:
    """Bring the photographs and the values of their products into the catalogue."""
    rows = [
        ImportRow(image_url=cdn.url_for(file.name), sku_id=file.sku, product_group_id=file.product_group)
        for file in files
    ]
    import_rows(engine, rows)
    with engine.begin() as connection:
        for file in files:
            connection.execute(sa.update(Sku).where(Sku.sku_id == file.sku).values(value=file.value))


def print_products(engine: Engine, out: Console) -> None:
    """A line for each photograph: its scores, what was decided, and why a person has to look."""
    table = Table(
        "photograph", "before", "after", "verdict", "why", box=None, title="Product photographs", title_justify="left"
    )
    for row in _enhanced(engine):
        name = str(row["image_url"]).rsplit("/", 1)[-1]
        reasons = ", ".join(row["review_reasons"] or ())
        table.add_row(name, f"{row['before']:.0f}", f"{row['after']:.0f}", row["qc_status"], reasons)
    out.print(table, soft_wrap=True)


def write_before_after(settings: Settings, engine: Engine, path: Path) -> Path:
    """Draw every photograph beside what was made of it, as one picture on disk."""
    from imgpipe_dagster.imaging.decode import decode_bgr
    from imgpipe_dagster.imaging.draw import contact_sheet, thumbnail
    from imgpipe_dagster.store.opening import open_store

    store = open_store(settings.effective_store_url)
    tiles = []
    for row in _enhanced(engine):
        for key, score in ((row["original_key"], row["before"]), (row["object_key"], row["after"])):
            picture = thumbnail(decode_bgr(store.get(key)), TILE_WIDTH, TILE_HEIGHT)
            tiles.append((picture, f"#{row['image_id']}: {score:.0f}"))
    path.write_bytes(contact_sheet(tiles, columns=4, max_bytes=None))
    return path


def _enhanced(engine: Engine) -> list[RowMapping]:
    """The enhanced photographs in the order of their rows, with scores, files and verdicts."""
    before, after = aliased(ImageMetric), aliased(ImageMetric)
    same = [
        sa.and_(table.image_id == ProductImage.id, table.batch_key == ProductImage.batch_key)
        for table in (EnhancedImage, ValidatedImage, PublishedEnhancement, before, after)
    ]
    query = (
        sa.select(
            ProductImage.id.label("image_id"),
            ProductImage.image_url,
            ProductImage.qc_status,
            ValidatedImage.object_key.label("original_key"),
            EnhancedImage.object_key,
            PublishedEnhancement.review_reasons,
            before.score.label("before"),
            after.score.label("after"),
        )
        .join(EnhancedImage, same[0])
        .join(ValidatedImage, same[1])
        .join(PublishedEnhancement, same[2])
        .join(before, sa.and_(same[3], before.phase == "before"))
        .join(after, sa.and_(same[4], after.phase == "after"))
        .order_by(ProductImage.id)
    )
    with engine.connect() as connection:
        return list(connection.execute(query).mappings().all())
