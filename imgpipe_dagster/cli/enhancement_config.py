"""``imgpipe enhancement-config``: how the images of a product group or a SKU are enhanced."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgpipe_dagster.cli.common import AsJson, open_catalogue, out, read_settings

if TYPE_CHECKING:
    from imgpipe_dagster.catalogue.enhancement_configs import Scope

app = typer.Typer(help="How the images of a product group or a SKU are enhanced.", no_args_is_help=True)

Sku = Annotated[str | None, typer.Option(help="Of this SKU.")]
Group = Annotated[str | None, typer.Option(help="Of this product group.")]


@app.command("set")
def set_config(
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="Settings, such as mode=full.")],
    sku: Sku = None,
    group: Group = None,
    as_json: AsJson = False,
) -> None:
    """Set how the images of a SKU or a product group are enhanced; other settings of it stay.

    Settings are mode, steps (with commas), background, method, rembg_model, min_dimension, upscale_factor, aspect,
    margin, light, denoise, sharpen, target_kb, output, profile and custom_rules (a JSON object). A SKU's win over
    those of its group, and these over the installation's. They count from the next enhancement on.

    Example: `imgpipe enhancement-config set --sku SKU-42 mode=full background=#F4F4F4 target_kb=300`
    """
    from imgpipe_dagster.catalogue.enhancement_configs import UnknownProductError, change_settings

    scope, name = _product(sku, group)
    with open_catalogue(current=True) as engine:
        try:
            kept = change_settings(engine, scope, name, put=dict(map(_read, values)))
        except (UnknownProductError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error
    _tell(f"{scope} {name}", dict(kept.settings), as_json=as_json)


@app.command("unset")
def unset_config(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Settings; without, all of them.")
    ] = None,
    sku: Sku = None,
    group: Group = None,
    as_json: AsJson = False,
) -> None:
    """Take settings of a SKU or a product group away: those of its group, or the installation's, count again.

    Example: `imgpipe enhancement-config unset --sku SKU-42 background`
    """
    from imgpipe_dagster.catalogue.enhancement_configs import UnknownProductError, change_settings, remove_settings

    scope, name = _product(sku, group)
    with open_catalogue(current=True) as engine:
        if not names:
            remove_settings(engine, scope, name)
            _tell(f"{scope} {name}", {}, as_json=as_json)
            return
        try:
            kept = change_settings(engine, scope, name, put={}, remove=names)
        except (UnknownProductError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error
    _tell(f"{scope} {name}", dict(kept.settings), as_json=as_json)


@app.command("show")
def show_config(sku: Sku = None, group: Group = None, as_json: AsJson = False) -> None:
    """Show what all SKUs and product groups have set, or with which settings one of them is enhanced.

    Example: `imgpipe enhancement-config show --sku SKU-42`
    """
    from imgpipe_dagster.build import build_resources
    from imgpipe_dagster.catalogue.enhancement_configs import UnknownProductError, effective_config, stored_settings

    with open_catalogue(current=True) as engine:
        if sku is None and group is None:
            stored = stored_settings(engine)
            if as_json:
                typer.echo(json.dumps([{"for": str(s.scope), "name": s.name, **s.settings} for s in stored]))
                return
            for settings in stored:
                _tell(f"{settings.scope} {settings.name}", dict(settings.settings), as_json=False)
            if not stored:
                out.print("No SKU and no product group has settings of its own.")
            return
        scope, name = _product(sku, group)
        defaults = build_resources(read_settings())["enhancer"].defaults()
        try:
            config = effective_config(engine, scope, name, defaults)
        except (UnknownProductError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error
    _tell(f"{scope} {name}", config.as_mapping(), as_json=as_json)


def _product(sku: str | None, group: str | None) -> "tuple[Scope, str]":
    from imgpipe_dagster.catalogue.enhancement_configs import Scope

    if sku is not None and group is None:
        return Scope.SKU, sku
    if group is not None and sku is None:
        return Scope.GROUP, group
    raise typer.BadParameter("Say whose settings they are: --sku SKU or --group GROUP.")


def _read(text: str) -> tuple[str, Any]:
    """A setting and its value: a number or an object as in JSON, steps with commas, anything else as it stands."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE, such as mode=full.")
    if name == "steps":
        return name, [step.strip() for step in value.split(",")]
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _tell(what: str, settings: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(settings))
        return
    told = ", ".join(f"{name}={_written(value)}" for name, value in settings.items()) or "nothing of its own"
    out.print(f"{what}: {told}", soft_wrap=True, markup=False)


def _written(value: object) -> str:
    return (
        ",".join(map(str, value)) if isinstance(value, list) else value if isinstance(value, str) else json.dumps(value)
    )
