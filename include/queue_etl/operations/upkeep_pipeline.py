"""The parts that redrive, reconcile, dead letters and maintenance are made of."""

from functools import cached_property
from typing import TYPE_CHECKING

from include.queue_etl.contract import Contract
from include.queue_etl.pipeline import Pipeline, Run

if TYPE_CHECKING:
    from include.queue_etl.operations.upkeep import Upkeep
    from include.queue_etl.sqs import SqsQueue


class UpkeepPipeline(Pipeline):
    """A pipeline that may change what others have loaded: `warehouse_dsn` is that of role etl_maintainer."""

    @cached_property
    def warehouse(self) -> "Upkeep":
        """The warehouse; it connects at its first statement."""
        from include.queue_etl.operations.upkeep import Upkeep

        return Upkeep(self._warehouse_dsn)

    @cached_property
    def dead_letters(self) -> "SqsQueue":
        """The contract's dead-letter queue; raises QueueRefused or QueueUnavailable."""
        from include.queue_etl.sqs import SqsQueue

        name = self.contract.dead_letter_queue
        return SqsQueue.connect(self._session(), name, self.settings, self._endpoint_urls.get("sqs"))

    def of_run(self, contract: Contract, airflow_run_id: str) -> "UpkeepPipeline":
        """The same parts for another run; it shares no connection with this one."""
        return UpkeepPipeline(
            contract,
            Run(contract.name, airflow_run_id),
            self.settings,
            session=self._session,
            endpoint_urls=self._endpoint_urls,
            warehouse_dsn=self._warehouse_dsn,
            keyset_json=self._given_keyset,
        )
