"""The registry of models that were trained here: rows are added, never changed. No files, no training."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from imgpipe_dagster.catalogue.engine import transact
from imgpipe_dagster.catalogue.tables import ModelVersion


def register_model(
    engine: Engine, *, kind: str, version: str, sha256: str, files: Mapping[str, str], metrics: Mapping[str, Any]
) -> bool:
    """Note a trained model. Its files are durable in the store by now.

    Args:
        engine: The catalogue.
        kind: What it is for, such as ``bottle_status``.
        version: Its name within the kind.
        sha256: Of its weights.
        files: Keys in the store, by name.
        metrics: Figures, as JSON has them.

    Returns:
        Whether it is new: the same weights trained again change nothing.
    """

    def insert(connection: Connection) -> bool:
        known = sa.select(ModelVersion.id).where(ModelVersion.kind == kind, ModelVersion.version == version)
        if connection.scalar(known.with_for_update()) is not None:
            return False
        row = {"kind": kind, "version": version, "sha256": sha256, "files": dict(files), "metrics": dict(metrics)}
        connection.execute(sa.insert(ModelVersion).values(row))
        return True

    return transact(engine, insert)
