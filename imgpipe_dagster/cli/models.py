"""``imgpipe models``: weights for the detector."""

from typing import Annotated

import typer

from imgpipe_dagster.cli.common import fail, out, read_settings

app = typer.Typer(help="Weights for the detector.", no_args_is_help=True)


@app.command("download")
def models_download(
    name: Annotated[str, typer.Argument(help="A name of Ultralytics' weights, such as yolo11n.pt.")],
    sha256: Annotated[str | None, typer.Option(help="Refuse the file if its SHA-256 is another.")] = None,
) -> None:
    """Download weights through Ultralytics into the home folder, and say how to use them.

    Example: `imgpipe models download yolo11n.pt`
    """
    from imgpipe_dagster.models.weights import WeightsError, find_weights, sha256_of

    try:
        path = find_weights(name, read_settings().home / "models")
    except WeightsError as error:
        fail(str(error))
    digest = sha256_of(path)
    if sha256 not in (None, digest):
        fail(f"{path} has the SHA-256 {digest}, not {sha256}: it is not used.")
    out.print(f"IMGPIPE_DETECTOR_WEIGHTS={path}\nIMGPIPE_DETECTOR_SHA256={digest}", soft_wrap=True)
