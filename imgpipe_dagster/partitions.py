"""The partitions of the assets, defined once. Nothing else."""

import dagster as dg

image_batches = dg.DynamicPartitionsDefinition(name="image_batches")
"""One partition a batch of images; the key is ``image_batches.batch_key`` in the catalogue."""
