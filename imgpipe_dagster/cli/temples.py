"""``imgpipe temple``: sites with categories and a model of their own."""

import functools
import json
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from imgpipe_dagster.catalogue.temple_images import composed
from imgpipe_dagster.cli.common import EXIT_SOME_FAILED, AsJson, err, fail, open_catalogue, out, read_settings
from imgpipe_dagster.cli.progress import count_bar
from imgpipe_dagster.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from imgpipe_dagster.catalogue.temple_models import Champion, Version
    from imgpipe_dagster.imaging.validate import Validator
    from imgpipe_dagster.store.base import ImageStore
    from imgpipe_dagster.temples.logs import TempleLogs
    from imgpipe_dagster.temples.pictures import AddReport
    from imgpipe_dagster.temples.prediction import FileAnswer
    from imgpipe_dagster.temples.training import MadeModel, ModelSettings

app = typer.Typer(help="Sites with categories of their own, and the model that each has.", no_args_is_help=True)


def _composed_if_given(text: str | None) -> str | None:
    return None if text is None else composed(text)


Temple = Annotated[str, typer.Argument(help="The temple's id, as in product_images.temple_id.", callback=composed)]
LEGACY_FILES = ("model_architecture.json", "model_weights.h5", "extra_info.json")


@app.command("add")
def temple_add(
    temple: Annotated[
        str, typer.Argument(help="The temple's id; `common` joins the training of every temple.", callback=composed)
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with a folder of pictures for each category.")
    ],
    split: Annotated[str, typer.Option(help="train, or test: frozen, no model is ever trained on them.")],
    as_json: AsJson = False,
) -> None:
    """Add labelled pictures to a temple. The same again change nothing; what is in training is never in the test.

    Exit status: 0 all are there now, 3 some were refused; a line on standard error says why.

    Example: `imgpipe temple add lakeside pictures/train --split train`
    """
    from imgpipe_dagster.catalogue.tables import TempleImageOrigin, TempleSplit
    from imgpipe_dagster.catalogue.temple_images import COMMON
    from imgpipe_dagster.temple_events import note_temple
    from imgpipe_dagster.temples.pictures import add_files, find_labelled_files

    if split not in list(TempleSplit):
        raise typer.BadParameter(f"{split!r} is no split; there are {', '.join(TempleSplit)}.")
    with _site() as site:
        files, strays = find_labelled_files(folder, max_bytes=site.settings.fetch_max_bytes)
        with site.validator() as validator, count_bar(err, "pictures", len(files)) as moved:
            report = add_files(
                site.engine,
                site.store,
                validator,
                temple,
                TempleSplit(split),
                files,
                origin=TempleImageOrigin.IMPORT,
                on_file=lambda: moved(""),
            )
        report.refused = [*strays, *report.refused]
        if report.added and temple != COMMON:
            note_temple(site.settings, temple)
    _end_of_adding(report, as_json)


@app.command("label")
def temple_label(
    category: Annotated[str, typer.Argument(help="What a person says that the images show.")],
    image_ids: Annotated[list[int], typer.Argument(metavar="IMAGE_ID...", help="Ids of images that have a temple.")],
) -> None:
    """Add images of the catalogue to their temples' training pictures, never to the frozen test.

    Exit status: 0 all are there now, 3 some were refused; a line on standard error says why.

    Example: `imgpipe temple label door_open 4711 4712`
    """
    from imgpipe_dagster.temples.pictures import AddReport, LabelError, Refused, label_image

    total = AddReport()
    with _site() as site, site.validator() as validator:
        for image_id in image_ids:
            try:
                _, report = label_image(site.engine, site.store, validator, image_id, category)
            except LabelError as error:
                total.refused.append(Refused(f"image {image_id}", str(error)))
                continue
            total.added += report.added
            total.known += report.known
            total.refused += report.refused
    _end_of_adding(total, as_json=False)


@app.command("list")
def temple_list(
    temple: Annotated[
        str | None, typer.Argument(help="Show every model of this temple.", callback=_composed_if_given)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the temples with their pictures and champions, or all models of one temple.

    Example: `imgpipe temple list lakeside`
    """
    from imgpipe_dagster.catalogue.temple_images import count_pictures
    from imgpipe_dagster.catalogue.temple_models import champion, versions

    with _site() as site:
        if temple is None:
            _print_temples(_describe_temples(site.engine), as_json)
            return
        serving = champion(site.engine, temple)
        found = versions(site.engine, temple)
        if not found and not count_pictures(site.engine, temple):
            fail(f"There is no temple {temple}: `imgpipe temple add` makes one.")
        damage = None if serving is None else site.damage(temple, serving.version)
    if not found and not as_json:
        advice = f"{temple} has no model yet: imgpipe temple train {shlex.quote(temple)}"
        out.print(advice, markup=False, soft_wrap=True)
        return
    _print_versions([_describe_version(version, serving) for version in found], as_json)
    if serving is not None and not as_json:
        told = f"Serving since {serving.promoted_at:%Y-%m-%d %H:%M} UTC ({serving.promoted_by}): {serving.version}."
        first = any(version.verdict == serving.why for version in found)
        out.print(told if first else f"{told} {serving.why}", markup=False)
    if damage is not None:
        err.print(damage, style="red", markup=False, soft_wrap=True)


@app.command("train")
def temple_train(
    temple: Temple,
    force: Annotated[
        bool, typer.Option("--force", help="Train although it has a model; the better one serves.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model of a temple. It serves if it is not worse than the present one on the frozen test pictures.

    Example: `imgpipe temple train lakeside --force`
    """
    from imgpipe_dagster.models.temple_cnn import EpochFigures, TrainingHooks
    from imgpipe_dagster.temple_events import note_model
    from imgpipe_dagster.temples.training import make_model

    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # frees the temple, as Ctrl-C does
    with _site() as site:
        making = site.making()
        with count_bar(err, "passes", making.settings.options.epochs) as moved:

            def on_epoch(figures: EpochFigures) -> None:
                shown = figures.accuracy if figures.val_accuracy is None else figures.val_accuracy
                moved(f"loss {figures.loss:.3f}, accuracy {shown:.2f}")

            made = make_model(
                site.engine,
                site.store,
                temple,
                making.settings,
                making.logs,
                forceful=force,
                hooks=TrainingHooks(on_epoch),
            )
        note_model(site.settings, made)
    _print_made(made, as_json)


@app.command("promote")
def temple_promote(
    temple: Temple,
    version: Annotated[str, typer.Argument(help="A version or its number; `imgpipe temple list TEMPLE` shows them.")],
    why: Annotated[str, typer.Option(help="Why.")] = "Promoted by hand.",
) -> None:
    """Let a model of a temple serve, whatever it was compared with.

    Example: `imgpipe temple promote lakeside 2 --why "it knows the new gate"`
    """
    from imgpipe_dagster.catalogue.temple_models import promote
    from imgpipe_dagster.temples.training import user_name

    with _site() as site:
        site.usable(temple, version)
        _print_champion(site.engine, promote(site.engine, temple, version, by=user_name(), why=why))


@app.command("rollback")
def temple_rollback(temple: Temple) -> None:
    """Let the model before the present one serve again.

    Example: `imgpipe temple rollback lakeside`
    """
    from imgpipe_dagster.catalogue.temple_models import champion, rollback
    from imgpipe_dagster.temples.training import user_name

    with _site() as site:
        serving = champion(site.engine, temple)
        if serving is not None and serving.previous is not None:
            site.usable(temple, serving.previous)
        _print_champion(site.engine, rollback(site.engine, temple, by=user_name()))


@app.command("predict")
def temple_predict(
    temple: Temple,
    paths: Annotated[list[Path], typer.Argument(metavar="FILE|DIR...", help="Files; of folders, all below.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each file.")] = False,
    target: Annotated[
        Path | None, typer.Option("--sort-into", metavar="OUT", help="Copy each file into a folder of its category.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="A version or its number. Default: the champion.")] = None,
) -> None:
    """Say which category files have. Anomalies are marked, and sorted into a folder `anomalies`.

    Exit status: 0 every file has an answer, 3 some have none; their lines say why.

    Example: `imgpipe temple predict lakeside pictures/today --json --sort-into sorted`
    """
    from imgpipe_dagster.cli.picture_files import files_below
    from imgpipe_dagster.temples.pictures import read_file
    from imgpipe_dagster.temples.prediction import (
        FileToClassify,
        make_sorting_folder,
        predict_files,
        sort_into,
    )
    from imgpipe_dagster.temples.registry import load_classifier

    failed = 0
    with _site() as site, site.validator() as validator:
        logs = site.making().logs
        with logs.noting_errors(f"Prediction of {temple}"):
            classifier = load_classifier(site.engine, site.store, temple, version)
        limit = site.settings.fetch_max_bytes
        files = [
            FileToClassify(str(path), functools.partial(read_file, path, limit))
            for place in paths
            for path in files_below(place, without=target)
        ]
        if not files:
            fail(f"There is no file in {', '.join(map(str, paths))}.")
        if target is not None:
            make_sorting_folder(target)
        for answered in predict_files(classifier, validator, files, logs, temple):
            failed += answered.answer is None
            _print_answer(answered, as_json)
            if target is not None and answered.answer is not None:
                sort_into(target, answered)
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command("import-model")
def temple_import_model(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help=f"A folder that the older system wrote: {', '.join(LEGACY_FILES)}.")
    ],
    temple: Annotated[str | None, typer.Option(help="The temple's id. Default: the folder's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take over a model that the older system trained. It serves if it is not worse than the present one.

    Example: `imgpipe temple import-model models/lakeside`
    """
    from imgpipe_dagster.temple_events import note_model
    from imgpipe_dagster.temples.training import import_model

    with _site() as site:
        architecture, weights, info = ((folder / name).read_bytes() for name in LEGACY_FILES)
        making = site.making()
        made = import_model(
            site.engine,
            site.store,
            temple or folder.resolve().name,
            (architecture, weights, info),
            making.settings,
            making.logs,
        )
        note_model(site.settings, made)
    _print_made(made, as_json)


@dataclass(frozen=True)
class _Making:
    settings: "ModelSettings"
    logs: "TempleLogs"


@dataclass(frozen=True)
class _Site:
    settings: Settings
    engine: "Engine"
    store: "ImageStore"

    def making(self) -> _Making:
        from imgpipe_dagster.resources.temple_trainer import temple_trainer

        trainer = temple_trainer(self.settings)
        return _Making(trainer.settings, trainer.logs)

    def validator(self) -> "Validator":
        from imgpipe_dagster.build import build_resources

        return build_resources(self.settings)["image_validator"].open()

    def damage(self, temple: str, version: str) -> str | None:
        """What is wrong with the files of a version, or None."""
        from imgpipe_dagster.models.temple_classifier import ModelFileError
        from imgpipe_dagster.temples.registry import ModelFileChangedError, load_classifier

        try:
            load_classifier(self.engine, self.store, temple, version)
        except (ModelFileChangedError, ModelFileError) as error:
            return str(error)
        return None

    def usable(self, temple: str, version: str) -> None:
        """Refuse a version of whose files one is damaged."""
        from imgpipe_dagster.temples.registry import load_classifier

        with self.making().logs.noting_errors(f"Promotion of {version} of {temple}"):
            load_classifier(self.engine, self.store, temple, version)


@contextmanager
def _site() -> Iterator[_Site]:
    """What the commands need; what cannot be done ends the command with one clear line."""
    from imgpipe_dagster.build import build_resources
    from imgpipe_dagster.catalogue.temple_images import TempleNameError
    from imgpipe_dagster.catalogue.temple_models import TempleModelError
    from imgpipe_dagster.models.temple_architecture import ArchitectureError
    from imgpipe_dagster.models.temple_classifier import ModelFileError
    from imgpipe_dagster.models.temple_legacy import LegacyModelError
    from imgpipe_dagster.models.temple_training import TrainingError

    settings = read_settings()
    with open_catalogue(current=True) as engine:
        try:
            yield _Site(settings, engine, build_resources(settings)["image_store"].store)
        except (TempleNameError, TempleModelError, TrainingError) as error:
            fail(str(error))
        except (ArchitectureError, LegacyModelError, ModelFileError) as error:
            fail(f"The model cannot be taken: {error}")
        except BrokenPipeError:
            raise  # whoever read the output has gone: Typer ends the command
        except OSError as error:
            _fail_file(error)


def _fail_file(error: OSError) -> NoReturn:
    fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _end_of_adding(report: "AddReport", as_json: bool) -> None:
    if as_json:
        refused = [{"name": refused.name, "why": refused.why} for refused in report.refused]
        typer.echo(json.dumps({"added": report.added, "known": report.known, "refused": refused}))
    else:
        out.print(f"{report.added} pictures added, {report.known} known already, {len(report.refused)} refused.")
        for refused in report.refused:
            err.print(f"{refused.name}: {refused.why}", style="red", markup=False, soft_wrap=True)
    if report.refused:
        raise typer.Exit(EXIT_SOME_FAILED)


def _describe_temples(engine: "Engine") -> list[dict[str, Any]]:
    from imgpipe_dagster.catalogue.tables import TempleSplit
    from imgpipe_dagster.catalogue.temple_images import count_pictures, temple_ids
    from imgpipe_dagster.catalogue.temple_models import champions, get_version
    from imgpipe_dagster.temples.registry import doubt_about_version

    pictures, serving = count_pictures(engine), champions(engine)
    rows: list[dict[str, Any]] = []
    for temple in sorted({*temple_ids(engine), *pictures}):
        counts = pictures.get(temple, {})
        found = serving.get(temple)
        version = get_version(engine, temple, found.version) if found else None
        rows.append(
            {
                "temple_id": temple,
                "train": counts.get(TempleSplit.TRAIN, {}),
                "test": counts.get(TempleSplit.TEST, {}),
                "champion": version.version if version else None,
                **{name: version.metrics.get(name) if version else None for name in _RATES},
                "doubt": doubt_about_version(version) if version else None,
                "promoted_at": found.promoted_at.isoformat(timespec="seconds") if found else None,
            }
        )
    return rows


_RATES = ("accuracy", "false_alarm_rate", "unknown_flagged_rate")


def _print_temples(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        out.print("There is no temple yet: imgpipe temple add TEMPLE DIR --split train")
        return
    table = Table(box=None)
    table.add_column("Temple", overflow="fold")
    for name in ("train", "test", "champion", "accuracy", "false\nalarms", "unknown\nflagged"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        told = [_told(row[split]) for split in ("train", "test")]
        rates = (_percent(row[name]) for name in _RATES)
        table.add_row(escape(row["temple_id"]), *told, row["champion"] or "none", *rates)
    out.print(table)
    for row in rows:
        if row["doubt"]:
            out.print(f"{row['temple_id']}: {row['doubt']}", style="yellow", markup=False)


def _told(counts: dict[str, int]) -> str:
    return f"{sum(counts.values())} in {len(counts)}" if counts else "none"


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.1%}"


def _describe_version(version: "Version", serving: "Champion | None") -> dict[str, Any]:
    from imgpipe_dagster.temples.registry import doubt_about_version

    champion = serving is not None and serving.version == version.version
    return {
        "version": version.version,
        "number": version.number,
        "champion": champion,
        "origin": version.origin.value,
        "labels": version.labels,
        "train_images": version.train_images,
        "test_images": version.test_images,
        **{name: version.metrics.get(name) for name in _RATES},
        "doubt": doubt_about_version(version),
        "verdict": version.verdict,
        "why_champion": serving.why if serving is not None and champion else None,
        "created_at": version.created_at.isoformat(timespec="seconds"),
    }


def _print_versions(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table(box=None)
    for name in ("", "version", "origin", "trained\non", "accuracy", "false\nalarms", "unknown\nflagged"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        mark = "champion" if row["champion"] else ""
        rates = (_percent(row[name]) for name in _RATES)
        table.add_row(mark, row["version"], row["origin"], str(row["train_images"]), *rates)
    out.print(table)
    out.print("When it was made:")
    for row in rows:
        doubt = row["doubt"] or ""
        out.print(
            f"{row['number']}: {row['verdict']} {'' if doubt in row['verdict'] else doubt}".rstrip(), markup=False
        )


def _print_made(made: "MadeModel", as_json: bool) -> None:
    described = {"temple_id": made.version.temple_id, **_describe_version(made.version, None), "champion": made.serves}
    if as_json:
        typer.echo(json.dumps(described))
        return
    report = made.report
    tested = f"{report.correct} of {report.pictures} test pictures right" if report.pictures else "not tested"
    if report.unknown:
        flagged, unknown = (sum(getattr(scenes, name) for scenes in report.unknown) for name in ("flagged", "pictures"))
        tested += f", {flagged} of {unknown} of unknown scenes flagged"
    part = "serves" if made.serves else "is a challenger"
    told = f"{made.version.temple_id}: model {made.version.version} {part}; {tested}. {made.version.verdict}"
    out.print(told, markup=False, soft_wrap=True)
    if made.unreadable:
        err.print(f"{len(made.unreadable)} pictures could not be read and took no part:", style="red")
        for refused in made.unreadable:
            err.print(f"{refused.name}: {refused.why}", style="red", markup=False, soft_wrap=True)


def _print_champion(engine: "Engine", champion: "Champion") -> None:
    from imgpipe_dagster.catalogue.temple_models import get_version
    from imgpipe_dagster.temples.registry import doubt_about_version

    told = f"{champion.temple_id}: model {champion.version} serves from now on. {champion.why}"
    out.print(told, markup=False, soft_wrap=True)
    doubt = doubt_about_version(get_version(engine, champion.temple_id, champion.version))
    if doubt:
        err.print(doubt, style="yellow", markup=False, soft_wrap=True)


def _print_answer(answered: "FileAnswer", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answered.as_dict()))
        return
    answer = answered.answer
    if answer is None:
        err.print(f"{answered.file}: {answered.error}", style="red", markup=False, soft_wrap=True)
        return
    mark = " (anomaly)" if answer.anomaly else ""
    told = f"{answered.file}: {answer.image_class} {answer.class_confidence:.3f}{mark}"
    out.print(told, markup=False, soft_wrap=True)
