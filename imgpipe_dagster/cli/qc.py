"""``imgpipe qc``: human review of enhanced pictures."""

import csv
import getpass
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from imgpipe_dagster.cli.common import EXIT_SOME_FAILED, AsJson, counts_table, err, open_catalogue, out, read_settings

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from imgpipe_dagster.catalogue.qc import Decision, ReviewItem, ReviewLimits
    from imgpipe_dagster.store.base import ImageStore

app = typer.Typer(help="Review enhanced pictures: approve or reject what waits.", no_args_is_help=True)

ImageIds = Annotated[list[int], typer.Argument(metavar="IMAGE_ID...", help="Ids of images.")]
Reviewer = Annotated[str | None, typer.Option(help="Who decides. Default: the name of this login.", show_default=False)]
Notes = Annotated[str | None, typer.Option(help="Anything worth keeping.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each picture instead of text.")]

_NOTHING = "Nothing waits for a review."


@app.command("list")
def qc_list(
    at_most: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Pictures to show.")] = 20,
    after: Annotated[str | None, typer.Option(help="The cursor of the last picture of the page before.")] = None,
    reviewer: Annotated[str | None, typer.Option(help="Without what others than this reviewer have claimed.")] = None,
    as_json: AsJsonLines = False,
) -> None:
    """Show the pictures that wait, the most urgent first: uncertain scores and valuable products.

    Example: `imgpipe qc list --limit 5 --json`
    """
    from imgpipe_dagster.catalogue.qc import pending_reviews

    with _review() as review:
        cursor = None if after is None else _read_cursor(after)
        items = pending_reviews(review.engine, limits=review.limits, after=cursor, reviewer=reviewer, at_most=at_most)
    _print_items(items, review.store, as_json)


@app.command("claim")
def qc_claim(
    image_ids: Annotated[
        list[int] | None, typer.Argument(metavar="[IMAGE_ID...]", help="Ids of images; without, the most urgent ones.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="Without ids: how many.")] = 1,
    reviewer: Reviewer = None,
    as_json: AsJsonLines = False,
) -> None:
    """Claim pictures, so that nobody else decides on them: for ten minutes (IMGPIPE_REVIEW_CLAIM_MINUTES).

    Exit status: 0 all claimed, 3 some could not be.

    Example: `imgpipe qc claim --count 5`
    """
    from imgpipe_dagster.catalogue.qc import claim_review, claim_reviews

    name = _name(reviewer)
    items: list[ReviewItem] = []
    with _review() as review:
        if not image_ids:
            items = claim_reviews(review.engine, reviewer=name, limits=review.limits, count=count)
        refused = _for_each(
            image_ids or [],
            lambda image_id: items.append(claim_review(review.engine, image_id, reviewer=name, limits=review.limits)),
        )
        if items or not refused:  # what was refused does wait, for somebody else
            _print_items(items, review.store, as_json)
    _end(refused)


@app.command("release")
def qc_release(image_ids: ImageIds, reviewer: Reviewer = None) -> None:
    """Give claims back, so that others can decide.

    Example: `imgpipe qc release 4711`
    """
    from imgpipe_dagster.catalogue.qc import release_review

    name = _name(reviewer)
    with _review() as review:
        for image_id in image_ids:
            released = release_review(review.engine, image_id, reviewer=name)
            out.print(f"{image_id}: {'released' if released else f'it is not claimed by {name}'}", soft_wrap=True)


@app.command("approve")
def qc_approve(
    image_ids: ImageIds, reviewer: Reviewer = None, notes: Notes = None, as_json: AsJsonLines = False
) -> None:
    """Approve pictures that wait: from now on they have an enhanced_image_url.

    Exit status: 0 all approved, 3 some could not be; a line on standard error says why.

    Example: `imgpipe qc approve 4711 4712 --notes "as in the catalogue"`
    """
    from imgpipe_dagster.catalogue.qc import approve

    name = _name(reviewer)
    with _review() as review:

        def decide(image_id: int) -> None:
            decision = approve(
                review.engine, image_id, reviewer=name, url_of=review.store.open_url, limits=review.limits, notes=notes
            )
            _print_decision(decision, as_json)

        refused = _for_each(image_ids, decide)
    _end(refused)


@app.command("reject")
def qc_reject(
    image_ids: ImageIds,
    reason: Annotated[str, typer.Option(help="What is wrong: it selects other settings. See `imgpipe qc reasons`.")],
    reviewer: Reviewer = None,
    notes: Notes = None,
    withdraw: Annotated[bool, typer.Option(help="Reject pictures that are approved already.")] = False,
    as_json: AsJsonLines = False,
) -> None:
    """Reject pictures: each is enhanced again with the settings that the reason selects, at most twice.

    Exit status: 0 all rejected, 3 some could not be; a line on standard error says why.

    Example: `imgpipe qc reject 4711 --reason too_dark`
    """
    from imgpipe_dagster.catalogue.qc import reject
    from imgpipe_dagster.imaging.background import available_methods
    from imgpipe_dagster.imaging.rework import RejectionReason

    if reason not in list(RejectionReason):
        raise typer.BadParameter(f"{reason!r} is no reason; there are {', '.join(RejectionReason)}.")
    name = _name(reviewer)
    with _review() as review:

        def decide(image_id: int) -> None:
            decision = reject(
                review.engine,
                image_id,
                reviewer=name,
                reason=RejectionReason(reason),
                limits=review.limits,
                notes=notes,
                withdraw=withdraw,
                methods=available_methods(),
            )
            _print_decision(decision, as_json)

        refused = _for_each(image_ids, decide)
    _end(refused)


@app.command("undo")
def qc_undo(image_ids: ImageIds, reviewer: Reviewer = None, as_json: AsJsonLines = False) -> None:
    """Take your own last decision back, within ten seconds (IMGPIPE_REVIEW_UNDO_S).

    Example: `imgpipe qc undo 4711`
    """
    from imgpipe_dagster.catalogue.qc import undo

    name = _name(reviewer)
    with _review() as review:

        def take_back(image_id: int) -> None:
            _print_decision(undo(review.engine, image_id, reviewer=name, limits=review.limits), as_json)

        refused = _for_each(image_ids, take_back)
    _end(refused)


@app.command("reasons")
def qc_reasons(as_json: AsJson = False) -> None:
    """List the reasons for a rejection, and what each changes.

    Example: `imgpipe qc reasons`
    """
    from imgpipe_dagster.imaging.rework import RejectionReason

    if as_json:
        typer.echo(json.dumps({reason: reason.meaning for reason in RejectionReason}))
        return
    table = Table("reason", "what is wrong: what is tried next", box=None)
    for reason in RejectionReason:
        table.add_row(reason, reason.meaning)
    out.print(table)


@app.command("stats")
def qc_stats(
    days: Annotated[float, typer.Option(min=0, help="Decisions of so many days.")] = 30, as_json: AsJson = False
) -> None:
    """Show what was decided: by whom, how fast, why rejected, and how often the audit agrees with the score.

    Example: `imgpipe qc stats --days 7 --json`
    """
    from imgpipe_dagster.catalogue.qc_reports import review_figures

    with open_catalogue(current=True) as engine:
        figures = review_figures(engine, days=days)
    if as_json:
        typer.echo(json.dumps(figures))
        return
    out.print(counts_table("Pictures", figures["images"]))
    table = Table("Reviewer", "decisions", "approved", "reworked", "rejected", "seconds each", "audit agrees", box=None)
    for row in (*figures["reviewers"], {**figures, "reviewer_id": "all"}):
        names = ("reviewer_id", "decisions", "approved", "reworked", "rejected", "mean_seconds")
        agreement = row["audit"]["agreement"]
        cells = [str(row[name]) if row[name] is not None else "" for name in names]
        table.add_row(*cells, "" if agreement is None else f"{agreement:.0%} of {row['audit']['decided']}")
    out.print(table)
    if figures["rejection_reasons"]:
        out.print(counts_table("Rejected, by reason", figures["rejection_reasons"]))


@app.command("export")
def qc_export(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; without, it is printed.")] = None,
    file_format: Annotated[str, typer.Option("--format", help="csv, or json for a line of JSON each.")] = "csv",
) -> None:
    """Write every picture that may be published, with its URL: approved by a person or without one.

    Example: `imgpipe qc export --format csv -o published.csv`
    """
    from imgpipe_dagster.catalogue.qc_reports import PUBLISHED_COLUMNS, published_pictures

    if file_format not in ("csv", "json"):
        raise typer.BadParameter(f"{file_format!r} is no format; there are csv, json.")
    with open_catalogue(current=True) as engine, _writing(output) as file:
        if file_format == "json":
            for row in published_pictures(engine):
                file.write(json.dumps(row) + "\n")
        else:
            writer = csv.DictWriter(file, PUBLISHED_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(published_pictures(engine))


@dataclass(frozen=True)
class _Review:
    engine: "Engine"
    store: "ImageStore"
    limits: "ReviewLimits"


@contextmanager
def _review() -> Iterator[_Review]:
    """What reviewing needs: the catalogue, the store that pictures are in, and the limits that are set."""
    from imgpipe_dagster.build import build_resources
    from imgpipe_dagster.configured import review_limits

    settings = read_settings()
    with open_catalogue(current=True) as engine:
        yield _Review(engine, build_resources(settings)["image_store"].store, review_limits(settings))


def _name(reviewer: str | None) -> str:
    return reviewer or getpass.getuser()


def _read_cursor(text: str) -> tuple[float, int]:
    try:
        priority, image_id = text.split(":")
        return float(priority), int(image_id)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no cursor, such as 1.25:4711.") from error


def _for_each(image_ids: list[int], work: Callable[[int], None]) -> int:
    """Do the work for each image; what cannot be done is told, and counted."""
    from imgpipe_dagster.catalogue.qc import ReviewError

    refused = 0
    for image_id in image_ids:
        try:
            work(image_id)
        except ReviewError as error:
            err.print(str(error), style="red", markup=False, soft_wrap=True)
            refused += 1
    return refused


def _end(refused: int) -> None:
    if refused:
        raise typer.Exit(EXIT_SOME_FAILED)


def _print_items(items: "list[ReviewItem]", store: "ImageStore", as_json: bool) -> None:
    for item in items:
        url = None if item.enhanced_key is None else store.open_url(item.enhanced_key)
        cursor = f"{item.cursor[0]!r}:{item.cursor[1]}"
        if as_json:
            typer.echo(json.dumps({**asdict(item), "enhanced_url": url, "cursor": cursor}))
            continue
        score = "no picture" if item.score is None else f"score {item.score:.0f} (was {item.score_before:.0f})"
        told = [f"{item.image_id}: {item.sku_id or 'no SKU'}", score, ", ".join(item.review_reasons)]
        told += [f"rework {item.rework_count}"] if item.rework_count else []
        told += [f"claimed by {item.claimed_by}"] if item.claimed_by else []
        out.print(*(part for part in (", ".join(filter(None, told)), url) if part), markup=False, soft_wrap=True)
    if not items and not as_json:
        out.print(_NOTHING)


def _print_decision(decision: "Decision", as_json: bool) -> None:
    from imgpipe_dagster.catalogue.tables import QcStatus

    if as_json:
        typer.echo(json.dumps(asdict(decision)))
        return
    match decision.qc_status:
        case QcStatus.PENDING:
            changed = ", ".join(f"{name} {value}" for name, value in (decision.rework or {}).items())
            told = f"rejected; it is enhanced again (rework {decision.rework_count}) with {changed}"
        case QcStatus.REJECTED:
            told = "rejected for good"
        case QcStatus.NEEDS_REVIEW:
            told = "waits again"
        case QcStatus.APPROVED | QcStatus.AUTO_APPROVED:
            told = f"approved: {decision.enhanced_image_url}"
    out.print(f"{decision.image_id}: {told}", markup=False, soft_wrap=True)


@contextmanager
def _writing(output: Path | None) -> Iterator[Any]:
    """A file that is written whole or not at all, or standard output."""
    if output is None:
        yield sys.stdout
        return
    aside = output.with_name(f".{output.name}.part")
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            yield file
        aside.replace(output)
    finally:
        aside.unlink(missing_ok=True)
