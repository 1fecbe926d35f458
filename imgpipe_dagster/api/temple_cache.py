"""The temples' models that this process has in memory, the latest used. No loading of its own."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from imgpipe_dagster.catalogue.temple_models import Version
from imgpipe_dagster.models.temple_classifier import TempleClassifier

_KEPT = 64


class TempleClassifiers:
    """Models by temple and version. Safe to share between threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], TempleClassifier] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, version: Version, load: Callable[[], TempleClassifier]) -> TempleClassifier:
        """The classifier of a version, loaded if it is not there."""
        key = version.temple_id, version.version
        with self._lock:
            classifier = self._kept.get(key)
        if classifier is None:
            classifier = load()
        with self._lock:
            self._kept[key] = classifier
            self._kept.move_to_end(key)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return classifier
