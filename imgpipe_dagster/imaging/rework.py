"""What a reviewer's rejection changes: the closed list of reasons, and the settings that each selects. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

from imgpipe_dagster.imaging.background import BackgroundMethod
from imgpipe_dagster.imaging.modes import KEEP, RANGES, EnhancementConfig, Step


class RejectionReason(StrEnum):
    """Why a reviewer rejects an enhanced picture. The value is what the tables and the API show."""

    MASK_TORN = "mask_torn"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    WRONG_COLOURS = "wrong_colours"
    TOO_BLURRY = "too_blurry"
    TOO_SHARP = "too_sharp"
    TOO_NOISY = "too_noisy"
    TOO_SMOOTH = "too_smooth"
    TOO_SMALL = "too_small"
    PRODUCT_TOO_SMALL = "product_too_small"
    TOO_TIGHT = "too_tight"
    TOO_COMPRESSED = "too_compressed"
    UNUSABLE = "unusable"

    @property
    def meaning(self) -> str:
        """One sentence for reviewers: what is wrong, and what is tried next."""
        return _MEANINGS[self]


_MEANINGS: dict[RejectionReason, str] = {
    RejectionReason.MASK_TORN: "Parts of the product are missing or of its background are left: another method.",
    RejectionReason.TOO_DARK: "The product is too dark: a stronger light correction.",
    RejectionReason.TOO_BRIGHT: "The product is too bright: a weaker light correction.",
    RejectionReason.WRONG_COLOURS: "The product's colours are wrong: light and colours stay as they were photographed.",
    RejectionReason.TOO_BLURRY: "The product is not sharp: sharpened more.",
    RejectionReason.TOO_SHARP: "Edges have halos or crumbs: sharpened less.",
    RejectionReason.TOO_NOISY: "Noise is left: denoised more.",
    RejectionReason.TOO_SMOOTH: "Fine detail is lost: denoised less.",
    RejectionReason.TOO_SMALL: "The picture has too few pixels: enlarged more.",
    RejectionReason.PRODUCT_TOO_SMALL: "The product is small in its frame: framed with a narrower margin.",
    RejectionReason.TOO_TIGHT: "The product stands too near to the frame's edge: framed with a wider margin.",
    RejectionReason.TOO_COMPRESSED: "Compression shows: a larger file is allowed.",
    RejectionReason.UNUSABLE: "No setting helps (another product, say): the rejection is final.",
}


def rework_settings(
    reason: RejectionReason,
    config: EnhancementConfig,
    done: Sequence[Step],
    *,
    methods: Collection[BackgroundMethod] = tuple(BackgroundMethod),
) -> dict[str, Any]:
    """Settings to enhance a rejected picture with, beside those that it was enhanced with.

    A strength changes by a step from what it was, within its range. A step that the plan had not taken is asked for, or
    its strength would change nothing: the plan becomes the steps that were done and this one.

    Args:
        reason: Why it was rejected.
        config: What it was enhanced with.
        done: The steps that were taken, and the background's if it was tried without success.
        methods: The background methods that can be used here.

    Returns:
        Values for ``EnhancementConfig.overridden``; empty where no setting is left to change, or none would help.
    """
    match reason:
        case RejectionReason.MASK_TORN:
            return _another_method(config, done, methods)
        case RejectionReason.TOO_DARK:
            return _stronger(config, done, Step.LIGHT, 0.5)
        case RejectionReason.TOO_BRIGHT:
            return _weaker(config, done, Step.LIGHT, 0.5)
        case RejectionReason.WRONG_COLOURS:
            return _weaker(config, done, Step.LIGHT, config.light)
        case RejectionReason.TOO_BLURRY:
            return _stronger(config, done, Step.SHARPEN, 0.4)
        case RejectionReason.TOO_SHARP:
            return _weaker(config, done, Step.SHARPEN, 0.3)
        case RejectionReason.TOO_NOISY:
            return _stronger(config, done, Step.DENOISE, 0.75)
        case RejectionReason.TOO_SMOOTH:
            return _weaker(config, done, Step.DENOISE, 0.5)
        case RejectionReason.TOO_SMALL:
            larger = _changed(config, "min_dimension", int(0.5 * config.min_dimension))
            return larger and larger | _with_step(config, done, Step.UPSCALE)
        case RejectionReason.PRODUCT_TOO_SMALL:
            narrower = _changed(config, "margin", -max(0.02, 0.5 * config.margin))
            return narrower and narrower | _with_step(config, done, Step.STANDARDIZE)
        case RejectionReason.TOO_TIGHT:
            wider = _changed(config, "margin", 0.05)
            return wider and wider | _with_step(config, done, Step.STANDARDIZE)
        case RejectionReason.TOO_COMPRESSED:
            return {} if config.target_kb is None else _changed(config, "target_kb", config.target_kb)
        case RejectionReason.UNUSABLE:
            return {}


def _another_method(
    config: EnhancementConfig, done: Sequence[Step], methods: Collection[BackgroundMethod]
) -> dict[str, Any]:
    """The method after the one that failed, the last one leaving the background alone; the first, if none was tried."""
    if config.background == KEEP or config.method is BackgroundMethod.KEEP:
        return {}
    if Step.BACKGROUND not in done:
        return _with_step(config, done, Step.BACKGROUND)
    order = [BackgroundMethod.GRABCUT, BackgroundMethod.REMBG, BackgroundMethod.KEEP]
    left = [method for method in order[order.index(config.method) + 1 :] if method in methods]
    return {"method": left[0].value} if left else {}


def _stronger(config: EnhancementConfig, done: Sequence[Step], step: Step, by: float) -> dict[str, Any]:
    """More of a step; as much as usual where it was not taken at all."""
    changed = _changed(config, step.value, by) if step in done else {step.value: getattr(config, step.value) or 1.0}
    return changed and changed | _with_step(config, done, step)


def _weaker(config: EnhancementConfig, done: Sequence[Step], step: Step, by: float) -> dict[str, Any]:
    """Less of a step; without it where nothing is left of it."""
    if step not in done or getattr(config, step.value) == 0:
        return {}
    changed = _changed(config, step.value, -by)
    return changed if changed[step.value] > 0 else changed | {"steps": [s.value for s in done if s is not step]}


def _changed(config: EnhancementConfig, name: str, by: float) -> dict[str, Any]:
    low, high = RANGES[name]
    before = getattr(config, name)
    after = type(by)(round(min(max(before + by, low), high), 3))
    return {} if after == before else {name: after}


def _with_step(config: EnhancementConfig, done: Sequence[Step], step: Step) -> dict[str, Any]:
    if step in done:
        return {}
    asked = replace(config, steps=(*done, step)).steps or ()
    return {"steps": [planned.value for planned in asked]}
