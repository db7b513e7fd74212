"""Progress for people: one line a step, with its seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Console:
    """Writes steps and notes to one stream; stdout, or stderr where stdout carries JSON."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._line_is_open = False

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print `title ...` at once and its seconds, or `failed`, when the block ends."""
        started = time.monotonic()
        self._write(f"  {title} ... ", end="")
        self._line_is_open = True
        outcome = "failed after "
        try:
            yield
            outcome = ""
        finally:
            prefix = "" if self._line_is_open else f"  {title}: "
            self._line_is_open = False
            self._write(f"{prefix}{outcome}{time.monotonic() - started:.1f} s")

    def note(self, text: str) -> None:
        """Print one line; it ends the line of a step that is under way."""
        if self._line_is_open:
            self._write("")
            self._line_is_open = False
        self._write(text)

    def _write(self, text: str, end: str = "\n") -> None:
        self._stream.write(text + end)
        self._stream.flush()
