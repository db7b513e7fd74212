"""Postgres, as role `etl_remasker`: moving tokens and payloads from key to key."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from include.queue_etl.contract import Contract, MaskedField
from include.queue_etl.errors import KeysetError, WarehouseRefused
from include.queue_etl.keys.token_format import (
    PREFIX_BYTES,
    TOKEN_PREFIX_CHARS,
    ciphertext_prefix,
    token_prefixes,
)
from include.queue_etl.postgres import masked_columns, payloads
from include.queue_etl.postgres.connection import Connection, Database, table_identifier
from include.queue_etl.postgres.masked_columns import MaskedColumn
from include.queue_etl.postgres.payloads import PayloadTable, StoredPayload
from include.queue_etl.transform.masking import Masker

BLOCKS = 128  # of 8 KiB: about 10,000 rows of user_logins in one transaction
PAYLOADS = 100  # of up to 1 MiB each

# Message id and payload -> the payload under the primary key; None where the keyset does not open it.
Reencrypt = Callable[[str, bytes], bytes | None]


class Moved(NamedTuple):
    """What was done. `unopened`: tokens or payloads that the keyset does not open; they stay."""

    moved: int
    unopened: int

    def and_then(self, other: "Moved") -> "Moved":
        """Both together."""
        return Moved(self.moved + other.moved, self.unopened + other.unopened)


class MovedToken(NamedTuple):
    """A column of a row before and after; the same where nothing changes."""

    old: str | None
    new: str | None


class MovedRow(NamedTuple):
    """A row that changes: where it lies, and its recoverable columns in table order."""

    ctid: str
    tokens: list[MovedToken]


def reencrypted(masker: Masker, column: MaskedField, token: str) -> str | None:
    """The token under the primary key; None where the keyset does not open it."""
    try:
        return masker.reencrypt(column, token)
    except KeysetError:
        return None


class RemaskStore:
    """What role etl_remasker may do beside the audit: move tokens and payloads, retire keys.

    It sees tokens but not whose they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def block_ranges(self, contract: Contract) -> list[range]:
        """The blocks of the contract's table, cut so that one transaction deals with BLOCKS of them.

        A range is one of every part (partition, child table), and so shorter the more parts reach it.

        Raises:
            WarehouseRefused: a part lies on another server
        """
        parts = self._database.execute(SELECT_PARTS, table=contract.table)
        if any(foreign for foreign, _ in parts):
            raise WarehouseRefused(
                f"{contract.table} has foreign parts, which remask cannot walk: detach them first"
            )
        found, first = [], 0
        while reached := sum(length > first for _, length in parts):
            found.append(range(first, first + max(1, BLOCKS // reached)))
            first = found[-1].stop
        return found

    def move_rows(self, contract: Contract, masker: Masker, prefixes: Sequence[str], blocks: range) -> Moved:
        """Move the tokens of these blocks that have one of these prefixes.

        In a transaction for the columns of tokens and one for each jsonb column. `moved` counts a row once in
        each of them that changes it.
        """
        done = Moved(0, 0)
        if columns := [masked for masked in contract.recoverable if not masked.path]:
            done = self._move_columns(contract, columns, masker, prefixes, blocks)
        inside = [masked for masked in contract.recoverable if masked.path]
        for column in dict.fromkeys(masked.column for masked in inside):
            fields = [masked for masked in inside if masked.column == column]
            done = done.and_then(self._move_inside(contract, fields, masker, prefixes, blocks))
        return done

    def _move_columns(
        self,
        contract: Contract,
        columns: Sequence[MaskedField],
        masker: Masker,
        prefixes: Sequence[str],
        blocks: range,
    ) -> Moved:
        find, move = _row_statements(contract, columns)

        def work(connection: Connection) -> Moved:
            places = _places(blocks)
            rows = connection.execute(find, {"prefixes": list(prefixes), **places}).fetchall()
            changed, unopened = _moved_rows(masker, columns, rows, set(prefixes))
            if not changed:
                return Moved(0, unopened)
            return Moved(connection.execute(move, [*_arrays(changed), *places.values()]).rowcount, unopened)

        return self._database.transaction(work)

    def _move_inside(
        self,
        contract: Contract,
        fields: Sequence[MaskedField],
        masker: Masker,
        prefixes: Sequence[str],
        blocks: range,
    ) -> Moved:
        """Move tokens inside one jsonb column. What stands beside them never leaves the database."""
        given = {"table": contract.table, "column": fields[0].column, **_places(blocks)}

        def work(connection: Connection) -> Moved:
            moves, unopened = [], 0
            for field in fields:
                wanted = {**given, "path": field.path, "prefixes": list(prefixes)}
                found: dict[str, int] = dict(connection.execute(TOKENS_INSIDE, wanted).fetchall())
                new = {token: reencrypted(masker, field, token) for token in found}
                moves.append({token: moved for token, moved in new.items() if moved})
                unopened += sum(times for token, times in found.items() if not new[token])
            if not any(moves):
                return Moved(0, unopened)
            paths = [field.path for field in fields]
            move = {**given, "paths": paths, "moves": list(map(Jsonb, moves))}
            ((rows,),) = connection.execute(MOVE_TOKENS_INSIDE, move).fetchall()
            return Moved(rows, unopened)

        return self._database.transaction(work)

    def masked_columns(self, contracts: Iterable[Contract]) -> list[MaskedColumn]:
        """The columns of these contracts and every other one that ever held tokens."""
        return self._database.transaction(lambda connection: masked_columns.find(connection, contracts))

    def count_tokens(self, column: MaskedColumn, key_id: int) -> int:
        """Tokens of the key in this column, or at this path of a jsonb column. Reads the whole table."""
        prefixes = token_prefixes(key_id)
        if column.path:
            return int(self._database.execute(COUNT_INSIDE, **column._asdict(), prefixes=prefixes)[0][0])
        query = sql.SQL("SELECT count(*) FROM {} WHERE left({}, %(chars)s) = ANY (%(prefixes)s)").format(
            table_identifier(column.table), sql.Identifier(column.column)
        )
        found = self._database.execute(query, chars=TOKEN_PREFIX_CHARS, prefixes=prefixes)
        return int(found[0][0])

    def payloads_using(
        self, table: PayloadTable, contract: Contract, key_ids: Sequence[int], last: StoredPayload | None
    ) -> list[StoredPayload]:
        """The next payloads encrypted with one of these keys, in the order of the table's key."""
        return payloads.page(self._database, table, contract.queue, last, PAYLOADS, key_ids)

    def move_payloads(
        self, table: PayloadTable, reencrypt: Reencrypt, stored: Sequence[StoredPayload]
    ) -> Moved:
        """Encrypt these payloads anew; one that was erased or replaced meanwhile stays as it is."""
        done = unopened = 0
        statement = table.named_in(UPDATE_PAYLOAD)
        for one in stored:
            new = reencrypt(one.message_id, one.payload)
            if new is None:
                unopened += 1
            else:
                done += len(self._database.execute(statement, new=new, **one._asdict()))
        return Moved(done, unopened)

    def count_payloads(self, table: PayloadTable, key_id: int) -> int:
        """Payloads that are encrypted with the key, of all queues."""
        prefix = ciphertext_prefix(key_id)
        found = self._database.execute(
            table.named_in(COUNT_ENCRYPTED), prefix=prefix, prefix_bytes=PREFIX_BYTES
        )
        return int(found[0][0])

    def closed(self, run_ids: Mapping[UUID, object]) -> list[UUID]:
        """Those of these runs that are closed."""
        return [run_id for (run_id,) in self._database.execute(SELECT_CLOSED, ids=list(run_ids))]

    def count_open_runs(self) -> int:
        """Runs that are not closed, of all contracts."""
        return int(
            self._database.execute("SELECT count(*) FROM etl.run_summary WHERE state = 'running'")[0][0]
        )

    def known_keys(self) -> dict[int, tuple[Any, Any]]:
        """Key id -> (first used at, retired at) of every key that ever masked."""
        found = self._database.execute(
            "SELECT key_id, first_used_at, retired_at FROM etl.keys ORDER BY first_used_at"
        )
        return {key_id: (first, retired) for key_id, first, retired in found}

    def set_retired(self, key_id: int, check_value: str, *, retired: bool) -> None:
        """Note that the key may not mask any more, or that it may again; also of a key never used."""
        self._database.execute(UPSERT_KEY, key_id=key_id, check_value=check_value, retired=retired)


def _row_statements(contract: Contract, columns: Sequence[MaskedField]) -> tuple[sql.Composed, sql.Composed]:
    """Find rows by block and token prefix; move rows by their place, if they are still what they were.

    Moving names the blocks too: from the places alone the planner reads every partition whole, each time.
    Partitions have the same places. A row of another partition that has the place and the old tokens too gets
    the new tokens of these, which is right as well.
    """
    table = table_identifier(contract.table)
    names = [sql.Identifier(column.column) for column in columns]
    prefix = sql.SQL(f"left({{}}, {TOKEN_PREFIX_CHARS}) = ANY (%(prefixes)s)")
    find = sql.SQL(
        "SELECT ctid::text, {} FROM {} WHERE ctid >= %(from)s::tid AND ctid < %(to)s::tid AND ({})"
    ).format(
        sql.SQL(", ").join(names),
        table,
        sql.SQL(" OR ").join(prefix.format(name) for name in names),
    )
    olds = [sql.Identifier(f"old_{index}") for index in range(len(names))]
    news = [sql.Identifier(f"new_{index}") for index in range(len(names))]
    move = sql.SQL(
        "UPDATE {} AS t SET {} FROM unnest(%s::tid[], {}) AS v (place, {}) WHERE t.ctid = place AND {}"
        " AND t.ctid >= %s::tid AND t.ctid < %s::tid"
    ).format(
        table,
        sql.SQL(", ").join(sql.SQL("{} = {}").format(*pair) for pair in zip(names, news, strict=True)),
        sql.SQL(", ").join([sql.SQL("%s::text[]")] * 2 * len(names)),
        sql.SQL(", ").join(name for pair in zip(olds, news, strict=True) for name in pair),
        sql.SQL(" AND ").join(
            sql.SQL("t.{} IS NOT DISTINCT FROM {}").format(*pair) for pair in zip(names, olds, strict=True)
        ),
    )
    return find, move


def _moved_rows(
    masker: Masker, columns: Sequence[MaskedField], rows: Sequence[tuple[Any, ...]], prefixes: set[str]
) -> tuple[list[MovedRow], int]:
    """The rows that change; how many tokens do not open."""
    known: list[dict[str, str | None]] = [{} for _ in columns]  # repeated users are common
    changed, unopened = [], 0
    for ctid, *tokens in rows:
        moved = []
        for column, seen, token in zip(columns, known, tokens, strict=True):
            new = token
            if token is not None and token[:TOKEN_PREFIX_CHARS] in prefixes:
                if token not in seen:
                    seen[token] = reencrypted(masker, column, token)
                unopened += seen[token] is None
                new = seen[token] or token
            moved.append(MovedToken(token, new))
        if any(token.old != token.new for token in moved):
            changed.append(MovedRow(ctid, moved))
    return changed, unopened


def _arrays(rows: Sequence[MovedRow]) -> list[list[str | None]]:
    """The values of the update: ctids, then old and new tokens of each column."""
    columns = zip(*(row.tokens for row in rows), strict=True)
    tokens = [[token[part] for token in column] for column in columns for part in (0, 1)]
    return [[row.ctid for row in rows], *tokens]


def _places(blocks: range) -> dict[str, str]:
    """The first place of these blocks, and that behind the last."""
    return {"from": f"({blocks.start},0)", "to": f"({blocks.stop},0)"}


SELECT_PARTS: LiteralString = """
    WITH RECURSIVE part AS (
        SELECT to_regclass(%(table)s)::oid AS relid
        UNION SELECT inhrelid FROM pg_inherits JOIN part ON inhparent = relid
    )
    SELECT relkind = 'f', coalesce(pg_relation_size(relid), 0) / current_setting('block_size')::bigint
    FROM part JOIN pg_class ON oid = relid
"""
TOKENS_INSIDE: LiteralString = """
    SELECT token, count(*)
    FROM etl.tokens_inside(to_regclass(%(table)s), %(column)s, %(path)s, %(prefixes)s,
                           %(from)s::tid, %(to)s::tid) AS token
    GROUP BY token
"""
COUNT_INSIDE: LiteralString = """
    SELECT count(*) FROM etl.tokens_inside(to_regclass(%(table)s), %(column)s, %(path)s, %(prefixes)s)
"""
MOVE_TOKENS_INSIDE: LiteralString = """
    SELECT etl.move_tokens_inside(to_regclass(%(table)s), %(column)s, %(paths)s, %(moves)s::jsonb[],
                                  %(from)s::tid, %(to)s::tid)
"""
UPDATE_PAYLOAD: LiteralString = """
    UPDATE {table} SET payload = %(new)s
    WHERE queue_id = %(queue_id)s AND sent_day = %(sent_day)s AND message_id = %(message_id)s::uuid
      AND payload = %(payload)s RETURNING 1
"""
COUNT_ENCRYPTED: LiteralString = """
    SELECT count(*) FROM {table} WHERE substring(payload FOR %(prefix_bytes)s) = %(prefix)s
"""
SELECT_CLOSED: LiteralString = """
    SELECT run_id FROM etl.run_summary WHERE state <> 'running' AND run_id = ANY (%(ids)s::uuid[])
"""
UPSERT_KEY: LiteralString = """
    INSERT INTO etl.keys (key_id, check_value, retired_at)
    VALUES (%(key_id)s, %(check_value)s, CASE WHEN %(retired)s THEN now() END)
    ON CONFLICT (key_id) DO UPDATE SET retired_at = excluded.retired_at
"""
