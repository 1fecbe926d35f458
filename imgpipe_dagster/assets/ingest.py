"""The ingest stage: downloading the images of a batch and judging whether their pixels can be trusted."""

import hashlib
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from imgpipe_dagster.assets.common import OWNERS, Progress, check_result, sample
from imgpipe_dagster.catalogue.images import images_of_batch
from imgpipe_dagster.fetch.client import FetchRequest, FetchResult, fetch_all
from imgpipe_dagster.fetch.urls import scheme_of
from imgpipe_dagster.imaging.formats import sniff
from imgpipe_dagster.imaging.validate import Validator, Verdict
from imgpipe_dagster.partitions import image_batches
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.image_fetcher import ImageFetcherResource
from imgpipe_dagster.resources.image_store import ImageStoreResource
from imgpipe_dagster.resources.image_validator import ImageValidatorResource
from imgpipe_dagster.store.base import ImageStore
from imgpipe_dagster.store.keys import STORED_SCHEME, image_key, stored_image_key, stored_image_url
from imgpipe_dagster.store.streaming import read_all
from imgpipe_dagster.streams import map_unordered

STORE_THREADS = 8
UNKNOWN_EXTENSION = "bin"


@dg.asset(
    partitions_def=image_batches,
    group_name="ingest",
    kinds={"python", "s3"},
    owners=OWNERS,
    pool="network",
    io_manager_key="table_io_manager",
    check_specs=[
        dg.AssetCheckSpec(
            "every_claimed_image_was_asked_for",
            asset="raw_images",
            blocking=True,
            description="Each image of the batch has one row, downloaded or with a reason.",
        )
    ],
)
def raw_images(
    context: dg.AssetExecutionContext,
    database: DatabaseResource,
    image_store: ImageStoreResource,
    image_fetcher: ImageFetcherResource,
) -> Iterator[dg.MaterializeResult]:
    """What the CDN gave for each image of a batch: a row per image, its bytes in the store under their SHA-256.

    An image that could not be downloaded has a reason code instead of an object key.
    """
    wanted = images_of_batch(database.engine, context.partition_key)
    progress = Progress(context, database.engine, len(wanted))
    rows = download_images(wanted, image_fetcher, image_store)
    frame = _frame(progress.watch(rows), RAW_COLUMNS)
    lost = len(set(wanted["image_id"]) ^ set(frame["image_id"]))
    check = check_result(
        context,
        database.engine,
        asset="raw_images",
        name="every_claimed_image_was_asked_for",
        failures=lost,
        recover="This is a fault of the pipeline: keep the run's log and re-run the batch.",
    )
    yield dg.MaterializeResult(value=frame, metadata=ingest_metadata(frame, progress), check_results=[check])


@dg.asset(
    partitions_def=image_batches,
    group_name="ingest",
    kinds={"python", "opencv"},
    owners=OWNERS,
    io_manager_key="table_io_manager",
    check_specs=[
        dg.AssetCheckSpec(
            "images_decodable",
            asset="validated_images",
            description="At least half of what was downloaded can be decoded; less means that the source is broken.",
        )
    ],
)
def validated_images(
    context: dg.AssetExecutionContext,
    raw_images: pd.DataFrame,
    database: DatabaseResource,
    image_store: ImageStoreResource,
    image_validator: ImageValidatorResource,
) -> Iterator[dg.MaterializeResult]:
    """Which images of a batch have pixels that can be trusted: a row per image, with its upright size or a reason.

    Every file was decoded as a whole, in a child process that may be killed.
    """
    progress = Progress(context, database.engine, len(raw_images))
    with image_validator.open() as validator:
        rows = judge_images(raw_images, validator, image_store.store)
        frame = _frame(progress.watch(rows), VALIDATED_COLUMNS)
    downloaded = int(raw_images["reason"].isna().sum())
    rejected = int(frame["reason"].notna().sum()) - (len(raw_images) - downloaded)
    check = check_result(
        context,
        database.engine,
        asset="validated_images",
        name="images_decodable",
        failures=rejected if rejected * 2 > downloaded else 0,
        recover="Look at the reasons; when the source is mended: imgpipe retry --batch " + context.partition_key,
        found={"downloaded": downloaded, "rejected": rejected},
    )
    yield dg.MaterializeResult(value=frame, metadata=ingest_metadata(frame, progress), check_results=[check])


RAW_COLUMNS = [
    "image_id",
    "image_url",
    "object_key",
    "sha256",
    "byte_size",
    "http_status",
    "fetch_attempts",
    "fetch_seconds",
    "reason",
    "detail",
]
VALIDATED_COLUMNS = [
    "image_id",
    "object_key",
    "sha256",
    "image_format",
    "width",
    "height",
    "frames",
    "orientation",
    "color_mode",
    "reason",
    "detail",
]


def download_images(
    wanted: pd.DataFrame, fetcher: ImageFetcherResource, image_store: ImageStoreResource
) -> Iterator[dict[str, Any]]:
    """Fetch every image and put its bytes into the store: a row of ``raw_images`` each, in no order.

    What a person has rejected is taken from the store, if it is there still: the picture that they looked at, which its
    source may have no longer.
    """
    store = image_store.store
    requests = (
        FetchRequest(int(image_id), _place(url, rejected_key, store))
        for image_id, url, rejected_key in zip(
            *(wanted[name] for name in ("image_id", "image_url", "rejected_key")), strict=True
        )
    )
    results = fetch_all(requests, fetcher.policy(), base_url=fetcher.base_url, openers=image_store.openers())
    return map_unordered(lambda result: _keep(result, store), results, threads=STORE_THREADS)


def judge_images(raw: pd.DataFrame, validator: Validator, store: ImageStore) -> Iterator[dict[str, Any]]:
    """Validate every downloaded image: a row of ``validated_images`` each, in no order.

    An image without bytes keeps the reason that it has.
    """
    downloaded = raw["reason"].isna()
    for image_id, reason, detail in zip(
        *(raw.loc[~downloaded, c] for c in ("image_id", "reason", "detail")), strict=True
    ):
        yield {"image_id": image_id, "reason": reason, "detail": detail}
    kept = raw.loc[downloaded].set_index("image_id")
    verdicts = validator.validate_all(
        read_all(store, zip(kept.index.astype(int), kept["object_key"].astype(str), strict=True))
    )
    for image_id, verdict in verdicts:
        yield _judged(image_id, str(kept.at[image_id, "object_key"]), str(kept.at[image_id, "sha256"]), verdict)


def ingest_metadata(frame: pd.DataFrame, progress: Progress) -> dict[str, Any]:
    """The same keys for both assets: how many, how fast, what was rejected and why."""
    rejected = frame[frame["reason"].notna()]
    return {
        "images": len(frame),
        "rejected": len(rejected),
        "images_per_second": round(progress.per_second, 1),
        "rejected_by_reason": rejected["reason"].value_counts().sort_index().astype(int).to_dict(),
        "rejected_sample": sample(rejected, ["image_id", "reason", "detail"]),
    }


def _place(url: Any, rejected_key: Any, store: ImageStore) -> str | None:  # noqa: ANN401 - pandas' missing value is no None
    """Where an image is read from."""
    if not pd.isna(rejected_key) and store.exists(str(rejected_key)):
        return stored_image_url(str(rejected_key))
    return None if pd.isna(url) else str(url)


def _keep(result: FetchResult, store: ImageStore) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image_id": result.key,
        "image_url": result.url,
        "http_status": result.status,
        "fetch_attempts": result.attempts,
        "fetch_seconds": result.elapsed_s,
        "reason": result.reason,
        "detail": result.detail or None,
    }
    if result.data is not None:
        kind = sniff(result.data)
        sha256 = hashlib.sha256(result.data).hexdigest()
        if scheme_of(result.url or "") == STORED_SCHEME:
            key = stored_image_key(str(result.url))  # it is there: no second copy
        else:
            key = image_key(sha256, kind.extension if kind else UNKNOWN_EXTENSION)
            store.put(key, result.data, content_type=kind.mime if kind else None, immutable=True)
        row.update(object_key=key, sha256=sha256, byte_size=len(result.data))
    return row


def _judged(image_id: int, object_key: str, sha256: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "object_key": object_key,
        "sha256": sha256,
        "image_format": verdict.format,
        "width": verdict.width,
        "height": verdict.height,
        "frames": verdict.frames,
        "orientation": verdict.orientation,
        "color_mode": verdict.mode,
        "reason": verdict.reason,
        "detail": verdict.detail or None,
    }


def _frame(rows: Iterator[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns).sort_values("image_id", ignore_index=True)
