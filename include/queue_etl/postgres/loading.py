"""What happens inside the one transaction that loads a batch."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import LiteralString
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from include.queue_etl.contract import Contract
from include.queue_etl.counts import in_words
from include.queue_etl.errors import WarehouseRefused
from include.queue_etl.postgres import upsert
from include.queue_etl.postgres.connection import Connection, table_identifier
from include.queue_etl.postgres.copying import column_types, copy, listed, qualified, typed
from include.queue_etl.transform import copy_binary
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch
from include.queue_etl.transform.copy_binary import LEDGER
from include.queue_etl.transform.kept import KeptLine
from include.queue_etl.transform.quarantine import QuarantineLine, columns_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What became of a batch's messages; `duplicates` were known before, or repeat within the batch."""

    loaded: int
    quarantined: int
    duplicates: int

    def __str__(self) -> str:
        return in_words(asdict(self))


@dataclass(frozen=True, slots=True)
class Load:
    """One batch and where it goes.

    Attributes:
        contract: names the table, its columns in the order of the batch's rows, and the key of an upsert
    """

    run_id: UUID
    contract: Contract
    batch: str
    masked: MaskedBatch
    rejected: RejectedBatch

    @property
    def messages(self) -> int:
        """How many messages the batch holds."""
        return self.masked.accepted + sum(self.masked.rejected.values())

    @property
    def copied_bytes(self) -> int:
        """What Postgres is sent."""
        masked = self.masked
        return sum(map(len, (masked.entries, masked.rows, masked.kept, self.rejected.lines)))


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer put into the tables."""

    loaded: int
    quarantined: Mapping[str, int]


Writer = Callable[[Connection, Load], Written]


# A session that commits asynchronously could lose a batch whose messages are already deleted.
DURABLE: LiteralString = """
    SELECT set_config('synchronous_commit', 'on', true)
    WHERE current_setting('synchronous_commit') IN ('off', 'local')
"""
# FOR SHARE makes closing the run wait. The claim makes a second attempt at the batch wait, and then adopt.
CLAIM: LiteralString = """
    INSERT INTO etl.batches (run_id, batch, ids_digest, staged_bytes, mask_seconds)
    SELECT run_id, %(batch)s, %(ids_digest)s, %(staged_bytes)s, %(mask_seconds)s
    FROM etl.runs WHERE run_id = %(run_id)s AND state = 'running' FOR SHARE
    ON CONFLICT DO NOTHING
"""
ADOPT: LiteralString = """
    SELECT state, ids_digest, batches.loaded, batches.quarantined, batches.duplicates
    FROM etl.runs LEFT JOIN etl.batches ON batches.run_id = runs.run_id AND batch = %(batch)s
    WHERE runs.run_id = %(run_id)s
"""
RECORD: LiteralString = """
    UPDATE etl.batches
    SET loaded = %(loaded)s, quarantined = %(quarantined)s, duplicates = %(duplicates)s,
        quarantined_by_reason = %(by_reason)s, unknown_fields = %(unknown_fields)s,
        personal_data_checked = %(personal_data_checked)s, personal_data_found = %(personal_data_found)s,
        load_seconds = %(seconds)s
    WHERE run_id = %(run_id)s AND batch = %(batch)s
"""


def load_batch(connection: Connection, load: Load, write: Writer) -> BatchCounts:
    """Claim the batch, write it, record the counts; what may not be written keeps the counts it has.

    Raises:
        WarehouseRefused: the run was never opened, or a batch of that name is committed with other messages
        psycopg.Error: from Postgres; the transaction is to be rolled back
    """
    started = time.monotonic()
    connection.execute(DURABLE)
    if not _claim(connection, load):
        return _adopt(connection, load)
    written = write(connection, load)
    quarantined = sum(written.quarantined.values())
    counts = BatchCounts(written.loaded, quarantined, load.messages - written.loaded - quarantined)
    values = {
        "run_id": load.run_id,
        "batch": load.batch,
        "loaded": counts.loaded,
        "quarantined": counts.quarantined,
        "duplicates": counts.duplicates,
        "by_reason": Jsonb(dict(written.quarantined)),
        "unknown_fields": Jsonb(load.masked.unknown_fields),
        "personal_data_checked": load.masked.personal_data_checked,
        "personal_data_found": Jsonb(load.masked.personal_data_found),
        "seconds": time.monotonic() - started,
    }
    connection.execute(RECORD, values)
    return counts


def _claim(connection: Connection, load: Load) -> bool:
    values = {
        "run_id": load.run_id,
        "batch": load.batch,
        "ids_digest": load.masked.ids_digest,
        "staged_bytes": load.copied_bytes,
        "mask_seconds": load.masked.mask_seconds,
    }
    return connection.execute(CLAIM, values).rowcount == 1


def _adopt(connection: Connection, load: Load) -> BatchCounts:
    """The counts of a batch that is committed, or whose run is closed."""
    found = connection.execute(ADOPT, {"run_id": load.run_id, "batch": load.batch}).fetchone()
    if found is None:
        raise WarehouseRefused(f"run {load.run_id} was never opened")
    state, ids_digest, *counts = found
    if ids_digest is None:
        log.info("Run %s is closed (%s): batch %s is left alone", load.run_id, state, load.batch)
        return BatchCounts(0, 0, 0)
    if ids_digest != load.masked.ids_digest:
        raise WarehouseRefused(f"batch {load.batch} of run {load.run_id} is committed with other messages")
    log.info("Batch %s is committed already", load.batch)
    return BatchCounts(*counts)


# The fast path: every message is new ------------------------------------------------------------------------


def copy_all(connection: Connection, load: Load) -> Written:
    """Plain COPYs: half the Postgres time of INSERT ... ON CONFLICT.

    A message seen before raises a unique violation; then `insert_unseen` has to do it.
    """
    entries = _copy_entries(connection, sql.Identifier("etl", "ledger"), load.masked.entries)
    rows = _upsert_all(connection, load) if load.contract.key else _append_all(connection, load)
    sealed = _copy_quarantine(connection, sql.Identifier("etl", "quarantine"), load.rejected.lines)
    _check_counts(load, entries, rows, sealed)
    copy(connection, sql.Identifier("etl", "kept_fields"), KeptLine._fields, load.masked.kept)
    return Written(load.masked.accepted, load.masked.rejected)


def _append_all(connection: Connection, load: Load) -> int:
    table = table_identifier(load.contract.table)
    return copy(connection, table, load.contract.column_names, load.masked.rows)


def _upsert_all(connection: Connection, load: Load) -> int:
    rows = upsert.put_newest(connection, load.contract, load.masked.rows)
    if rows is None:  # another loader has the same rows, or a key is written in an odd way
        rows = _stage_rows(connection, load)
        connection.execute(rows_from(sql.SQL("staged_rows"), load.contract))
    return rows


def replace_rows(connection: Connection, load: Load) -> Written:
    """Put rows into the table of a contract with a key where they are newer or say more; no ledger.

    Done again it changes nothing. `loaded` are the rows that were made or changed.
    """
    _stage_rows(connection, load)
    statement = rows_from(sql.SQL("staged_rows"), load.contract, CHANGED)
    return Written(connection.execute(statement).rowcount, {})


def _copy_entries(connection: Connection, ledger: sql.Identifier, entries: bytes) -> int:
    return copy(connection, ledger, LEDGER, copy_binary.stream(entries), " (FORMAT binary)")


def _copy_quarantine(connection: Connection, table: sql.Identifier, lines: bytes) -> int:
    return copy(connection, table, columns_of(lines), lines)


def _check_counts(load: Load, entries: int, rows: int, sealed: int) -> None:
    """A batch whose parts do not fit together would lose messages, or load them as something else."""
    expected = (load.messages, load.masked.accepted, load.messages - load.masked.accepted)
    if (entries, rows, sealed) != expected:
        raise WarehouseRefused(
            f"batch {load.batch} has {entries} ledger entries, {rows} rows and {sealed} quarantine lines, "
            "expected {}, {} and {}".format(*expected)
        )


# The safe path: some were seen before -----------------------------------------------------------------------

STAGED_LEDGER: LiteralString = """
    CREATE TEMPORARY TABLE staged_ledger (
        line integer GENERATED ALWAYS AS IDENTITY,
        queue_id smallint, sent_day date, message_id uuid, run_id uuid, status "char"
    ) ON COMMIT DROP
"""
STAGED_QUARANTINE: LiteralString = """
    CREATE TEMPORARY TABLE staged_quarantine (
        line integer GENERATED ALWAYS AS IDENTITY,
        queue_id smallint, sent_day date, message_id uuid, run_id uuid,
        reason text, payload bytea, payload_bytes integer, receive_count integer, shape text
    ) ON COMMIT DROP
"""
STAGED_KEPT: LiteralString = """
    CREATE TEMPORARY TABLE staged_kept (
        queue_id smallint, sent_day date, message_id uuid, run_id uuid, shape text, payload bytea
    ) ON COMMIT DROP
"""
STAGED_ROWS: LiteralString = """
    CREATE TEMPORARY TABLE staged_rows ({line} integer GENERATED ALWAYS AS IDENTITY, {columns}) ON COMMIT DROP
"""
# A message that repeats counts once, as its first line. All loaders insert in one order: no deadlock.
INSERT_UNSEEN: LiteralString = """
    WITH numbered AS (
        SELECT *, row_number() OVER (PARTITION BY status ORDER BY line) AS part_line FROM staged_ledger
    ), candidates AS (
        SELECT DISTINCT ON (queue_id, sent_day, message_id) * FROM numbered
        ORDER BY queue_id, sent_day, message_id, line
    ), unseen AS (
        INSERT INTO etl.ledger ({ledger_columns})
        SELECT {ledger_columns} FROM candidates ORDER BY queue_id, sent_day, message_id
        ON CONFLICT DO NOTHING
        RETURNING queue_id, sent_day, message_id
    ), chosen AS (
        SELECT status, part_line FROM candidates JOIN unseen USING (queue_id, sent_day, message_id)
    ), inserted AS (
        {insert_rows}
    ), sealed AS (
        SELECT staged_quarantine.* FROM staged_quarantine JOIN chosen ON status = 'Q' AND part_line = line
    ), quarantined AS (
        INSERT INTO etl.quarantine ({quarantine_columns})
        SELECT {quarantine_columns} FROM sealed ORDER BY queue_id, sent_day, message_id
        ON CONFLICT DO NOTHING
    ) {keep_fields}
    SELECT (SELECT count(*) FROM chosen WHERE status = 'L'),
           (SELECT coalesce(jsonb_object_agg(reason, messages), '{{}}')
            FROM (SELECT reason, count(*) AS messages FROM sealed GROUP BY reason) AS reasons)
"""
# Of the messages that are new: mask makes a line for an accepted one only, and for the first of copies.
KEEP_FIELDS: LiteralString = """
    , fields_kept AS (
        INSERT INTO etl.kept_fields ({columns})
        SELECT {staged} FROM staged_kept JOIN {entered} USING (queue_id, sent_day, message_id)
        ORDER BY queue_id, sent_day, message_id
        ON CONFLICT DO NOTHING
    )
"""
LINE = sql.Identifier("staged line")  # with a blank: no contract has such a column
# Every name with its table: a contract may have a column `status`.
CHOSEN = sql.SQL(
    "staged_rows JOIN chosen ON chosen.status = 'L' AND chosen.part_line = staged_rows.{}"
).format(LINE)

APPEND: LiteralString = "INSERT INTO {table} ({columns}) SELECT {staged} FROM {source}"
# Ordered by the key, so that loaders lock rows in one order. Of two messages that were sent in the same
# millisecond, the one that is loaded first stays.
UPSERT: LiteralString = """
    INSERT INTO {table} AS present ({columns})
    SELECT DISTINCT ON (staged_rows.{key}) {staged} FROM {source}
    ORDER BY staged_rows.{key}, staged_rows.{sent_at} DESC, staged_rows.{line}
    ON CONFLICT ({key}) DO UPDATE SET ({columns}) = ROW ({given}) WHERE {is_replaced}
"""
NEWER: LiteralString = "present.{sent_at} < excluded.{sent_at}"
# A replay brings the message that made the row, of which the contract may make more now.
CHANGED: LiteralString = """
    present.{sent_at} <= excluded.{sent_at} AND ROW ({present}) IS DISTINCT FROM ROW ({given})
"""


def rows_from(source: sql.Composable, contract: Contract, is_replaced: LiteralString = NEWER) -> sql.Composed:
    """The statement that puts rows into a contract's table, or with a key replaces older ones.

    Args:
        source: what follows FROM; it has the columns of `staged_rows`
        contract: names table, columns and key
        is_replaced: with a key, whether a row that is there is replaced
    """
    names = contract.column_names
    parts: dict[str, sql.Composable] = {
        "table": table_identifier(contract.table),
        "columns": listed(names),
        "staged": qualified("staged_rows", names),
        "source": source,
    }
    if not contract.key or not contract.sent_at:  # a contract with a key has both
        return sql.SQL(APPEND).format(**parts)
    sent_at, given = sql.Identifier(contract.sent_at.name), qualified("excluded", names)
    return sql.SQL(UPSERT).format(
        **parts,
        key=sql.Identifier(contract.key),
        sent_at=sent_at,
        line=LINE,
        given=given,
        is_replaced=sql.SQL(is_replaced).format(
            sent_at=sent_at, given=given, present=qualified("present", names)
        ),
    )


def insert_unseen(connection: Connection, load: Load) -> Written:
    """Insert what the ledger does not know."""
    return write_staged(connection, load, INSERT_UNSEEN, CHOSEN, sql.Identifier("unseen"))


def write_staged(
    connection: Connection,
    load: Load,
    statement: LiteralString,
    chosen_rows: sql.Composable,
    entered: sql.Identifier,
) -> Written:
    """Stage the batch in temporary tables, then let the statement make of it what it says.

    Args:
        connection: in a transaction
        load: the batch
        statement: of the form of INSERT_UNSEEN, whose names in braces it may use; gives one line: number of
            rows inserted, number of messages left in quarantine by reason
        chosen_rows: what follows FROM where it inserts rows
        entered: what has the ledger's keys of those messages whose undeclared fields it keeps
    """
    _stage(connection, load)
    formatted = sql.SQL(statement).format(
        ledger_columns=listed(LEDGER),
        quarantine_columns=listed(QuarantineLine._fields),
        insert_rows=rows_from(chosen_rows, load.contract),
        keep_fields=_keep_fields(entered) if load.masked.kept else sql.SQL(""),
    )
    loaded, quarantined = connection.execute(formatted).fetchone() or (0, {})
    return Written(loaded, quarantined)


def _keep_fields(entered: sql.Identifier) -> sql.Composed:
    columns = KeptLine._fields
    return sql.SQL(KEEP_FIELDS).format(
        columns=listed(columns), staged=qualified("staged_kept", columns), entered=entered
    )


def _stage(connection: Connection, load: Load) -> None:
    connection.execute(STAGED_LEDGER)
    connection.execute(STAGED_QUARANTINE)
    rows = _stage_rows(connection, load)
    entries = _copy_entries(connection, sql.Identifier("staged_ledger"), load.masked.entries)
    sealed = _copy_quarantine(connection, sql.Identifier("staged_quarantine"), load.rejected.lines)
    _check_counts(load, entries, rows, sealed)
    if load.masked.kept:
        connection.execute(STAGED_KEPT)
        copy(connection, sql.Identifier("staged_kept"), KeptLine._fields, load.masked.kept)


def _stage_rows(connection: Connection, load: Load) -> int:
    """Make the temporary table of the batch's rows and fill it; returns their number."""
    connection.execute(
        sql.SQL(STAGED_ROWS).format(line=LINE, columns=typed(column_types(connection, load.contract)))
    )
    return copy(connection, sql.Identifier("staged_rows"), load.contract.column_names, load.masked.rows)
