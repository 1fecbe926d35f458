"""Human review of enhanced pictures: the queue, who has claimed what, and decisions. Reports are in ``qc_reports.py``.

A picture that waits (``needs_review``) is approved or rejected by one person. Every decision is one transaction that
locks the image's row, looks whether the picture still is what the reviewer has seen, changes it and writes one row of
``qc_review_logs``; so of two people who decide at once, one wins and the other is told.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, RowMapping
from sqlalchemy.orm import aliased

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import (
    EnhancedImage,
    ImageMetric,
    ImageStatus,
    ProductImage,
    PublishedEnhancement,
    QcReviewLog,
    QcStatus,
    Sku,
    ValidatedImage,
)
from imgpipe_dagster.catalogue.types import seconds_ago, seconds_apart, utc_now
from imgpipe_dagster.imaging.background import BackgroundMethod
from imgpipe_dagster.imaging.modes import EnhancementConfig, Step
from imgpipe_dagster.imaging.rework import RejectionReason, rework_settings

_LONGEST_NAME = 100


@dataclass(frozen=True)
class ReviewLimits:
    """How long things last in review.

    Attributes:
        claim_s: A claim ends after so many seconds.
        undo_s: A decision can be undone for so many seconds.
        max_reworks: After so many reworks a rejection is final.
    """

    claim_s: float = 600
    undo_s: float = 10
    max_reworks: int = 2


class ReviewError(RuntimeError):
    """What a reviewer asked for cannot be done now; the message says why."""


class UnknownImageError(ReviewError):
    """There is no such image."""


class AlreadyDecidedError(ReviewError):
    """Somebody else was faster."""


class ClaimedError(ReviewError):
    """Another reviewer has claimed the picture."""


class NotReviewableError(ReviewError):
    """There is no picture to decide on, or it is no longer the one that was seen."""


class CannotUndoError(ReviewError):
    """The last decision is another's, too old, or has had consequences."""


@dataclass(frozen=True)
class ReviewItem:
    """A picture that waits for a person.

    Attributes:
        image_id: The image.
        sku_id: Its SKU.
        product_group_id: Its product group.
        value: The SKU's value, if it is known.
        priority: Higher comes first.
        score: Quality after enhancement; None where nothing could be made.
        score_before: Quality as it came.
        issues: What the score found wrong.
        review_reasons: Why a person has to look.
        steps: What was done and why.
        image_url: Where the original came from.
        original_key: The original in the store.
        enhanced_key: The enhanced file in the store; None where nothing could be made.
        enhanced_sha256: Which file it is: a decision may name it.
        width: Of the enhanced picture, in pixels.
        height: Of the enhanced picture, in pixels.
        rework_count: How often it was rejected before.
        claimed_by: Who has claimed it; None if nobody, or too long ago.
        claim_left_s: How long that claim lasts.
    """

    image_id: int
    sku_id: str | None
    product_group_id: str | None
    value: float | None
    priority: float
    score: float | None
    score_before: float | None
    issues: tuple[str, ...]
    review_reasons: tuple[str, ...]
    steps: tuple[dict[str, str], ...]
    image_url: str | None
    original_key: str | None
    enhanced_key: str | None
    enhanced_sha256: str | None
    width: int | None
    height: int | None
    rework_count: int
    claimed_by: str | None
    claim_left_s: float | None

    @property
    def cursor(self) -> tuple[float, int]:
        """Where the next page begins: after this one."""
        return self.priority, self.image_id


@dataclass(frozen=True)
class Decision:
    """A decision that was made.

    Attributes:
        log_id: Its row in ``qc_review_logs``.
        image_id: The image.
        qc_status: Where the picture stands now; ``pending`` while it is enhanced again.
        enhanced_image_url: Where it may be had now.
        rework_count: How often it has been put back.
        rework: The settings that this rejection changes; empty for an approval and a final rejection.
    """

    log_id: int
    image_id: int
    qc_status: QcStatus
    enhanced_image_url: str | None = None
    rework_count: int = 0
    rework: Mapping[str, Any] | None = None


def pending_reviews(
    engine: Engine,
    *,
    limits: ReviewLimits,
    after: tuple[float, int] | None = None,
    reviewer: str | None = None,
    at_most: int = 50,
) -> list[ReviewItem]:
    """A page of the queue, the most urgent first; of equal ones the youngest.

    Args:
        engine: The catalogue.
        limits: How long claims last.
        after: The ``cursor`` of the last item of the page before.
        reviewer: Without what others have claimed.
        at_most: Items in a page.
    """
    query = _waiting()
    if after is not None:
        priority, image_id = after
        query = query.where(
            ProductImage.qc_priority <= priority,
            sa.or_(ProductImage.qc_priority < priority, ProductImage.id < image_id),
        )
    if reviewer is not None:
        query = query.where(_free_for(reviewer, limits))
    chosen = query.limit(at_most)
    return transact(engine, lambda connection: _items(connection, chosen, limits), writes=False)


def claim_reviews(engine: Engine, *, reviewer: str, limits: ReviewLimits, count: int = 1) -> list[ReviewItem]:
    """Claim the most urgent pictures that nobody else has claimed, for as long as a claim lasts.

    Those that the reviewer has claimed already are among them, and their claims begin anew.
    """
    _check_name(reviewer)
    query = _waiting().where(_free_for(reviewer, limits)).limit(count).with_for_update(skip_locked=True)

    def claim(connection: Connection) -> list[ReviewItem]:
        ids = connection.scalars(query).all()
        if not ids:
            return []
        _change(connection, ids, qc_claimed_by=reviewer, qc_claimed_at=utc_now())
        return _items(connection, _waiting().where(ProductImage.id.in_(ids)), limits)

    return transact(engine, claim)


def claim_review(engine: Engine, image_id: int, *, reviewer: str, limits: ReviewLimits) -> ReviewItem:
    """Claim one picture of the queue.

    Raises:
        ReviewError: It does not wait, or another reviewer has claimed it.
    """
    _check_name(reviewer)

    def claim(connection: Connection) -> ReviewItem:
        image = _lock(connection, image_id)
        _require_waiting(connection, image)
        _require_free(image, reviewer, limits)
        _change(connection, [image_id], qc_claimed_by=reviewer, qc_claimed_at=utc_now())
        return _items(connection, _waiting().where(ProductImage.id == image_id), limits)[0]

    return transact(engine, claim)


def release_review(engine: Engine, image_id: int, *, reviewer: str) -> bool:
    """Give a claim back; False if the reviewer had none."""
    statement = (
        sa.update(ProductImage)
        .where(ProductImage.id == image_id, ProductImage.qc_claimed_by == reviewer)
        .values(qc_claimed_by=None, qc_claimed_at=None)
    )
    return bool(transact(engine, lambda connection: connection.execute(statement).rowcount))


def approve(
    engine: Engine,
    image_id: int,
    *,
    reviewer: str,
    url_of: Callable[[str], str],
    limits: ReviewLimits,
    notes: str | None = None,
    sha256: str | None = None,
) -> Decision:
    """Approve a picture that waits: from now on it has an ``enhanced_image_url``.

    Args:
        engine: The catalogue.
        image_id: The image.
        reviewer: Who decides.
        url_of: The URL of an object of the store, by its key.
        limits: How long claims last.
        notes: Anything worth keeping.
        sha256: The file that the reviewer has seen, to be sure that it is the one that is decided on.

    Raises:
        ReviewError: It cannot be decided now, and why.
    """
    _check_name(reviewer)

    def decide(connection: Connection) -> Decision:
        image = _lock(connection, image_id)
        _require_waiting(connection, image)
        _require_free(image, reviewer, limits)
        enhanced = _enhanced(connection, image, sha256)
        if enhanced is None or enhanced["object_key"] is None:
            why = enhanced["reason"] if enhanced is not None else "it was not enhanced"
            raise NotReviewableError(f"Image {image_id} has no enhanced picture ({why}): it can only be rejected.")
        after = {"qc_status": QcStatus.APPROVED, "enhanced_image_url": url_of(enhanced["object_key"])}
        log_id = _decide(connection, image, after, reviewer=reviewer, notes=notes)
        return Decision(log_id, image_id, QcStatus.APPROVED, after["enhanced_image_url"], image["rework_count"])

    return transact(engine, decide)


def reject(
    engine: Engine,
    image_id: int,
    *,
    reviewer: str,
    reason: RejectionReason,
    limits: ReviewLimits,
    notes: str | None = None,
    sha256: str | None = None,
    withdraw: bool = False,
    methods: Collection[BackgroundMethod] = tuple(BackgroundMethod),
) -> Decision:
    """Reject a picture: it is enhanced again with the settings that the reason selects, or rejected for good.

    To be enhanced again it waits for a new batch, as a new image does, and keeps its answers until it has new ones. A
    rejection is final after ``max_reworks``, and where no setting is left that would help.

    Args:
        engine: The catalogue.
        image_id: The image.
        reviewer: Who decides.
        reason: What is wrong.
        limits: How long claims last, and after how many reworks a rejection is final.
        notes: Anything worth keeping.
        sha256: The file that the reviewer has seen, to be sure that it is the one that is decided on.
        withdraw: Reject one that is approved already, by a person or without one, instead of one that waits.
        methods: The background methods that can be used here.

    Raises:
        ReviewError: It cannot be decided now, and why.
    """
    _check_name(reviewer)

    def decide(connection: Connection) -> Decision:
        image = _lock(connection, image_id)
        if withdraw:
            _require_published(connection, image)
        else:
            _require_waiting(connection, image)
            _require_free(image, reviewer, limits)
        enhanced = _enhanced(connection, image, sha256)
        settings = {} if enhanced is None else _rework(image, enhanced, reason, methods)
        if not settings or image["rework_count"] >= limits.max_reworks:
            after = {"qc_status": QcStatus.REJECTED, "enhanced_image_url": None}
            log_id = _decide(connection, image, after, reviewer=reviewer, notes=notes, reason=reason)
            return Decision(log_id, image_id, QcStatus.REJECTED, None, image["rework_count"], {})
        count = image["rework_count"] + 1
        after = {
            "status": ImageStatus.PENDING,
            "reason": None,
            "qc_status": QcStatus.PENDING,
            "enhanced_image_url": None,
            "rework_count": count,
            "rework_config": {**(image["rework_config"] or {}), **settings},
        }
        log_id = _decide(connection, image, after, reviewer=reviewer, notes=notes, reason=reason)
        return Decision(log_id, image_id, QcStatus.PENDING, None, count, settings)

    return transact(engine, decide)


def undo(engine: Engine, image_id: int, *, reviewer: str, limits: ReviewLimits) -> Decision:
    """Take the reviewer's own last decision back; the picture is as before, and claimed by the reviewer where it waits.

    Raises:
        CannotUndoError: The last decision is another's, too old, undone, or the image is being processed again.
        UnknownImageError: There is no such image.
    """

    def take_back(connection: Connection) -> Decision:
        image = _lock(connection, image_id)
        last = _last_log(connection, image_id)
        if last is None or last["undoes_id"] is not None or last["previous"] is None:
            raise CannotUndoError(f"There is no decision on image {image_id} to be undone.")
        if last["reviewer_id"] != reviewer:
            raise CannotUndoError(
                f"The last decision on image {image_id} is {last['reviewer_id']}'s, not {reviewer}'s."
            )
        if last["age_s"] > limits.undo_s:
            raise CannotUndoError(
                f"The decision on image {image_id} is {last['age_s']:.0f} s old: it could be undone for "
                f"{limits.undo_s:g} s."
            )
        before = last["previous"]
        left = ImageStatus.PENDING if last["status"] == QcStatus.PENDING else before["status"]
        as_left = (last["status"], left, before["batch_key"], last["enhanced_sha256"])
        if (image["qc_status"], image["status"], image["batch_key"], image["enhanced_sha256"]) != as_left:
            raise CannotUndoError(f"Image {image_id} is being processed again already: the decision stands.")
        waits = before["qc_status"] == QcStatus.NEEDS_REVIEW
        changes = {
            **before,
            "qc_claimed_by": reviewer if waits else None,
            "qc_claimed_at": utc_now() if waits else None,
        }
        _change(connection, [image_id], **changes)
        log_id = _log(connection, image, before["qc_status"], reviewer=reviewer, undoes_id=last["id"])
        return Decision(
            log_id,
            image_id,
            QcStatus(before["qc_status"]),
            before["enhanced_image_url"],
            before["rework_count"],
        )

    return transact(engine, take_back)


def _waiting() -> sa.Select[int]:
    """Ids of the pictures that wait, the most urgent first. Both keys descend, so that the index gives the order."""
    return (
        sa.select(ProductImage.id)
        .where(ProductImage.qc_status == QcStatus.NEEDS_REVIEW, ProductImage.status == ImageStatus.COMPLETED)
        .order_by(ProductImage.qc_priority.desc(), ProductImage.id.desc())
    )


def _free_for(reviewer: str, limits: ReviewLimits) -> sa.ColumnElement[bool]:
    return sa.or_(
        ProductImage.qc_claimed_by.is_(None),
        ProductImage.qc_claimed_by == reviewer,
        ProductImage.qc_claimed_at.is_(None),
        seconds_apart(ProductImage.qc_claimed_at) >= limits.claim_s,
    )


def _items(connection: Connection, chosen: sa.Select[int], limits: ReviewLimits) -> list[ReviewItem]:
    ids = connection.scalars(chosen).all()
    before, after = aliased(ImageMetric), aliased(ImageMetric)

    def of_batch(table: Any, *more: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:  # noqa: ANN401 - a table class
        return sa.and_(table.batch_key == ProductImage.batch_key, table.image_id == ProductImage.id, *more)

    query = (
        sa.select(
            ProductImage.id,
            ProductImage.sku_id,
            sa.func.coalesce(ProductImage.product_group_id, Sku.product_group_id).label("product_group_id"),
            Sku.value,
            ProductImage.qc_priority,
            ProductImage.image_url,
            ProductImage.rework_count,
            ProductImage.enhanced_sha256,
            ProductImage.qc_claimed_by,
            seconds_ago(ProductImage.qc_claimed_at).label("claim_age_s"),
            EnhancedImage.object_key,
            EnhancedImage.width,
            EnhancedImage.height,
            EnhancedImage.steps,
            ValidatedImage.object_key.label("original_key"),
            PublishedEnhancement.review_reasons,
            before.score.label("score_before"),
            after.score,
            after.issues,
        )
        .outerjoin(Sku, Sku.sku_id == ProductImage.sku_id)
        .outerjoin(EnhancedImage, of_batch(EnhancedImage))
        .outerjoin(ValidatedImage, of_batch(ValidatedImage))
        .outerjoin(PublishedEnhancement, of_batch(PublishedEnhancement))
        .outerjoin(before, of_batch(before, before.phase == "before"))
        .outerjoin(after, of_batch(after, after.phase == "after"))
        .where(ProductImage.id.in_(ids))
    )
    found = {row["id"]: _item(row, limits) for row in connection.execute(query).mappings()}
    return [found[image_id] for image_id in ids]


def _item(row: RowMapping, limits: ReviewLimits) -> ReviewItem:
    left = _claim_left_s(row, limits)
    return ReviewItem(
        image_id=row["id"],
        sku_id=row["sku_id"],
        product_group_id=row["product_group_id"],
        value=row["value"],
        priority=row["qc_priority"],
        score=row["score"],
        score_before=row["score_before"],
        issues=tuple(row["issues"] or ()),
        review_reasons=tuple(row["review_reasons"] or ()),
        steps=tuple(row["steps"] or ()),
        image_url=row["image_url"],
        original_key=row["original_key"],
        enhanced_key=row["object_key"],
        enhanced_sha256=row["enhanced_sha256"],
        width=row["width"],
        height=row["height"],
        rework_count=row["rework_count"],
        claimed_by=row["qc_claimed_by"] if left else None,
        claim_left_s=left,
    )


def _lock(connection: Connection, image_id: int) -> RowMapping:
    """The image's row, locked until the transaction's end, with how long ago it was claimed."""
    query = (
        sa.select(ProductImage.__table__, seconds_ago(ProductImage.qc_claimed_at).label("claim_age_s"))
        .where(ProductImage.id == image_id)
        .with_for_update()
    )
    image = connection.execute(query).mappings().one_or_none()
    if image is None:
        raise UnknownImageError(f"There is no image {image_id}.")
    return image


def _require_waiting(connection: Connection, image: RowMapping) -> None:
    match QcStatus(image["qc_status"]):
        case QcStatus.NEEDS_REVIEW if image["status"] == ImageStatus.COMPLETED:
            return
        case QcStatus.NEEDS_REVIEW:
            raise NotReviewableError(
                f"Image {image['id']} is {image['status']}: it is processed again, or has failed since."
            )
        case QcStatus.AUTO_APPROVED:
            raise NotReviewableError(f"Image {image['id']} was approved without a review: to reject it, withdraw it.")
        case QcStatus.APPROVED | QcStatus.REJECTED | QcStatus.PENDING:
            raise _why_decided(connection, image)


def _require_published(connection: Connection, image: RowMapping) -> None:
    match QcStatus(image["qc_status"]):
        case QcStatus.APPROVED | QcStatus.AUTO_APPROVED if image["status"] == ImageStatus.COMPLETED:
            return
        case QcStatus.APPROVED | QcStatus.AUTO_APPROVED:
            raise NotReviewableError(f"Image {image['id']} is {image['status']}: it is being processed again.")
        case QcStatus.NEEDS_REVIEW:
            raise NotReviewableError(f"Image {image['id']} is not approved: it waits for its review.")
        case QcStatus.REJECTED | QcStatus.PENDING:
            raise _why_decided(connection, image)


def _why_decided(connection: Connection, image: RowMapping) -> ReviewError:
    """Who decided on an image that does not wait, and what."""
    last = _last_log(connection, image["id"])
    if last is None or last["status"] != image["qc_status"]:
        return NotReviewableError(f"Image {image['id']} has no enhanced picture yet that could be reviewed.")
    what = {
        QcStatus.APPROVED: "approved",
        QcStatus.REJECTED: f"rejected ({last['reason']})",
        QcStatus.PENDING: f"rejected ({last['reason']}) to be enhanced again",
    }[QcStatus(last["status"])]
    return AlreadyDecidedError(
        f"Image {image['id']} was {what} by {last['reviewer_id']} at {last['created_at']:%Y-%m-%d %H:%M:%S} UTC."
    )


def _require_free(image: RowMapping, reviewer: str, limits: ReviewLimits) -> None:
    left = _claim_left_s(image, limits)
    if left and image["qc_claimed_by"] != reviewer:
        raise ClaimedError(f"Image {image['id']} is claimed by {image['qc_claimed_by']} for another {left:.0f} s.")


def _claim_left_s(image: RowMapping, limits: ReviewLimits) -> float | None:
    """How long the claim on an image lasts; None if there is none or it has ended, or the clock was set back since."""
    if image["qc_claimed_by"] is None or image["claim_age_s"] is None or abs(image["claim_age_s"]) >= limits.claim_s:
        return None
    return limits.claim_s - max(0.0, image["claim_age_s"])


def _enhanced(connection: Connection, image: RowMapping, seen: str | None) -> RowMapping | None:
    """What enhancement made of the image, if that is what the reviewer has seen."""
    query = sa.select(EnhancedImage.__table__).where(
        EnhancedImage.batch_key == image["batch_key"], EnhancedImage.image_id == image["id"]
    )
    enhanced = connection.execute(query).mappings().one_or_none()
    made = None if enhanced is None else enhanced["sha256"]
    if made != image["enhanced_sha256"] or (seen is not None and seen != made):
        raise NotReviewableError(f"The picture of image {image['id']} has changed since: look at it again.")
    return enhanced


def _rework(
    image: RowMapping, enhanced: RowMapping, reason: RejectionReason, methods: Collection[BackgroundMethod]
) -> dict[str, Any]:
    try:
        config = EnhancementConfig.from_mapping(enhanced["config"] or image["rework_config"] or {})
    except ValueError:
        config = EnhancementConfig()  # written by another version: the usual settings are a beginning
    done = [Step(step["step"]) for step in enhanced["steps"] or () if step["step"] in list(Step)]
    if any(found.startswith("mask_") for found in enhanced["review_reasons"] or ()):
        done.append(Step.BACKGROUND)  # tried, and not trusted: it was kept already
        methods = [method for method in methods if method is not BackgroundMethod.KEEP]
    return rework_settings(reason, config, done, methods=methods)


def _decide(
    connection: Connection,
    image: RowMapping,
    after: dict[str, Any],
    *,
    reviewer: str,
    notes: str | None,
    reason: RejectionReason | None = None,
) -> int:
    """Change the image and write the one row of the log, which keeps what it was before."""
    _change(connection, [image["id"]], **after, qc_claimed_by=None, qc_claimed_at=None)
    changed = ("status", "reason", "qc_status", "enhanced_image_url", "rework_count", "rework_config", "batch_key")
    before = {name: image[name] for name in changed}
    return _log(connection, image, after["qc_status"], reviewer=reviewer, notes=notes, reason=reason, previous=before)


def _log(connection: Connection, image: RowMapping, status: str, *, reviewer: str, **values: Any) -> int:  # noqa: ANN401 - columns
    of_batch = (ImageMetric.batch_key == image["batch_key"], ImageMetric.image_id == image["id"])
    score = connection.scalar(sa.select(ImageMetric.score).where(*of_batch, ImageMetric.phase == "after"))
    audited = connection.scalar(
        sa.select(PublishedEnhancement.audited).where(
            PublishedEnhancement.batch_key == image["batch_key"], PublishedEnhancement.image_id == image["id"]
        )
    )
    row = {
        "image_id": image["id"],
        "reviewer_id": reviewer,
        "previous_status": image["qc_status"],
        "status": status,
        "score": score,
        "audited": bool(audited) and image["qc_status"] == QcStatus.NEEDS_REVIEW,
        "seconds": image["claim_age_s"] if image["qc_claimed_by"] == reviewer else None,
        "enhanced_sha256": image["enhanced_sha256"],
        **values,
    }
    inserted = connection.execute(sa.insert(QcReviewLog).values(row))
    (log_id,) = inserted.inserted_primary_key or (None,)
    return int(log_id)  # type: ignore[arg-type] - both databases give it


def _last_log(connection: Connection, image_id: int) -> RowMapping | None:
    query = (
        sa.select(QcReviewLog.__table__, seconds_apart(QcReviewLog.created_at).label("age_s"))
        .where(QcReviewLog.image_id == image_id)
        .order_by(QcReviewLog.id.desc())
        .limit(1)
    )
    return connection.execute(query).mappings().one_or_none()


def _change(connection: Connection, ids: Collection[int], **values: Any) -> None:  # noqa: ANN401 - columns
    connection.execute(sa.update(ProductImage).where(ProductImage.id.in_(ids)).values(**values, updated_at=utc_now()))


def _check_name(reviewer: str) -> None:
    if not 0 < len(reviewer.strip()) <= _LONGEST_NAME:
        raise ValueError(f"A reviewer has a name of at most {_LONGEST_NAME} characters.")
