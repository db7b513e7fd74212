"""The queues of all contracts: how full they are, and those that are missing made."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from devstack import engine, environment
from devstack.errors import StackError
from devstack.settings import Settings


@dataclass(frozen=True)
class Queue:
    """One queue; `depth` is None where it does not exist or, with an `error`, could not be asked."""

    name: str
    contract: str
    holds_dead_letters: bool
    depth: dict[str, int] | None
    error: str | None

    @property
    def is_missing(self) -> bool:
        """Whether SQS answered that there is no such queue."""
        return self.depth is None and self.error is None

    @property
    def messages(self) -> int:
        """How many messages it holds, in whatever state; 0 where that is not known."""
        return sum((self.depth or {}).values())


@dataclass(frozen=True)
class Listing:
    """Every queue there should be, and a sentence for each contract that cannot be loaded."""

    queues: list[Queue]
    broken: dict[str, str]

    @property
    def missing(self) -> list[Queue]:
        """The queues that do not exist."""
        return [queue for queue in self.queues if queue.is_missing]


def listing(settings: Settings) -> Listing:
    """Ask for the queues of every contract. Raises StackError where the question itself fails."""
    run = subprocess.run(
        [str(settings.python), "-m", "devstack.programs.queue_listing"],
        cwd=settings.root,
        env=environment.for_child(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise StackError(
            f"the queues cannot be listed: {(run.stderr.strip() or 'no reason said').splitlines()[-1]}"
        )
    return parsed(json.loads(run.stdout))


def parsed(contracts: list[dict[str, Any]]) -> Listing:
    """Turn the answer of `devstack.programs.queue_listing` into a listing."""
    queues = [
        Queue(queue["name"], contract["name"], place == 1, queue["depth"], queue["error"])
        for contract in contracts
        for place, queue in enumerate(contract["queues"])
    ]
    broken = {contract["name"]: contract["error"] for contract in contracts if contract["error"]}
    return Listing(queues, broken)


def create_missing(settings: Settings, found: Listing) -> list[str]:
    """Make the missing queues; return their names. Raises StackError for a queue that cannot be asked."""
    for queue in found.queues:
        if queue.error:
            raise StackError(f"queue {queue.name}: {queue.error}")
    for contract in dict.fromkeys(queue.contract for queue in found.missing):
        engine.output(settings, "create-queue", "--contract", contract)
    return [queue.name for queue in found.missing]
