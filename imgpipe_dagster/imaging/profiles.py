"""What a marketplace asks of a main picture, as rules that are measured; each failed rule is named with its value."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from imgpipe_dagster.imaging.colours import parse_colour

CUSTOM = "custom"
"""The name of a profile whose rules are given with it."""


@dataclass(frozen=True)
class Profile:
    """A named set of rules. None means that a rule is not asked for.

    Attributes:
        name: What configs and reports call it.
        background: The exact colour of every pixel without product, by name or as #RRGGBB.
        min_fill: Least share of the frame's width or height, whichever is larger, that the product spans, up to 1.
        min_side: Least length of the longer side in pixels.
        max_side: Greatest length of the longer side.
        max_kb: Greatest size of the file in KB.
    """

    name: str
    background: str | None = None
    min_fill: float | None = None
    min_side: int | None = None
    max_side: int | None = None
    max_kb: float | None = None

    @classmethod
    def custom(cls, rules: Mapping[str, Any]) -> "Profile":
        """The profile ``custom`` with these rules; those that are None are not asked for.

        Raises:
            ValueError: An unknown rule, a value that is not valid, or no rule at all; the message says what is.
        """
        given = {name: value for name, value in rules.items() if value is not None}
        known = [field.name for field in fields(cls) if field.name != "name"]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"Unknown rule {', '.join(unknown)}: use {', '.join(known)}")
        if not given:
            raise ValueError(f"A custom profile needs at least one of the rules {', '.join(known)}")
        for name, value in given.items():
            _check_rule(name, value)
        if given.get("max_side", float("inf")) < given.get("min_side", 0):
            raise ValueError(f"max_side {given['max_side']} is less than min_side {given['min_side']}")
        return cls(CUSTOM, **given)


_LARGEST = {"min_fill": 1.0, "min_side": 10_000, "max_side": 100_000, "max_kb": 1_000_000.0}


def _check_rule(name: str, value: object) -> None:
    if name == "background":
        if not isinstance(value, str):
            raise ValueError(f"{name} must be str, not {value!r}")
        parse_colour(value)
        return
    kinds = (int,) if name.endswith("_side") else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= _LARGEST[name]:
        what = "a whole number" if name.endswith("_side") else "a number"
        raise ValueError(f"{name} must be {what} above 0, up to {_LARGEST[name]:g}, not {value!r}")


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("amazon_main", background="#FFFFFF", min_fill=0.85, min_side=1000, max_side=10_000),
        Profile("web_square", background="#FFFFFF", min_fill=0.8, min_side=1500, max_kb=500),
    )
}


@dataclass(frozen=True)
class RuleResult:
    """One rule: its name, whether the picture keeps it, the measured value, and what was asked for."""

    rule: str
    passed: bool
    value: float
    wanted: str


def check_profile(
    image: np.ndarray, alpha: np.ndarray, profile: Profile, *, size_bytes: int | None = None
) -> list[RuleResult]:
    """Measure a picture against a profile's rules, in the order of the profile's fields.

    Args:
        image: uint8 BGR, (height, width, 3).
        alpha: uint8, (height, width): where the product is.
        profile: The rules.
        size_bytes: The encoded file's size, for ``max_kb``.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    results = []
    if profile.background is not None:
        # One pixel of slack: there the product's soft edge is drawn.
        outside = alpha == 0
        wrong = (image[outside] != parse_colour(profile.background)).any(-1)
        share = float(wrong.mean()) if wrong.size else 0.0
        results.append(RuleResult("background", share == 0, share, f"no pixel other than {profile.background}"))
    if profile.min_fill is not None:
        fill = _fill(alpha)
        results.append(RuleResult("min_fill", fill >= profile.min_fill, fill, f"at least {profile.min_fill:.0%}"))
    if profile.min_side is not None:
        results.append(RuleResult("min_side", longer >= profile.min_side, longer, f"at least {profile.min_side} px"))
    if profile.max_side is not None:
        results.append(RuleResult("max_side", longer <= profile.max_side, longer, f"at most {profile.max_side} px"))
    if profile.max_kb is not None and size_bytes is not None:
        kilobytes = size_bytes / 1024
        results.append(RuleResult("max_kb", kilobytes <= profile.max_kb, kilobytes, f"at most {profile.max_kb:g} KB"))
    return results


def _fill(alpha: np.ndarray) -> float:
    rows, columns = np.flatnonzero((alpha > 127).any(1)), np.flatnonzero((alpha > 127).any(0))
    if not rows.size:
        return 0.0
    return max((rows[-1] - rows[0] + 1) / alpha.shape[0], (columns[-1] - columns[0] + 1) / alpha.shape[1])
