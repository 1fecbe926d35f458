"""``imgpipe dashboard``: the pages for people who use the results."""

import signal
import subprocess
from typing import Annotated

import typer

from imgpipe_dagster.cli.common import app, err, open_catalogue, read_settings


@app.command()
def dashboard(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: IMGPIPE_DASHBOARD_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: IMGPIPE_DASHBOARD_PORT.")] = None,
) -> None:
    """Show results, review and try the pipeline in a browser, until SIGTERM or Ctrl-C.

    Example: `imgpipe dashboard --port 8501`
    """
    from imgpipe_dagster.dashboard.launch import LOOPBACK, has_login, streamlit_command, written_secrets

    settings = read_settings()
    with open_catalogue(current=True):
        pass  # what is wrong with it is told here, and not to the first visitor
    host, port = host or settings.dashboard_host, port or settings.dashboard_port
    if not has_login(settings) and host not in (LOOPBACK, "localhost", "::1"):
        err.print(
            "Nobody logs in: only this machine may look, and 127.0.0.1 is listened on. To let others in: set "
            "IMGPIPE_OIDC_ISSUER, IMGPIPE_OIDC_AUDIENCE and IMGPIPE_DASHBOARD_OIDC_CLIENT_SECRET.",
            soft_wrap=True,
        )
        host = LOOPBACK
    with written_secrets(settings, port) as secrets_file:
        server = subprocess.Popen(  # noqa: S603 - the arguments are ours
            streamlit_command(settings, host=host, port=port, secrets_file=secrets_file)
        )
        # Ctrl-C reaches Streamlit by itself; kill reaches this process only, and must be passed on.
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        try:
            status = server.wait()
        except KeyboardInterrupt:
            status = server.wait() and 130
    raise typer.Exit(max(status, 0))
