"""What to do to a picture: the modes, the plan of steps that each stands for, and the validated configuration."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, TypeVar

from imgpipe_dagster.imaging.background import BackgroundMethod
from imgpipe_dagster.imaging.colours import parse_colour
from imgpipe_dagster.imaging.encode import OutputFormat
from imgpipe_dagster.imaging.profiles import CUSTOM, PROFILES, Profile
from imgpipe_dagster.imaging.quality import Quality

TRANSPARENT, KEEP = "transparent", "keep"
_Choice = TypeVar("_Choice", bound=StrEnum)


class Mode(StrEnum):
    """A named plan."""

    AUTO = "auto"
    FULL = "full"
    SHARPEN = "sharpen"
    DENOISE = "denoise"
    UPSCALE = "upscale"
    OPTIMIZE = "optimize"


class Step(StrEnum):
    """One change; they are made in this order. Encoding always follows."""

    DENOISE = "denoise"
    BACKGROUND = "background"
    LIGHT = "light"
    UPSCALE = "upscale"
    SHARPEN = "sharpen"
    STANDARDIZE = "standardize"


@dataclass(frozen=True)
class PlannedStep:
    """A step and why it is taken."""

    step: Step
    why: str


@dataclass(frozen=True)
class EnhancementConfig:
    """How pictures of one SKU, product group or call are enhanced.

    Attributes:
        mode: The plan.
        steps: Instead of the mode's plan, just these steps.
        background: ``white``, ``#RRGGBB``, ``transparent`` or ``keep``.
        method: How the product is found.
        rembg_model: For the method ``rembg``: a model's name or an ONNX file.
        min_dimension: The longer side is enlarged to this many pixels.
        upscale_factor: What mode ``upscale`` enlarges by.
        aspect: Width over height of the standard frame.
        margin: Empty share of the frame on each side of the product.
        light: Strength of the light correction; 1 is usual, 0 none.
        denoise: Strength of the noise reduction; 1 is usual.
        sharpen: Amount of the unsharp mask; 0.6 is usual.
        target_kb: Largest size of the file in KB; None for no limit.
        output: The file's format; None is JPEG, or PNG where the background is transparent.
        profile: A marketplace's rules to aim at: a name of ``PROFILES``, or ``custom``.
        custom_rules: The rules of the profile ``custom``.
    """

    mode: Mode = Mode.AUTO
    steps: tuple[Step, ...] | None = None
    background: str = "white"
    method: BackgroundMethod = BackgroundMethod.GRABCUT
    rembg_model: str = "u2netp"
    min_dimension: int = 1500
    upscale_factor: float = 2.0
    aspect: float = 1.0
    margin: float = 0.05
    light: float = 1.0
    denoise: float = 1.0
    sharpen: float = 0.6
    target_kb: float | None = 500
    output: OutputFormat | None = None
    profile: str | None = None
    custom_rules: Profile | None = None

    def __post_init__(self) -> None:
        for name, kind in (("mode", Mode), ("method", BackgroundMethod)):
            object.__setattr__(self, name, _member(kind, getattr(self, name), name))
        if self.output is not None:
            object.__setattr__(self, "output", _member(OutputFormat, self.output, "output"))
        if self.steps is not None:
            chosen = {_member(Step, step, "step") for step in self.steps}
            object.__setattr__(self, "steps", tuple(step for step in Step if step in chosen))
        if self.background not in (TRANSPARENT, KEEP):
            try:
                parse_colour(self.background)
            except ValueError as error:
                raise ValueError(f"{error}, {TRANSPARENT} or {KEEP}") from error
        if self.profile is not None and self.profile not in (*PROFILES, CUSTOM):
            raise ValueError(f"Unknown profile {self.profile!r}: use one of {', '.join(sorted((*PROFILES, CUSTOM)))}")
        if self.profile == CUSTOM and self.custom_rules is None:
            raise ValueError("profile custom needs custom_rules, such as {'min_fill': 0.9, 'max_kb': 300}")
        if self.background == TRANSPARENT and self.output is OutputFormat.JPEG:
            raise ValueError("output 'jpeg' has no transparency: use png or webp")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g}, not {value:g}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "EnhancementConfig":
        """Build a configuration from a row or a JSON object; keys that are absent or None take their defaults.

        Raises:
            ValueError: An unknown key or a value that is not valid; the message lists what is.
        """
        return cls().overridden(values)

    def overridden(self, values: Mapping[str, Any]) -> "EnhancementConfig":
        """Return this configuration with the values that are not None put over it: the group's, then the SKU's.

        A mode that is given without steps takes the place of steps that were set before.

        Raises:
            ValueError: As ``from_mapping``.
        """
        known = {field.name for field in fields(self)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"Unknown setting {', '.join(unknown)}: use {', '.join(sorted(known))}")
        given = {name: value for name, value in values.items() if value is not None}
        for name, value in given.items():
            wanted = _kinds(name)
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise ValueError(f"{name} must be {' or '.join(kind.__name__ for kind in wanted)}, not {value!r}")  # noqa: TRY004 - callers catch one error
        if "mode" in given:
            given.setdefault("steps", None)
        if given.get("steps") is not None:
            given["steps"] = tuple(given["steps"])
        if "custom_rules" in given:
            given["custom_rules"] = Profile.custom(given["custom_rules"])
        return replace(self, **given)

    def layered(self, *layers: Mapping[str, Any]) -> "EnhancementConfig":
        """Return these defaults with layers laid over them, the later ones winning.

        PNG has no quality that could be lowered: of the defaults, the largest size is not for it.

        Raises:
            ValueError: As ``from_mapping``.
        """
        config = self
        for layer in layers:
            config = config.overridden(layer)
        asked = any(layer.get("target_kb") is not None for layer in layers)
        return replace(config, target_kb=None) if config.format is OutputFormat.PNG and not asked else config

    def as_mapping(self) -> dict[str, Any]:
        """The settings that are not None as JSON takes them; ``from_mapping`` gives this configuration back."""
        values = json.loads(json.dumps(asdict(self)))
        if self.custom_rules is not None:
            values["custom_rules"] = {
                name: value for name, value in values["custom_rules"].items() if name != "name" and value is not None
            }
        return {name: value for name, value in values.items() if value is not None}

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that differ where a setting does; 500 and 500.0 are the same setting."""
        text = json.dumps(_plain_numbers(asdict(self)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def format(self) -> OutputFormat:
        """The file's format."""
        return self.output or (OutputFormat.PNG if self.background == TRANSPARENT else OutputFormat.JPEG)

    @property
    def rules(self) -> Profile | None:
        """The marketplace's rules, if there is one."""
        if self.profile == CUSTOM:
            return self.custom_rules
        return PROFILES[self.profile] if self.profile else None


def _plain_numbers(value: Any) -> Any:  # noqa: ANN401 - values as of JSON
    """Whole numbers as integers: JSON and Dagster's configuration give one or the other."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _plain_numbers(part) for name, part in value.items()}
        case list() | tuple():
            return [_plain_numbers(part) for part in value]
        case _:
            return value


RANGES: dict[str, tuple[float, float]] = {
    "min_dimension": (16, 10_000),
    "upscale_factor": (1, 8),
    "aspect": (0.2, 5),
    "margin": (0, 0.4),
    "light": (0, 2),
    "denoise": (0, 3),
    "sharpen": (0, 2),
    "target_kb": (0.001, 1_000_000),
}


def _kinds(name: str) -> tuple[type, ...]:
    """What a setting may be in a row or a JSON object."""
    match name:
        case "steps":
            return list, tuple
        case "custom_rules":
            return (dict,)
        case "min_dimension":
            return (int,)
        case _:
            return (int, float) if name in RANGES else (str,)


def _member(kind: type[_Choice], value: str, name: str) -> _Choice:
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(f"Unknown {name} {value!r}: use one of {', '.join(kind)}") from error


def plan(
    config: EnhancementConfig, quality: Quality, size: tuple[int, int], *, background_is_done: bool
) -> list[PlannedStep]:
    """Choose the steps for one picture, in the order in which they are made.

    Args:
        config: Whose mode or steps decide.
        quality: The picture's quality as it came.
        size: Its width and height in pixels.
        background_is_done: Whether the background already is what the configuration asks for.
    """
    if config.steps is not None:
        return [PlannedStep(step, "asked for") for step in config.steps]
    match config.mode:
        case Mode.FULL:
            steps = [step for step in Step if step is not Step.BACKGROUND or config.background != KEEP]
            return [PlannedStep(step, "mode full") for step in steps]
        case Mode.SHARPEN | Mode.DENOISE | Mode.UPSCALE:
            return [PlannedStep(Step(config.mode.value), f"mode {config.mode}")]
        case Mode.OPTIMIZE:
            return []
        case Mode.AUTO:
            return _plan_from_quality(config, quality, size, background_is_done)


def _plan_from_quality(
    config: EnhancementConfig, quality: Quality, size: tuple[int, int], background_is_done: bool
) -> list[PlannedStep]:
    parts, longer = quality.components, max(size)
    reasons: Sequence[tuple[Step, bool, str]] = (
        (Step.DENOISE, quality.noise_sigma > 3, f"noise of {quality.noise_sigma:.1f} grey levels"),
        (
            Step.BACKGROUND,
            config.background != KEEP and not background_is_done,
            f"the background is not {config.background}",
        ),
        (
            Step.LIGHT,
            min(parts.exposure, parts.contrast) < 0.9,
            f"exposure {parts.exposure:.2f}, contrast {parts.contrast:.2f}",
        ),
        (Step.UPSCALE, longer < config.min_dimension, f"{longer} px is under {config.min_dimension}"),
        (Step.SHARPEN, parts.sharpness < 0.89, f"edges blurred by {quality.blur_px:.1f} px"),
        (Step.STANDARDIZE, config.profile is not None, f"profile {config.profile}"),
    )
    return [PlannedStep(step, why) for step, needed, why in reasons if needed]
