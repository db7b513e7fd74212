"""Postgres, as role `etl_maintainer`: the statements of redrive, reconcile, dead letters and maintenance."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from psycopg import sql

from include.queue_etl.postgres import partitions
from include.queue_etl.postgres.connection import Connection, Database
from include.queue_etl.postgres.loading import (
    LINE,
    BatchCounts,
    Load,
    Written,
    load_batch,
    replace_rows,
    write_staged,
)
from include.queue_etl.postgres.runs import ENSURE_DAYS
from include.queue_etl.transform.quarantine import QuarantinedMessage

DAYS_AHEAD = 2  # the most etl.ensure_ledger_partition makes
EXPIRED_AT_ONCE = 10_000  # rows deleted in one transaction


@dataclass(frozen=True, slots=True)
class Selection:
    """Which quarantined messages to redrive.

    Attributes:
        queue: they came from it
        reason: they were rejected for it: `too_long` for any field, or `too_long ip`; None: for any but
            `too_many_receives`, which may kill the process that parses them and so has to be asked for
        since: quarantined then or later
        until: quarantined before
    """

    queue: str
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class OpenRun(NamedTuple):
    """A run that is not closed."""

    run_id: UUID
    contract: str
    run_name: str
    progress_at: datetime


class KnownRun(NamedTuple):
    """A run that the warehouse knows; `closed_at` is None while it is open."""

    contract: str
    run_name: str
    closed_at: datetime | None


class MaintenanceStore:
    """What role etl_maintainer may do beside runs: change ledger status, quarantine, days and partitions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Redrive

    def quarantined(
        self, selection: Selection, after: QuarantinedMessage | None, max_messages: int, max_bytes: int
    ) -> list[QuarantinedMessage]:
        """The next messages in the order of the quarantine's key; empty when there are no more.

        At least one, whatever its size; then at most `max_messages` and about `max_bytes` of payload.
        """
        found = self._database.execute(
            SELECT_QUARANTINED,
            **asdict(selection),
            after_day=after and after.sent_day,
            after_id=after and after.message_id,
            max_messages=max_messages,
            max_bytes=max_bytes,
        )
        return [QuarantinedMessage(*line) for line in found]

    def reasons(self, queue: str) -> list[str]:
        """For what messages of the queue were ever rejected, sorted; also those that are redriven or gone."""
        return [reason for (reason,) in self._database.execute(SELECT_REASONS, queue=queue)]

    def redrive(self, load: Load) -> BatchCounts:
        """Put messages of the quarantine where the current contract wants them, in one transaction.

        Only those still in quarantine and not redriven: what another redrive, or an erasure, did in the
        meantime stays done, and counts as duplicate. Others become rows, or stay under their new reason.
        """
        self._database.execute(ENSURE_DAYS, days=load.masked.sent_days)
        partitions.ensure(self._database, load.contract.table, load.masked.partitions)
        return self._database.transaction(lambda connection: load_batch(connection, load, _redrive))

    # Replay

    def replay(self, load: Load) -> BatchCounts:
        """Put rows of archived messages into the table of a contract with a key, in one transaction.

        A row that a later message made stays. `duplicates` are the messages that changed nothing.
        """
        return self._database.transaction(lambda connection: load_batch(connection, load, replace_rows))

    # Shapes

    def without_shape(
        self, queue: str, after: QuarantinedMessage | None, messages: int
    ) -> list[QuarantinedMessage]:
        """The next waiting messages that have no shape yet, in the order of the quarantine's key."""
        found = self._database.execute(
            SELECT_WITHOUT_SHAPE,
            queue=queue,
            after_day=after and after.sent_day,
            after_id=after and after.message_id,
            messages=messages,
        )
        return [QuarantinedMessage(*line) for line in found]

    def set_shapes(self, shapes: Sequence[tuple[QuarantinedMessage, str]]) -> None:
        """Store the shape of each message that is still there."""
        days: list[date] = [message.sent_day for message, _ in shapes]
        self._database.execute(
            SET_SHAPES,
            queue_id=shapes[0][0].queue_id,
            days=days,
            ids=[message.message_id for message, _ in shapes],
            shapes=[shape for _, shape in shapes],
        )

    # Dead letters

    def known(self, queue: str, message_ids: Sequence[str]) -> set[str]:
        """Which of these messages of the queue the ledger knows, whatever their day."""
        return {line[0] for line in self._database.execute(SELECT_KNOWN, queue=queue, ids=list(message_ids))}

    # Maintenance

    def prepare_ledger_days(self) -> int:
        """Make the ledger's partitions of today and the days to come; returns how many were missing."""
        return int(self._database.execute(PREPARE_DAYS, days=DAYS_AHEAD)[0][0])

    def drop_ledger_days(self, keep_days: int) -> int:
        """Forget ids of messages sent more than `keep_days` ago, 15 at least; returns how many days went."""
        return int(self._database.execute(DROP_DAYS, days=keep_days)[0][0])

    def prepare_partitions(self, table: str, days: Sequence[str]) -> int:
        """Make the table's partitions of these days; returns how many were missing."""
        return partitions.ensure(self._database, table, days)

    def expired_partitions(self, table: str) -> list[str]:
        """Names of the partitions whose rows are all older than the table keeps them, the oldest first."""
        return [name for (name,) in self._database.execute(SELECT_EXPIRED_PARTITIONS, table=table)]

    def drop_partitions(self, table: str) -> int:
        """Drop them with their rows; returns how many went. The ledger keeps the messages' ids."""
        dropped = 0
        while some := int(self._database.execute(DROP_PARTITIONS, table=table)[0][0]):
            dropped += some
        return dropped

    def expire_quarantine(self, keep_days: int) -> tuple[int, int]:
        """Delete messages quarantined longer ago; returns how many, and how many of them never redriven."""
        expired = never_redriven = 0
        while True:
            some, waiting = self._database.execute(EXPIRE, days=keep_days, at_once=EXPIRED_AT_ONCE)[0]
            expired, never_redriven = expired + some, never_redriven + waiting
            if some < EXPIRED_AT_ONCE:
                return expired, never_redriven

    def expire_kept_fields(self, queue: str, keep_days: int) -> int:
        """Delete the kept fields of messages that were sent more than `keep_days` ago; returns how many."""
        expired = 0
        while some := len(
            self._database.execute(EXPIRE_KEPT, queue=queue, days=keep_days, at_once=EXPIRED_AT_ONCE)
        ):
            expired += some
        return expired

    def idle_runs(self, contracts: Sequence[str], idle_seconds: int) -> list[OpenRun]:
        """Open runs without progress (opened, or a batch committed) for that long, the oldest first."""
        found = self._database.execute(SELECT_IDLE, contracts=list(contracts), seconds=idle_seconds)
        return [OpenRun(*line) for line in found]

    def runs(self, run_ids: Iterable[UUID]) -> dict[UUID, KnownRun]:
        """Those of these runs that the warehouse knows."""
        found = self._database.execute(SELECT_RUNS, ids=list(run_ids))
        return {run_id: KnownRun(*facts) for run_id, *facts in found}


class ShapeGroup(NamedTuple):
    """Waiting messages of one reason and one shape.

    Attributes:
        shape: None where an earlier version quarantined them and no maintenance has run since
        least_bytes: length of their shortest body
        newest_message: id of the one that was quarantined last
    """

    reason: str
    shape: str | None
    waiting: int
    least_bytes: int
    most_bytes: int
    first_at: datetime
    last_at: datetime
    newest_message: UUID


class KeptGroup(NamedTuple):
    """Messages whose undeclared fields are kept and have one shape.

    Attributes:
        first_day: on which the first of them was sent
        a_message: id of one of them
    """

    messages: int
    first_day: date
    last_day: date
    a_message: UUID
    shape: str


class OnCallStore:
    """What role ops_ro may do: read figures and shapes, never a body, sealed or not."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def shapes(self, queue: str, reason: str | None, groups: int) -> tuple[list[ShapeGroup], int]:
        """The largest groups of a queue's waiting messages, and how many groups there are.

        Args:
            queue: they came from it
            reason: only those rejected for it; one without a path takes all paths
            groups: at most so many
        """
        found = self._database.execute(SELECT_SHAPES, queue=queue, reason=reason, groups=groups)
        return [ShapeGroup(*line[1:]) for line in found], found[0][0] if found else 0

    def kept_shapes(self, queue: str, groups: int) -> tuple[list[KeptGroup], int]:
        """The same of the queue's kept fields: the largest groups, and how many there are."""
        found = self._database.execute(SELECT_KEPT_SHAPES, queue=queue, groups=groups)
        return [KeptGroup(*line[1:]) for line in found], found[0][0] if found else 0


def _redrive(connection: Connection, load: Load) -> Written:
    # Nothing is known of temporary tables, and the planner takes them for small: 10,000 messages took 9 s.
    connection.execute("SET LOCAL enable_nestloop = off")
    return write_staged(connection, load, REDRIVE, CLAIMED, sql.Identifier("claimed"))


# The statements

SELECT_QUARANTINED: LiteralString = """
    WITH waiting AS (
        SELECT quarantine.*,
               sum(payload_bytes) OVER (ORDER BY sent_day, message_id) - payload_bytes AS bytes_before
        FROM etl.quarantine JOIN etl.queues USING (queue_id)
        WHERE name = %(queue)s AND redriven_at IS NULL
          AND (%(reason)s::text IN (reason, split_part(reason, ' ', 1))
               OR %(reason)s::text IS NULL AND reason <> 'too_many_receives')
          AND quarantined_at >= coalesce(%(since)s, '-infinity'::timestamptz)
          AND quarantined_at < coalesce(%(until)s, 'infinity'::timestamptz)
          AND (%(after_id)s::uuid IS NULL
               OR (sent_day, message_id) > (%(after_day)s::date, %(after_id)s::uuid))
        ORDER BY sent_day, message_id LIMIT %(max_messages)s
    )
    SELECT queue_id, sent_day, message_id::text, payload, reason FROM waiting
    WHERE bytes_before < %(max_bytes)s ORDER BY sent_day, message_id
"""
SELECT_REASONS: LiteralString = """
    SELECT reason FROM etl.quarantine_summary WHERE queue = %(queue)s
    UNION
    SELECT jsonb_object_keys(batches.quarantined_by_reason)
    FROM etl.batches JOIN etl.runs USING (run_id) JOIN etl.queues USING (queue_id)
    WHERE name = %(queue)s
    ORDER BY 1
"""
# An empty payload is that of a message which was erased from a staged file.
SELECT_WITHOUT_SHAPE: LiteralString = """
    SELECT queue_id, sent_day, message_id::text, payload, reason
    FROM etl.quarantine JOIN etl.queues USING (queue_id)
    WHERE name = %(queue)s AND redriven_at IS NULL AND shape IS NULL AND payload <> ''
      AND (%(after_id)s::uuid IS NULL OR (sent_day, message_id) > (%(after_day)s::date, %(after_id)s::uuid))
    ORDER BY sent_day, message_id LIMIT %(messages)s
"""
SET_SHAPES: LiteralString = """
    UPDATE etl.quarantine SET shape = given.shape
    FROM unnest(%(days)s::date[], %(ids)s::uuid[], %(shapes)s::text[]) AS given (sent_day, message_id, shape)
    WHERE queue_id = %(queue_id)s
      AND (quarantine.sent_day, quarantine.message_id) = (given.sent_day, given.message_id)
"""
# Of the form of loading.INSERT_UNSEEN. Who holds a message's quarantine row decides on it; in the order of
# the key, so that two redrives wait for each other instead of deadlocking. A ledger day that is dropped
# already is entered anew.
REDRIVE: LiteralString = """
    WITH numbered AS (
        SELECT *, row_number() OVER (PARTITION BY status ORDER BY line) AS part_line FROM staged_ledger
    ), held AS MATERIALIZED (
        SELECT queue_id, sent_day, message_id
        FROM etl.quarantine JOIN staged_ledger USING (queue_id, sent_day, message_id)
        WHERE redriven_at IS NULL ORDER BY queue_id, sent_day, message_id FOR UPDATE OF quarantine
    ), claimed AS (
        INSERT INTO etl.ledger ({ledger_columns})
        SELECT {ledger_columns} FROM numbered JOIN held USING (queue_id, sent_day, message_id)
        WHERE status = 'L' ORDER BY queue_id, sent_day, message_id
        ON CONFLICT (queue_id, sent_day, message_id)
        DO UPDATE SET status = 'L', run_id = excluded.run_id WHERE ledger.status = 'Q'
        RETURNING queue_id, sent_day, message_id, run_id
    ), inserted AS (
        {insert_rows}
    ), redriven AS (
        UPDATE etl.quarantine SET redriven_at = now(), redriven_run_id = claimed.run_id
        FROM claimed
        WHERE (quarantine.queue_id, quarantine.sent_day, quarantine.message_id)
            = (claimed.queue_id, claimed.sent_day, claimed.message_id)
    ), kept AS (
        UPDATE etl.quarantine SET reason = now_staged.reason, shape = now_staged.shape
        FROM staged_quarantine AS now_staged JOIN held USING (queue_id, sent_day, message_id)
        WHERE (quarantine.queue_id, quarantine.sent_day, quarantine.message_id)
            = (now_staged.queue_id, now_staged.sent_day, now_staged.message_id)
        RETURNING now_staged.reason
    ) {keep_fields}
    SELECT (SELECT count(*) FROM claimed),
           (SELECT coalesce(jsonb_object_agg(reason, messages), '{{}}')
            FROM (SELECT reason, count(*) AS messages FROM kept GROUP BY reason) AS reasons)
"""
CLAIMED = sql.SQL(
    "staged_rows JOIN (SELECT part_line FROM numbered JOIN claimed USING (queue_id, sent_day, message_id))"
    " AS chosen ON chosen.part_line = staged_rows.{}"
).format(LINE)
SELECT_SHAPES: LiteralString = """
    SELECT count(*) OVER (),
           reason, shape, waiting, least_bytes, most_bytes, first_at, last_at, newest_message
    FROM etl.quarantine_shapes
    WHERE queue = %(queue)s AND (%(reason)s::text IS NULL
                                 OR %(reason)s::text IN (reason, split_part(reason, ' ', 1)))
    ORDER BY waiting DESC, reason, shape LIMIT %(groups)s
"""
SELECT_KEPT_SHAPES: LiteralString = """
    SELECT count(*) OVER (), messages, first_day, last_day, a_message, shape
    FROM etl.kept_summary WHERE queue = %(queue)s
    ORDER BY messages DESC, shape LIMIT %(groups)s
"""
SELECT_KNOWN: LiteralString = """
    SELECT message_id::text FROM etl.ledger
    WHERE queue_id = (SELECT queue_id FROM etl.queues WHERE name = %(queue)s)
      AND message_id = ANY (%(ids)s::uuid[])
"""
PREPARE_DAYS: LiteralString = """
    WITH missing AS MATERIALIZED (
        SELECT day::date FROM generate_series(current_date, current_date + %(days)s, interval '1 day') AS day
        WHERE to_regclass(format('etl.ledger_%%s', to_char(day, 'YYYYMMDD'))) IS NULL
    )
    SELECT count(etl.ensure_ledger_partition(day)::text) FROM missing
"""
DROP_DAYS: LiteralString = "SELECT etl.drop_ledger_partitions(%(days)s)"
SELECT_EXPIRED_PARTITIONS: LiteralString = """
    SELECT partition::text FROM etl.expired_partitions(%(table)s::regclass) AS partition
"""
DROP_PARTITIONS: LiteralString = "SELECT etl.drop_partitions(%(table)s::regclass)"
EXPIRE: LiteralString = """
    WITH expired AS (
        DELETE FROM etl.quarantine WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM etl.quarantine WHERE quarantined_at < now() - make_interval(days => %(days)s)
            LIMIT %(at_once)s FOR UPDATE SKIP LOCKED
        )) RETURNING redriven_at
    )
    SELECT count(*), count(*) FILTER (WHERE redriven_at IS NULL) FROM expired
"""
EXPIRE_KEPT: LiteralString = """
    DELETE FROM etl.kept_fields WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM etl.kept_fields
        WHERE queue_id = (SELECT queue_id FROM etl.queues WHERE name = %(queue)s)
          AND sent_day < (now() AT TIME ZONE 'UTC')::date - %(days)s::integer
        LIMIT %(at_once)s
    )) RETURNING 1
"""
SELECT_IDLE: LiteralString = """
    SELECT run_id, contract, airflow_run_id, progress_at
    FROM etl.runs CROSS JOIN LATERAL (
        SELECT greatest(started_at, max(committed_at)) AS progress_at FROM etl.batches
        WHERE batches.run_id = runs.run_id
    ) AS progress
    WHERE state = 'running' AND contract = ANY (%(contracts)s)
      AND progress_at < now() - make_interval(secs => %(seconds)s)
    ORDER BY progress_at
"""
SELECT_RUNS: LiteralString = """
    SELECT run_id, contract, airflow_run_id, finished_at FROM etl.runs WHERE run_id = ANY (%(ids)s::uuid[])
"""
