"""Starting Streamlit with the app: its command line, and the file of secrets that its login reads. No pages."""

import json
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from imgpipe_dagster.settings import Settings

APP = Path(__file__).with_name("app.py")
LOOPBACK = "127.0.0.1"
_DISCOVERY = ".well-known/openid-configuration"
# Streamlit's own red and grey do not stand out enough to be read by everybody (WCAG 2.1, 1.4.3). No colour could be
# read on dark and hold white letters as well: there are no filled buttons.
_THEME = {
    "theme.light.primaryColor": "#1A5FB4",
    "theme.light.textColor": "#111319",
    "theme.dark.primaryColor": "#62A0EA",
    "theme.headingFontSizes": json.dumps(["2.25rem", "1.5rem", "1.25rem"]),
}


def has_login(settings: Settings) -> bool:
    """Whether people log in; without, whoever reaches the port may do everything."""
    return bool(settings.oidc_issuer and settings.oidc_audience and settings.dashboard_oidc_client_secret)


def streamlit_command(settings: Settings, *, host: str, port: int, secrets_file: Path | None) -> list[str]:
    """The command that serves the app.

    Args:
        settings: For the limits and the names under which the dashboard is reached.
        host: Address to listen on.
        port: Port to listen on.
        secrets_file: What `written_secrets` wrote.
    """
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.maxUploadSize": max(1, -(-settings.api_max_upload_bytes // 2**20)),
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",  # a visitor sees no stack trace, whatever happens
        "client.showErrorLinks": "false",  # nor a link that takes its words elsewhere
        "client.toolbarMode": "minimal",
        "runner.magicEnabled": "false",
        **_THEME,
    }
    if secrets_file is not None:
        options["secrets.files"] = str(secrets_file)
    # A web page whose own name points here (DNS rebinding) gives itself away by the name that it asks for.
    hosts = ["localhost", LOOPBACK, host]
    if settings.dashboard_url:
        hosts.append(urlsplit(settings.dashboard_url).hostname or "")
    flags = [f"--{name}={value}" for name, value in options.items()]
    flags += [f"--server.allowedHosts={name}" for name in dict.fromkeys(hosts) if name not in ("", "0.0.0.0", "::")]  # noqa: S104 - no name
    return [sys.executable, "-m", "streamlit", "run", str(APP), *flags]


@contextmanager
def written_secrets(settings: Settings, port: int) -> Iterator[Path | None]:
    """A file that only this user can read, with what Streamlit's login needs; None where nobody logs in.

    Streamlit takes secrets from files only. It is gone at the end.
    """
    if not has_login(settings):
        yield None
        return
    client_secret, cookie = settings.dashboard_oidc_client_secret, settings.dashboard_cookie_secret
    values = {
        "redirect_uri": f"{(settings.dashboard_url or f'http://localhost:{port}').rstrip('/')}/oauth2callback",
        "cookie_secret": cookie.get_secret_value() if cookie else secrets.token_urlsafe(32),
        "client_id": settings.oidc_audience,
        "client_secret": client_secret.get_secret_value() if client_secret else "",
        "server_metadata_url": f"{str(settings.oidc_issuer).rstrip('/')}/{_DISCOVERY}",
    }
    with tempfile.TemporaryDirectory(prefix="imgpipe-") as folder:  # it is made for this user alone
        file = Path(folder) / "secrets.toml"
        # A JSON string is a TOML string as well.
        file.write_text("[auth]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
        yield file
