"""The partitions of contracts' tables: what the contract says of them, and making those that rows need."""

from collections.abc import Sequence
from typing import LiteralString

from include.queue_etl.contract import Contract
from include.queue_etl.postgres.connection import Connection, Database


def register(connection: Connection, contract: Contract) -> None:
    """Enter what the contract says of its table's partitions, if the table exists. Only the owner may."""
    connection.execute(FORGET, {"table": contract.table})
    if contract.partition_by is not None:
        values = {
            "table": contract.table,
            "kind": contract.partition_by.kind,
            "column": contract.partition_by.column,
            "retain_days": contract.retain_days,
        }
        connection.execute(REGISTER, values)


def ensure(database: Database, table: str, days: Sequence[str]) -> int:
    """Make the partitions of these days that are missing; returns how many were made.

    Each in a transaction of its own: each takes locks, and a batch of forged dates may need a thousand.
    """
    if not days:
        return 0
    missing = database.execute(MISSING, table=table, days=list(days))
    return sum(database.execute(ENSURE, table=table, day=day)[0][0] for (day,) in missing)


FORGET: LiteralString = "DELETE FROM etl.tables WHERE table_name = %(table)s"
REGISTER: LiteralString = """
    INSERT INTO etl.tables (table_name, partition_kind, partition_column, retain_days)
    SELECT %(table)s, %(kind)s, %(column)s, %(retain_days)s::integer
    WHERE to_regclass(%(table)s) IS NOT NULL
"""
MISSING: LiteralString = """
    SELECT day::text FROM etl.missing_partitions(%(table)s::regclass, %(days)s::date[]) AS day
"""
ENSURE: LiteralString = "SELECT etl.ensure_partition(%(table)s::regclass, %(day)s::date)"
