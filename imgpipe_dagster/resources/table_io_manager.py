"""Frames in and out of the catalogue: the asset's name is the table's, the partition is the batch. No SQL here."""

from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from imgpipe_dagster.catalogue.frames import load_batch, replace_batch
from imgpipe_dagster.catalogue.publishing import publish_batch, publish_enhancements
from imgpipe_dagster.resources.database import DatabaseResource


class TableIOManager(dg.ConfigurableIOManager):
    """Stores an asset's frame as the rows of its batch, replacing those that were there, in one transaction."""

    database: dg.ResourceDependency[DatabaseResource]

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Replace the batch's rows."""
        rows = replace_batch(self.database.engine, context.asset_key.path[-1], context.partition_key, obj)
        context.add_output_metadata({"dagster/partition_row_count": rows})

    def load_input(self, context: dg.InputContext) -> Any:  # noqa: ANN401 - Dagster's signature
        """The batch's rows that count as a frame: an image that has moved to a newer batch is answered there."""
        return load_batch(self.database.engine, context.asset_key.path[-1], context.partition_key, counting=True)


class PublishingIOManager(TableIOManager):
    """Stores answers and gives them to the images of the batch as well: both or neither."""

    enhance: bool = Field(default=True, description="Whether images that have a SKU are enhanced afterwards.")

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Replace the batch's rows, set the images' status and reason, close the batch's analysis."""
        name = context.asset_key.path[-1]
        rows = publish_batch(self.database.engine, name, context.partition_key, obj, enhance=self.enhance)
        context.add_output_metadata({"dagster/partition_row_count": rows})


class EnhancementPublishingIOManager(TableIOManager):
    """Stores verdicts and gives them to the images of the batch as well: both or neither."""

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Replace the batch's rows, set the images' review status and URL, close the batch."""
        name = context.asset_key.path[-1]
        rows = publish_enhancements(self.database.engine, name, context.partition_key, obj)
        context.add_output_metadata({"dagster/partition_row_count": rows})
