"""The models of this process: loaded once, asked by a few threads behind a bounded queue, known answers kept."""

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, Field

from imgpipe_dagster.api.answers import AnswerCache
from imgpipe_dagster.api.files import opened
from imgpipe_dagster.api.metrics import Metrics
from imgpipe_dagster.api.problems import Code, Refusal
from imgpipe_dagster.api.work import WorkPool, give_way
from imgpipe_dagster.configured import open_classifier, open_detector
from imgpipe_dagster.imaging.validate import Validator
from imgpipe_dagster.models.devices import can_serve_on_cuda, cuda_may_be_here
from imgpipe_dagster.models.weights import WeightsError, end_conversions
from imgpipe_dagster.settings import Settings

log = logging.getLogger(__name__)

STREAMS = 2
"""Of the models, on a CPU."""

IN_WORK = STREAMS + 1
"""Pictures in work at once on a CPU: one is being decoded while two are classified."""

_BATCH = 16
"""Pictures in work at once on CUDA: what threads ask at the same time becomes one batch."""

TRY_AGAIN_S = 60.0
"""How long after a failure a model is tried again."""

_LOOK_AGAIN_S = 0.05
_WARM_SIZE = (480, 640)


class _Model(Protocol):
    version: str

    def close(self) -> None: ...


M = TypeVar("M", bound=_Model)


class Box(BaseModel):
    """Corners in pixels of the upright picture."""

    x1: float
    y1: float
    x2: float
    y2: float


class SeenObject(BaseModel):
    """One object in a picture, and a bottle's own status."""

    class_name: str
    confidence: float
    box: Box
    bottle_status: str | None = Field(default=None, description="Of objects that are classified by themselves.")
    bottle_confidence: float | None = None


class Seen(BaseModel):
    """What the models say of one picture."""

    class_name: str
    confidence: float
    model_version: str
    format: str
    width: int
    height: int
    objects: list[SeenObject] | None = None


def at_once(settings: Settings) -> int:
    """How many pictures are worked on at once."""
    models = (
        (settings.bottle_weights, settings.bottle_device, settings.bottle_precision),
        (settings.detector_weights, settings.detector_device, settings.detector_precision),
    )
    able = any(device != "cpu" and can_serve_on_cuda(weights, precision) for weights, device, precision in models)
    return _BATCH if able and cuda_may_be_here() else IN_WORK


class LoadedOnce(Generic[M]):
    """A model that is loaded when it is first needed, in whatever thread needs it; all others wait for that.

    A load that failed is not tried again for a minute, so that requests do not queue up behind it.
    """

    def __init__(self, load: Callable[[], M], what: str, metrics: Metrics) -> None:
        self._load = load
        self._what = what
        self._metrics = metrics
        self._lock = threading.Lock()
        self._model: M | None = None
        self._failed_at = float("-inf")
        self._closing = False

    @property
    def is_loaded(self) -> bool:
        """Whether it can answer at once."""
        return self._model is not None

    def get(self) -> M:
        """The model.

        Raises:
            Refusal: 500: it cannot be loaded; the log says why. 503 once it is closed.
        """
        with self._lock:
            if self._closing:
                raise _about_to_end()
            if self._model is None and time.monotonic() - self._failed_at > TRY_AGAIN_S:
                try:
                    self._model = self._load()
                    self._metrics.note_model(self._what, self._model.version)
                except (WeightsError, ValueError, OSError) as error:
                    if self._closing:
                        raise _about_to_end() from error
                    self._failed_at = time.monotonic()
                    log.exception("The %s cannot be loaded.", self._what)
            if self._model is None:
                raise Refusal(Code.INTERNAL_ERROR, f"The {self._what} cannot be loaded: the server's log says why.")
            return self._model

    def close(self) -> None:
        """Free the model. One that is being converted, here or by another process, is given up: that takes long."""
        self._closing = True
        while not self._lock.acquire(timeout=_LOOK_AGAIN_S):
            end_conversions()
        try:
            if self._model is not None:
                self._model.close()
                self._model = None
        finally:
            self._lock.release()


def _about_to_end() -> Refusal:
    return Refusal(Code.UNAVAILABLE, "The server is about to end.", retry_after_s=1)


class Inference:
    """Looks at pictures that clients send.

    Args:
        settings: Weights, limits of the queue and of the cache.
        validator: Examines and decodes each file in a child process.
        cache: Where answers are kept.
        metrics: Told of the models, the queue and the cache.
    """

    def __init__(self, settings: Settings, validator: Validator, cache: AnswerCache, metrics: Metrics) -> None:
        self._validator = validator
        self._cache = cache
        self._metrics = metrics
        self._crop_classes = frozenset(settings.bottle_crop_classes)
        self.pool = WorkPool("infer", threads=at_once(settings), queue_limit=settings.api_queue_limit)
        self.classifier = LoadedOnce(lambda: open_classifier(settings), "bottle classifier", metrics)
        self.detector = LoadedOnce(lambda: open_detector(settings), "detector", metrics)
        metrics.watch_queue("infer", lambda: self.pool.in_flight)

    async def warm(self) -> None:
        """Load the models and ask each once, so that the first client does not wait.

        Raises:
            Refusal: One cannot be loaded.
        """
        # The models' own threads, which begin in this one, give way as it does.
        thread = ThreadPoolExecutor(1, thread_name_prefix="warm", initializer=give_way)
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self._warm)
        finally:
            thread.shutdown(wait=False)  # a server that ends does not wait: `close` ends what is under way

    async def classify(self, data: bytes, *, with_objects: bool = False) -> tuple[Seen, bool]:
        """What one file shows, and whether that was known already.

        Args:
            data: The file.
            with_objects: Find objects too, and classify those of the cropped classes by themselves.

        Raises:
            Refusal: 413, 415 or 422 where the file is no good, 503 at once where too many wait, 500 without a model.
        """
        if not self._cache.keeps:
            return await self.pool.run(self._look, data, with_objects), False
        digest = hashlib.sha256(data).hexdigest()
        key = f"{self._versions(with_objects)}:{digest}"
        known = await self._cache.get(key) if key[0] != ":" else None
        self._metrics.count_cache(hit=known is not None)
        if known is not None:
            return Seen.model_validate(known), True
        seen = await self.pool.run(self._look, data, with_objects)
        await self._cache.put(f"{self._versions(with_objects)}:{digest}", seen.model_dump())
        return seen, False

    def find_objects(self, image: np.ndarray) -> list[SeenObject]:
        """Objects in a decoded picture, the most confident first. It blocks: call it in a thread."""
        found = (detector := self.detector.get()).detect(image)
        return [
            SeenObject(
                class_name=detector.names[int(class_id)],
                confidence=float(confidence),
                box=Box(**dict(zip(("x1", "y1", "x2", "y2"), map(float, corners), strict=True))),
            )
            for corners, confidence, class_id in zip(found.xyxy, found.confidence, found.class_id, strict=True)
        ]

    def close(self) -> None:
        """Drop what waits, and free the models."""
        self.pool.close()
        self.classifier.close()
        self.detector.close()

    def _versions(self, with_objects: bool) -> str:
        """What made an answer; empty as long as the models are not loaded."""
        models = [self.classifier, self.detector] if with_objects else [self.classifier]
        return "+".join(model.get().version for model in models) if all(model.is_loaded for model in models) else ""

    def _look(self, data: bytes, with_objects: bool) -> Seen:
        with opened(self._validator, data) as (verdict, image):
            classifier = self.classifier.get()
            answer = classifier.classify(image)
            objects = self.find_objects(image) if with_objects else None
            for found in objects or ():
                if found.class_name in self._crop_classes:
                    box = found.box
                    own = classifier.classify_crop(image, np.array([box.x1, box.y1, box.x2, box.y2], np.float32))
                    found.bottle_status = classifier.names[own.class_id]
                    found.bottle_confidence = own.confidence
            return Seen(
                class_name=classifier.names[answer.class_id],
                confidence=answer.confidence,
                model_version=classifier.version,
                format=verdict.format or "",
                width=image.shape[1],
                height=image.shape[0],
                objects=objects,
            )

    def _warm(self) -> None:
        grey = np.full((*_WARM_SIZE, 3), 128, np.uint8)
        self.classifier.get().classify(grey)
        self.detector.get().detect(grey)
