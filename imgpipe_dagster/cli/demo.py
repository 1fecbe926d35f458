"""``imgpipe demo``: the whole pipeline on rendered images."""

from typing import Annotated

import typer

from imgpipe_dagster.cli.common import app, err, out


@app.command()
def demo(
    images: Annotated[int, typer.Option(min=10, help="How many demo images.")] = 120,
) -> None:
    """Run the whole pipeline on rendered images from a local CDN, apart from your own data.

    Example: `imgpipe demo`
    """
    from imgpipe_dagster.demo.show import run_demo

    raise typer.Exit(run_demo(images, out, err))
