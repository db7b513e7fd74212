"""A small world that the real steps run in: processes that take turns, get killed, and share one clock.

Every interaction with queue, warehouse and staging goes through `World.point`: there a seeded scheduler may
let another process go on, let time pass, or kill the process, with or without the chance to clean up.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from greenlet import greenlet

VISIBILITY_SECONDS = 100


class Killed(BaseException):
    """SIGKILL: from now on the process reaches nothing."""


class Stopped(BaseException):
    """SIGTERM, or a task's timeout: the process may clean up on its way out."""


@dataclass(eq=False)
class Process:
    """One attempt of one task."""

    dead: bool = False


@dataclass(frozen=True)
class FaultProbabilities:
    """How likely is what, at each interaction."""

    kill: float = 0.015
    stop: float = 0.005
    fail: float = 0.02  # an error, of which half after the call had its effect
    switch: float = 0.5
    long_wait: float = 0.01  # longer than the visibility timeout


CALM = FaultProbabilities(0, 0, 0, 0, 0)


class World:
    """Clock, chance, and the processes.

    Attributes:
        events: what happened, counted, for the report
    """

    def __init__(self, seed: int, probabilities: FaultProbabilities) -> None:
        self.chance = random.Random(seed)
        self.probabilities = probabilities
        self.now = 1_700_000_000.0
        self.events: Counter[str] = Counter()
        self._hub = greenlet.getcurrent()
        self._threads: list[greenlet] = []
        self._processes: dict[greenlet, Process] = {}

    # For drivers

    def start(self, work: Callable[[], object]) -> None:
        """Let `work` take part; it begins when the scheduler wants."""
        self._threads.append(greenlet(work, parent=self._hub))

    def run(self) -> None:
        """Until every thread has ended."""
        while self._threads:
            thread = self.chance.choice(self._threads)
            thread.switch()
            if thread.dead:
                self._threads.remove(thread)

    def wait(self, turns: int) -> None:
        """Let the other threads have so many turns."""
        for _ in range(turns):
            self._hub.switch()

    def attempt(self, task: Callable[[], Any]) -> tuple[bool, Any]:
        """Run a task as a process of its own; whether it ended well, and its result."""
        thread = greenlet.getcurrent()
        outer, self._processes[thread] = self._processes.get(thread), Process()
        try:
            return True, task()
        except (Killed, Stopped):
            return False, None
        finally:
            if outer is None:
                del self._processes[thread]
            else:
                self._processes[thread] = outer

    # For doubles

    def point(self) -> None:
        """Something may happen here, before the caller does what it came for or is told of it."""
        process = self._process()
        if process.dead:
            raise Killed
        self.now += self.chance.expovariate(1.0)
        if self.maybe(self.probabilities.long_wait):
            self.events["long_wait"] += 1
            self.now += 1.5 * VISIBILITY_SECONDS
        if self.maybe(self.probabilities.switch) and greenlet.getcurrent() is not self._hub:
            self._hub.switch()
        if self.maybe(self.probabilities.kill):
            self.kill()
        if self.maybe(self.probabilities.stop):
            self.events["stop"] += 1
            raise Stopped

    def kill(self) -> None:
        """End the process that is running."""
        self.events["kill"] += 1
        self._process().dead = True
        raise Killed

    def maybe(self, probabilities: float) -> bool:
        """True that often."""
        return probabilities > 0 and self.chance.random() < probabilities

    def _process(self) -> Process:
        return self._processes.setdefault(greenlet.getcurrent(), Process())
