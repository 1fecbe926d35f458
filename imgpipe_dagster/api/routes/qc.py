"""The review of enhanced pictures: what waits for a person, and a person's decisions."""

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParameter
from pydantic import BaseModel, Field

from imgpipe_dagster.api.cursors import decode_cursor, encode_cursor
from imgpipe_dagster.api.gate import Scope
from imgpipe_dagster.api.guard import Body, GuardedRoute, access, principal_of
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.services import Services, services_of
from imgpipe_dagster.catalogue.qc import (
    Decision,
    ReviewError,
    ReviewItem,
    UnknownImageError,
    approve,
    pending_reviews,
    reject,
)
from imgpipe_dagster.configured import review_limits
from imgpipe_dagster.imaging.background import available_methods
from imgpipe_dagster.imaging.rework import RejectionReason

router = APIRouter(prefix="/api/v1/qc", tags=["review"], route_class=GuardedRoute)

_LONGEST_NAME = 100


class PendingImage(BaseModel):
    """A picture that waits for a person."""

    image_id: int
    sku_id: str | None
    product_group_id: str | None
    qc_status: str = "needs_review"
    score: float | None = Field(description="Quality of the enhanced picture, 0 to 100.")
    score_before: float | None
    issues: list[str]
    review_reasons: list[str]
    steps: list[dict[str, str]]
    image_url: str | None
    enhanced_sha256: str | None = Field(description="Which file it is: a decision may name it.")
    rework_count: int
    claimed_by: str | None
    links: dict[str, str]


class PendingImages(BaseModel):
    """A page of what waits, the most urgent first."""

    images: list[PendingImage]
    next_cursor: str | None = Field(description="Of the next page; null after the last one.")


class Judgement(StrEnum):
    """What a person may decide."""

    APPROVED = "approved"
    REJECTED = "rejected"


class Review(BaseModel):
    """A decision."""

    status: Judgement = Field(examples=["approved"])
    reviewer_id: str | None = Field(
        default=None, max_length=_LONGEST_NAME, description="Default: whose key or token it is.", examples=["user123"]
    )
    notes: str | None = Field(default=None, max_length=4000, examples=["LGTM"])
    reason: RejectionReason = Field(
        default=RejectionReason.MASK_TORN,
        description="Of a rejection: what is wrong. It selects what is tried next; most often it is the cut-out.",
    )
    enhanced_sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="The file that was seen; of another one it is refused."
    )


class Reviewed(BaseModel):
    """A decision that was made."""

    image_id: int
    status: Judgement
    qc_status: str = Field(description="pending while a rejected picture is enhanced again.")
    enhanced_image_url: str | None
    rework_count: int


@router.get("/pending")
@access(Scope.REVIEW)
async def pending(
    request: Request,
    cursor: Annotated[str | None, Query(max_length=500, description="The next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Pictures in a page.")] = 50,
) -> PendingImages:
    """Pictures that wait for a person, the most urgent first."""
    services = services_of(request)
    after = None
    if cursor is not None:
        priority, image_id = decode_cursor("qc", cursor, (float, int))
        after = (float(priority), int(image_id))
    found = await services.in_thread(
        pending_reviews, services.engine, limits=review_limits(services.settings), after=after, at_most=limit + 1
    )
    shown = found[:limit]
    return PendingImages(
        images=[_pending(item) for item in shown],
        next_cursor=encode_cursor("qc", shown[-1].cursor) if len(found) > limit else None,
    )


@router.post("/{image_id}/review")
@access(Scope.REVIEW, body=Body.OLD_JSON)
async def review(
    request: Request, image_id: Annotated[int, PathParameter(ge=1, le=2**63 - 1)], decided: Review
) -> Reviewed:
    """Approve or reject a picture. A rejected one is enhanced again with other settings, at most a few times."""
    services = services_of(request)
    reviewer = (decided.reviewer_id or "").strip() or principal_of(request).name[:_LONGEST_NAME]
    try:
        decision = await services.in_thread(_decide, services, image_id, decided, reviewer)
    except UnknownImageError as error:
        raise Refusal(Code.NOT_FOUND, str(error)) from error
    except ReviewError as error:
        raise Refusal(Code.CONFLICT, str(error)) from error
    return Reviewed(
        image_id=decision.image_id,
        status=decided.status,
        qc_status=decision.qc_status,
        enhanced_image_url=decision.enhanced_image_url,
        rework_count=decision.rework_count,
    )


def _decide(services: Services, image_id: int, decided: Review, reviewer: str) -> Decision:
    limits = review_limits(services.settings)
    notes, sha256 = decided.notes, decided.enhanced_sha256
    match decided.status:
        case Judgement.APPROVED:
            return approve(
                services.engine,
                image_id,
                reviewer=reviewer,
                url_of=services.store.open_url,
                limits=limits,
                notes=notes,
                sha256=sha256,
            )
        case Judgement.REJECTED:
            return reject(
                services.engine,
                image_id,
                reviewer=reviewer,
                reason=decided.reason,
                limits=limits,
                notes=notes,
                sha256=sha256,
                methods=available_methods(),
            )


def _pending(item: ReviewItem) -> PendingImage:
    base = f"/api/v1/images/{item.image_id}"
    links = {"image": base, "review": f"{router.prefix}/{item.image_id}/review"}
    if item.original_key:
        links["original"] = f"{base}/original"
    if item.enhanced_key:
        links["enhanced"] = f"{base}/enhanced"
    return PendingImage(
        image_id=item.image_id,
        sku_id=item.sku_id,
        product_group_id=item.product_group_id,
        score=item.score,
        score_before=item.score_before,
        issues=list(item.issues),
        review_reasons=list(item.review_reasons),
        steps=list(item.steps),
        image_url=item.image_url,
        enhanced_sha256=item.enhanced_sha256,
        rework_count=item.rework_count,
        claimed_by=item.claimed_by,
        links=links,
    )
