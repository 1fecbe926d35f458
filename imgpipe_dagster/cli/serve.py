"""``imgpipe serve``: the HTTP API."""

import logging
from typing import Annotated

import typer

from imgpipe_dagster.cli.common import app, err, open_catalogue, read_settings

LOOPBACK = "127.0.0.1"


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: IMGPIPE_API_HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on. Default: IMGPIPE_API_PORT.")
    ] = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C; requests under way are answered first.

    Example: `imgpipe serve --port 8000`
    """
    from imgpipe_dagster.api.app import create_app
    from imgpipe_dagster.api.server import build_server
    from imgpipe_dagster.api.services import is_closed

    settings = read_settings()
    host = host or settings.api_host
    with open_catalogue(current=True) as engine:
        if is_closed(settings, engine):
            err.print(
                "There is no key, no issuer and no open network: only this machine may call, and 127.0.0.1 is listened "
                "on. To let others in: imgpipe keys create NAME --scope read, then start again.",
                soft_wrap=True,
            )
            host = LOOPBACK
    logging.getLogger("uvicorn").setLevel(settings.log_level)
    port = settings.api_port if port is None else port
    server = build_server(create_app(settings, warm=settings.api_warm), settings, host, port)
    server.run()
    if not server.started:
        err.print("The API did not start.", style="red")
        raise typer.Exit(1)
