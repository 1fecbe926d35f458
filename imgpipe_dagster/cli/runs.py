"""``imgpipe run``, ``status`` and ``retry``: processing what waits, without a daemon."""

import json
import math
import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from imgpipe_dagster.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    AsJson,
    app,
    counts_table,
    err,
    fail,
    open_catalogue,
    out,
    read_settings,
    reasons_table,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from imgpipe_dagster.runner import JobOutcome


@app.command()
def run(
    once: Annotated[bool, typer.Option("--once", help="Process all that waits, then end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Claim and process all waiting images without a daemon, through the same Dagster jobs.

    First every image gets its prediction, then those that have a SKU are enhanced. Enhancements that clients asked the
    API for are done as well.

    Exit status: 0 all well, 3 some images or an enhancement failed, 1 nothing could be done, 130 interrupted.

    Example: `imgpipe run --once --json`
    """
    if not once:
        raise typer.BadParameter("Give --once. To go on for ever, run `dagster dev -w workspace.yaml`.")
    from imgpipe_dagster.cli.progress import stage_bars
    from imgpipe_dagster.doctor import check_weights
    from imgpipe_dagster.runner import InterruptedRunError, run_pending

    settings = read_settings()
    for weights in check_weights(settings):
        if not weights.ok:
            fail(f"{weights.found} {weights.advice}")  # before anything is claimed
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGINT))  # a lost terminal is an interruption
    with open_catalogue(current=True) as engine, stage_bars(err) as on_job:
        try:
            outcomes = run_pending(settings, engine, on_job)
        except InterruptedRunError as error:
            err.print(str(error))
            raise typer.Exit(EXIT_INTERRUPTED) from error
        summary = _run_summary(engine, outcomes)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        _print_run(summary)
    if summary["failed"] or summary["errors"]:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show how many images wait, are processed and failed, and why.

    Example: `imgpipe status --json`
    """
    from imgpipe_dagster.alerts.watch import human_duration
    from imgpipe_dagster.catalogue.batches import longest_wait_s
    from imgpipe_dagster.catalogue.images import (
        count_batches_by_state,
        count_by_qc_status,
        count_by_reason,
        count_by_status,
        last_prediction_age_s,
    )
    from imgpipe_dagster.catalogue.tables import QcStatus

    with open_catalogue(current=True) as engine:
        longest = longest_wait_s(engine)
        found = {
            "images": count_by_status(engine),
            "failed_by_reason": count_by_reason(engine),
            "batches": count_batches_by_state(engine),
            "review": count_by_qc_status(engine),
            "oldest_wait_s": round(longest, 1) if longest is not None and math.isfinite(longest) else None,
            "last_prediction_age_s": last_prediction_age_s(engine),
        }
    if as_json:
        typer.echo(json.dumps(found))
        return
    if not found["images"]:
        out.print("No image is known yet. Bring some in: imgpipe import csv FILE, ingest FOLDER or poll.")
        return
    out.print(counts_table("Images", found["images"]))
    if found["batches"]:
        out.print(counts_table("Batches", found["batches"]))
    reviewed = {name: count for name, count in found["review"].items() if name != QcStatus.PENDING}
    if reviewed:
        out.print(counts_table("Enhanced pictures, by review", reviewed))
    if found["failed_by_reason"]:
        out.print(reasons_table(found["failed_by_reason"]))
    out.print("No image waits." if longest is None else f"The oldest has waited for {human_duration(longest)}.")
    age = found["last_prediction_age_s"]
    out.print("No answer yet." if age is None else f"Newest first answer: {human_duration(age)} ago.")


@app.command()
def retry(
    reason: Annotated[str | None, typer.Option(help="Only images that failed with this reason code.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only images of this batch.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=5000, help="Size of the new batches; small ones find a culprit.")
    ] = None,
) -> None:
    """Put failed images back to be processed again, and those of batches that are held.

    A batch whose enhancement failed or is held is enhanced again; its images keep their answers.

    Example: `imgpipe retry --batch 20261120-000042 --batch-size 10`
    """
    from imgpipe_dagster.catalogue.batches import BatchBusyError, retry_enhancement, retry_images
    from imgpipe_dagster.reasons import Reason

    if reason is not None and reason not in list(Reason):
        raise typer.BadParameter(f"{reason!r} is no reason code; there are {', '.join(Reason)}.")
    with open_catalogue(current=True) as engine:
        try:
            count = retry_images(engine, reason=reason, batch_key=batch, batch_size=batch_size)
            enhancements = retry_enhancement(engine, batch_key=batch) if reason is None else 0
        except KeyError as error:
            raise typer.BadParameter(f"There is no batch {batch}.") from error
        except BatchBusyError as error:
            fail(str(error))
    out.print(f"{count} images will be processed again.")
    if enhancements:
        out.print(f"{enhancements} batches will be enhanced again.")


def _run_summary(engine: "Engine", outcomes: "list[JobOutcome]") -> dict[str, Any]:
    from imgpipe_dagster.catalogue.images import summarize_batches

    keys = list(dict.fromkeys(outcome.key for outcome in outcomes))
    summary = summarize_batches(engine, keys)
    analysed = [outcome for outcome in outcomes if outcome.job == "analyse"]
    seconds = sum(outcome.seconds for outcome in analysed)
    images = sum(outcome.images for outcome in analysed)
    return {
        "batches": len(keys),
        **summary,
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 2),
        "images_per_second": round(images / seconds, 1) if seconds else 0.0,
        "errors": {outcome.key: outcome.error for outcome in outcomes if outcome.error},
    }


def _print_run(summary: dict[str, Any]) -> None:
    if not summary["batches"]:
        out.print("Nothing waits.")
        return
    table = Table("", "", box=None, show_header=False)
    counts = ("batches", "images", "completed", "failed", "objects", "enhanced", "auto_approved", "needs_review")
    for name in (*counts, "seconds", "images_per_second"):
        table.add_row(name.replace("_", " "), str(summary[name]))
    out.print(table)
    if summary["rejected_by_reason"]:
        out.print(reasons_table(summary["rejected_by_reason"]))
        out.print("Mended? imgpipe retry --reason CODE, then imgpipe run --once")
    if summary["objects_by_class"]:
        out.print(counts_table("Boxes, by class", summary["objects_by_class"]))
    for title, name in (("Images, by bottle status", "images_by_status"), ("Bottles in them", "bottles_by_status")):
        if summary[name]:
            out.print(counts_table(title, summary[name]))
    for key, error in summary["errors"].items():
        err.print(f"Batch {key}: {error}", markup=False, soft_wrap=True)
