"""Settings of product groups and SKUs on both databases: who wins, what is refused, and the command that sets them."""

import json

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from imgpipe_dagster.catalogue import schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.enhancement_configs import (
    Scope,
    StoredSettings,
    UnknownProductError,
    change_settings,
    effective_config,
    enhancement_requests,
    remove_settings,
    stored_settings,
)
from imgpipe_dagster.catalogue.tables import EnhancementConfigRow, ProductGroup, ProductImage, Sku
from imgpipe_dagster.cli import app
from imgpipe_dagster.imaging.modes import EnhancementConfig, Mode

DEFAULTS = EnhancementConfig(target_kb=400)


def fill(engine):
    """One group, two SKUs of it, one SKU without a group."""
    with engine.begin() as connection:
        connection.execute(sa.insert(ProductGroup), [{"product_group_id": "pens"}, {"product_group_id": "ink"}])
        connection.execute(
            sa.insert(Sku),
            [
                {"sku_id": "S1", "product_group_id": "pens", "value": 5.5},
                {"sku_id": "S2", "product_group_id": "pens", "value": None},
                {"sku_id": "S3", "product_group_id": None, "value": None},
            ],
        )


@pytest.fixture
def engine(database_url):
    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    fill(engine)
    yield engine
    engine.dispose()


def add(engine, **columns):
    with engine.begin() as connection:
        connection.execute(sa.insert(ProductImage), [{"image_url": "http://cdn/a.jpg", "batch_key": "b", **columns}])


def test_the_more_special_setting_wins_layer_by_layer(engine):
    change_settings(engine, Scope.GROUP, "pens", put={"mode": "full", "background": "#EEEEEE", "target_kb": 200})
    change_settings(engine, Scope.SKU, "S1", put={"background": "#DDDDDD"})
    add(engine, sku_id="S1")
    add(engine, sku_id="S1", enhancement_mode="sharpen")
    add(engine, sku_id="S1", enhancement_mode="sharpen", rework_config={"mode": "denoise", "denoise": 2.0})
    add(engine, sku_id="S2")
    add(engine, sku_id="S3")
    add(engine, sku_id="S3", product_group_id="pens")
    add(engine, sku_id="gone", product_group_id="ink")
    add(engine, sku_id=None, product_group_id="pens")
    requests = enhancement_requests(engine, "b")
    configs = [request.config(DEFAULTS) for request in requests]
    assert [(request.image_id, request.sku_id, request.value) for request in requests] == [
        *((n, "S1", 5.5) for n in (1, 2, 3)),
        (4, "S2", None),
        (5, "S3", None),
        (6, "S3", None),
        (7, "gone", None),
    ]
    assert [(c.mode, c.background, c.target_kb) for c in configs] == [
        (Mode.FULL, "#DDDDDD", 200),
        (Mode.SHARPEN, "#DDDDDD", 200),
        (Mode.DENOISE, "#DDDDDD", 200),
        (Mode.FULL, "#EEEEEE", 200),
        (Mode.AUTO, "white", 400),
        (Mode.FULL, "#EEEEEE", 200),
        (Mode.AUTO, "white", 400),
    ]
    assert configs[2].denoise == 2.0
    assert enhancement_requests(engine, "another") == []


def test_settings_are_put_over_those_that_are_kept_and_taken_away(engine):
    change_settings(engine, Scope.SKU, "S1", put={"mode": "full", "target_kb": 200})
    kept = change_settings(engine, Scope.SKU, "S1", put={"background": "keep"}, remove=["mode"])
    assert kept == StoredSettings(Scope.SKU, "S1", {"target_kb": 200, "background": "keep"})
    change_settings(engine, Scope.GROUP, "pens", put={"profile": "custom", "custom_rules": {"min_fill": 0.9}})
    assert stored_settings(engine) == [
        StoredSettings(Scope.GROUP, "pens", {"profile": "custom", "custom_rules": {"min_fill": 0.9}}),
        kept,
    ]
    config = effective_config(engine, Scope.SKU, "S1", DEFAULTS)
    assert (config.profile, config.background, config.target_kb) == ("custom", "keep", 200)
    png = effective_config(engine, Scope.SKU, "S1", DEFAULTS, put={"background": "transparent", "profile": None})
    assert (png.background, png.target_kb, png.profile) == ("transparent", 200, "custom")
    change_settings(engine, Scope.SKU, "S1", put={}, remove=["target_kb", "background"])
    assert effective_config(engine, Scope.SKU, "S1", DEFAULTS, put={"background": "transparent"}).target_kb is None
    assert [stored.name for stored in stored_settings(engine)] == ["pens"], "nothing is left of it"
    assert (remove_settings(engine, Scope.GROUP, "pens"), remove_settings(engine, Scope.GROUP, "pens")) == (True, False)
    assert effective_config(engine, Scope.GROUP, "pens", DEFAULTS) == DEFAULTS


@pytest.mark.parametrize(
    ("scope", "name", "put", "error", "message"),
    [
        (Scope.SKU, "S9", {"mode": "full"}, UnknownProductError, "There is no SKU 'S9'"),
        (Scope.GROUP, "pins", {"mode": "full"}, UnknownProductError, "There is no product group 'pins'"),
        (Scope.SKU, "S1", {"mode": "magic"}, ValueError, "use one of auto, full, sharpen, denoise, upscale, optimize"),
        (Scope.SKU, "S1", {"colour": "white"}, ValueError, "Unknown setting colour: use aspect, background, "),
        (Scope.SKU, "S1", {"background": "whyte"}, ValueError, "white, transparent or keep"),
        (Scope.SKU, "S1", {"profile": "ebay"}, ValueError, "use one of amazon_main, custom, web_square"),
        (Scope.SKU, "S1", {"output": "jpeg"}, ValueError, "has no transparency"),
    ],
)
def test_what_is_not_valid_is_refused_with_what_is_and_changes_nothing(engine, scope, name, put, error, message):
    change_settings(engine, Scope.GROUP, "pens", put={"background": "transparent"})
    with pytest.raises(error, match=message):
        change_settings(engine, scope, name, put=put)
    assert [stored.name for stored in stored_settings(engine)] == ["pens"]


def test_a_row_that_another_program_wrote_wrongly_concerns_its_own_images_only(engine):
    with engine.begin() as connection:
        connection.execute(sa.insert(EnhancementConfigRow), [{"sku_id": "S1", "config": {"mode": "magic"}}])
    add(engine, sku_id="S1")
    add(engine, sku_id="S2")
    wrong, right = enhancement_requests(engine, "b")
    with pytest.raises(ValueError, match="Unknown mode 'magic'"):
        wrong.config(DEFAULTS)
    assert right.config(DEFAULTS) == DEFAULTS


@pytest.fixture
def command(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/catalogue.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMGPIPE_DATABASE_URL", url)
    monkeypatch.setenv("IMGPIPE_TARGET_KB", "400")
    engine = connect(make_url(url))
    schema.upgrade(engine)
    fill(engine)
    engine.dispose()

    def call(*arguments):
        result = CliRunner().invoke(app, ["enhancement-config", *arguments])
        return result.exit_code, " ".join(result.output.replace("│", " ").split())

    return call


def test_the_command_sets_shows_and_unsets(command):
    code, told = command("set", "--group", "pens", "mode=full", "background=#F4F4F4", "target_kb=300")
    assert (code, told) == (0, "product group pens: mode=full, background=#F4F4F4, target_kb=300")
    rules = {"min_fill": 0.9, "max_kb": 200}
    code, told = command(
        "set", "--sku", "S1", "steps=light,sharpen", "profile=custom", f"custom_rules={json.dumps(rules)}"
    )
    assert code == 0, told
    code, told = command("show", "--json")
    assert json.loads(told) == [
        {"for": "product group", "name": "pens", "mode": "full", "background": "#F4F4F4", "target_kb": 300},
        {"for": "SKU", "name": "S1", "steps": ["light", "sharpen"], "profile": "custom", "custom_rules": rules},
    ]
    shown = json.loads(command("show", "--sku", "S1", "--json")[1])
    assert (shown["background"], shown["target_kb"], shown["custom_rules"]) == ("#F4F4F4", 300, rules)
    assert json.loads(command("show", "--sku", "S3", "--json")[1])["target_kb"] == 400, "the installation's"
    assert command("unset", "--group", "pens", "mode")[1] == "product group pens: background=#F4F4F4, target_kb=300"
    assert command("unset", "--group", "pens")[1] == "product group pens: nothing of its own"
    assert command("unset", "--sku", "S1")[0] == 0
    assert command("show")[1] == "No SKU and no product group has settings of its own."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "--sku", "S9", "mode=full"), "There is no SKU 'S9'"),
        (("set", "--sku", "S1", "mode=magic"), "auto, full, sharpen, denoise, upscale, optimize"),
        (("set", "--sku", "S1", "steps=background,fly"), "Unknown step 'fly'"),
        (("set", "--sku", "S1", "full"), "'full' is not NAME=VALUE"),
        (("set", "mode=full"), "--sku SKU or --group GROUP"),
        (("set", "--sku", "S1", "--group", "pens", "mode=full"), "--sku SKU or --group GROUP"),
        (("unset", "--sku", "S1", "colour"), "Unknown setting colour"),
        (("show", "--group", "pins"), "There is no product group 'pins'"),
    ],
)
def test_the_command_says_what_is_wrong(command, arguments, message):
    code, told = command(*arguments)
    assert code == 2
    assert message in told
