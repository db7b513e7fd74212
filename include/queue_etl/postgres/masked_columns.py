"""Which columns hold tokens, or once did: kept in the database, because it outlives a contract's file."""

import logging
from collections.abc import Iterable
from typing import LiteralString, NamedTuple

from include.queue_etl.contract import Contract
from include.queue_etl.errors import WarehouseRefused
from include.queue_etl.postgres.connection import Connection

log = logging.getLogger(__name__)


class MaskedColumn(NamedTuple):
    """A column, or a path inside a jsonb column, in which a key has to be looked for.

    Attributes:
        table: schema-qualified
        path: inside a jsonb column, such as `[*].phone`; empty where the column is the token
        contract: a contract that masks it, or once did
        one_way: it holds one-way tokens, as the contract of today says, or else everything registered
        loaded: a contract masks it today, so that remask moves its tokens
    """

    table: str
    column: str
    path: str
    contract: str
    one_way: bool
    loaded: bool

    @property
    def place(self) -> str:
        """For people: `public.orders.items[*].phone`."""
        return f"{self.table}.{self.column}{self.path}"


def register(connection: Connection, contract: Contract) -> None:
    """Remember the masked columns of the contract, if its table exists; what is known already stays."""
    connection.execute(REGISTER, _parameters([contract]))


def find(connection: Connection, contracts: Iterable[Contract]) -> list[MaskedColumn]:
    """The masked columns of these contracts and all that are registered. Dropped ones are only logged.

    Raises:
        WarehouseRefused: nobody can say what one of them holds: this role may not read it, its type became
            another, or a path is not registered
    """
    columns = []
    for *facts, exists, readable, registered, fits in connection.execute(FIND, _parameters(contracts)):
        column = MaskedColumn(*facts)
        if not exists:
            log.warning("%s of contract %s does not exist any more: it holds nothing", *_named(column))
        elif problem := _problem(column, readable, registered, fits):
            raise WarehouseRefused(problem)
        else:
            columns.append(column)
    return columns


def _named(column: MaskedColumn) -> tuple[str, str]:
    return column.place, column.contract


def _problem(column: MaskedColumn, readable: bool, registered: bool, fits: bool) -> str | None:
    """Why nobody can say what the column holds, and what to do."""
    reader = "etl_owner" if column.path else "etl_remasker"  # as who etl.tokens_inside looks
    if not readable:
        return (
            f"role {reader} may not read {column.table}.{column.column}, where contract {column.contract} "
            "keeps tokens: run `python -m include.queue_etl migrate`; where the contract's file is gone, "
            f"GRANT SELECT ({column.column}) ON {column.table} TO {reader}"
        )
    if column.path and not registered:
        return (
            f"etl.masked_columns does not have {column.place} of contract {column.contract}: "
            "run `python -m include.queue_etl migrate`"
        )
    if not fits:
        was, now = ("jsonb", "no jsonb") if column.path else ("a column of tokens", "jsonb")
        return (
            f"{column.table}.{column.column} of contract {column.contract} was {was} and is {now} now: when "
            f"none of its old tokens is left, DELETE its line, path '{column.path}', FROM etl.masked_columns"
        )
    return None


def _parameters(contracts: Iterable[Contract]) -> dict[str, list[str]]:
    """A list for each fact of the masked columns."""
    tables = [table for contract in contracts for table in contract.each_table()]
    columns = [(table, column) for table in tables for column in table.personal]
    return {
        "contracts": [contract.name for contract, _ in columns],
        "tables": [contract.table for contract, _ in columns],
        "columns": [column.column for _, column in columns],
        "fields": [column.field for _, column in columns],
        "schemes": [str(column.mark.scheme) for _, column in columns],
        "paths": [column.path for _, column in columns],
    }


REGISTER: LiteralString = """
    INSERT INTO etl.masked_columns (contract, table_name, column_name, field, scheme, path)
    SELECT * FROM unnest(%(contracts)s::text[], %(tables)s::text[], %(columns)s::text[], %(fields)s::text[],
                         %(schemes)s::text[], %(paths)s::text[])
        AS given (contract, table_name, column_name, field, scheme, path)
    WHERE to_regclass(table_name) IS NOT NULL ON CONFLICT DO NOTHING
"""
FIND: LiteralString = """
    SELECT table_name, column_name, path, min(contract),
           coalesce(bool_and(scheme = 'one_way') FILTER (WHERE loaded), bool_and(scheme = 'one_way')),
           bool_or(loaded),
           bool_or(attnum IS NOT NULL),
           bool_or(has_column_privilege(CASE path WHEN '' THEN current_user ELSE 'etl_owner' END,
                                        attrelid, attnum, 'SELECT')),
           bool_or(NOT loaded),
           bool_or((atttypid = 'jsonb'::regtype) = (path <> ''))
    FROM (
        SELECT contract, table_name, column_name, scheme, path, false AS loaded FROM etl.masked_columns
        UNION ALL
        SELECT *, true FROM unnest(%(contracts)s::text[], %(tables)s::text[], %(columns)s::text[],
                                   %(schemes)s::text[], %(paths)s::text[])
    ) AS given
    LEFT JOIN pg_attribute
        ON attrelid = to_regclass(table_name) AND attname = column_name AND NOT attisdropped
    GROUP BY table_name, column_name, path ORDER BY table_name, column_name, path
"""
