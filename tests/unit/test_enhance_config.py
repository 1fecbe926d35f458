"""What a configuration accepts, and how the more special one wins."""

import json

import pytest

from imgpipe_dagster.imaging.background import BackgroundMethod
from imgpipe_dagster.imaging.modes import EnhancementConfig, Mode, Step
from imgpipe_dagster.imaging.profiles import PROFILES, Profile


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "magic"}, "Unknown mode 'magic': use one of auto, full, sharpen, denoise, upscale, optimize"),
        ({"background": "whyte"}, "Unknown colour 'whyte': use #RRGGBB or one of .*white, transparent or keep"),
        ({"profile": "ebay"}, "Unknown profile 'ebay': use one of amazon_main, custom, web_square"),
        ({"profile": "custom"}, "profile custom needs custom_rules, such as"),
        (
            {"custom_rules": {"min_fil": 0.9}},
            "Unknown rule min_fil: use background, min_fill, min_side, max_side, max_kb",
        ),
        ({"custom_rules": {}}, "needs at least one of the rules background, min_fill"),
        ({"custom_rules": {"min_fill": 1.2}}, "min_fill must be a number above 0, up to 1, not 1.2"),
        ({"custom_rules": {"min_side": 99.5}}, "min_side must be a whole number above 0"),
        ({"custom_rules": {"min_side": 900, "max_side": 500}}, "max_side 500 is less than min_side 900"),
        ({"custom_rules": {"background": "whyte"}}, "Unknown colour 'whyte'"),
        ({"custom_rules": "min_fill"}, "custom_rules must be dict, not 'min_fill'"),
        ({"min_dimension": 1500.5}, "min_dimension must be int, not 1500.5"),
        ({"steps": ["background", "fly"]}, "Unknown step 'fly': use one of denoise, background, light"),
        ({"method": "magic"}, "Unknown method 'magic': use one of grabcut, rembg, keep"),
        ({"output": "gif"}, "Unknown output 'gif': use one of jpeg, webp, png"),
        ({"target_kb": 0}, "target_kb must be from"),
        ({"margin": 0.9}, "margin must be from 0 to 0.4, not 0.9"),
        ({"min_dimension": True}, "min_dimension must be int, not True"),
        ({"background": 7}, "background must be str, not 7"),
        ({"colour": "white"}, "Unknown setting colour: use aspect, background, "),
        ({"background": "transparent", "output": "jpeg"}, "no transparency: use png or webp"),
    ],
)
def test_a_wrong_value_is_refused_with_the_valid_ones(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        EnhancementConfig.from_mapping(values)


def test_texts_of_a_row_become_members():
    config = EnhancementConfig.from_mapping(
        {"mode": "full", "method": "rembg", "steps": ["light", "denoise"], "profile": None}
    )
    assert (config.mode, config.method, config.steps) == (Mode.FULL, BackgroundMethod.REMBG, (Step.DENOISE, Step.LIGHT))


def test_the_skus_value_wins_over_the_groups():
    group = EnhancementConfig().overridden({"mode": "full", "background": "#EEEEEE", "target_kb": 200})
    sku = group.overridden({"background": "keep", "mode": None})
    assert (sku.mode, sku.background, sku.target_kb) == (Mode.FULL, "keep", 200)


@pytest.mark.parametrize(
    ("layers", "target_kb"),
    [
        ([], 400),
        ([{"output": "png"}], None),
        ([{"background": "transparent"}, {"mode": "full"}], None),
        ([{"background": "transparent", "output": "webp"}], 400),
        ([{"target_kb": 900}, {"output": "png"}], 900),
    ],
)
def test_the_usual_size_is_not_for_png_whose_quality_cannot_be_lowered(layers: list[dict], target_kb: float | None):
    assert EnhancementConfig(target_kb=400).layered(*layers).target_kb == target_kb


def test_the_fingerprint_differs_where_a_setting_does():
    assert EnhancementConfig().fingerprint == EnhancementConfig(mode=Mode.AUTO).fingerprint
    assert len({EnhancementConfig(light=strength).fingerprint for strength in (0.5, 1.0, 1.5)}) == 3
    assert len(EnhancementConfig().fingerprint) == 12


def test_whole_numbers_are_the_same_setting_however_they_are_written():
    """Dagster's configuration gives 500 where settings give 500.0: neither makes the other's pictures old."""
    assert EnhancementConfig(target_kb=500.0).fingerprint == EnhancementConfig(target_kb=500).fingerprint
    assert EnhancementConfig(target_kb=500.5).fingerprint != EnhancementConfig(target_kb=500).fingerprint


def test_a_mode_takes_the_place_of_steps_that_were_set_before():
    group = EnhancementConfig().overridden({"steps": ["background"]})
    assert group.overridden({"background": "#EEEEEE"}).steps == (Step.BACKGROUND,)
    assert group.overridden({"mode": "full"}).steps is None
    assert group.overridden({"mode": "full", "steps": ["sharpen"]}).steps == (Step.SHARPEN,)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mode": "full", "background": "transparent", "output": "webp"},
        {"steps": ["denoise", "sharpen"], "target_kb": 80},
        {"profile": "custom", "custom_rules": {"background": "#FFFFFF", "min_fill": 0.9, "max_kb": 300}},
    ],
)
def test_a_configuration_survives_its_way_through_json(values: dict):
    config = EnhancementConfig.from_mapping(values)
    again = EnhancementConfig.from_mapping(json.loads(json.dumps(config.as_mapping())))
    assert again == config
    assert again.fingerprint == config.fingerprint


def test_a_custom_profile_has_the_rules_of_the_configuration():
    config = EnhancementConfig.from_mapping({"profile": "custom", "custom_rules": {"min_fill": 0.9, "max_side": 800}})
    assert config.rules == Profile("custom", min_fill=0.9, max_side=800)
    assert config.overridden({"profile": "amazon_main"}).rules == PROFILES["amazon_main"]
