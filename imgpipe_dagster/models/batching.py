"""Single questions of many threads, put to a model together. What a question is, the model knows."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

WAIT_S = 0.002
"""How long a question waits for others to come along."""


class MicroBatcher(Generic[T, R]):
    """Collects what several threads ask, and has it answered in batches, in a thread of its own.

    While one batch is answered the next one gathers. If a batch fails, each of its questions is put by itself: what is
    wrong with one is told to its own asker only.

    Args:
        answer: Answers a list of questions, in order. Called by one thread only.
        most: Questions in a batch.
        wait_s: How long the first question of a batch waits for others.
    """

    def __init__(self, answer: Callable[[list[T]], Sequence[R]], *, most: int, wait_s: float) -> None:
        self._answer = answer
        self._most = most
        self._wait_s = wait_s
        self._asked: queue.SimpleQueue[tuple[T, Future[R]] | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, question: T) -> R:
        """The answer to one question; waits for it. Thread-safe.

        Raises:
            RuntimeError: The batcher is closed.
            Exception: Whatever ``answer`` raises for this question alone.
        """
        answered: Future[R] = Future()
        with self._starting:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
                self._thread.start()
            self._asked.put((question, answered))
        return answered.result()

    def close(self) -> None:
        """Answer what was asked, and end."""
        with self._starting:
            self._closed = True
            self._asked.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            batch, goes_on = self._gather()
            if batch:
                self._settle(batch)
            del batch  # pictures are not kept until the next question comes

    def _gather(self) -> tuple[list[tuple[T, Future[R]]], bool]:
        """The next batch, and whether there may be another."""
        first = self._asked.get()
        if first is None:
            return [], False
        batch = [first]
        ends = time.monotonic() + self._wait_s
        while len(batch) < self._most:
            try:
                item = self._asked.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return batch, False
            batch.append(item)
        return batch, True

    def _settle(self, batch: list[tuple[T, Future[R]]]) -> None:
        try:
            answers = self._answer([question for question, _ in batch])
            for (_, answered), answer in zip(batch, answers, strict=True):
                answered.set_result(answer)
        except Exception as error:  # noqa: BLE001 - told to who asked
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for item in batch:
                self._settle([item])
