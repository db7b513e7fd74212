"""Answers that come from elsewhere, within a second or not at all: the page is drawn without them."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Answers(Generic[T]):
    """Asks several questions side by side, and keeps each answer for some seconds."""

    def __init__(self, unknown: T, *, wait_seconds: float, kept_seconds: float, asked_at_once: int) -> None:
        """Ask nothing yet.

        Args:
            unknown: what is said in place of an answer that comes too late; the next call has it
            wait_seconds: of one call of `to`
            kept_seconds: an answer is as good as new for so long
            asked_at_once: threads
        """
        self._unknown = unknown
        self._wait_seconds = wait_seconds
        self._kept_seconds = kept_seconds
        self._lock = Lock()
        self._answers: dict[str, tuple[float, Future[T]]] = {}
        self._threads = ThreadPoolExecutor(asked_at_once, thread_name_prefix="page-answers")

    def to(self, questions: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """The answers by name, as far as they are known in time; raises what a question raised."""
        futures = {name: self._answer(name, ask) for name, ask in questions.items()}
        wait(futures.values(), self._wait_seconds)
        return {name: future.result() if future.done() else self._unknown for name, future in futures.items()}

    def _answer(self, name: str, ask: Callable[[], T]) -> "Future[T]":
        with self._lock:
            at, future = self._answers.get(name, (0.0, None))
            # One that is still asked for is waited for, not asked for twice.
            if future is None or (future.done() and time.monotonic() - at > self._kept_seconds):
                future = self._threads.submit(ask)
                self._answers[name] = (time.monotonic(), future)
            return future
