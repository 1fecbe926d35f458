"""What Dagster is told of temples that are not worked on in its runs: their partitions, and models that were made.

Commands call this after their work; what is told here is for people who look at Dagster's UI.
"""

import dagster as dg

from imgpipe_dagster.assets.temple_metadata import model_metadata
from imgpipe_dagster.instance import dagster_instance
from imgpipe_dagster.partitions import temple_partition, temples
from imgpipe_dagster.settings import Settings
from imgpipe_dagster.temples.training import MadeModel


def note_temple(settings: Settings, temple_id: str) -> None:
    """Give a temple its partition."""
    with dagster_instance(settings) as instance:
        instance.add_dynamic_partitions(str(temples.name), [temple_partition(temple_id)])


def note_model(settings: Settings, made: MadeModel) -> None:
    """Report a model as a materialization of ``temple_models``, as a run would."""
    key = temple_partition(made.version.temple_id)
    with dagster_instance(settings) as instance:
        instance.add_dynamic_partitions(str(temples.name), [key])
        instance.report_runless_asset_event(
            dg.AssetMaterialization("temple_models", partition=key, metadata=model_metadata(made))
        )
