"""Progress for people: one line a step, with its seconds."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

SIGN_OF_LIFE_SECONDS = 5.0
RED, PLAIN = "\033[31m", "\033[0m"


class Console:
    """Writes steps and notes to one stream; stdout, or stderr where stdout carries JSON."""

    def __init__(self, stream: TextIO = sys.stdout, every: float = SIGN_OF_LIFE_SECONDS) -> None:
        self._stream = stream
        self._every = every
        self._line_is_open = False
        self._lock = threading.RLock()

    def red(self, text: str) -> str:
        """Return the text in red where the stream is a terminal with colours and NO_COLOR is not set."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not self._stream.isatty()
        return text if plain else f"{RED}{text}{PLAIN}"

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print `title ...` at once and its seconds, or `failed`, when the block ends.

        A long block's seconds also appear in between, on the same line, until a note ends that line.
        """
        started, ended = time.monotonic(), threading.Event()
        with self._lock:
            self._write(f"  {title} ... ", end="")
            self._line_is_open = True
        threading.Thread(target=self._show_life, args=(started, ended), daemon=True).start()
        outcome = "failed after "
        try:
            yield
            outcome = ""
        finally:
            ended.set()
            with self._lock:
                prefix = "" if self._line_is_open else f"  {title}: "
                self._line_is_open = False
                self._write(f"{prefix}{outcome}{time.monotonic() - started:.1f} s")

    def note(self, text: str) -> None:
        """Print one line; it ends the line of a step that is under way."""
        with self._lock:
            if self._line_is_open:
                self._write("")
                self._line_is_open = False
            self._write(text)

    def _show_life(self, started: float, ended: threading.Event) -> None:
        while not ended.wait(self._every):
            with self._lock:
                if not self._line_is_open or ended.is_set():
                    return
                self._write(f"{time.monotonic() - started:.0f} s ... ", end="")

    def _write(self, text: str, end: str = "\n") -> None:
        self._stream.write(text + end)
        self._stream.flush()
