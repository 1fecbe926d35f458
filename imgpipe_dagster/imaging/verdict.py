"""Whether an enhanced picture may be published without a person, and which picture a person should see first. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class ReviewReason(StrEnum):
    """Why a person has to look, beside what the enhancement itself found (see ``enhance.Enhanced.review_reasons``)."""

    LOW_SCORE = "low_score"
    HIGH_VALUE = "high_value"
    REWORKED = "reworked"
    AUDIT = "audit"


@dataclass(frozen=True)
class ReviewPolicy:
    """What may pass without a person.

    Attributes:
        threshold: A picture passes with a score above this one, 0 to 100.
        high_value: Pictures of a product of this value or more never pass.
        audit_share: Share of those that would pass which a person sees all the same, 0 to 1.
    """

    threshold: float = 75
    high_value: float = 1000
    audit_share: float = 0.03

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 100 or not self.high_value > 0 or not 0 <= self.audit_share <= 1:
            raise ValueError(
                f"A review policy needs a threshold from 0 to 100, a value above 0 and a share from 0 to 1, not {self}."
            )


@dataclass(frozen=True)
class Verdict:
    """What becomes of one enhanced picture.

    Attributes:
        approved: It may be published at once; otherwise a person decides.
        reasons: Why a person has to look; empty if approved.
        audited: It would have passed, and was drawn to be looked at.
        priority: Where it stands in the queue of reviews, higher is sooner; 0 if approved.
    """

    approved: bool
    reasons: tuple[str, ...]
    audited: bool
    priority: float


def judge_enhancement(
    score: float | None,
    found: Sequence[str],
    *,
    value: float | None,
    image_id: int,
    sha256: str | None,
    policy: ReviewPolicy,
    reworked: bool = False,
) -> Verdict:
    """Decide about one enhanced picture. The same arguments give the same verdict, the audit's draw included.

    Args:
        score: Quality after enhancement, 0 to 100; None if there is no enhanced picture.
        found: Reasons for a review that the enhancement found, or why there is no picture.
        value: The product's value, if it is known.
        image_id: The image; with ``sha256`` it decides the draw.
        sha256: The enhanced file.
        policy: What may pass.
        reworked: Whether a person has rejected the picture before: then a person sees it again.
    """
    reasons = list(found)
    if score is not None and score <= policy.threshold:
        reasons.append(ReviewReason.LOW_SCORE)
    if value is not None and value >= policy.high_value:
        reasons.append(ReviewReason.HIGH_VALUE)
    if reworked:
        reasons.append(ReviewReason.REWORKED)
    audited = score is not None and not reasons and _draw(image_id, sha256) < policy.audit_share
    if audited:
        reasons.append(ReviewReason.AUDIT)
    approved = score is not None and not reasons
    priority = 0.0 if approved else _priority(score, value, policy)
    return Verdict(approved, tuple(str(reason) for reason in reasons), audited, priority)


def _priority(score: float | None, value: float | None, policy: ReviewPolicy) -> float:
    """From 0 to 2: how near the score is to the threshold, and how valuable the product is.

    A score at the threshold counts 1, one that is 100 away or missing 0. A product of the policy's high value counts a
    half, a much more valuable one nearly 1: v / (v + high value).
    """
    uncertainty = 0.0 if score is None else 1 - abs(score - policy.threshold) / 100
    worth = max(value or 0.0, 0.0)
    return uncertainty + worth / (worth + policy.high_value)


def _draw(image_id: int, sha256: str | None) -> float:
    """A number from 0 to 1 that looks like chance and is the same for the same file of the same image."""
    digest = hashlib.sha256(f"{image_id}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
