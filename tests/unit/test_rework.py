"""Each reason of a rejection selects settings that change the picture, within their ranges, until none is left."""

import numpy as np
import pytest

from imgpipe_dagster.demo.products import Backdrop, Defect, degrade, render_product
from imgpipe_dagster.imaging.background import BackgroundMethod
from imgpipe_dagster.imaging.enhance import enhance
from imgpipe_dagster.imaging.modes import EnhancementConfig, Mode, Step
from imgpipe_dagster.imaging.rework import RejectionReason, rework_settings

ALL = tuple(Step)
WITHOUT_REMBG = (BackgroundMethod.GRABCUT, BackgroundMethod.KEEP)


@pytest.mark.parametrize(
    ("reason", "config", "done", "settings"),
    [
        ("mask_torn", {}, ALL, {"method": "rembg"}),
        ("mask_torn", {"method": "rembg"}, ALL, {"method": "keep"}),
        ("mask_torn", {"method": "keep"}, ALL, {}),
        ("mask_torn", {"background": "keep"}, (), {}),
        ("mask_torn", {}, (Step.SHARPEN,), {"steps": ["background", "sharpen"]}),
        ("too_dark", {}, ALL, {"light": 1.5}),
        ("too_dark", {"light": 1}, ALL, {"light": 1.5}),
        ("too_dark", {"light": 1.8}, ALL, {"light": 2.0}),
        ("too_dark", {"light": 2.0}, ALL, {}),
        ("too_dark", {}, (Step.BACKGROUND,), {"light": 1.0, "steps": ["background", "light"]}),
        ("too_bright", {}, ALL, {"light": 0.5}),
        ("too_bright", {"light": 0.5}, (Step.LIGHT, Step.SHARPEN), {"light": 0.0, "steps": ["sharpen"]}),
        ("too_bright", {}, (Step.SHARPEN,), {}),
        ("wrong_colours", {}, (Step.BACKGROUND, Step.LIGHT), {"light": 0.0, "steps": ["background"]}),
        ("too_blurry", {}, ALL, {"sharpen": 1.0}),
        ("too_blurry", {"sharpen": 0.0}, (), {"sharpen": 1.0, "steps": ["sharpen"]}),
        ("too_sharp", {}, ALL, {"sharpen": 0.3}),
        ("too_noisy", {}, ALL, {"denoise": 1.75}),
        ("too_smooth", {}, ALL, {"denoise": 0.5}),
        ("too_small", {}, ALL, {"min_dimension": 2250}),
        ("too_small", {}, (), {"min_dimension": 2250, "steps": ["upscale"]}),
        ("product_too_small", {}, ALL, {"margin": 0.025}),
        ("product_too_small", {"margin": 0.0}, ALL, {}),
        ("too_tight", {}, (Step.LIGHT,), {"margin": 0.1, "steps": ["light", "standardize"]}),
        ("too_compressed", {}, ALL, {"target_kb": 1000}),
        ("too_compressed", {"target_kb": 1_000_000}, ALL, {}),
        ("unusable", {}, ALL, {}),
    ],
)
def test_a_reason_selects_settings(reason, config, done, settings):
    config = EnhancementConfig.from_mapping(config)
    assert rework_settings(RejectionReason(reason), config, done) == settings


def test_a_method_that_is_not_installed_is_passed_over():
    config = EnhancementConfig()
    assert rework_settings(RejectionReason.MASK_TORN, config, ALL, methods=WITHOUT_REMBG) == {"method": "keep"}


@pytest.mark.parametrize("reason", RejectionReason)
@pytest.mark.parametrize("mode", Mode)
def test_settings_are_valid_and_differ_until_none_is_left(reason, mode):
    config, done, seen = EnhancementConfig(mode=mode), [Step.LIGHT, Step.SHARPEN], set()
    for _ in range(30):
        seen.add(config.fingerprint)
        settings = rework_settings(reason, config, done)
        if not settings:
            break
        config = config.overridden(settings)
        assert config.fingerprint not in seen, "the same settings would give the same picture"
        done = list(config.steps or done)
    assert not rework_settings(reason, config, done)


def test_every_reason_is_explained():
    assert all(reason.meaning.endswith(".") for reason in RejectionReason)


@pytest.mark.parametrize(
    ("reason", "measure"),
    [
        (RejectionReason.TOO_DARK, lambda done: done.after.brightness),
        (RejectionReason.TOO_BLURRY, lambda done: done.after.components.sharpness),
        (RejectionReason.TOO_SHARP, lambda done: -done.after.components.sharpness),
        (RejectionReason.TOO_SMALL, lambda done: done.size[0]),
        (RejectionReason.PRODUCT_TOO_SMALL, lambda done: int((done.alpha > 127).sum())),
        (RejectionReason.TOO_TIGHT, lambda done: -int((done.alpha > 127).sum())),
        (RejectionReason.TOO_COMPRESSED, lambda done: len(done.encoded.data)),
    ],
)
def test_the_picture_changes_in_the_direction_that_was_asked_for(reason, measure):
    photo = degrade(render_product(77, width=500, height=500, backdrop=Backdrop.CLUTTERED).image, Defect.DARK)
    box = render_product(77, width=500, height=500, backdrop=Backdrop.CLUTTERED).box
    config = EnhancementConfig(mode=Mode.FULL, min_dimension=600, target_kb=30)
    first = enhance(photo, config, boxes=[box])
    changed = config.overridden(rework_settings(reason, config, [planned.step for planned in first.steps]))
    second = enhance(photo, changed, boxes=[box])
    assert measure(second) > measure(first)
    assert not np.array_equal(first.encoded.data, second.encoded.data)
