"""The partitions of the assets, defined once, and the keys of temples. Nothing else."""

import unicodedata
from urllib.parse import unquote

import dagster as dg

PARTITION_TAG = "dagster/partition"
ATTEMPT_TAG = "imgpipe/attempt"

image_batches = dg.DynamicPartitionsDefinition(name="image_batches")
"""One partition a batch of images; the key is ``image_batches.batch_key`` in the catalogue."""

temples = dg.DynamicPartitionsDefinition(name="temples")
"""One partition a temple; :func:`temple_partition` makes the key."""


def temple_partition(temple_id: str) -> str:
    """The partition key of a temple: letters and digits of all languages stay, all else that Dagster may split at goes.

    Commas break backfills in Dagster's UI, and line breaks or three dots are refused.
    """
    return "".join(
        character if _may_stay(character) else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in temple_id
    )


def _may_stay(character: str) -> bool:
    # Vowel signs and accents belong to letters (general category M).
    return character in "_:-" or character.isalnum() or unicodedata.category(character).startswith("M")


def temple_of_partition(partition_key: str) -> str:
    """The temple that a partition key stands for."""
    return unquote(partition_key)
