"""Which columns hold tokens, or once did: kept in the database, because it outlives a contract's file."""

import logging
from collections.abc import Iterable
from typing import LiteralString, NamedTuple

from include.queue_etl.contract import Contract
from include.queue_etl.errors import WarehouseRefused
from include.queue_etl.postgres.connection import Connection

log = logging.getLogger(__name__)


class MaskedColumn(NamedTuple):
    """A column in which a key has to be looked for.

    Attributes:
        table: schema-qualified
        contract: a contract that masks it, or once did
        one_way: it holds one-way tokens, as the contract of today says, or else everything registered
        loaded: a contract masks it today, so that remask moves its tokens
    """

    table: str
    column: str
    contract: str
    one_way: bool
    loaded: bool


def register(connection: Connection, contract: Contract) -> None:
    """Remember the masked columns of the contract, if its table exists; what is known already stays."""
    connection.execute(REGISTER, _parameters([contract]))


def find(connection: Connection, contracts: Iterable[Contract]) -> list[MaskedColumn]:
    """The masked columns of these contracts and all that are registered. Dropped ones are only logged.

    Raises:
        WarehouseRefused: this role may not read one of them, so that nobody can say what it holds
    """
    columns = []
    for *facts, exists, readable in connection.execute(FIND, _parameters(contracts)):
        column = MaskedColumn(*facts)
        if not exists:
            log.warning(
                "%s.%s of contract %s does not exist any more: it holds nothing",
                column.table, column.column, column.contract,
            )  # fmt: skip
        elif not readable:
            raise WarehouseRefused(
                f"role etl_remasker may not read {column.table}.{column.column}, where contract "
                f"{column.contract} keeps tokens: run `python -m include.queue_etl migrate`; where the "
                f"contract's file is gone, GRANT SELECT ({column.column}) ON {column.table} TO etl_remasker"
            )
        else:
            columns.append(column)
    return columns


def _parameters(contracts: Iterable[Contract]) -> dict[str, list[str]]:
    """A list for each fact of the masked columns."""
    columns = [(contract, column) for contract in contracts for column in contract.personal]
    return {
        "contracts": [contract.name for contract, _ in columns],
        "tables": [contract.table for contract, _ in columns],
        "columns": [column.column for _, column in columns],
        "fields": [column.field for _, column in columns],
        "schemes": [str(column.mark.scheme) for _, column in columns],
    }


REGISTER: LiteralString = """
    INSERT INTO etl.masked_columns (contract, table_name, column_name, field, scheme)
    SELECT * FROM unnest(%(contracts)s::text[], %(tables)s::text[], %(columns)s::text[], %(fields)s::text[],
                         %(schemes)s::text[]) AS given (contract, table_name, column_name, field, scheme)
    WHERE to_regclass(table_name) IS NOT NULL ON CONFLICT DO NOTHING
"""
FIND: LiteralString = """
    SELECT table_name, column_name, min(contract),
           coalesce(bool_and(scheme = 'one_way') FILTER (WHERE loaded), bool_and(scheme = 'one_way')),
           bool_or(loaded),
           bool_or(attnum IS NOT NULL), bool_or(has_column_privilege(attrelid, attnum, 'SELECT'))
    FROM (
        SELECT contract, table_name, column_name, scheme, false AS loaded FROM etl.masked_columns
        UNION ALL
        SELECT *, true FROM unnest(%(contracts)s::text[], %(tables)s::text[], %(columns)s::text[],
                                   %(schemes)s::text[])
    ) AS given
    LEFT JOIN pg_attribute
        ON attrelid = to_regclass(table_name) AND attname = column_name AND NOT attisdropped
    GROUP BY table_name, column_name ORDER BY table_name, column_name
"""
