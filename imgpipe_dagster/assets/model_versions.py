"""Whether what counts was made by today's models, as asset checks: Dagster's own staleness does not know versions."""

from collections.abc import Sequence

import dagster as dg

from imgpipe_dagster.assets.common import SAMPLE_ROWS
from imgpipe_dagster.catalogue.model_versions import (
    OldRows,
    Scope,
    old_bottle_statuses,
    old_detections,
    old_temple_classifications,
)
from imgpipe_dagster.resources.classifier import ClassifierResource
from imgpipe_dagster.resources.database import DatabaseResource
from imgpipe_dagster.resources.detector import DetectorResource

_NAME = "made_by_todays_model"
_COLUMNS = ["batch", "made by", "images"]
# A check without a condition of its own is asked again in every run of a backfill.
_DAILY = dg.AutomationCondition.on_cron("@daily")


@dg.asset_check(
    asset="detections",
    name=_NAME,
    description="The detector in use, as it is set now, has looked at every image.",
    automation_condition=_DAILY,
)
def detections_made_by_todays_model(database: DatabaseResource, detector: DetectorResource) -> dg.AssetCheckResult:
    """Asks the rows, as ``imgpipe stale`` does."""
    with detector.open() as model:
        version = model.version
    return _verdict("detections", old_detections(database.engine, version, Scope()), version)


@dg.asset_check(
    asset="classifications",
    name=_NAME,
    description="The bottle classifier in use and the champion of each temple have classified every image of theirs.",
    automation_condition=_DAILY,
)
def classifications_made_by_todays_model(
    database: DatabaseResource, classifier: ClassifierResource
) -> dg.AssetCheckResult:
    """Asks the rows, as ``imgpipe stale`` does."""
    with classifier.open() as model:
        version = model.version
    old = [
        *old_bottle_statuses(database.engine, version, Scope()),
        *old_temple_classifications(database.engine, Scope()),
    ]
    return _verdict("classifications", old, version)


MODEL_CHECKS: Sequence[dg.AssetChecksDefinition] = [
    detections_made_by_todays_model,
    classifications_made_by_todays_model,
]
"""Questions to the whole catalogue. The daily job asks them, and so may people in the UI."""


def _verdict(asset: str, old: Sequence[OldRows], version: str) -> dg.AssetCheckResult:
    metadata: dict[str, dg.TableMetadataValue | str | int] = {
        "images": sum(rows.images for rows in old),
        "batches": len({rows.batch_key for rows in old}),
        "today's version": version,
        "how to recover": f"imgpipe backfill --asset {asset} --stale makes it anew; imgpipe stale says who made it.",
    }
    if old:
        metadata["sample"] = dg.MetadataValue.table(
            [
                dg.TableRecord(dict(zip(_COLUMNS, (rows.batch_key, rows.model_version, str(rows.images)), strict=True)))
                for rows in old[:SAMPLE_ROWS]
            ],
            schema=dg.TableSchema([dg.TableColumn(name, "string") for name in _COLUMNS]),
        )
    return dg.AssetCheckResult(passed=not old, severity=dg.AssetCheckSeverity.WARN, metadata=metadata)
