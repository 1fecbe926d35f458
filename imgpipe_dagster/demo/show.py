"""The demo: rendered files on a local CDN, two temples' models, the jobs over all files, tables and sheets."""

from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.images import count_stages, summarize_batches
from imgpipe_dagster.catalogue.imports import ImportRow, import_rows
from imgpipe_dagster.catalogue.schema import upgrade
from imgpipe_dagster.catalogue.tables import DetectedImage, Detection, ValidatedImage
from imgpipe_dagster.cli.progress import lines_without_terminal, stage_bars
from imgpipe_dagster.demo.alarm import clear_alarm, print_mails, raise_alarm
from imgpipe_dagster.demo.cdn import DemoCdn
from imgpipe_dagster.demo.home import DemoBusyError, demo_home, enter_demo, locked, start_afresh
from imgpipe_dagster.demo.images import DemoFile, write_demo_images, write_files
from imgpipe_dagster.demo.product_files import product_files
from imgpipe_dagster.demo.product_show import add_product_rows, print_products, write_before_after
from imgpipe_dagster.demo.temple_show import add_hall_rows, hall_files, print_temples, train_temples, write_temple_sheet
from imgpipe_dagster.settings import Settings

BATCH_SIZE = 40  # so that a demo has several partitions to look at
SHEET_TILES = 20
TILE_WIDTH = 480


def run_demo(count: int, out: Console, err: Console) -> int:
    """Run the demo with ``count`` images; 0 if every one of them got the answer that it must get, else 1."""
    home = demo_home()
    try:
        with locked(home):
            start_afresh(home)
            return _run(count, enter_demo(home, batch_size=BATCH_SIZE, batch_max_wait_s=0), out, err)
    except DemoBusyError as error:
        err.print(str(error), style="red", soft_wrap=True)
        return 1


def _run(count: int, settings: Settings, out: Console, err: Console) -> int:
    from imgpipe_dagster.runner import run_pending  # Dagster takes a second to import

    engine = connect(settings.catalogue_url)
    upgrade(engine)
    folder = settings.home / "images" / str(count)  # the files of one count have other names than those of another
    with Progress(console=err) as progress, lines_without_terminal(progress):
        products, halls = list(product_files()), list(hall_files())
        task = progress.add_task("rendering images", total=count + len(products) + len(halls))
        files = write_demo_images(folder, count, lambda _file: progress.advance(task))
        write_files(folder, [*products, *halls], lambda _file: progress.advance(task))
    train_temples(settings, engine, err)
    with DemoCdn(folder) as cdn:
        add_rows(engine, [(cdn.url_for(file.name), file) for file in files])
        add_product_rows(engine, cdn, products)
        add_hall_rows(engine, cdn, halls)
        raise_alarm(settings, engine)
        with stage_bars(err) as on_job:
            outcomes = run_pending(settings, engine, on_job)
    clear_alarm(settings, engine)
    keys = list(dict.fromkeys(outcome.key for outcome in outcomes))
    seconds = sum(outcome.seconds for outcome in outcomes if outcome.job == "analyse")
    _print_results(engine, keys, seconds, out)
    print_products(engine, out)
    print_temples(engine, out)
    sheet = write_contact_sheet(settings, engine, settings.home / "contact_sheet.jpg")
    pairs = write_before_after(settings, engine, settings.home / "before_after.jpg")
    halls_sheet = write_temple_sheet(settings, engine, settings.home / "temples.jpg")
    engine.dispose()
    print_mails(settings, out)
    _print_where(settings, sheet, pairs, halls_sheet, out)
    return 0 if all(outcome.succeeded for outcome in outcomes) else 1


def add_rows(engine: Engine, files: list[tuple[str, DemoFile]]) -> None:
    """Bring URLs and what is known of their files into the catalogue."""
    import_rows(
        engine,
        (
            ImportRow(image_url=url, sku_id=file.sku, product_group_id=file.product_group, temple_id=file.temple_id)
            for url, file in files
        ),
    )


def write_contact_sheet(settings: Settings, engine: Engine, path: Path) -> Path:
    """Draw the boxes of some images, those with the most objects among them, as one picture on disk."""
    from imgpipe_dagster.imaging.decode import decode_bgr
    from imgpipe_dagster.imaging.draw import annotated_tile, class_legend, contact_sheet
    from imgpipe_dagster.store.opening import open_store

    store = open_store(settings.effective_store_url)
    chosen = (
        sa.select(ValidatedImage.image_id, ValidatedImage.object_key)
        .join(
            DetectedImage,
            sa.and_(
                DetectedImage.image_id == ValidatedImage.image_id, DetectedImage.batch_key == ValidatedImage.batch_key
            ),
        )
        .where(ValidatedImage.object_key.is_not(None))
        .order_by(DetectedImage.object_count.desc(), ValidatedImage.image_id)
        .limit(SHEET_TILES)
    )
    tiles, names = [], {}
    with engine.connect() as connection:
        for image_id, key in connection.execute(chosen).all():
            boxes = connection.execute(sa.select(Detection).where(Detection.image_id == image_id)).mappings().all()
            image = decode_bgr(store.get(str(key)))
            corners = [[box[side] for side in ("x1", "y1", "x2", "y2")] for box in boxes]
            class_ids = [box["class_id"] for box in boxes]
            size = {"width": TILE_WIDTH, "height": TILE_WIDTH}
            tiles.append(annotated_tile(image, corners, class_ids, label=f"#{image_id}", **size))
            names.update({box["class_id"]: box["class_name"] for box in boxes})
    path.write_bytes(contact_sheet(tiles, legend=class_legend(names), max_bytes=None))
    return path


def _print_results(engine: Engine, batch_keys: list[str], seconds: float, out: Console) -> None:
    summary = summarize_batches(engine, batch_keys)
    table = Table(
        "images",
        str(summary["images"]),
        box=None,
        title="What came out (some files are broken on purpose)",
        title_justify="left",
    )
    for stage, count in count_stages(engine, batch_keys).items():
        table.add_row(stage, str(count))
    table.add_section()
    for reason, count in summary["rejected_by_reason"].items():
        table.add_row(f"rejected: {reason}", str(count))
    table.add_section()
    for name, count in summary["objects_by_class"].items():
        table.add_row(f"boxes: {name}", str(count))
    table.add_section()
    for name, count in summary["images_by_status"].items():
        table.add_row(f"whole images: {name}", str(count))
    for name, count in summary["bottles_by_status"].items():
        table.add_row(f"bottles in them: {name}", str(count))
    table.add_section()
    table.add_row("images/s", f"{summary['images'] / seconds:.1f}")
    out.print(table)


def _print_where(settings: Settings, sheet: Path, pairs: Path, temples: Path, out: Console) -> None:
    table = Table("Where to look", "", box=None)
    table.add_row("annotated pictures", str(sheet))
    table.add_row("products before and after", str(pairs))
    table.add_row("temples today", str(temples))
    table.add_row("reports", str(settings.home / "store" / "metadata"))
    table.add_row("catalogue", str(settings.home / "catalogue.db"))
    table.add_row("with the commands", f"IMGPIPE_HOME={settings.home} imgpipe status")
    table.add_row("in Dagster", "make ui")
    out.print(table, soft_wrap=True)
