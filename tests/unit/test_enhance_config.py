"""What a configuration accepts, and how the more special one wins."""

import pytest

from imgpipe_dagster.imaging.background import BackgroundMethod
from imgpipe_dagster.imaging.modes import EnhancementConfig, Mode, Step


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "magic"}, "Unknown mode 'magic': use one of auto, full, sharpen, denoise, upscale, optimize"),
        ({"background": "whyte"}, "Unknown colour 'whyte': use #RRGGBB or one of .*white, transparent or keep"),
        ({"profile": "ebay"}, "Unknown profile 'ebay': use one of amazon_main, web_square"),
        ({"steps": ["background", "fly"]}, "Unknown step 'fly': use one of denoise, background, light"),
        ({"method": "magic"}, "Unknown method 'magic': use one of grabcut, rembg, keep"),
        ({"output": "gif"}, "Unknown output 'gif': use one of jpeg, webp, png"),
        ({"target_kb": 0}, "target_kb must be from"),
        ({"margin": 0.9}, "margin must be from 0 to 0.4, not 0.9"),
        ({"min_dimension": True}, "min_dimension must be int or float, not True"),
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


def test_the_fingerprint_differs_where_a_setting_does():
    assert EnhancementConfig().fingerprint == EnhancementConfig(mode=Mode.AUTO).fingerprint
    assert len({EnhancementConfig(light=strength).fingerprint for strength in (0.5, 1.0, 1.5)}) == 3
    assert len(EnhancementConfig().fingerprint) == 12
