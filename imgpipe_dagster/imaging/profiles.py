"""What a marketplace asks of a main picture, as rules that are measured; each failed rule is named with its value."""

from dataclasses import dataclass

import numpy as np

from imgpipe_dagster.imaging.colours import parse_colour


@dataclass(frozen=True)
class Profile:
    """A named set of rules. None means that a rule is not asked for.

    Attributes:
        name: What configs and reports call it.
        background: The exact colour #RRGGBB of every pixel without product.
        min_fill: Least share of the frame's width or height, whichever is larger, that the product spans.
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
