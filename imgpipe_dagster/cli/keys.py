"""``imgpipe keys``: who may call the HTTP API."""

import datetime as dt
import json
from typing import Annotated

import typer
from rich.table import Table

from imgpipe_dagster.cli.common import AsJson, fail, open_catalogue, out
from imgpipe_dagster.settings import API_SCOPES

app = typer.Typer(help="Keys to the HTTP API.", no_args_is_help=True)


@app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="A name for the key, used once and never again.")],
    scopes: Annotated[
        list[str], typer.Option("--scope", help=f"What it allows, several times: {', '.join(API_SCOPES)}.")
    ],
    email: Annotated[str | None, typer.Option(help="The user that its requests are logged under.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires. Default: never.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is shown this once: the catalogue keeps only its SHA-256.

    Example: `imgpipe keys create shop --scope read --scope write`
    """
    from imgpipe_dagster.catalogue.api_keys import KeyNameTakenError, create_key

    unknown = sorted(set(scopes) - set(API_SCOPES))
    if unknown:
        raise typer.BadParameter(f"There is no scope {unknown[0]!r}; there are {', '.join(API_SCOPES)}.")
    if not 0 < len(name) <= 100 or len(email or "") > 190:
        raise typer.BadParameter("A name has 1 to 100 characters, an e-mail address at most 190.")
    ordered = [scope for scope in API_SCOPES if scope in scopes]
    with open_catalogue(current=True) as engine:
        try:
            key = create_key(engine, name, ordered, email=email, valid_for=dt.timedelta(days=days) if days else None)
        except KeyNameTakenError as error:
            fail(str(error))
    if as_json:
        out.print_json(json.dumps({"name": name, "scopes": ordered, "key": key}))
    else:
        out.print(f"{key}\nKeep it now: it is not shown again. It allows {', '.join(ordered)}.", soft_wrap=True)


@app.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """Every key there has been, without the keys themselves.

    Example: `imgpipe keys list`
    """
    from imgpipe_dagster.catalogue.api_keys import list_keys

    with open_catalogue(current=True) as engine:
        keys = list_keys(engine)
    if as_json:
        listed = [
            {
                "name": key.name,
                "scopes": key.scopes,
                "active": key.is_active,
                "created_at": _text(key.created_at),
                "expires_at": _text(key.expires_at),
                "last_used_at": _text(key.last_used_at),
                "revoked_at": _text(key.revoked_at),
            }
            for key in keys
        ]
        out.print_json(json.dumps(listed))
        return
    table = Table("Key", "Allows", "Active", "Made", "Last used", box=None)
    for key in keys:
        used = _text(key.last_used_at) or "never"
        table.add_row(key.name, " ".join(key.scopes), "yes" if key.is_active else "no", _text(key.created_at), used)
    out.print(table)


@app.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="The key's name.")]) -> None:
    """Refuse a key from now on; a running API notices within a second.

    Example: `imgpipe keys revoke shop`
    """
    from imgpipe_dagster.catalogue.api_keys import revoke_key

    with open_catalogue(current=True) as engine:
        if not revoke_key(engine, name):
            fail(f"There is no active key {name!r}: see `imgpipe keys list`.")
    out.print(f"The key {name!r} is refused from now on.")


def _text(time: dt.datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%d %H:%M}"
