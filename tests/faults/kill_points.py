"""Points at which a process of the engine kills itself; the product knows nothing of them."""

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psycopg
from botocore.client import BaseClient

from include.queue_etl.sqs.transport import CurlTransport
from include.queue_etl.transform.parsing import Parser

# What a step does to the world outside, by a name for people.
POINTS: dict[str, tuple[Any, str]] = {
    "file write": (os, "write"),
    "file sync": (os, "fsync"),
    "file rename": (Path, "rename"),
    "file removal": (Path, "unlink"),
    "request": (CurlTransport, "start"),
    "answer": (CurlTransport, "wait"),
    "statement": (psycopg.Connection, "execute"),
    "copy": (psycopg.Copy, "write"),
    "commit": (psycopg.Transaction, "__exit__"),
    "parse": (Parser, "parse"),
    "object request": (BaseClient, "_make_api_call"),
}
# Where each step can die, and after how many calls of it a small run is surely over.
STEPS: dict[str, dict[str, int]] = {
    "extract": {
        "file write": 9, "file sync": 9, "file rename": 7, "request": 12, "answer": 12,
        "statement": 14, "commit": 10,
    },
    "mask": {"file write": 2, "file sync": 4, "file rename": 2},
    "load": {"statement": 9, "copy": 6, "commit": 5},
    "finish": {
        "request": 6, "answer": 6, "statement": 6, "commit": 5, "file removal": 10,
    },
}  # fmt: skip
OBJECT_REQUESTS = {"extract": 9, "mask": 4, "load": 2, "finish": 5}


@dataclass(frozen=True)
class KillPoint:
    """Die at the `call`th time something is done: before it, after it, or (a write) half way."""

    point: str
    call: int
    when: str

    def await_it(self) -> None:
        """From now on this process has it before it."""
        owner, name = POINTS[self.point]
        setattr(owner, name, self._fatal(getattr(owner, name)))

    def _fatal(self, original: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0

        def fatal(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != self.call:
                return original(*arguments, **named)
            if self.when == "half":
                original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            elif self.when == "after":
                original(*arguments, **named)
            die()

        return fatal


def die() -> NoReturn:
    """As `kill -9` does it: no handler, no `finally`, nothing flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process outlived SIGKILL")


def points(step: str, in_bucket: bool) -> dict[str, int]:
    """Those of the step; where staging is a bucket, it has no files."""
    if not in_bucket:
        return STEPS[step]
    elsewhere = {point: calls for point, calls in STEPS[step].items() if not point.startswith("file")}
    return {**elsewhere, "object request": OBJECT_REQUESTS[step]}


def random_kill_point(step: str, dice: random.Random, in_bucket: bool = False) -> KillPoint:
    calls = points(step, in_bucket)
    point = dice.choice(list(calls))
    whens = ["before", "after", "half"] if point == "file write" else ["before", "after"]
    return KillPoint(point, dice.randint(1, calls[point]), dice.choice(whens))
