"""Postgres, as role `ops_ro`: the statements of the page. None reads a row of a contract, or a body."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from threading import Lock
from typing import Any, LiteralString, NamedTuple, TypeVar
from uuid import UUID

from include.queue_etl.errors import WarehouseUnavailable
from include.queue_etl.postgres.connection import Database

T = TypeVar("T")
SHAPES = 50  # groups that the page shows
NEWEST = 5_000  # waiting messages whose shapes are looked at
SAMPLED_PAGES = 200  # of a table, for the keys of its tokens
NEWEST_ENTRIES = 10_000  # of the audit, among which a remask is looked for


@dataclass(frozen=True, slots=True)
class Standing:
    """How a contract stands, by its runs and its quarantine.

    Attributes:
        today: of the UTC day, with what a running run has committed; `received` of closed runs
        last_failure: start of the last run that failed
        waiting: messages in quarantine
        oldest_age_seconds: of the oldest message that the last run received or saw
    """

    contract: str
    rows_today: int
    quarantined_today: int
    handled_today: int
    last_success: datetime | None
    last_failure: datetime | None
    running_since: datetime | None
    waiting: int
    oldest_age_seconds: int | None


class Slice(NamedTuple):
    """What runs that began within one step of time came to; seconds are means of a run."""

    at: datetime
    received: int
    loaded: int
    quarantined: int
    duplicates: int
    extract_seconds: float
    mask_seconds: float
    load_seconds: float
    finish_seconds: float


class RunLine(NamedTuple):
    """A run, with the counts so far where it is running; `released` is None until it is closed."""

    run_id: UUID
    contract: str
    name: str
    kind: str
    state: str
    started_at: datetime
    finished_at: datetime | None
    received: int | None
    loaded: int
    quarantined: int
    duplicates: int
    released: int | None
    deleted: int | None
    delete_failed: int | None
    total_seconds: float

    @property
    def difference(self) -> int | None:
        """Messages received that are in no other count; None where that cannot be said."""
        if self.kind != "queue" or self.state == "running" or self.received is None:
            return None
        return self.received - self.loaded - self.quarantined - self.duplicates - (self.released or 0)


class BatchLine(NamedTuple):
    """A committed batch."""

    batch: str
    loaded: int
    quarantined: int
    duplicates: int
    staged_bytes: int
    mask_seconds: float
    load_seconds: float
    committed_at: datetime


class RejectedLine(NamedTuple):
    """Messages of one reason that were quarantined on one day (UTC)."""

    reason: str
    day: date
    messages: int
    waiting: int
    payload_bytes: int
    most_receives: int
    first_at: datetime
    last_at: datetime


class ShapeLine(NamedTuple):
    """Waiting messages of one reason and one shape; the shape is None until maintenance has made it."""

    reason: str
    shape: str | None
    waiting: int
    first_at: datetime
    last_at: datetime


class KeyLine(NamedTuple):
    """A key that ever masked."""

    key_id: int
    first_used_at: datetime
    retired_at: datetime | None


class AuditLine(NamedTuple):
    """An entry of the audit, without reason and ticket."""

    number: int
    at: datetime
    who: str
    action: str
    tokens: int | None


class PartitionLine(NamedTuple):
    """A table or partition; rows are what Postgres estimates, None where it never looked.

    Attributes:
        size: bytes, with indexes
        pages: of the rows alone
    """

    table: str
    name: str
    bounds: str | None
    rows: int | None
    size: int
    pages: int


class KnownRun(NamedTuple):
    """A run that is open, or whose files were found."""

    run_id: UUID
    is_open: bool
    started_at: datetime


class PageStore:
    """What the page reads. One connection, which its callers share one after the other."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = Lock()

    def standings(self, contracts: Sequence[tuple[str, str]]) -> dict[str, Standing]:
        """How each contract stands, by name; given are names with their queues."""
        found = self._rows(
            SELECT_STANDINGS,
            contracts=[name for name, _ in contracts],
            queues=[queue for _, queue in contracts],
        )
        return {line[0]: Standing(*line) for line in found}

    def slices(self, contract: str, since: datetime, step: timedelta) -> list[Slice]:
        """What runs came to, by steps of time from `since`; steps without runs are left out."""
        return [Slice(*line) for line in self._rows(SELECT_SLICES, contract=contract, since=since, step=step)]

    def runs(self, contract: str, limit: int) -> list[RunLine]:
        """The newest runs of a contract, of any kind."""
        return [RunLine(*line) for line in self._rows(SELECT_RUNS, contract=contract, limit=limit)]

    def run(self, run_ids: Sequence[UUID]) -> RunLine | None:
        """The first of these runs that the warehouse knows."""
        found = self._rows(SELECT_RUN, ids=list(run_ids))
        return RunLine(*found[0]) if found else None

    def batches(self, run_id: UUID) -> list[BatchLine]:
        """The committed batches of a run, by name."""
        return [BatchLine(*line) for line in self._rows(SELECT_BATCHES, run_id=run_id)]

    def rejected(self, queue: str) -> list[RejectedLine]:
        """Quarantined messages of a queue by reason and day."""
        return [RejectedLine(*line) for line in self._rows(SELECT_REJECTED, queue=queue)]

    def shapes(self, queue: str) -> list[ShapeLine]:
        """The largest groups by reason and shape, among the newest waiting messages."""
        found = self._rows(SELECT_SHAPES, queue=queue, newest=NEWEST, limit=SHAPES)
        return [ShapeLine(*line) for line in found]

    def used_keys(self) -> list[KeyLine]:
        """Every key that ever masked in this warehouse, the newest first."""
        return [KeyLine(*line) for line in self._rows(SELECT_KEYS)]

    def sampled_keys(self, table: str, column: str) -> dict[int, int]:
        """Key id -> tokens, of about SAMPLED_PAGES pages of the table; empty where the table is."""
        found = self._rows(SELECT_SAMPLE, table=table, column=column, pages=SAMPLED_PAGES)
        return {int(key): int(count) for key, count in found}

    def last_remask(self) -> AuditLine | None:
        """When somebody last began to move tokens to the primary key, and who; None: not for long."""
        found = self._rows(SELECT_REMASK, newest=NEWEST_ENTRIES)
        return AuditLine(*found[0]) if found else None

    def known_runs(self, run_ids: Sequence[UUID]) -> list[KnownRun]:
        """Every open run, and those of these that are closed; unknown ones are left out."""
        return [KnownRun(*line) for line in self._rows(SELECT_KNOWN, ids=list(run_ids))]

    def audit(self, limit: int) -> list[AuditLine]:
        """The newest entries of the audit."""
        return [AuditLine(*line) for line in self._rows(SELECT_AUDIT, limit=limit)]

    def oldest_waiting(self, queues: Sequence[str]) -> dict[str, datetime]:
        """When the oldest message that waits in quarantine was put there, by queue."""
        return dict(self._rows(SELECT_OLDEST, queues=list(queues)))

    def sizes(self, tables: Sequence[str]) -> list[PartitionLine]:
        """Tables with their schemas, each with its partitions, in the order of their names."""
        return [PartitionLine(*line) for line in self._rows(SELECT_SIZES, tables=list(tables))]

    def _rows(self, statement: LiteralString, **values: object) -> list[tuple[Any, ...]]:
        """The rows, all of plain values; a connection that was lost while nobody looked is made again."""

        def ask() -> list[tuple[Any, ...]]:
            return self._database.execute(statement, **values)

        with self._lock:
            return _twice(ask)


def _twice(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except WarehouseUnavailable:
        return ask()


# The statements

SELECT_STANDINGS: LiteralString = """
    SELECT name, coalesce(today.loaded, 0) + coalesce(so_far.loaded, 0),
           coalesce(today.quarantined, 0) + coalesce(so_far.quarantined, 0),
           coalesce(today.handled, 0) + coalesce(so_far.loaded + so_far.quarantined, 0),
           success.started_at, failure.started_at, so_far.started_at,
           (SELECT count(*) FROM etl.quarantine_figures AS waits
            WHERE waits.queue_id = (SELECT queue_id FROM etl.queues WHERE queues.name = given.queue)
              AND waits.redriven_at IS NULL),
           newest.oldest_age_seconds
    FROM unnest(%(contracts)s::text[], %(queues)s::text[]) AS given (name, queue)
    LEFT JOIN LATERAL (
        SELECT sum(loaded)::bigint AS loaded,
               sum(quarantined) FILTER (WHERE kind = 'queue')::bigint AS quarantined,
               sum(loaded + quarantined) FILTER (WHERE kind = 'queue')::bigint AS handled
        FROM etl.run_figures
        WHERE contract = name
          AND started_at >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
    ) AS today ON true
    LEFT JOIN LATERAL (
        SELECT min(started_at) AS started_at, sum(run.loaded)::bigint AS loaded,
               sum(run.quarantined)::bigint AS quarantined
        FROM etl.run_summary AS run WHERE contract = name AND state = 'running'
          AND started_at >= now() - interval '2 days'
    ) AS so_far ON true
    LEFT JOIN LATERAL (
        SELECT started_at FROM etl.run_figures
        WHERE contract = name AND state = 'succeeded' AND kind = 'queue'
        ORDER BY started_at DESC LIMIT 1
    ) AS success ON true
    LEFT JOIN LATERAL (
        SELECT started_at FROM etl.run_figures WHERE contract = name AND state = 'failed'
        ORDER BY started_at DESC LIMIT 1
    ) AS failure ON true
    LEFT JOIN LATERAL (
        SELECT oldest_age_seconds FROM etl.run_figures WHERE contract = name AND kind = 'queue'
        ORDER BY started_at DESC LIMIT 1
    ) AS newest ON true
"""
# A range of the index for each step: the planner would sort the runs of all steps, on disk.
SELECT_SLICES: LiteralString = """
    SELECT step.at, total.*
    FROM generate_series(%(since)s::timestamptz, now(), %(step)s::interval) AS step (at)
    CROSS JOIN LATERAL (
        SELECT sum(received)::bigint AS received, coalesce(sum(loaded), 0)::bigint,
               coalesce(sum(quarantined), 0)::bigint, coalesce(sum(duplicates), 0)::bigint,
               coalesce(avg(extract_seconds), 0), coalesce(avg(mask_seconds), 0),
               coalesce(avg(load_seconds), 0), coalesce(avg(finish_seconds), 0)
        FROM etl.run_figures
        WHERE contract = %(contract)s AND kind = 'queue'
          AND started_at >= step.at AND started_at < step.at + %(step)s::interval
    ) AS total
    WHERE total.received IS NOT NULL
    ORDER BY step.at
"""
SELECT_RUNS: LiteralString = """
    SELECT run.run_id, run.contract, run.airflow_run_id, run.kind, run.state, run.started_at, run.finished_at,
           run.received, summary.loaded, summary.quarantined, summary.duplicates, run.released, run.deleted,
           run.delete_failed, summary.total_seconds
    FROM (SELECT * FROM etl.run_figures WHERE contract = %(contract)s
          ORDER BY started_at DESC LIMIT %(limit)s) AS run
    JOIN LATERAL (SELECT * FROM etl.run_summary WHERE run_summary.run_id = run.run_id) AS summary ON true
    ORDER BY run.started_at DESC
"""
SELECT_RUN: LiteralString = """
    SELECT run.run_id, run.contract, run.airflow_run_id, run.kind, run.state, run.started_at, run.finished_at,
           run.received, summary.loaded, summary.quarantined, summary.duplicates, run.released, run.deleted,
           run.delete_failed, summary.total_seconds
    FROM etl.run_figures AS run JOIN etl.run_summary AS summary USING (run_id)
    WHERE run_id = ANY (%(ids)s::uuid[]) LIMIT 1
"""
SELECT_BATCHES: LiteralString = """
    SELECT batch, loaded, quarantined, duplicates, staged_bytes, mask_seconds, load_seconds, committed_at
    FROM etl.batch_figures WHERE run_id = %(run_id)s ORDER BY batch
"""
SELECT_REJECTED: LiteralString = """
    SELECT reason, (quarantined_at AT TIME ZONE 'UTC')::date, count(*),
           count(*) FILTER (WHERE redriven_at IS NULL), sum(payload_bytes)::bigint, max(receive_count),
           min(quarantined_at), max(quarantined_at)
    FROM etl.quarantine_figures
    WHERE queue_id = (SELECT queue_id FROM etl.queues WHERE name = %(queue)s)
    GROUP BY 1, 2 ORDER BY 1, 2
"""
SELECT_SHAPES: LiteralString = """
    SELECT reason, shape, count(*), min(quarantined_at), max(quarantined_at)
    FROM (
        SELECT reason, shape, quarantined_at FROM etl.quarantine_figures
        WHERE queue_id = (SELECT queue_id FROM etl.queues WHERE name = %(queue)s) AND redriven_at IS NULL
        ORDER BY quarantined_at DESC LIMIT %(newest)s
    ) AS newest
    GROUP BY reason, shape ORDER BY count(*) DESC, reason, shape LIMIT %(limit)s
"""
SELECT_KEYS: LiteralString = """
    SELECT key_id, first_used_at, retired_at FROM etl.key_figures ORDER BY first_used_at DESC, key_id
"""
SELECT_SAMPLE: LiteralString = """
    SELECT key_id, tokens FROM etl.sampled_keys(%(table)s, %(column)s, %(pages)s)
"""
SELECT_AUDIT: LiteralString = """
    SELECT id, at, who, action, tokens::bigint FROM etl.audit_entries ORDER BY id DESC LIMIT %(limit)s
"""
# No index has the action: the audit is read from its end, and no further than that.
SELECT_REMASK: LiteralString = """
    SELECT * FROM (
        SELECT id, at, who, action, tokens::bigint FROM etl.audit_entries ORDER BY id DESC LIMIT %(newest)s
    ) AS newest
    WHERE action = 'remask' ORDER BY id DESC LIMIT 1
"""
SELECT_KNOWN: LiteralString = """
    SELECT run_id, state = 'running', started_at FROM etl.run_figures
    WHERE state = 'running' OR run_id = ANY (%(ids)s::uuid[])
"""
SELECT_OLDEST: LiteralString = """
    SELECT name, oldest.quarantined_at
    FROM unnest(%(queues)s::text[]) AS given (name)
    JOIN LATERAL (
        SELECT quarantined_at FROM etl.quarantine_figures
        WHERE queue_id = (SELECT queue_id FROM etl.queues WHERE queues.name = given.name)
          AND redriven_at IS NULL
        ORDER BY quarantined_at LIMIT 1
    ) AS oldest ON true
"""
# By the catalogue alone, which everybody may read: sizes and estimates, no row.
SELECT_SIZES: LiteralString = """
    WITH RECURSIVE part AS (
        SELECT namespace.nspname || '.' || root.relname AS parent, root.oid, root.relname, root.relkind
        FROM pg_class AS root JOIN pg_namespace AS namespace ON namespace.oid = root.relnamespace
        WHERE namespace.nspname || '.' || root.relname = ANY (%(tables)s::text[])
        UNION ALL
        SELECT part.parent, child.oid, child.relname, child.relkind
        FROM part JOIN pg_inherits ON inhparent = part.oid JOIN pg_class AS child ON child.oid = inhrelid
    )
    SELECT part.parent, part.relname::text, pg_get_expr(pg_class.relpartbound, pg_class.oid),
           nullif(pg_class.reltuples, -1)::bigint, pg_total_relation_size(part.oid),
           pg_relation_size(part.oid) / current_setting('block_size')::bigint
    FROM part JOIN pg_class ON pg_class.oid = part.oid
    WHERE part.relkind IN ('r', 'm')
    ORDER BY part.parent, part.relname DESC
"""
