"""Runs that are killed, repeated, abandoned, overlapped and run again, as the dice will have it."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.faults import worker
from tests.faults.kill_points import random_kill_point
from tests.faults.servers import QueueUnderTest
from tests.faults.worker import Ended

DRIVERS = 2
ATTEMPTS = (1, 2, 5)  # some tasks are given up early: then finish meets batches that are not loaded
ALSO_AN_END = ("the run never started", "the run failed; each of its messages")
RETRY_DELAY_SECONDS = 0.2  # Airflow's, in small: Postgres takes a second to recover
# Typical lengths, so that kills from outside fall into the step and not behind it.
STEP_SECONDS = {"extract": 0.5, "mask": 0.1, "load": 0.15, "finish": 0.3}


@dataclass(frozen=True)
class Plan:
    """How much is to go wrong."""

    kills: int
    messages: int
    restarts: int
    seed: int
    staging: str = "folder"

    @property
    def messages_a_run(self) -> int:
        """So few that there are runs enough to be killed in."""
        return max(20, min(200, 4 * self.messages // max(1, self.kills)))

    @property
    def kill_share(self) -> float:
        """How often a process must be killed: a run has two steps, and two a batch of ten; half survive."""
        processes = self.messages / self.messages_a_run * (2 + 2 * self.messages_a_run / 10)
        return min(0.8, 2 * self.kills / processes)


@dataclass
class RunOnQueue:
    """A run as its driver knows it: what Airflow would keep in its own database."""

    name: str
    tested: QueueUnderTest
    batches: list[str] = field(default_factory=list)
    upstream_failed: bool = False


@dataclass
class Chaos:
    """Drives runs on the queues until enough have been killed.

    Attributes:
        tested: each with a contract of its own
        kills: by step, so far
    """

    tested: Sequence[QueueUnderTest]
    plan: Plan
    kills: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    closed: list[RunOnQueue] = field(default_factory=list)
    abandoned: list[RunOnQueue] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _runs: Iterator[int] = field(default_factory=lambda: iter(range(10**9)))

    def rage(self, sent: Sequence[Sequence[bytes]]) -> None:
        """Send the messages of each queue bit by bit and run, until all are sent and the kills are done."""
        portions = self._portions(sent)
        with ThreadPoolExecutor(1) as restarters, ThreadPoolExecutor(DRIVERS) as drivers:
            driving = [drivers.submit(self._drive, n, portions, restarters) for n in range(DRIVERS)]
            for driver in driving:
                driver.result()

    def calm(self) -> None:
        """End what was abandoned, then run without faults until the queue is empty."""
        for run in self.abandoned[::2]:  # the others stay as they are: Airflow forgets runs too
            self._expect_success(run.tested, "step", "finish", "--run-id", run.name)
        while left := [tested for tested in self.tested if tested.on_queue()]:
            for tested in left:
                worker.wait_until_visible(tested)
                self._expect_success(tested, "drain", "--json", visibility="60")

    @property
    def killed(self) -> int:
        return self.kills.total()

    @property
    def _is_done(self) -> bool:
        return self.killed >= self.plan.kills and self.restarts >= self.plan.restarts

    def _portions(self, sent: Sequence[Sequence[bytes]]) -> Iterator[tuple[QueueUnderTest, Sequence[bytes]]]:
        """Of each queue in turn, in the order of its messages."""
        size = self.plan.messages_a_run
        most = max(map(len, sent))
        rounds = [
            (tested, bodies[first : first + size])
            for first in range(0, most, size)
            for tested, bodies in zip(self.tested, sent, strict=True)
        ]
        return iter([(tested, portion) for tested, portion in rounds if portion])

    def _drive(
        self, number: int, portions: Iterator[tuple[QueueUnderTest, Sequence[bytes]]], restarters: Executor
    ) -> None:
        dice = random.Random(self.plan.seed * DRIVERS + number)
        while True:
            # One after another: the versions of a key are sent in their order.
            with self._lock:
                tested, portion = next(portions, (dice.choice(self.tested), []))
                if portion:
                    tested.send(portion)
            if not portion and self._is_done:
                return
            self._restart_if_due(restarters)
            self._one_run(tested, dice)
            if self.closed and dice.random() < 0.2:
                self._clear(dice.choice(self.closed), dice)
            if self.abandoned and dice.random() < 0.3:
                self._clear(dice.choice(self.abandoned), dice)

    def _restart_if_due(self, restarters: Executor) -> None:
        with self._lock:
            share = min(1, self.killed / max(1, self.plan.kills))
            due = self.restarts < int(self.plan.restarts * share + 0.5)
            self.restarts += due
        if due:  # beside the drivers, whose processes are at work meanwhile
            restarters.submit(self.tested[0].servers.restart_postgres)

    def _one_run(self, tested: QueueUnderTest, dice: random.Random) -> None:
        with self._lock:
            run = RunOnQueue(f"{tested.tag} chaos {next(self._runs)}", tested)
        extracted = self._step(run, dice, worker.step("extract", run.name))
        run.upstream_failed = extracted is None
        run.batches = [one["batch"] for one in extracted or []]
        if dice.random() < 0.08:
            self.abandoned.append(run)
            return
        for batch in run.batches:
            self._batch(run, batch, dice)
        # Without batches Airflow skips finish, and there may be no run to finish.
        if extracted == [] or self._finish(run, dice):
            self.closed.append(run)
        else:
            self.abandoned.append(run)

    def _batch(self, run: RunOnQueue, batch: str, dice: random.Random) -> None:
        for name in ("mask", "load"):
            if self._step(run, dice, worker.step_of_batch(name, run.name, batch)) is None:
                run.upstream_failed = True
                return

    def _finish(self, run: RunOnQueue, dice: random.Random) -> bool:
        options = ["--upstream-failed"] if run.upstream_failed else []
        return self._step(run, dice, worker.step("finish", run.name, *options)) is not None

    def _clear(self, run: RunOnQueue, dice: random.Random) -> None:
        """Run some tasks of an old run again, as a person does who clears them in Airflow."""
        tasks: list[Callable[[], object]] = [
            lambda: self._step(run, dice, worker.step("extract", run.name)),
            *(lambda batch=batch: self._batch(run, batch, dice) for batch in run.batches),
            lambda: self._finish(run, dice),
        ]
        first = dice.randrange(len(tasks))
        for task in tasks[first : first + dice.randint(1, len(tasks))]:
            task()

    def _step(self, run: RunOnQueue, dice: random.Random, arguments: Sequence[str]) -> "list | dict | None":
        """Try a step as often as Airflow would; its result, or None when no attempt got through."""
        step = arguments[1]
        for _ in range(dice.choice(ATTEMPTS)):
            if dice.random() < 0.05:  # Airflow believes a live worker dead and starts the task again
                zombie = self._start(run, arguments, dice)
                ended = self._end(self._start(run, arguments, dice), step, dice)
                self._end(zombie, step, dice)
            else:
                ended = self._end(self._start(run, arguments, dice), step, dice)
            if ended.code == 0:
                return json.loads(ended.output)
            if not ended.was_killed:
                time.sleep(RETRY_DELAY_SECONDS)
        return None

    def _start(self, run: RunOnQueue, arguments: Sequence[str], dice: random.Random) -> worker.Started:
        step = arguments[1]
        is_killed = self._is_killed(step, dice)
        kill_point = random_kill_point(step, dice, self.plan.staging == "s3") if is_killed else None
        return worker.start(
            run.tested, arguments, kill_point, QUEUE_ETL_MAX_MESSAGES=str(self.plan.messages_a_run)
        )

    def _is_killed(self, step: str, dice: random.Random) -> bool:
        """Rather where few have died so far: mask and load run far more often than extract and finish."""
        ahead = self.kills[step] - self.killed / len(STEP_SECONDS)
        if self.killed >= self.plan.kills or ahead > max(3, self.plan.kills / 10):
            return False
        return dice.random() < (0.8 if ahead <= 0 else self.plan.kill_share / 2)

    def _end(self, started: worker.Started, step: str, dice: random.Random) -> Ended:
        kill_after = None
        if dice.random() < 0.5 and self._is_killed(step, dice):
            kill_after = dice.uniform(0, STEP_SECONDS[step])
        ended = started.wait(kill_after)
        with self._lock:
            self.kills[step] += ended.was_killed
            if not ended.was_killed and ended.code:
                self.failures[f"exit {ended.code}: {ended.last_line[:150]}"] += 1
        return ended

    def _expect_success(self, tested: QueueUnderTest, *arguments: str, visibility: str = "3") -> None:
        """Without faults a command may fail only because Postgres is just coming back."""
        for _ in range(max(ATTEMPTS)):
            ended = worker.run(tested, *arguments, QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS=visibility)
            is_finish = arguments[:2] == ("step", "finish")
            if ended.code == 0 or (is_finish and any(line in ended.errors for line in ALSO_AN_END)):
                return
        raise AssertionError(f"{arguments} fails although nothing is wrong: {ended.errors[-2000:]}")
