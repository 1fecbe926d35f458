"""Freshness of each temple and each source, as asset checks: the policy on an asset sees only the freshest of them."""

from collections.abc import Sequence

import dagster as dg

from imgpipe_dagster.alerts.watch import FEED_CHECKS, WatchLimits, judge_feeds
from imgpipe_dagster.catalogue.alerts import Condition
from imgpipe_dagster.catalogue.feeds import feed_ages
from imgpipe_dagster.catalogue.tables import FeedKind
from imgpipe_dagster.resources.database import DatabaseResource

_ASSET = "image_predictions"


def build_freshness_checks(limits: WatchLimits) -> Sequence[dg.AssetChecksDefinition]:
    """One check for the temples and one for the sources. A sensor reports their verdicts; the UI can run them too."""
    return [_build_check(kind, limits) for kind in FeedKind]


def freshness_evaluation(kind: FeedKind, condition: Condition) -> dg.AssetCheckEvaluation:
    """The verdict on one kind of feeds, as a check's."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(_ASSET),
        check_name=FEED_CHECKS[kind],
        passed=not condition.active,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=dict(condition.details),
        description=condition.body if condition.active else None,
    )


def _build_check(kind: FeedKind, limits: WatchLimits) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=_ASSET,
        name=FEED_CHECKS[kind],
        description=f"The newest prediction of each {kind} is young enough, whatever the others send.",
    )
    def check(database: DatabaseResource) -> dg.AssetCheckResult:
        found = freshness_evaluation(kind, judge_feeds(feed_ages(database.engine), kind, limits))
        return dg.AssetCheckResult(
            passed=found.passed, severity=found.severity, metadata=found.metadata, description=found.description
        )

    return check
