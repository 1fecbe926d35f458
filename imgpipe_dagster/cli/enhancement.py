"""``imgpipe enhance`` and ``imgpipe score``: product pictures on this machine, without the catalogue."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgpipe_dagster.cli.common import EXIT_INTERRUPTED, EXIT_SOME_FAILED, app, counted, err, fail, read_settings
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.settings import DEMO_WEIGHTS, Settings

if TYPE_CHECKING:
    from imgpipe_dagster.imaging.background import Box
    from imgpipe_dagster.imaging.enhance import Enhanced
    from imgpipe_dagster.imaging.modes import EnhancementConfig
    from imgpipe_dagster.imaging.quality import Quality

Line = dict[str, Any]
BoxFinder = Callable[[bytes], "Sequence[Box]"]

_FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
_OTHER_FORMATS = {".tif", ".tiff", ".gif", ".bmp", ".heic", ".avif", ".jp2", ".jxl", ".pdf", ".svg"}

AsJsonLines = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each file instead of text.")]
Detect = Annotated[
    bool | None,
    typer.Option(
        "--detect/--no-detect",
        help="Take the detector's boxes as the prior for the product. Default: if IMGPIPE_DETECTOR_WEIGHTS is set.",
        show_default=False,
    ),
]


@app.command()
def enhance(
    source: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="A picture, or a folder of them.", exists=True)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A folder; for one picture also a .jpg, .png or .webp file."),
    ],
    mode: Annotated[
        str | None, typer.Option(help="auto (default), full, sharpen, denoise, upscale or optimize.")
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Instead of a mode, steps with commas: denoise, background, light, upscale, sharpen, standardize."
        ),
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="white (default), black, grey, #RRGGBB, transparent or keep.")
    ] = None,
    target_kb: Annotated[
        float | None, typer.Option(help="Largest size of a file in KB. Default: 500, and none for PNG.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="A marketplace's rules to aim at, such as amazon_main.")] = None,
    detect: Detect = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out files whose result is there: goes on where it stopped.")
    ] = False,
    as_json: AsJsonLines = False,
) -> None:
    """Enhance product pictures, and print a line for each: scores, steps, size, or the reason why not.

    What is not asked for is as the settings of this installation say, such as IMGPIPE_BACKGROUND_COLOR.

    Files in a folder keep their relative paths. Without the detector's boxes, products before cluttered backgrounds
    are often not found; they then keep their background and the line says so.

    Exit status: 0 all well, 3 some files were bad, 1 nothing could be done, 130 interrupted.

    Example: `imgpipe enhance photos -o shop --mode full --profile amazon_main --target-kb 500`

    A cut-out of the original size: `imgpipe enhance a.jpg -o cut --steps background --background transparent`
    """
    from imgpipe_dagster.cli.picture_files import files_below, printable, result_paths, write_whole
    from imgpipe_dagster.imaging.enhance import enhance as enhance_picture

    as_file = source.is_file() and output.suffix.lower() in _FORMATS and not output.is_dir()
    if not as_file and output.suffix.lower() in _OTHER_FORMATS and not output.is_dir():
        raise typer.BadParameter(f"{output}: results are written as {', '.join(_FORMATS)}, or into a folder.")
    settings = read_settings()
    config = _config(
        settings,
        mode=mode,
        steps=None if steps is None else [step.strip() for step in steps.split(",")],
        background=background,
        target_kb=target_kb,
        profile=profile,
        output=_FORMATS[output.suffix.lower()] if as_file else None,
    )
    folder = output.parent if as_file else output
    if any(place.is_file() for place in (folder, *folder.parents)):
        raise typer.BadParameter(f"{folder} is a file, and results need a folder.")
    files = files_below(source, without=output)
    try:
        results = result_paths(files, source, folder, config.format.extension)
    except FileExistsError as error:
        raise typer.BadParameter(str(error)) from error
    if as_file:
        results = {source: output}
        if output.exists() and output.samefile(source):
            raise typer.BadParameter(f"{output} is the file to read: choose another place for the result.")
    _make_folder(folder)

    def work(path: Path, data: bytes, boxes: "Sequence[Box]") -> Line:
        done = enhance_picture(data, config, boxes=boxes)
        try:
            write_whole(results[path], done.encoded.data)
        except OSError as error:
            fail(f"{printable(results[path])} cannot be written: {error.strerror}.")
        return _enhanced_line(done, results[path])

    left = [path for path in files if not results[path].exists()] if skip_existing else files
    if len(left) < len(files):
        err.print(f"{counted(len(files) - len(left), 'file has its result', 'files have their results')} already.")
    try:
        _each(settings, left, work, _tell_enhanced, detect=detect, as_json=as_json)
    except KeyboardInterrupt as interrupt:
        err.print("Interrupted; what is written is whole. The same command with --skip-existing goes on.")
        raise typer.Exit(EXIT_INTERRUPTED) from interrupt


@app.command()
def score(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures, or folders of them.", exists=True)],
    detect: Detect = None,
    as_json: AsJsonLines = False,
) -> None:
    """Score product pictures from 0 to 100, higher is better, and print a line for each: score, components, issues.

    The score is the product's, where a product can be told from its background, and else the whole picture's.

    Exit status: 0 all well, 3 some files were bad, 1 nothing could be done.

    Example: `imgpipe score photos/*.jpg --json`
    """
    from imgpipe_dagster.cli.picture_files import files_below
    from imgpipe_dagster.imaging.enhance import judge

    def work(_path: Path, data: bytes, boxes: "Sequence[Box]") -> Line:
        return _quality_line(judge(data, boxes=boxes))

    found = [path for place in files for path in files_below(place)]
    _each(read_settings(), found, work, _tell_score, detect=detect, as_json=as_json)


def _make_folder(folder: Path) -> None:
    """Make the folder for results now: that it cannot be written to is not to come out after the work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{folder} cannot be made: {error.strerror}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"{folder} cannot be written to.")


def _config(settings: Settings, **values: Any) -> "EnhancementConfig":  # noqa: ANN401 - each is checked there
    from imgpipe_dagster.configured import enhancement_defaults

    if values["mode"] and values["steps"]:
        raise typer.BadParameter("--mode names a plan of steps, and --steps are one: give one of the two.")
    try:
        return enhancement_defaults(settings).layered(values)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _each(
    settings: Settings,
    files: Sequence[Path],
    work: "Callable[[Path, bytes, Sequence[Box]], Line]",
    tell: Callable[[Line], str],
    *,
    detect: bool | None,
    as_json: bool,
) -> None:
    """Work on every file, print a line for each in their order, and end with the exit status that fits."""
    from imgpipe_dagster.cli.picture_files import TrustedFiles, printable, work_in_order
    from imgpipe_dagster.cli.progress import file_bar

    reasons: Counter[str] = Counter()
    with (
        _box_finder(settings, detect) as find_boxes,
        TrustedFiles(settings) as trusted,
        file_bar(err, len(files)) as print_line,
    ):

        def look(path: Path) -> Line:
            name = printable(path)
            try:
                data = trusted.read(path)
                return {"file": name, **work(path, data, find_boxes(data))}
            except DecodeError as error:
                return {"file": name, "reason": error.reason.value, "detail": error.detail}

        for line in work_in_order(look, files):
            if "reason" in line:
                reasons[line["reason"]] += 1
            print_line(json.dumps(line) if as_json else _readable(line, tell))
    bad = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    err.print(f"{len(files)} files, {reasons.total()} bad{f' ({bad})' if bad else ''}.", soft_wrap=True)
    if reasons:
        raise typer.Exit(EXIT_SOME_FAILED)


@contextmanager
def _box_finder(settings: Settings, detect: bool | None) -> Iterator[BoxFinder]:
    """What finds the boxes in a file: the detector, or nothing.

    The demo weights know rendered shelves only and would mislead elsewhere: unasked, only other weights are taken.
    """
    if not (settings.detector_weights != str(DEMO_WEIGHTS) if detect is None else detect):
        yield lambda _data: ()
        return
    from imgpipe_dagster.build import build_resources
    from imgpipe_dagster.imaging.decode import decode_bgr
    from imgpipe_dagster.models.weights import WeightsError

    with ExitStack() as stack:
        try:
            detector = stack.enter_context(build_resources(settings)["detector"].open())
        except (WeightsError, ValueError) as error:
            fail(f"{error} To do without the detector: --no-detect")
        yield lambda data: detector.detect(decode_bgr(data)).xyxy.tolist()


def _quality_line(quality: "Quality") -> Line:
    components = {name: round(value, 3) for name, value in asdict(quality.components).items()}
    return {"score": round(quality.score, 1), "components": components, "issues": list(quality.issues)}


def _enhanced_line(done: "Enhanced", path: Path) -> Line:
    from imgpipe_dagster.cli.picture_files import printable

    return {
        "output": printable(path),
        "before": _quality_line(done.before),
        "after": _quality_line(done.after),
        "steps": [{"step": planned.step, "why": planned.why} for planned in done.steps],
        "background_replaced": done.background_replaced,
        "width": done.size[0],
        "height": done.size[1],
        "bytes": len(done.encoded.data),
        "format": done.encoded.format,
        "encoder_quality": done.encoded.quality,
        "failed_rules": [
            {"rule": rule.rule, "value": rule.value, "wanted": rule.wanted} for rule in done.rules if not rule.passed
        ],
        "review_reasons": list(done.review_reasons),
    }


def _readable(line: Line, tell: Callable[[Line], str]) -> str:
    return f"{line['file']}: " + (f"{line['reason']} ({line['detail']})" if "reason" in line else tell(line))


def _tell_enhanced(line: Line) -> str:
    steps = ", ".join(step["step"] for step in line["steps"]) or "nothing to mend"
    told = f"{line['before']['score']:.0f} → {line['after']['score']:.0f}, {steps}; {line['output']}, "
    told += f"{line['width']} by {line['height']} px, {line['bytes'] / 1024:.0f} KB"
    return told + (f"; to review: {', '.join(line['review_reasons'])}" if line["review_reasons"] else "")


def _tell_score(line: Line) -> str:
    parts = ", ".join(f"{name} {value:.2f}" for name, value in line["components"].items())
    return f"{line['score']:.0f} ({parts})" + (f"; {', '.join(line['issues'])}" if line["issues"] else "")
