"""Making results of the past anew: which assets and partitions, and a Dagster backfill of them. No questions to rows.

The backfill is submitted through Dagster's GraphQL, its public way, by ``dagster-graphql`` in a process of its own: no
web server has to run. Dagster's daemon carries it out.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from imgpipe_dagster.jobs import ANALYSE_ASSETS, ENHANCE_ASSETS
from imgpipe_dagster.partitions import image_batches

BACKFILL_TAG = "dagster/backfill"
TAGS = {
    "dagster/priority": "-10",  # new images go first; dagster.yaml bounds how many runs of backfills work at once
    "dagster/max_retries": "0",
}

_OVER = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}
_LAUNCHED = """{
  __typename
  ... on LaunchBackfillSuccess { backfillId }
  ... on PartitionKeysNotFoundError { message }
  ... on PythonError { message }
}"""
_TIMEOUT_S = 300


class BackfillError(RuntimeError):
    """Dagster did not take the backfill; the message says why."""


class NothingUndoneError(BackfillError):
    """The backfill has left nothing undone."""


@dataclass(frozen=True)
class BackfillProgress:
    """How far a backfill is: one run a batch.

    Attributes:
        batches: How many batches it is about.
        succeeded: Runs that did their work.
        failed: Runs that failed or were canceled.
        over: Whether nothing more will happen.
    """

    batches: int
    succeeded: int
    failed: int
    over: bool


def backfill_assets(asset: str) -> list[str]:
    """The asset and all that its job makes of it, as what follows would otherwise be out of date.

    Raises:
        KeyError: no job has such an asset.
    """
    key = dg.AssetKey(asset)
    for assets in (ANALYSE_ASSETS, ENHANCE_ASSETS):
        for definition in assets:
            if key in definition.keys:
                # What one function makes belongs together.
                chosen = dg.AssetSelection.assets(*definition.keys).downstream()
                of_job = {found for other in assets for found in other.keys}
                found = chosen.resolve([*ANALYSE_ASSETS, *ENHANCE_ASSETS]) & of_job
                return sorted(key.to_user_string() for key in found)
    raise KeyError(asset)


def all_assets() -> list[str]:
    """Names of all assets that can be made anew."""
    return sorted(k.to_user_string() for d in (*ANALYSE_ASSETS, *ENHANCE_ASSETS) for k in d.keys)


def submit_backfill(instance: dg.DagsterInstance, assets: Sequence[str], batch_keys: Sequence[str], title: str) -> str:
    """Ask Dagster to make assets of some batches anew, each batch in one run; the backfill's id.

    Args:
        instance: Dagster's instance, which the environment names too.
        assets: Names of assets.
        batch_keys: The batches. Partitions that Dagster does not know are added.
        title: What people see in the UI.

    Raises:
        BackfillError: Dagster did not take it.
    """
    instance.add_dynamic_partitions(str(image_batches.name), list(batch_keys))
    selection = ", ".join(f"{{path: [{json.dumps(asset)}]}}" for asset in assets)
    tags = ", ".join(f"{{key: {json.dumps(key)}, value: {json.dumps(value)}}}" for key, value in TAGS.items())
    parameters = (
        f"assetSelection: [{selection}], partitionNames: {json.dumps(list(batch_keys))}, "
        f"tags: [{tags}], title: {json.dumps(title)}"
    )
    return _launched(f"mutation {{ it: launchPartitionBackfill(backfillParams: {{{parameters}}}) {_LAUNCHED} }}")


def resume_backfill(backfill_id: str) -> str:
    """Ask Dagster for what an ended backfill has left undone, whether it failed or was canceled; the new one's id.

    Raises:
        NothingUndoneError: there is nothing left to do.
        BackfillError: Dagster did not take it.
    """
    parameters = f"parentRunId: {json.dumps(backfill_id)}, strategy: FROM_FAILURE"
    try:
        return _launched(
            f"mutation {{ it: reexecutePartitionBackfill(reexecutionParams: {{{parameters}}}) {_LAUNCHED} }}"
        )
    except BackfillError as error:
        if "no missing materializations" in str(error):
            raise NothingUndoneError(f"Backfill {backfill_id} has left nothing undone.") from error
        raise


def backfill_size(backfill_id: str) -> int:
    """How many batches a backfill is about.

    Raises:
        BackfillError: there is no such backfill.
    """
    answer = _ask(
        f"{{ it: partitionBackfillOrError(backfillId: {json.dumps(backfill_id)}) "
        "{ ... on PartitionBackfill { numPartitions } ... on BackfillNotFoundError { message } } }"
    )
    if answer.get("numPartitions") is None:
        raise BackfillError(answer.get("message") or f"Dagster cannot tell the size of backfill {backfill_id}.")
    return int(answer["numPartitions"])


def has_ended(instance: dg.DagsterInstance, backfill_id: str) -> bool:
    """Whether nothing more will happen to a backfill, so that its rest can be resumed.

    Raises:
        BackfillError: there is no such backfill.
    """
    backfill = instance.get_backfill(backfill_id)
    if backfill is None:
        raise BackfillError(f"There is no backfill {backfill_id}.")
    return backfill.status.value in _OVER


def backfills_under_way(instance: dg.DagsterInstance) -> set[str]:
    """Ids of the backfills that go on, whoever started them."""
    return {found.backfill_id for found in instance.get_backfills() if found.status.value not in _OVER}


def backfill_progress(instance: dg.DagsterInstance, backfill_id: str, batches: int) -> BackfillProgress:
    """How far a backfill of so many batches is.

    Raises:
        BackfillError: there is no such backfill.
    """

    def count(*statuses: dg.DagsterRunStatus) -> int:
        return instance.get_runs_count(dg.RunsFilter(tags={BACKFILL_TAG: backfill_id}, statuses=list(statuses)))

    succeeded = count(dg.DagsterRunStatus.SUCCESS)
    failed = count(dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    # The daemon takes up to half a minute more to note an end.
    return BackfillProgress(batches, succeeded, failed, succeeded >= batches or has_ended(instance, backfill_id))


def _launched(query: str) -> str:
    answer = _ask(query)
    if answer.get("__typename") != "LaunchBackfillSuccess":
        # A fault of Dagster's comes with its whole stack.
        lines = str(answer.get("message") or answer).splitlines()
        raise BackfillError(f"Dagster did not take the backfill: {lines[0] if lines else 'no reason given'}")
    return str(answer["backfillId"])


def _ask(query: str) -> dict[str, Any]:
    """Dagster's answer to a GraphQL query about these definitions: what is called ``it`` in the query."""
    program = Path(sys.executable).with_name("dagster-graphql")
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        asked = subprocess.run(  # noqa: S603 - the program is Dagster's, and the query comes by its input
            [str(program), "-m", "imgpipe_dagster.definitions", "--file", "-", "--output", str(answer)],
            input=query,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        text = answer.read_text() if answer.is_file() else ""
    found = json.loads(text) if text else {}
    if found.get("data") and found["data"].get("it"):
        return found["data"]["it"]
    errors = [str(error.get("message")) for error in found.get("errors") or []]
    reasons = errors or [line for line in (asked.stderr or asked.stdout).splitlines() if line.strip()][-1:]
    raise BackfillError(f"Dagster did not answer: {'; '.join(reasons) or f'exit status {asked.returncode}'}")
