"""One run of one contract: who it is, and the resources it works with."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from include.queue_etl.contract import Contract
from include.queue_etl.errors import PreflightError, QueueEtlError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.resources import Resources
from include.queue_etl.settings import Settings
from include.queue_etl.staging.area import StagedRun

if TYPE_CHECKING:
    from include.queue_etl.postgres.runs import RunState, RunStore
    from include.queue_etl.sqs.client import SqsQueue

log = logging.getLogger(__name__)
WEAK = (
    "contract %s masks %s with %s, which has no key: readers of the table find the values by trying. One "
    "core tries every IPv4 address in two to six minutes (docs/privacy.md). Use it only to join with tables "
    "that were masked so before; production refuses it"
)
_RUNS = UUID("6d4a7b56-9d0c-4a6f-8f0b-2f3d6f1f4f6e")  # namespace of run ids


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contract.

    Attributes:
        contract: its name
        name: Airflow's run id, or any text that names the run elsewhere
    """

    contract: str
    name: str

    @property
    def id(self) -> UUID:
        """The same for all tasks and retries of the run; also its folder, as a name may hold `..`."""
        return uuid5(_RUNS, f"{self.contract}\n{self.name}")


class RunContext:
    """What the steps of a run work with."""

    def __init__(self, resources: Resources, contract: Contract, run_name: str) -> None:
        """Connect to nothing yet; who made the resources closes them."""
        self.resources = resources
        self.contract = contract
        self.run = Run(contract.name, run_name)

    @property
    def settings(self) -> Settings:
        """Limits and places."""
        return self.resources.settings

    @property
    def keyset(self) -> Keyset:
        """The keyset; raises KeysetError, or KeyServiceUnavailable where KMS has to unwrap it."""
        return self.resources.keyset

    @property
    def queue(self) -> "SqsQueue":
        """The contract's queue; raises QueueRefused or QueueUnavailable."""
        return self.resources.queue(self.contract.queue, self.contract.place)

    @cached_property
    def store(self) -> "RunStore":
        """Runs and batches in the warehouse."""
        from include.queue_etl.postgres.runs import RunStore

        return RunStore(self.resources.database)

    @cached_property
    def staging(self) -> StagedRun:
        """The run's staged files."""
        return self.resources.staging.run(self.run.id)

    def preflight(self) -> None:
        """Check every part before the first message is received; writes nothing but a probe.

        Raises:
            PreflightError: names every part that is not ready, and what to do
        """
        # Before the first connection: it might be the one without TLS.
        if problems := self.resources.production_problems([self.contract]):
            raise PreflightError(problems)
        for column in self.contract.personal:
            if column.mark.is_weak:
                log.warning(WEAK, self.contract.name, column.field, column.mark.scheme)
        problems = [
            *self._queue_problems(),
            *self.resources.loading_problems(self.contract),
            *self._staging_problems(),
        ]
        if problems:
            raise PreflightError(problems)

    def open_run(self, depth: Mapping[str, int] | None) -> "RunState":
        """Enter the run in the warehouse, with what the sensor saw, or find it there."""
        return self.store.open_run(self.run.id, self.contract, self.run.name, depth or {})

    def is_closed(self) -> bool:
        """Whether the run is over: its messages are deleted or back on the queue."""
        state = self.store.run_state(self.run.id)
        return state is not None and state.closed

    def record_key(self) -> None:
        """Note the primary key, and the columns it masks, before anything is masked; again is fine."""
        self.store.register_columns(self.contract)
        self.store.add_key_check(self.keyset.primary_key_id, self.keyset.check_value())

    def _queue_problems(self) -> list[str]:
        try:
            self.queue.depth()
        except QueueEtlError as error:
            return [str(error)]
        return []

    def _staging_problems(self) -> list[str]:
        problem = self.resources.staging_store.problem()
        return [problem] if problem else []
