"""Whether files can be trusted: verdicts and pixels, and the pool of child processes that give them.

Decoders are C code that meets hostile bytes: they run in children that can be killed, with a limit on memory, so that
the worst file costs one child and gets a reason code like any other. What a child looks for is in ``examine``.
"""

import contextlib
import fcntl
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from queue import LifoQueue
from typing import IO, Self, TypeVar, cast

import numpy as np

from imgpipe_dagster.imaging.formats import ImageFormat, sniff
from imgpipe_dagster.reasons import Reason

K = TypeVar("K")

_WORKER = (sys.executable, "-m", "imgpipe_dagster.imaging.validate_worker")
WORKER_READY = b"ready\n"
_WORKER_START_S = 60
_KEPT_PIXELS_BYTES = 32 * 2**20  # of memory shared with a child, for its next picture
# All that a child needs of the environment: it meets hostile bytes and must not hold the secrets of the others.
_WORKER_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "TMPDIR")


@dataclass(frozen=True)
class ValidationLimits:
    """What one file may cost.

    Attributes:
        max_pixels: Pixels of one frame; more are rejected before anything is decoded.
        max_frames: Frames or pages that the file may declare (only the first is decoded).
        timeout_s: Time for one file; then its child is killed.
        memory_mb: Memory of a child beyond what it uses when it has started (about 60 MB). A picture that may need
            more, at 24 bytes per pixel, is not begun.
    """

    max_pixels: int = 50_000_000
    max_frames: int = 10_000
    timeout_s: float = 20
    memory_mb: int = 2048


@dataclass(frozen=True)
class Verdict:
    """The answer about one file.

    Attributes:
        reason: None if the file can be trusted, else why not.
        detail: For people: what was found. Empty for a trusted file.
        format: By magic bytes; None if it is none of the six.
        width: Of the upright picture, in pixels; None if the header could not be read.
        height: Of the upright picture, in pixels; None if the header could not be read.
        frames: Frames or pages that the file declares; None if the header could not be read.
        orientation: EXIF orientation, 1 to 8, already applied in ``width`` and ``height``.
        mode: Pillow's name of the stored pixel layout, such as ``RGB`` or ``CMYK``.
        notes: What the file has that decoding drops or changes, and harmless complaints of the decoders.
    """

    reason: Reason | None = None
    detail: str = ""
    format: ImageFormat | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    orientation: int = 1
    mode: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the file can be trusted."""
        return self.reason is None

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The inverse of ``to_json``."""
        fields = json.loads(text)
        fields["reason"] = Reason(fields["reason"]) if fields["reason"] else None
        fields["format"] = ImageFormat(fields["format"]) if fields["format"] else None
        fields["notes"] = tuple(fields["notes"])
        return cls(**fields)


class Validator:
    """A pool of child processes that examine files. A context manager; may be shared by threads.

    A child starts when a file comes and all that have started are busy: few files take few children. One that crashes
    or exceeds its time is replaced, and only the file that it had is rejected. Children end when the pool is closed,
    and also when this process dies in whatever way: their pipe ends, and a file that is being decoded ends at its time
    limit.
    """

    def __init__(self, limits: ValidationLimits | None = None, workers: int = 2) -> None:
        self._limits = limits or ValidationLimits()
        self._workers = workers
        # Last in, first out: a child that has started is taken before a place where none has yet.
        self._idle: LifoQueue[_Child | None] = LifoQueue()

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="validator")
        for _ in range(self._workers):
            self._idle.put(None)
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for _ in range(self._workers):
            if child := self._idle.get():
                child.end()

    def validate(self, data: bytes) -> Verdict:
        """Examine one file in a child.

        Args:
            data: The whole file.

        Returns:
            The verdict, for every file.

        Raises:
            RuntimeError: If children cannot be started at all (which is never a file's fault).
        """
        with self._child() as child:
            return child.examine(data, pixels=False)[0]

    def decode(self, data: bytes) -> tuple[Verdict, np.ndarray | None]:
        """Examine one file in a child, and take over what the child has decoded: nobody has to decode it again.

        Args:
            data: The whole file.

        Returns:
            The verdict, for every file; and of a trusted one the pixels, as ``decode_bgr`` gives them: uint8
            (height, width, 3), BGR, upright.

        Raises:
            RuntimeError: If children cannot be started at all.
        """
        with self.decoded(data) as (verdict, pixels):
            return verdict, None if pixels is None else pixels.copy()

    @contextlib.contextmanager
    def decoded(self, data: bytes) -> Iterator[tuple[Verdict, np.ndarray | None]]:
        """As ``decode``, without a copy: the pixels are the child's, which has no other file until the block ends.

        Args:
            data: The whole file.

        Yields:
            The verdict, for every file; and of a trusted one the pixels, which are gone after the block.

        Raises:
            RuntimeError: If children cannot be started at all.
        """
        with self._child() as child:
            yield child.examine(data, pixels=True)

    @contextlib.contextmanager
    def _child(self) -> Iterator["_Child"]:
        child = self._idle.get()
        try:
            if child is None or not child.alive:
                child = _Child(self._limits)
            try:
                yield child
            finally:
                child.forget()
                if not child.alive:
                    child = _Child(self._limits)  # at once, so that it has started when the next file comes
        finally:
            self._idle.put(child)

    def validate_all(self, items: Iterable[tuple[K, bytes]]) -> Iterator[tuple[K, Verdict]]:
        """Examine many files, as many at once as there are children.

        Args:
            items: Pairs of a key and a whole file. Taken as needed, in the caller's thread: no more than two files per
                child are held.

        Yields:
            A pair of key and verdict for every item, in the order in which they become ready.

        Raises:
            RuntimeError: If children cannot be started at all.
        """
        running: dict[Future[Verdict], K] = {}

        def ready(timeout: float | None) -> Iterator[tuple[K, Verdict]]:
            for future in wait(running, timeout, FIRST_COMPLETED).done:
                yield running.pop(future), future.result()

        for key, data in items:
            running[self._threads.submit(self.validate, data)] = key
            yield from ready(0 if len(running) < 2 * self._workers else None)
        while running:
            yield from ready(None)


class _Child:
    """One worker process, two pipes to it, and memory that it shares.

    Requests: whether pixels are wanted (1 byte), length (8 bytes) and bytes. Answers: a line with the height and the
    width of the pixels in the shared memory (0 0 where there are none) and the verdict as JSON.
    """

    def __init__(self, limits: ValidationLimits) -> None:
        environment = {name: os.environ[name] for name in _WORKER_ENVIRONMENT if name in os.environ}
        environment |= {
            "OPENCV_IO_MAX_IMAGE_PIXELS": str(limits.max_pixels),
            "OPENCV_LOG_LEVEL": "WARNING",
            # One file is decoded by one thread; the pools of other threads would only use address space.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            # Let glibc keep the memory of the last picture for the next: giving it back costs 4 ms of page faults.
            "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
            "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
        }
        self._limits = limits
        # Of this size from the start, and sealed: could a child cut it off, to read it here would end this process.
        # Memory is taken for what is written only.
        shared = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(shared, 3 * limits.max_pixels)
            fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._memory = mmap.mmap(shared, 3 * limits.max_pixels)
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours, and no file's bytes are in it
                [*_WORKER, json.dumps(asdict(limits)), str(shared)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                pass_fds=[shared],
            )
        finally:
            os.close(shared)
        self._pixels_bytes = 0
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)
        self._started = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def examine(self, data: bytes, *, pixels: bool) -> tuple[Verdict, np.ndarray | None]:
        self._wait_until_started()
        try:
            self._requests.write(bytes([pixels]) + len(data).to_bytes(8))
            self._requests.write(data)
            self._requests.flush()
            height, width, verdict = self._read_line(self._limits.timeout_s).split(b" ", 2)
            told = Verdict.from_json(verdict)
            if pixels:  # those of a refused picture are there as well
                self._pixels_bytes = 3 * (told.width or 0) * (told.height or 0)
            return told, self._pixels(int(height), int(width))
        except TimeoutError:
            self.end()
            reason, detail = Reason.DECODE_TIMEOUT, f"not decoded within {self._limits.timeout_s:g} s"
        except (EOFError, BrokenPipeError):
            reason, detail = Reason.DECODER_CRASHED, f"the decoding process ended with {self._cause_of_death()}"
        return Verdict(reason, detail, format=sniff(data)), None

    def forget(self) -> None:
        """Give the memory of an uncommonly large picture back."""
        if self._pixels_bytes > _KEPT_PIXELS_BYTES:
            self._memory.madvise(mmap.MADV_REMOVE)
            self._pixels_bytes = 0

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # a request that it did not take
            self._requests.close()
        self._answers.close()

    def _pixels(self, height: int, width: int) -> np.ndarray | None:
        if height == 0:
            return None
        return np.frombuffer(self._memory, np.uint8, 3 * height * width).reshape(height, width, 3)

    def _wait_until_started(self) -> None:
        if self._started:
            return
        try:
            self._started = self._read_line(_WORKER_START_S) == WORKER_READY
        except (TimeoutError, EOFError) as error:
            self.end()
            raise RuntimeError(
                f"A validation process did not start ({self._cause_of_death()}); its own words are on the standard "
                f"error. Try: {' '.join(_WORKER[:3])} < /dev/null"
            ) from error

    def _read_line(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        answers = self._answers.fileno()
        poll = select.poll()
        poll.register(answers, select.POLLIN)
        line = b""
        while not line.endswith(b"\n"):
            if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            chunk = os.read(answers, 65536)
            if not chunk:
                raise EOFError
            line += chunk
        return line

    def _cause_of_death(self) -> str:
        status = self._process.wait()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"
