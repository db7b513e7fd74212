"""Postgres: one transaction a batch, which batches are committed, and what a run did.

A message is dealt with when its id is in `etl.ledger`. Ledger, rows, quarantine and the batch's commit record
are written together or not at all. Everything here may be done again after a crash or a lost reply: what is
committed stays as it is.
"""

import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, LiteralString, NamedTuple, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from include.migrations import head_revision
from include.queue_etl import masked_columns, server_log
from include.queue_etl.batches import MaskedBatch, RejectedBatch
from include.queue_etl.contract import Contract
from include.queue_etl.errors import KeysetError, QueueEtlError, WarehouseRefused
from include.queue_etl.loading import BatchCounts, Load, copy_all, identifier, insert_unseen, load_batch
from include.queue_etl.postgres import SILENCE_SECONDS, Connection, Deadlocked, connect, translated

__all__ = ["BatchCounts", "RunState", "Warehouse"]

log = logging.getLogger(__name__)
T = TypeVar("T")

UNIQUE_VIOLATION = "23505"
# What the statements here and in `loading` need, apart from the contract's table and what DENIED adds.
PRIVILEGES = {
    "etl.queues": ("SELECT", "INSERT"),
    "etl.runs": ("SELECT", "INSERT", "UPDATE"),
    "etl.batches": ("SELECT", "INSERT", "UPDATE"),
    "etl.keys": ("SELECT", "INSERT"),
    "etl.masked_columns": ("INSERT",),
    "etl.ledger": ("INSERT",),
    "etl.quarantine": ("INSERT",),
    "etl.run_summary": ("SELECT",),
}
MIGRATE = "run `python -m include.queue_etl migrate`"


class RunState(NamedTuple):
    """Where a run stands: `running`, `succeeded` or `failed`."""

    queue_id: int
    state: str

    @property
    def closed(self) -> bool:
        """Nothing that is done again for this run may change anything."""
        return self.state != "running"


class Warehouse:
    """The database, as role `etl_loader`. Connects on first use, and again after a lost connection.

    Its methods raise WarehouseUnavailable (try again) or WarehouseRefused (a person has to act). Neither
    holds a value, and no psycopg error, which would, is chained to them.
    """

    def __init__(self, dsn: str, silence_seconds: float = SILENCE_SECONDS) -> None:
        """Connect to nothing yet; `silence_seconds` as for `connect`."""
        self._dsn = dsn
        self._silence_seconds = silence_seconds
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()

    def problems(self, contract: Contract | None = None) -> list[str]:
        """Why nothing could be loaded now, a sentence each; empty when all is well.

        With a contract, its table and columns are looked at too.
        """
        try:
            return self._transaction(schema_problems) or self._transaction(
                lambda connection: (
                    table_problems(connection, contract)
                    or _denied(connection, contract)
                    or _locked(connection, contract)
                )
            )
        except QueueEtlError as error:
            return [str(error)]

    def log_warnings(self) -> list[str]:
        """What the server may log although it should not, a sentence each; runs start all the same."""
        return self._transaction(server_log.warnings)

    # Runs

    def open_run(
        self, run_id: UUID, contract: Contract, airflow_run_id: str, depth: Mapping[str, int]
    ) -> RunState:
        """Enter the run as running; one that is there already, closed or not, is left alone and returned.

        `depth` is of the queue before the run: "visible" and "oldest_age_seconds", as far as known.
        """
        found = self.run_state(run_id)
        if found is not None:
            return found
        self._execute(INSERT_QUEUE, queue=contract.queue)
        self._execute(
            INSERT_RUN,
            run_id=run_id,
            contract=contract.name,
            queue=contract.queue,
            airflow_run_id=airflow_run_id,
            visible_before=depth.get("visible"),
            oldest_age_seconds=depth.get("oldest_age_seconds"),
        )
        return RunState(*self._execute(SELECT_RUN, run_id=run_id)[0])

    def run_state(self, run_id: UUID) -> RunState | None:
        """The run, or None when it was never opened."""
        found = self._execute(SELECT_RUN, run_id=run_id)
        return RunState(*found[0]) if found else None

    def record_extract(
        self, run_id: UUID, received: int, seconds: float, oldest_age_seconds: int = 0
    ) -> None:
        """Store what `extract` did. Done again it overwrites; a closed run is left alone.

        The age is that of the oldest message received, 0 where none was. If the sensor saw an older one,
        which this run need not have received, its age stays.
        """
        self._execute(
            UPDATE_EXTRACT, run_id=run_id, received=received, seconds=seconds, age=oldest_age_seconds
        )

    def close_run(
        self,
        run_id: UUID,
        state: str,
        *,
        deleted: int,
        delete_failed: int,
        released: int,
        visible_after: int | None,
        finish_seconds: float,
    ) -> None:
        """Set the final state and the sums over the run's batches; from then on no batch of it loads.

        Waits for loads of the run that are under way. A run that is closed or was never opened is left alone.
        """
        values = {
            "run_id": run_id,
            "state": state,
            "deleted": deleted,
            "delete_failed": delete_failed,
            "released": released,
            "visible_after": visible_after,
            "finish_seconds": finish_seconds,
        }
        if not self._transaction(lambda connection: _close_run(connection, values)):
            log.info("Run %s is closed, or was never opened: nothing to record", run_id)

    def run_summary(self, run_id: UUID) -> dict[str, Any] | None:
        """The run's line of `etl.run_summary` as JSON values, or None; while it runs, the counts so far."""
        found = self._execute(SELECT_SUMMARY, run_id=run_id)
        return found[0][0] if found else None

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
        self._execute(ENSURE_DAYS, days=masked.sent_days)
        if masked.key_check:  # the keyset may have got another primary key since extract noted its own
            self.add_key_check(masked.key_id, masked.key_check)
        columns = tuple(column.column for column in contract.columns)
        load = Load(run_id, contract.table, columns, batch, masked, rejected)
        try:
            return self._transaction(lambda connection: load_batch(connection, load, copy_all))
        except Deadlocked:
            log.info("Batch %s met a transaction with the same messages", batch)
        except WarehouseRefused as refused:
            if refused.sqlstate != UNIQUE_VIOLATION:
                raise
            log.info("Batch %s holds messages that were seen before", batch)
        return self._transaction(lambda connection: load_batch(connection, load, insert_unseen))

    def committed_batches(self, run_id: UUID) -> dict[str, bytes]:
        """Name -> ids_digest of every batch of the run whose transaction is committed."""
        return dict(self._execute(SELECT_BATCHES, run_id=run_id))

    def drop_ledger_days(self, keep_days: int) -> int:
        """Forget ids of messages sent more than `keep_days` ago, 15 at least; returns how many days went."""
        return int(self._execute("SELECT etl.drop_ledger_partitions(%(days)s)", days=keep_days)[0][0])

    # Keys

    def key_checks(self) -> dict[int, str]:
        """Key id -> check value of every key that has masked and is not retired."""
        return dict(self._execute("SELECT key_id, check_value FROM etl.keys WHERE retired_at IS NULL"))

    def add_key_check(self, key_id: int, value: str) -> None:
        """Remember a key at its first use; a known key keeps its value.

        Raises:
            KeysetError: the key is retired: what it masked now could never be unmasked
        """
        self._execute(INSERT_KEY, key_id=key_id, value=value)
        if self._execute(SELECT_RETIRED, key_id=key_id)[0][0]:
            raise KeysetError(f"key {key_id} is retired: this process has an old keyset, start it again")

    def register_columns(self, contract: Contract) -> None:
        """Remember, before anything is masked, which columns will hold tokens; again is fine."""
        self._transaction(lambda connection: masked_columns.register(connection, contract))

    # The connection

    def _execute(self, statement: LiteralString, **values: object) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own; its rows, if it has any."""

        def run(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

        return self._transaction(run)

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, self._silence_seconds)
        try:
            with self._connection.transaction():
                return work(self._connection)
        except psycopg.Error as error:
            failure = translated(error)
        raise failure  # out here, so that not even its __context__ holds the psycopg error


# Preflight


def schema_problems(connection: Connection) -> list[str]:
    """Whether the schema is the one this code was written for."""
    there, allowed, role = _one(connection, SCHEMA_ACCESS)
    if not there:
        return [f"the warehouse has no schema: {MIGRATE}"]
    if not allowed:
        return [f"role {role} may not use schema etl: connect as etl_loader"]
    found = connection.execute("SELECT version_num FROM etl.schema_revision").fetchone()
    revision, needed = found[0] if found else "none", head_revision()
    if found and revision > needed:
        return [f"the warehouse is at revision {revision}, newer than this code ({needed}): update the code"]
    return [] if revision == needed else [f"the warehouse is at revision {revision}, not {needed}: {MIGRATE}"]


def table_problems(connection: Connection, contract: Contract | None) -> list[str]:
    """Whether the contract's table is there, with its columns."""
    if contract is None:
        return []
    there = {name for (name,) in connection.execute(TABLE_COLUMNS, {"table": contract.table})}
    if not there:
        return [f"there is no table {contract.table}: its migration is missing"]
    wanted = [column.column for column in contract.columns]
    return [f"table {contract.table} has no column {column}" for column in wanted if column not in there]


def _denied(connection: Connection, contract: Contract | None) -> list[str]:
    wanted = [(table, privilege) for table, privileges in PRIVILEGES.items() for privilege in privileges]
    if contract is not None:
        wanted.append((contract.table, "INSERT"))
    return [
        f"role {role} may not {privilege} {'INTO' if privilege == 'INSERT' else 'on'} {table}: {MIGRATE}"
        for role, table, privilege in connection.execute(DENIED, {"wanted": Jsonb(wanted)})
    ]


def _locked(connection: Connection, contract: Contract | None) -> list[str]:
    """Else each run would receive messages and give them back, until they count as received too often."""
    if contract is None:
        return []
    tables = [contract.table, "etl.ledger"]
    try:
        with connection.transaction():
            connection.execute(LOCK_PATIENCE)
            connection.execute(LOCK_TABLES.format(sql.SQL(", ").join(map(identifier, tables))))
    except psycopg.errors.LockNotAvailable:
        return [f"another session holds a lock on {' or '.join(tables)}: pg_locks names it"]
    return []


def _close_run(connection: Connection, values: Mapping[str, Any]) -> bool:
    """Whether the run was open. Locks first: the sums must be taken after the last load has committed."""
    if connection.execute(LOCK_RUN, values).rowcount == 0:
        return False
    connection.execute(CLOSE_RUN, values)
    return True


def _one(connection: Connection, statement: LiteralString) -> tuple[Any, ...]:
    return connection.execute(statement).fetchall()[0]


# The statements

SCHEMA_ACCESS: LiteralString = """
    SELECT to_regnamespace('etl') IS NOT NULL, has_schema_privilege(to_regnamespace('etl')::oid, 'USAGE'),
           current_user
"""
TABLE_COLUMNS: LiteralString = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
"""
# Beside PRIVILEGES, what only messages that come twice need: the columns that ON CONFLICT looks at and
# RETURNING returns, and temporary tables.
DENIED: LiteralString = """
    WITH denied AS (
        SELECT wanted ->> 0 AS object, wanted ->> 1 AS privilege
        FROM jsonb_array_elements(%(wanted)s) AS wanted
        WHERE NOT has_table_privilege(wanted ->> 0, wanted ->> 1)
        UNION ALL
        SELECT 'etl.ledger', 'SELECT ' || name FROM unnest('{queue_id,sent_day,message_id}'::text[]) AS name
        WHERE NOT has_column_privilege('etl.ledger', name, 'SELECT')
        UNION ALL
        SELECT 'etl.ensure_ledger_partition', 'EXECUTE'
        WHERE NOT has_function_privilege('etl.ensure_ledger_partition(date)', 'EXECUTE')
        UNION ALL
        SELECT 'database ' || current_database(), 'CREATE TEMPORARY TABLE'
        WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
    )
    SELECT current_user, object, privilege FROM denied
"""
LOCK_PATIENCE: LiteralString = "SET LOCAL lock_timeout = '5s'"
LOCK_TABLES = sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE")  # as a load does
# Looks first: each ON CONFLICT uses up one of the 32,767 numbers of the identity.
INSERT_QUEUE: LiteralString = """
    INSERT INTO etl.queues (name) SELECT %(queue)s
    WHERE NOT EXISTS (SELECT FROM etl.queues WHERE name = %(queue)s) ON CONFLICT DO NOTHING
"""
INSERT_RUN: LiteralString = """
    INSERT INTO etl.runs (run_id, contract, queue_id, airflow_run_id, visible_before, oldest_age_seconds)
    SELECT %(run_id)s, %(contract)s, queue_id, %(airflow_run_id)s, %(visible_before)s, %(oldest_age_seconds)s
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
        quarantined_by_reason = so_far.quarantined_by_reason, staged_bytes = so_far.staged_bytes,
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
