"""The enhancement stage: better pictures of products, their quality before and after, and what may be published."""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import dagster as dg
import pandas as pd

from imgpipe_dagster.assets.before_after import BeforeAfterSheet, enhancement_metadata, score_histogram
from imgpipe_dagster.assets.common import OWNERS, Made, Progress, check_result, results, sample
from imgpipe_dagster.assets.predictions import published_predictions
from imgpipe_dagster.catalogue.enhancement_configs import EnhancementRequest, enhancement_requests
from imgpipe_dagster.catalogue.frames import to_records
from imgpipe_dagster.catalogue.tables import PredictionStatus, QcStatus
from imgpipe_dagster.imaging.background import Box, MethodUnavailableError
from imgpipe_dagster.imaging.enhance import enhance
from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.imaging.modes import EnhancementConfig
from imgpipe_dagster.imaging.promises import Promise, broken_promises
from imgpipe_dagster.imaging.quality import Quality
from imgpipe_dagster.imaging.threads import one_thread_a_picture
from imgpipe_dagster.imaging.verdict import ReviewPolicy, judge_enhancement
from imgpipe_dagster.imaging.versions import enhancement_version
from imgpipe_dagster.logs import about
from imgpipe_dagster.partitions import image_batches
from imgpipe_dagster.reasons import Reason
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.enhancer import EnhancerResource, ReviewPolicyResource
from imgpipe_dagster.resources.image_store import ImageStoreResource
from imgpipe_dagster.store.base import ImageStore, ObjectNotFoundError
from imgpipe_dagster.store.keys import enhanced_key
from imgpipe_dagster.streams import map_unordered, processors

log = logging.getLogger(__name__)

ENHANCED_COLUMNS = [
    "image_id",
    "object_key",
    "sha256",
    "byte_size",
    "width",
    "height",
    "image_format",
    "encoder_quality",
    "mode",
    "profile",
    "config",
    "steps",
    "failed_rules",
    "review_reasons",
    "background_replaced",
    "seconds",
    "reason",
    "detail",
    "model_version",
]
METRIC_COLUMNS = ["image_id", "phase", "score", "components", "issues", "width", "height", "byte_size"]

_CHECKS = {
    Promise.WHITE: (
        "enhanced_images",
        "Where the background was replaced by white, the file's background is 255, 255, 255 everywhere.",
        "The sampled pictures are not for marketplaces that ask for white: reject them in review, or raise target_kb.",
    ),
    Promise.SIZE: (
        "enhanced_images",
        "No file is larger than the target in KB.",
        "The sampled pictures are at their lowest quality and wait for review: raise target_kb, or use another format.",
    ),
    Promise.DIMENSIONS: (
        "enhanced_images",
        "Standardized pictures have the frame's size, and no picture of the modes auto and full is too small.",
        "This is a fault of the enhancement: keep the run's log, and reject the sampled pictures in review.",
    ),
    Promise.SCORE: (
        "image_metrics",
        "No score is more than 2 points lower after the enhancement than before.",
        "The sampled pictures wait for review: reject them there, or give their SKU a milder mode.",
    ),
}


@dg.multi_asset(
    name="enhanced_images",
    partitions_def=image_batches,
    group_name="enhancement",
    can_subset=True,
    outs={
        "enhanced_images": dg.AssetOut(
            is_required=False,
            io_manager_key="table_io_manager",
            kinds={"opencv", "s3"},
            owners=OWNERS,
            description="What enhancement made of the images of a batch that have a SKU: a row per image, its file in "
            "the store, with the steps taken and why, or the reason why nothing was made.",
        ),
        "image_metrics": dg.AssetOut(
            is_required=False,
            io_manager_key="table_io_manager",
            kinds={"opencv", "numpy"},
            owners=OWNERS,
            description="Quality of the enhanced images of a batch: a row per image before and one after, with the "
            "score from 0 to 100 (higher is better), its components and what is wrong.",
        ),
    },
    check_specs=[
        dg.AssetCheckSpec(promise.value, asset=asset, description=description)
        for promise, (asset, description, _) in _CHECKS.items()
    ],
)
def enhanced_images(
    context: dg.AssetExecutionContext,
    validated_images: pd.DataFrame,
    image_predictions: pd.DataFrame,
    detections: pd.DataFrame,
    database: DatabaseResource,
    image_store: ImageStoreResource,
    enhancer: EnhancerResource,
) -> Iterator[dg.MaterializeResult]:
    """Better pictures of the products of one batch, and their quality before and after."""
    requests = enhancement_requests(database.engine, context.partition_key)
    tasks = plan_tasks(requests, validated_images, image_predictions, enhancer.prior_boxes(detections))
    progress = Progress(context, database.engine, len(tasks))
    sheet = BeforeAfterSheet(task.image_id for task in tasks)
    outcomes = list(progress.watch(enhance_images(tasks, enhancer, image_store.store, sheet)))
    images = pd.DataFrame([outcome.image for outcome in outcomes], columns=ENHANCED_COLUMNS)
    images = images.sort_values("image_id", ignore_index=True)
    metrics = pd.DataFrame([row for outcome in outcomes for row in outcome.metrics], columns=METRIC_COLUMNS)
    metrics = metrics.sort_values(["image_id", "phase"], ignore_index=True)
    metadata = enhancement_metadata(images, metrics, progress, enhancer.hour_price)
    pictures = {"before_after": sheet.markdown(), "sample": sample(images, SAMPLE_COLUMNS)}
    checks: dict[str, list[dg.AssetCheckResult]] = {"enhanced_images": [], "image_metrics": []}
    for promise in Promise:
        broken = [outcome.image["image_id"] for outcome in outcomes if promise in outcome.broken]
        check = _check(context, database, promise, images[images["image_id"].isin(broken)])
        checks[_CHECKS[promise][0]].append(check)
    histogram = {"score_histogram": score_histogram(metrics)}
    yield from results(
        context,
        database.engine,
        [
            Made("enhanced_images", images, {**metadata, **pictures}, tuple(checks["enhanced_images"])),
            Made("image_metrics", metrics, {**metadata, **histogram}, tuple(checks["image_metrics"])),
        ],
    )


@dg.asset(
    partitions_def=image_batches,
    group_name="enhancement",
    kinds={"sqlalchemy"},
    owners=OWNERS,
    deps=[published_predictions],  # a verdict is given to images that have their answer
    io_manager_key="enhancement_publishing_io_manager",
)
def published_enhancements(
    context: dg.AssetExecutionContext,
    enhanced_images: pd.DataFrame,
    image_metrics: pd.DataFrame,
    database: DatabaseResource,
    image_store: ImageStoreResource,
    review_policy: ReviewPolicyResource,
) -> dg.MaterializeResult[pd.DataFrame]:
    """Which enhanced images may be published at once, and which a person has to see first: a row per image.

    Writing it gives ``product_images`` its ``qc_status``, ``qc_priority`` and ``enhanced_image_url`` and closes the
    batch. What a person has decided about the same file stands.
    """
    requests = enhancement_requests(database.engine, context.partition_key)
    frame = judge_images(enhanced_images, image_metrics, requests, review_policy.policy(), image_store.store)
    return dg.MaterializeResult(value=frame, metadata=verdict_metadata(frame))


SAMPLE_COLUMNS = ["image_id", "mode", "width", "height", "byte_size", "review_reasons", "reason"]


@dataclass(frozen=True)
class Task:
    """One image that is to be enhanced: where its original lies, its upright size, and where the product may be."""

    request: EnhancementRequest
    object_key: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]

    @property
    def image_id(self) -> int:
        """The image."""
        return self.request.image_id


@dataclass(frozen=True)
class Outcome:
    """What became of one image: its row, its rows of quality (none if nothing was made), and what it does not keep."""

    image: dict[str, Any]
    metrics: tuple[dict[str, Any], ...] = ()
    broken: tuple[Promise, ...] = ()


def plan_tasks(
    requests: Iterable[EnhancementRequest],
    validated: pd.DataFrame,
    predictions: pd.DataFrame,
    boxes: Mapping[int, tuple[Box, ...]],
) -> list[Task]:
    """What is to be enhanced: the images that have a SKU and were predicted."""
    predicted = set(predictions.loc[predictions["status"] == PredictionStatus.PREDICTED.value, "image_id"])
    files = {file["image_id"]: file for file in to_records(validated) if file["image_id"] in predicted}
    return [
        Task(request, file["object_key"], (file["width"], file["height"]), boxes.get(request.image_id, ()))
        for request in requests
        if (file := files.get(request.image_id)) is not None
    ]


def enhance_images(
    tasks: Iterable[Task], enhancer: EnhancerResource, store: ImageStore, sheet: BeforeAfterSheet
) -> Iterator[Outcome]:
    """Enhance images side by side, as many at once as there are processors, and store the files, in no order."""
    defaults = enhancer.defaults()

    def work(task: Task) -> Outcome:
        with about(image=task.image_id):
            return enhance_image(task, defaults, store, sheet)

    with one_thread_a_picture():
        yield from map_unordered(work, tasks, threads=enhancer.workers or processors())


def enhance_image(task: Task, defaults: EnhancementConfig, store: ImageStore, sheet: BeforeAfterSheet) -> Outcome:
    """Enhance one image and store its file. What goes wrong with this image is a reason in its row.

    Raises:
        StoreError: the store cannot be used.
    """
    started = time.perf_counter()
    try:
        config = task.request.config(defaults)
    except ValueError as error:
        return _failed(task, defaults, Reason.CONFIG_INVALID, str(error))
    try:
        original = store.get(task.object_key)
        enhanced = enhance(original, config, boxes=task.boxes)
        broken = broken_promises(enhanced, config)
    except ObjectNotFoundError as error:
        return _failed(task, config, Reason.ORIGINAL_MISSING, str(error))
    except DecodeError as error:
        return _failed(task, config, error.reason, error.detail)
    except MethodUnavailableError as error:
        return _failed(task, config, Reason.METHOD_UNAVAILABLE, str(error))
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, ValueError, cv2.error) as error:
        # A fault of the enhancement on one picture must not hold back the others.
        log.exception("Image %d cannot be enhanced.", task.image_id)
        return _failed(task, config, Reason.ENHANCEMENT_ERROR, f"{type(error).__name__}: {error}")
    sha256 = hashlib.sha256(enhanced.encoded.data).hexdigest()
    # With the file's own hash in its name, a file that was approved is never replaced by one that nobody has seen.
    key = enhanced_key(task.image_id, f"{config.fingerprint}-{sha256[:12]}", enhanced.encoded.format.extension)
    store.put(key, enhanced.encoded.data, content_type=f"image/{enhanced.encoded.format}", immutable=True)
    sheet.add(task.image_id, original, enhanced)
    return Outcome(
        image={
            **_told(task, config, time.perf_counter() - started),
            "object_key": key,
            "sha256": sha256,
            "byte_size": len(enhanced.encoded.data),
            "width": enhanced.size[0],
            "height": enhanced.size[1],
            "image_format": enhanced.encoded.format.value,
            "encoder_quality": enhanced.encoded.quality,
            "steps": [{"step": planned.step.value, "why": planned.why} for planned in enhanced.steps],
            "failed_rules": [asdict(rule) for rule in enhanced.rules if not rule.passed],
            "review_reasons": list(enhanced.review_reasons),
            "background_replaced": enhanced.background_replaced,
        },
        metrics=(
            _metric(task, "before", enhanced.before, task.size, len(original)),
            _metric(task, "after", enhanced.after, enhanced.size, len(enhanced.encoded.data)),
        ),
        broken=broken,
    )


def judge_images(
    images: pd.DataFrame,
    metrics: pd.DataFrame,
    requests: Iterable[EnhancementRequest],
    policy: ReviewPolicy,
    store: ImageStore,
) -> pd.DataFrame:
    """The rows of ``published_enhancements``, one for every enhanced image."""
    after = metrics[metrics["phase"] == "after"].set_index("image_id")["score"]
    request_of = {request.image_id: request for request in requests}
    rows = []
    for image in to_records(images):
        score, request = after.get(image["image_id"]), request_of.get(image["image_id"])
        verdict = judge_enhancement(
            None if score is None else float(score),
            [image["reason"]] if image["reason"] else image["review_reasons"] or [],
            value=request and request.value,
            image_id=image["image_id"],
            sha256=image["sha256"],
            policy=policy,
            reworked=request is not None and request.reworked,
        )
        rows.append(
            {
                "image_id": image["image_id"],
                "sha256": image["sha256"],
                "qc_status": (QcStatus.AUTO_APPROVED if verdict.approved else QcStatus.NEEDS_REVIEW).value,
                "qc_priority": verdict.priority,
                "score": score,
                "review_reasons": list(verdict.reasons),
                "audited": verdict.audited,
                "enhanced_image_url": store.open_url(image["object_key"]) if verdict.approved else None,
            }
        )
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


VERDICT_COLUMNS = [
    "image_id",
    "sha256",
    "qc_status",
    "qc_priority",
    "score",
    "review_reasons",
    "audited",
    "enhanced_image_url",
]


def verdict_metadata(frame: pd.DataFrame) -> dict[str, Any]:
    """How many pass at once, and why the others do not."""
    approved = frame["qc_status"] == QcStatus.AUTO_APPROVED.value
    return {
        "images": len(frame),
        "auto_approved": int(approved.sum()),
        "needs_review": int((~approved).sum()),
        "review_reasons": frame["review_reasons"].explode().dropna().value_counts().sort_index().astype(int).to_dict(),
        "audited": int(frame["audited"].sum()),
        "sample": sample(frame[~approved], ["image_id", "score", "qc_priority", "review_reasons"]),
    }


def _check(
    context: dg.AssetExecutionContext, database: DatabaseResource, promise: Promise, broken: pd.DataFrame
) -> dg.AssetCheckResult:
    asset, _, recover = _CHECKS[promise]
    return check_result(
        context,
        database.engine,
        asset=asset,
        name=promise.value,
        failures=len(broken),
        recover=recover,
        found={"sample": sample(broken, SAMPLE_COLUMNS)},
    )


def _told(task: Task, config: EnhancementConfig, seconds: float) -> dict[str, Any]:
    """What a row says of every image, whatever became of it."""
    return {
        "image_id": task.image_id,
        "mode": config.mode.value,
        "profile": config.profile,
        "config": config.as_mapping(),
        "seconds": seconds,
        "model_version": enhancement_version(config),
    }


def _failed(task: Task, config: EnhancementConfig, reason: Reason, detail: str) -> Outcome:
    return Outcome({**_told(task, config, 0.0), "reason": reason.value, "detail": detail})


def _metric(task: Task, phase: str, quality: Quality, size: tuple[int, int], byte_size: int) -> dict[str, Any]:
    return {
        "image_id": task.image_id,
        "phase": phase,
        "score": quality.score,
        "components": asdict(quality.components),
        "issues": [issue.value for issue in quality.issues],
        "width": size[0],
        "height": size[1],
        "byte_size": byte_size,
    }
