"""The fast way to put the rows of a contract with a key into its table.

One statement asks which of the batch's keys the table has, and at which addresses. Rows with another key are
copied into the table. The others are staged with the addresses, and one UPDATE replaces what it finds there.

Other loaders may change the same rows meanwhile. So all this is checked, and done within a savepoint: a key
that was new may be there by now (unique violation), a row may have left its address (a count). And nothing
waits long for a lock, for ON CONFLICT takes locks in another order. What fails is undone, and the caller does
the batch by ON CONFLICT. Reasons and figures: docs/decisions/0041-upsert-by-address.md.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import LiteralString

import psycopg
from psycopg import sql

from include.queue_etl.contract import Contract
from include.queue_etl.postgres.connection import Connection, table_identifier
from include.queue_etl.postgres.copying import column_types, copy, listed, qualified, typed

log = logging.getLogger(__name__)

# Less than deadlock_timeout (1 s): where two wait for each other, this one gives up. Nothing is known of the
# temporary table, so that a hash join might be chosen, which reads the whole target.
SETTINGS: LiteralString = """
    SET LOCAL lock_timeout = '200ms'; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off
"""
DEFAULTS: LiteralString = """
    SET LOCAL lock_timeout TO DEFAULT; SET LOCAL enable_hashjoin TO DEFAULT;
    SET LOCAL enable_mergejoin TO DEFAULT
"""
# Keys from a subselect, for the planner would look at each of 10,000 constants. One line of answer, for the
# client pays for each. In the order of the key, as with ON CONFLICT.
LOOK_UP: LiteralString = """
    SELECT string_agg({key}::text, E'\\n'), string_agg({address}::text, ' '), bool_and("is its own")
    FROM (
        SELECT {key}, ctid AS {address}, tableoid = {table_name}::regclass AS "is its own"
        FROM {table} WHERE {key} = ANY ((SELECT %(keys)s)::{key_type}[]) ORDER BY {key}
    ) AS found
"""
STAGED: LiteralString = "CREATE TEMPORARY TABLE staged_known ({address} tid, {typed}) ON COMMIT DROP"
REPLACE: LiteralString = """
    UPDATE ONLY {table} AS present SET ({columns}) = ROW ({given}) FROM staged_known
    WHERE present.ctid = staged_known.{address} AND present.{key} = staged_known.{key}
      AND present.{sent_at} < staged_known.{sent_at}
"""
# A row that was replaced or deleted meanwhile is not at its address any more.
COUNT_NEWER: LiteralString = """
    SELECT count(*) FROM staged_known JOIN ONLY {table} AS present ON present.ctid = staged_known.{address}
    WHERE present.{key} = staged_known.{key} AND present.{sent_at} >= staged_known.{sent_at}
"""
ADDRESS = "staged address"  # with blanks, as "is its own": no contract has such a column


class _Unfit(Exception):
    """This way is no good for the batch. The text says why, and holds no value."""


# The last one: COPY into a table with row-level security.
UNFIT = (
    _Unfit,
    psycopg.errors.UniqueViolation,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.FeatureNotSupported,
)


def put_newest(connection: Connection, contract: Contract, rows: bytes) -> int | None:
    """Insert the rows, or replace older ones with the same key; of rows with one key only the newest counts.

    Args:
        connection: in a transaction
        contract: has a key
        rows: COPY text

    Returns:
        number of rows; None where this way is no good, and nothing has changed
    """
    lines = rows.decode().removesuffix("\n").split("\n") if rows else []
    try:
        with connection.transaction():
            _put(connection, contract, _newest(contract, lines))
    except UNFIT as reason:
        why = str(reason) if isinstance(reason, _Unfit) else type(reason).__name__
        log.info("Rows for %s are put by ON CONFLICT: %s", contract.table, why)
        return None
    return len(lines)


def _newest(contract: Contract, lines: Sequence[str]) -> dict[str, str]:
    """Key -> line."""
    keys = _fields(contract, contract.key, lines)
    newest = dict(zip(keys, lines, strict=True))
    if len(newest) < len(lines):
        # The last line of a key stays in a dictionary. Texts of moments sort like the moments: those with a
        # fraction of a second (".") after those without ("+"). Of one moment the first line counts.
        moments = _fields(contract, _sent_at(contract), lines)
        oldest_first = sorted(zip(moments, count(step=-1), keys, lines, strict=False))
        newest = {key: line for _, _, key, line in oldest_first}
    return newest


def _fields(contract: Contract, column: str, lines: Iterable[str]) -> list[str]:
    at = contract.column_names.index(column)
    return [line.split("\t", at + 1)[at] for line in lines]


def _sent_at(contract: Contract) -> str:
    return contract.sent_at.name if contract.sent_at else ""  # a contract with a key has it


def _put(connection: Connection, contract: Contract, newest: Mapping[str, str]) -> None:
    names, table = contract.column_names, table_identifier(contract.table)
    types = column_types(connection, contract)
    parts: dict[str, sql.Composable] = {
        "table": table,
        "table_name": sql.Literal(table.as_string(connection)),
        "columns": listed(names),
        "typed": typed(types),
        "given": qualified("staged_known", names),
        "key": sql.Identifier(contract.key),
        "key_type": types[contract.key],
        "sent_at": sql.Identifier(_sent_at(contract)),
        "address": sql.Identifier(ADDRESS),
    }
    keys = sorted(newest)  # all loaders insert in one order, and so wait in no circle
    addresses = _look_up(connection, parts, keys)
    connection.execute(SETTINGS)
    new = map(newest.__getitem__, [key for key in keys if key not in addresses])
    put = copy(connection, table, names, _text(new))
    if addresses:
        known = zip(addresses.values(), map(newest.__getitem__, addresses), strict=True)
        put += _replace(connection, parts, [ADDRESS, *names], _text(map("\t".join, known)))
    if put != len(newest):
        raise _Unfit("another transaction changed some meanwhile")
    connection.execute(DEFAULTS)


def _text(lines: Iterable[str]) -> str:
    text = "\n".join(lines)
    return f"{text}\n" if text else ""


def _look_up(
    connection: Connection, parts: Mapping[str, sql.Composable], keys: Sequence[str]
) -> dict[str, str]:
    """Key -> address, of those keys that the table has.

    Raises:
        _Unfit: a key would need escapes here; Postgres writes it in another way, as numeric 1.0 for 1.00; or
            the address would not be unique, as in a table with partitions
    """
    literal = '{"' + '","'.join(keys) + '"}' if keys else "{}"
    if "\\" in literal or literal.count('"') != 2 * len(keys):
        raise _Unfit("a key has quotes or escapes")
    statement = sql.SQL(LOOK_UP).format(**parts)
    found, addresses, have_own = connection.execute(statement, {"keys": literal}).fetchall()[0]
    known = dict(zip(found.split("\n"), addresses.split(), strict=False)) if addresses else {}
    if have_own is False or not known.keys() <= set(keys):
        raise _Unfit("a key is in a partition, or is written in another way there")
    return known


def _replace(
    connection: Connection, parts: Mapping[str, sql.Composable], columns: Sequence[str], staged: str
) -> int:
    """How many of the staged rows have replaced one, or have found a newer one."""
    connection.execute(sql.SQL(STAGED).format(**parts))
    rows = copy(connection, sql.Identifier("staged_known"), columns, staged)
    replaced = connection.execute(sql.SQL(REPLACE).format(**parts)).rowcount
    if replaced == rows:
        return rows
    newer: int = connection.execute(sql.SQL(COUNT_NEWER).format(**parts)).fetchall()[0][0]
    return replaced + newer
