"""A model's files in the store, and back: hashes are checked against the registry before anything parses them."""

import contextlib
import hashlib
import shlex
from collections.abc import Mapping, Sequence

from sqlalchemy.engine import Engine

from imgpipe_dagster.catalogue.temple_images import composed
from imgpipe_dagster.catalogue.temple_models import NoModelError, TempleModelError, Version, champion, get_version
from imgpipe_dagster.models.temple_classifier import CLASSIFIER_FILES, TempleClassifier
from imgpipe_dagster.models.temple_report import doubt_about
from imgpipe_dagster.store.base import ImageStore, ObjectNotFoundError, StoreError
from imgpipe_dagster.store.keys import models_key


class ModelFileChangedError(TempleModelError):
    """A file of a model is not what the registry says: it is not loaded."""


def store_files(
    store: ImageStore, temple_id: str, version: str, files: Mapping[str, bytes]
) -> dict[str, dict[str, str | int]]:
    """Put a model's files into the store; what the registry keeps of them, by name.

    Raises:
        StoreError: One cannot be stored; those that were are removed again.
    """
    kept: dict[str, dict[str, str | int]] = {}
    try:
        for name, data in files.items():
            key = models_key("temples", temple_id, version, name)
            kept[str(name)] = {"object_key": key, "sha256": hashlib.sha256(data).hexdigest(), "byte_size": len(data)}
            store.put(key, data)
    except StoreError:
        for entry in kept.values():
            with contextlib.suppress(StoreError):
                store.delete(str(entry["object_key"]))
        raise
    return kept


def load_files(store: ImageStore, version: Version, names: Sequence[str]) -> dict[str, bytes]:
    """Read files of a registered model. Nothing has parsed them when their hashes are checked.

    Raises:
        ModelFileChangedError: One is missing, unknown to the registry, or not what it was.
    """
    told = f"of model {version.version} of {version.temple_id}"
    files: dict[str, bytes] = {}
    for name in names:
        entry = version.files.get(name)
        if entry is None:
            raise ModelFileChangedError(f"The file {name} {told} is not in the registry.")
        try:
            data = store.get(entry["object_key"])
        except ObjectNotFoundError as error:
            raise ModelFileChangedError(f"The file {name} {told} is gone: promote another version.") from error
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            changed = f"The file {name} {told} has changed since it was registered and is not loaded"
            raise ModelFileChangedError(f"{changed}: promote another version.")
        files[name] = data
    return files


def load_classifier(engine: Engine, store: ImageStore, temple_id: str, version: str | None = None) -> TempleClassifier:
    """The classifier of a temple, ready to work.

    Args:
        engine: The catalogue.
        store: Where the files are.
        temple_id: Which temple.
        version: A version or its number; without one, the champion.

    Raises:
        NoModelError: The temple has none.
        ModelFileChangedError: A file is not what it was.
    """
    return classifier_of(store, find_version(engine, temple_id, version))


def doubt_about_version(version: Version) -> str | None:
    """Why a registered version may be no better than guessing, as far as its test told; None if it is better."""
    return doubt_about(version.labels, version.metrics.get("confusion", []))


def classifier_of(store: ImageStore, version: Version) -> TempleClassifier:
    """The classifier of a registered version, all of whose files are as they were.

    Raises:
        ModelFileChangedError: A file is not what it was.
    """
    needed = [str(name) for name in CLASSIFIER_FILES]
    files = load_files(store, version, sorted({*needed, *version.files}))
    return TempleClassifier.from_files({name: files[name] for name in needed})


def find_version(engine: Engine, temple_id: str, version: str | None = None) -> Version:
    """A version of a temple, by name or number; without one, the champion.

    Raises:
        NoModelError: The temple has none.
    """
    temple_id = composed(temple_id)
    if version is None:
        serving = champion(engine, temple_id)
        if serving is None:
            raise NoModelError(f"{temple_id} has no model yet: imgpipe temple train {shlex.quote(temple_id)}")
        version = serving.version
    return get_version(engine, temple_id, version)
