"""Processes of the engine: each runs one command, or one step of a batch, and may die at it."""

import contextlib
import itertools
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing import connection
from pathlib import Path

from devstack.settings import ROOT
from include import contracts
from include.queue_etl.cli import app as command_line
from tests.faults.kill_points import KillPoint
from tests.faults.servers import QueueUnderTest
from tests.support import one_batch
from tests.support.wait import wait_until

# A fork of a process that has imported everything costs a hundredth of a fresh interpreter.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [
        "tests.faults.worker",
        "include.queue_etl.steps",
        "include.queue_etl.sqs.client",
        "include.queue_etl.postgres.runs",
    ]
)
_numbers = itertools.count()
# multiprocessing asks after all children whenever one is started, and an exit code can be read only once.
_one_thread = threading.Lock()
PATIENCE_SECONDS = 300
TEST_CONTRACTS = ROOT / "tests" / "contracts"  # are contracts of the project to these processes
ONE_BATCH = "one-batch"  # no command of the engine: tests.support.one_batch


@dataclass(frozen=True)
class Ended:
    """How a process ended. `code` is -9 for one that was killed."""

    code: int
    output: str
    errors: str

    @property
    def was_killed(self) -> bool:
        return self.code == -9

    @property
    def last_line(self) -> str:
        """Of what it said on standard error."""
        return (self.errors.strip().splitlines() or ["(nothing)"])[-1].strip()


@dataclass(frozen=True)
class Started:
    """A process under way."""

    process: "multiprocessing.context.ForkServerProcess"
    files: Path

    def wait(self, kill_after_seconds: float | None = None) -> Ended:
        """Its end; killed from outside when it takes longer than that."""
        if not self._ends_within(PATIENCE_SECONDS if kill_after_seconds is None else kill_after_seconds):
            self.process.kill()
            assert kill_after_seconds is not None, f"hangs: see {self.files}"
            self._ends_within(PATIENCE_SECONDS)
        with _one_thread:
            self.process.join()
            code = self.process.exitcode
            self.process.close()
        return Ended(
            1 if code is None else code,
            self.files.with_suffix(".out").read_text(),
            self.files.with_suffix(".err").read_text(),
        )

    def _ends_within(self, seconds: float) -> bool:
        return bool(connection.wait([self.process.sentinel], seconds))


def step(name: str, run_name: str, *options: str) -> list[str]:
    """Arguments of a process that does a step of the run."""
    return ["step", name, "--run-id", run_name, *options]


def step_of_batch(name: str, run_name: str, batch: str) -> list[str]:
    """Arguments of a process that masks or loads one batch of the run."""
    return [ONE_BATCH, name, run_name, batch]


def start(
    tested: QueueUnderTest, arguments: Sequence[str], kill_point: KillPoint | None = None, **environment: str
) -> Started:
    """Start a process on the queue under test; with a kill point it dies there."""
    files = tested.servers.output / f"{next(_numbers):05d}-{tested.tag}-{'-'.join(arguments[:2])}"
    process = _processes.Process(
        target=_run,
        args=(
            _of_contract(arguments, tested.contract.name),
            {**tested.environment, **environment},
            tested.contract.name,
            tested.contract.queue,
            kill_point,
            str(files),
        ),
    )
    for suffix in (".out", ".err"):
        files.with_suffix(suffix).touch()
    with _one_thread:
        process.start()
    return Started(process, files)


def run(tested: QueueUnderTest, *arguments: str, **environment: str) -> Ended:
    """Run a command to its end."""
    return start(tested, arguments, None, **environment).wait()


def _of_contract(arguments: Sequence[str], name: str) -> list[str]:
    """The arguments, with the contract where it is not the default one."""
    if name == contracts.DEFAULT_CONTRACT:
        return list(arguments)
    return [*arguments, name] if arguments[0] == ONE_BATCH else [*arguments, "--contract", name]


def _run(
    arguments: list[str],
    environment: dict[str, str],
    name: str,
    queue: str,
    kill_point: KillPoint | None,
    files: str,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(files + suffix, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    # All that any library would ever say: the search for personal values reads it.
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG)
    contracts.__path__.append(str(TEST_CONTRACTS))
    module = import_module(f"include.contracts.{name}")
    module.CONTRACT = replace(module.CONTRACT, queue=queue)  # type: ignore[attr-defined]
    if kill_point is not None:
        kill_point.await_it()
    if arguments[0] == ONE_BATCH:
        sys.exit(one_batch.main(arguments[1:]))
    sys.exit(command_line.main(arguments))


def wait_until_visible(tested: QueueUnderTest) -> None:
    """Until no message of the queue is in flight."""
    with contextlib.closing(tested.queue()) as queue:
        wait_until(lambda: not queue.depth().in_flight)
