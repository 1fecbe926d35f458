"""OpenVINO on the CPU: one model, compiled per input size, run by several threads at once. Tensors in, tensors out."""

import functools
import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgpipe_dagster.models.quiet_openvino import import_openvino

if TYPE_CHECKING:
    import openvino as ov

logger = logging.getLogger(__name__)

# Each compiled input size of a small model takes some 80 MB, and compiling it takes 0.1 to 0.5 s.
_SIZES_KEPT = 8


@dataclass(frozen=True)
class InferenceSlot:
    """One inference at a time: write ``pixels``, then call ``infer``.

    Attributes:
        pixels: uint8 (height, width, 3) BGR: the model's input, overwritten for each picture.
    """

    pixels: np.ndarray
    _request: "ov.InferRequest"

    def infer(self) -> np.ndarray:
        """Run the model on ``pixels``.

        Returns:
            The first output without its batch axis: a float32 view, valid until the slot is used again.
        """
        self._request.infer()
        return self._request.get_output_tensor(0).data[0]


@functools.cache
def _core() -> "ov.Core":
    """The one core of this process, which lives as long as the process does.

    A core's CPU plugin gives the thread that makes it another signal stack, and unmaps that when the core is freed, in
    whatever thread that happens, such as one that the garbage collector runs in. The maker, mostly the main thread,
    would run its next signal handler on memory that is gone, or that is somebody else's by then.
    """
    return import_openvino().Core()


class OpenVinoRuntime:
    """A model whose input is one uint8 BGR picture; the model itself turns it into scaled RGB planes.

    A size gets its own static compilation: that is 5% (fp32) to 20% (bf16) faster than one model with a dynamic input,
    uses bounded memory, and keeps clear of a crash of dynamic INT8 models on CPUs with AMX
    (https://github.com/openvinotoolkit/openvino/issues/37577).
    """

    def __init__(self, model: Path, *, precision: str, streams: int, blob_dir: Path) -> None:
        """Read the model; nothing is compiled yet.

        Args:
            model: An OpenVINO ``.xml`` with its ``.bin`` beside it, or an ``.onnx``.
            precision: OpenVINO's inference precision, ``f32`` or ``bf16``, or ``fastest``: bf16 where the CPU has it,
                else f32. Always stated, because OpenVINO silently takes bf16 where the CPU has it.
            streams: Inferences at once.
            blob_dir: Folder for compiled models, so that the next process starts sooner.

        Raises:
            ValueError: The CPU has no bf16, or the input is not one batch of three-channel pictures.
        """
        self._core = _core()
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in capabilities:
            raise ValueError(f"This CPU has no bf16 (it has {', '.join(capabilities)}): use fp32 or int8.")
        if precision == "fastest":
            precision = "bf16" if "BF16" in capabilities else "f32"
        self._model_path = model
        self._streams = streams
        self._config = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": streams,
            "CACHE_DIR": str(blob_dir),
        }
        shape = self._core.read_model(model).input(0).partial_shape
        batch, channels, height, width = shape
        if (batch.is_static and batch.get_length() != 1) or (channels.is_static and channels.get_length() != 3):
            raise ValueError(f"{model} takes input of shape {shape}; it must be one picture of three channels.")
        self.fixed_size = (height.get_length(), width.get_length()) if height.is_static and width.is_static else None
        self._slots: dict[tuple[int, int], queue.SimpleQueue[InferenceSlot]] = {}
        self._compiling = threading.Lock()
        self._running = threading.BoundedSemaphore(streams)

    @contextmanager
    def slot(self, size: tuple[int, int]) -> Iterator[InferenceSlot]:
        """A slot for one picture of this height and width; waits while all streams are busy. Thread-safe."""
        with self._running:
            slots = self._slots_for(size)
            slot = slots.get()
            try:
                yield slot
            finally:
                slots.put(slot)

    def close(self) -> None:
        """Free what was compiled."""
        with self._compiling:
            self._slots.clear()

    def _slots_for(self, size: tuple[int, int]) -> "queue.SimpleQueue[InferenceSlot]":
        with self._compiling:
            slots = self._slots.pop(size, None) or self._compile(size)
            self._slots[size] = slots  # the last place is the most recently used
            if len(self._slots) > _SIZES_KEPT:
                del self._slots[next(iter(self._slots))]
            return slots

    def _compile(self, size: tuple[int, int]) -> "queue.SimpleQueue[InferenceSlot]":
        import openvino as ov
        from openvino.preprocess import ColorFormat, PrePostProcessor

        model = self._core.read_model(self._model_path)
        if self.fixed_size is None:
            model.reshape([1, 3, *size])
        steps = PrePostProcessor(model)
        picture = steps.input(0)
        picture.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_color_format(ColorFormat.BGR)
        picture.preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
        picture.model().set_layout(ov.Layout("NCHW"))
        for index in range(len(model.outputs)):
            steps.output(index).tensor().set_element_type(ov.Type.f32)
        compiled = self._core.compile_model(steps.build(), "CPU", self._config)
        logger.debug("compiled %s for %d x %d", self._model_path.name, *size)
        slots: queue.SimpleQueue[InferenceSlot] = queue.SimpleQueue()
        for _ in range(self._streams):
            request = compiled.create_infer_request()
            # The tensor owns its memory, so that no array can vanish under a running inference.
            tensor = ov.Tensor(ov.Type.u8, ov.Shape([1, *size, 3]))
            request.set_input_tensor(tensor)
            slots.put(InferenceSlot(tensor.data[0], request))
        return slots
