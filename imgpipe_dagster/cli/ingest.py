"""``imgpipe ingest``: files of a folder into the store, and announced."""

import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgpipe_dagster.cli.common import EXIT_SOME_FAILED, AsJson, app, err, fail, open_catalogue, out, read_settings

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from imgpipe_dagster.settings import Settings
    from imgpipe_dagster.sources.base import Announce
    from imgpipe_dagster.sources.folder import FileReport, FolderSource
    from imgpipe_dagster.sources.settling import Settling
    from imgpipe_dagster.store.base import ImageStore

PATIENCE_S = 60.0
LISTED = 100


@app.command()
def ingest(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with pictures, also below it.")],
    watching: Annotated[bool, typer.Option("--watch", help="Go on with new files until SIGTERM or Ctrl-C.")] = False,
    to_kafka: Annotated[
        bool, typer.Option("--kafka", help="Announce images on the Kafka topic instead of in the catalogue.")
    ] = False,
    moved_to: Annotated[Path | None, typer.Option(help="Folder for files that are done; without, they stay.")] = None,
    rejected: Annotated[
        Path | None, typer.Option(help="Folder for files that cannot be used; without, they stay.")
    ] = None,
    max_side: Annotated[
        int, typer.Option(min=32, help="Larger pictures are made smaller, to this longer side.")
    ] = 1920,
    sku: Annotated[str | None, typer.Option(help="The SKU that all of them show.")] = None,
    temple: Annotated[str | None, typer.Option(help="The site that all of them come from.")] = None,
    as_json: AsJson = False,
) -> None:
    """Bring pictures of a folder into the store as images/frame_XXXXXX.jpg, each content once, and announce them.

    Exit status: 0 all well, 3 some files were rejected.

    Example: `imgpipe ingest new_pics --watch --moved-to done --rejected bad`
    """
    from imgpipe_dagster.cli.picture_files import TrustedFiles, files_below, printable
    from imgpipe_dagster.sources.folder import FolderConfig, FolderSource, Outcome
    from imgpipe_dagster.sources.settling import Settling

    settings = read_settings()
    folder = folder.resolve()
    aside = [place.resolve() for place in (moved_to, rejected) if place is not None]
    if folder in aside:
        raise typer.BadParameter("Done and rejected files need folders of their own.")

    outside: set[Path] = set()

    def counts(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or any(path.is_relative_to(place) for place in aside):
            return False
        if path.resolve().is_relative_to(folder):
            return True
        if path not in outside:
            outside.add(path)
            err.print(f"{printable(path)}: passed over, it leads out of the folder", markup=False, soft_wrap=True)
        return False

    def scan() -> list[Path]:
        return [path for path in files_below(folder) if counts(path)]

    config = FolderConfig(
        max_side=max_side,
        moved_to=moved_to,
        rejected=rejected,
        patience_s=PATIENCE_S if watching else 0,
        sku_id=sku,
        temple_id=temple,
    )
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())  # the files under way are finished
    outcomes: Counter[str] = Counter()
    bad: list[dict[str, str]] = []
    with ExitStack() as stack:
        engine = stack.enter_context(open_catalogue(current=True))
        files = stack.enter_context(TrustedFiles(settings))
        announce = _announcer(settings, engine, to_kafka)
        source = FolderSource(engine, _store(settings), files.read, announce, config)
        line = stack.enter_context(err.status(f"{folder.name}: looking"))
        settling = Settling()
        if watching:
            reports = _watch(source, folder, scan, counts, stopped, settling)
        else:
            reports = source.take(path for path in scan() if not stopped.is_set())
        for report in reports:
            outcomes[report.outcome] += 1
            if report.outcome is Outcome.REJECTED:
                entry = {"file": printable(report.path), "reason": str(report.reason), "detail": report.detail}
                bad = [*bad, entry][:LISTED]
                if not as_json:
                    err.print(f"{entry['file']}: {entry['reason']}: {entry['detail']}", markup=False, soft_wrap=True)
            line.update(f"{folder.name}: {outcomes[Outcome.NEW]} new, {outcomes[Outcome.REJECTED]} rejected")
    counted = {outcome.value: outcomes[outcome] for outcome in (Outcome.NEW, Outcome.KNOWN, Outcome.REJECTED)}
    if as_json:
        typer.echo(json.dumps({**counted, "bad": bad}))
    else:
        out.print(f"{counted['new']} new, {counted['known']} known, {counted['rejected']} rejected.")
    if counted["rejected"] and not watching:
        raise typer.Exit(EXIT_SOME_FAILED)


def _watch(
    source: "FolderSource",
    folder: Path,
    scan: Callable[[], list[Path]],
    counts: Callable[[Path], bool],
    stopped: threading.Event,
    settling: "Settling",
) -> "Iterator[FileReport]":
    from imgpipe_dagster.sources.folder import Outcome
    from imgpipe_dagster.sources.settling import watch

    for whole in watch(folder, scan, counts, stopped.is_set, settling):
        for report in source.take(path for path in whole if not stopped.is_set()):
            if report.outcome is Outcome.FRESH:
                settling.postpone(report.path)
            yield report


def _announcer(settings: "Settings", engine: "Engine", to_kafka: bool) -> "Announce":
    from imgpipe_dagster.polling import kafka_config
    from imgpipe_dagster.sources.folder import announce_rows
    from imgpipe_dagster.sources.kafka import KafkaAnnouncer

    if not to_kafka:
        return announce_rows(engine)
    config = kafka_config(settings)
    if config is None:
        fail("There is no Kafka topic: set IMGPIPE_KAFKA_BOOTSTRAP_SERVERS and IMGPIPE_KAFKA_TOPIC.")
    return KafkaAnnouncer(config)


def _store(settings: "Settings") -> "ImageStore":
    from imgpipe_dagster.build import build_resources

    return build_resources(settings)["image_store"].store
