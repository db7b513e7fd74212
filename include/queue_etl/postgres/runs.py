"""Postgres: one transaction a batch, which batches are committed, and what a run did.

A message is dealt with when its id is in `etl.ledger`. Ledger, rows, quarantine and the batch's commit record
are written together or not at all. Everything here may be done again after a crash or a lost reply: what is
committed stays as it is.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, LiteralString, NamedTuple
from uuid import UUID

from include.queue_etl.contract import Contract
from include.queue_etl.errors import KeysetError, WarehouseRefused
from include.queue_etl.postgres import masked_columns, partitions
from include.queue_etl.postgres.connection import Connection, Database, Deadlocked
from include.queue_etl.postgres.loading import BatchCounts, Load, copy_all, insert_unseen, load_batch
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch
from include.queue_etl.transform.partitions import of_batch

log = logging.getLogger(__name__)

UNIQUE_VIOLATION = "23505"
CHECK_VIOLATION = "23514"  # of no constraint: a row has no partition


class RunState(NamedTuple):
    """Where a run stands: `running`, `succeeded` or `failed`."""

    queue_id: int
    state: str

    @property
    def closed(self) -> bool:
        """Nothing that is done again for this run may change anything."""
        return self.state != "running"


@dataclass(slots=True)
class RunTotals:
    """What became of a run's messages on the queue, to be recorded when it is closed.

    Attributes:
        delete_failed: they come back, the ledger knows them, a later run deletes them
        visible_after: depth of the queue when the run ended; None where SQS did not say
    """

    deleted: int = 0
    delete_failed: int = 0
    released: int = 0
    visible_after: int | None = None
    finish_seconds: float = 0.0


class RunStore:
    """Runs and their batches: what the roles etl_loader and etl_maintainer may do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Runs

    def open_run(
        self,
        run_id: UUID,
        contract: Contract,
        run_name: str,
        depth: Mapping[str, int],
        *,
        kind: Literal["queue", "redrive", "replay"] = "queue",
        queue: str = "",
    ) -> RunState:
        """Enter the run as running; one that is there already, closed or not, is left alone and returned.

        `depth` is of the queue before the run: "visible" and "oldest_age_seconds", as far as known. Of a
        redrive or a replay `etl.run_summary` shows its rows only: an earlier run counts its messages. `queue`
        is the entry by which the ledger knows them, where it is not the contract's queue.
        """
        found = self.run_state(run_id)
        if found is not None:
            return found
        queue = queue or contract.queue
        self._database.execute(INSERT_QUEUE, queue=queue)
        self._database.execute(
            INSERT_RUN,
            run_id=run_id,
            contract=contract.name,
            table=contract.table,
            queue=queue,
            run_name=run_name,
            kind=kind,
            visible_before=depth.get("visible"),
            oldest_age_seconds=depth.get("oldest_age_seconds"),
        )
        return RunState(*self._database.execute(SELECT_RUN, run_id=run_id)[0])

    def run_state(self, run_id: UUID) -> RunState | None:
        """The run, or None when it was never opened."""
        found = self._database.execute(SELECT_RUN, run_id=run_id)
        return RunState(*found[0]) if found else None

    def record_extract(
        self, run_id: UUID, received: int, seconds: float, oldest_age_seconds: int = 0
    ) -> None:
        """Store what `extract` did. Done again it overwrites; a closed run is left alone.

        The age is that of the oldest message received, 0 where none was. If the sensor saw an older one,
        which this run need not have received, its age stays.
        """
        self._database.execute(
            UPDATE_EXTRACT, run_id=run_id, received=received, seconds=seconds, age=oldest_age_seconds
        )

    def close_run(self, run_id: UUID, state: str, totals: RunTotals) -> None:
        """Set the final state and the sums over the run's batches; from then on no batch of it loads.

        Waits for loads of the run that are under way. A run that is closed or was never opened is left alone.
        """
        values = {"run_id": run_id, "state": state, **asdict(totals)}
        if not self._database.transaction(lambda connection: _close_run(connection, values)):
            log.info("Run %s is closed, or was never opened: nothing to record", run_id)

    def run_summary(self, run_id: UUID) -> dict[str, Any]:
        """The line of a known run in `etl.run_summary` as JSON values; while it runs, the counts so far."""
        ((summary,),) = self._database.execute(SELECT_SUMMARY, run_id=run_id)
        return dict(summary)

    # Batches

    def load(
        self, run_id: UUID, contract: Contract, batch: str, masked: MaskedBatch, rejected: RejectedBatch
    ) -> BatchCounts:
        """Put one batch into the ledger, the contract's table and the quarantine, in one transaction.

        A committed batch is left as it is, and the counts recorded then are returned. A batch of a closed run
        is not loaded, and its counts are 0.

        The entries should be sorted by day, then id, as `sorted` does it: transactions that insert the same
        ids in different orders deadlock. (One of the two is then tried again.)
        """
        self._database.execute(ENSURE_DAYS, days=masked.sent_days)
        partitions.ensure(self._database, contract.table, of_batch(contract, masked))
        if masked.key_check:  # the keyset may have got another primary key since extract noted its own
            self.add_key_check(masked.key_id, masked.key_check)
        load = Load(run_id, contract, batch, masked, rejected)
        try:
            return self._database.transaction(lambda connection: load_batch(connection, load, copy_all))
        except Deadlocked:
            log.info("Batch %s met a transaction with the same messages", batch)
        except WarehouseRefused as refused:
            if refused.sqlstate == CHECK_VIOLATION and refused.constraint is None:
                log.info("Batch %s met maintenance, which dropped a partition it needs", batch)
                partitions.ensure(self._database, contract.table, of_batch(contract, masked))
            elif refused.sqlstate == UNIQUE_VIOLATION:
                log.info("Batch %s holds messages that were seen before", batch)
            else:
                raise
        return self._database.transaction(lambda connection: load_batch(connection, load, insert_unseen))

    def committed_batches(self, run_id: UUID) -> dict[str, bytes]:
        """Name -> ids_digest of every batch of the run whose transaction is committed."""
        return dict(self._database.execute(SELECT_BATCHES, run_id=run_id))

    # Keys

    def add_key_check(self, key_id: int, value: str) -> None:
        """Remember a key at its first use; a known key keeps its value.

        Raises:
            KeysetError: the key is retired: what it masked now could never be unmasked
        """
        self._database.execute(INSERT_KEY, key_id=key_id, value=value)
        if self._database.execute(SELECT_RETIRED, key_id=key_id)[0][0]:
            raise KeysetError(f"key {key_id} is retired: this process has an old keyset, start it again")

    def register_columns(self, contract: Contract) -> None:
        """Remember, before anything is masked, which columns will hold tokens; again is fine."""
        self._database.transaction(lambda connection: masked_columns.register(connection, contract))


def _close_run(connection: Connection, values: Mapping[str, Any]) -> bool:
    """Whether the run was open. Locks first: the sums must be taken after the last load has committed."""
    if connection.execute(LOCK_RUN, values).rowcount == 0:
        return False
    connection.execute(CLOSE_RUN, values)
    return True


# The statements

# Looks first: each ON CONFLICT uses up one of the 32,767 numbers of the identity.
INSERT_QUEUE: LiteralString = """
    INSERT INTO etl.queues (name) SELECT %(queue)s
    WHERE NOT EXISTS (SELECT FROM etl.queues WHERE name = %(queue)s) ON CONFLICT DO NOTHING
"""
INSERT_RUN: LiteralString = """
    INSERT INTO etl.runs
        (run_id, contract, table_name, queue_id, airflow_run_id, kind, visible_before, oldest_age_seconds)
    SELECT %(run_id)s, %(contract)s, %(table)s, queue_id, %(run_name)s, %(kind)s, %(visible_before)s,
           %(oldest_age_seconds)s
    FROM etl.queues WHERE name = %(queue)s ON CONFLICT DO NOTHING
"""
SELECT_RUN: LiteralString = "SELECT queue_id, state FROM etl.runs WHERE run_id = %(run_id)s"
UPDATE_EXTRACT: LiteralString = """
    UPDATE etl.runs SET received = %(received)s, extract_seconds = %(seconds)s,
                        oldest_age_seconds = greatest(oldest_age_seconds, %(age)s)
    WHERE run_id = %(run_id)s AND state = 'running'
"""
LOCK_RUN: LiteralString = """
    SELECT FROM etl.runs WHERE run_id = %(run_id)s AND state = 'running' FOR NO KEY UPDATE
"""
CLOSE_RUN: LiteralString = """
    UPDATE etl.runs
    SET state = %(state)s, finished_at = now(), deleted = %(deleted)s, delete_failed = %(delete_failed)s,
        released = %(released)s, visible_after = %(visible_after)s, finish_seconds = %(finish_seconds)s,
        loaded = so_far.loaded, quarantined = so_far.quarantined, duplicates = so_far.duplicates,
        quarantined_by_reason = so_far.quarantined_by_reason, unknown_fields = so_far.unknown_fields,
        personal_data_checked = so_far.personal_data_checked,
        personal_data_found = so_far.personal_data_found, staged_bytes = so_far.staged_bytes,
        mask_seconds = so_far.mask_seconds, load_seconds = so_far.load_seconds
    FROM etl.run_summary AS so_far
    WHERE runs.run_id = %(run_id)s AND so_far.run_id = %(run_id)s
"""
SELECT_SUMMARY: LiteralString = """
    SELECT to_jsonb(run_summary) FROM etl.run_summary WHERE run_id = %(run_id)s
"""
ENSURE_DAYS: LiteralString = "SELECT etl.ensure_ledger_partition(day) FROM unnest(%(days)s::date[]) AS day"
SELECT_BATCHES: LiteralString = "SELECT batch, ids_digest FROM etl.batches WHERE run_id = %(run_id)s"
INSERT_KEY: LiteralString = """
    INSERT INTO etl.keys (key_id, check_value) VALUES (%(key_id)s, %(value)s) ON CONFLICT DO NOTHING
"""
SELECT_RETIRED: LiteralString = "SELECT retired_at IS NOT NULL FROM etl.keys WHERE key_id = %(key_id)s"
