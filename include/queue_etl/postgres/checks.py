"""Is the database ready: its schema, the contract's table, the role's privileges. A sentence a problem."""

from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from include.queue_etl.contract import Contract
from include.queue_etl.errors import QueueEtlError
from include.queue_etl.postgres import server_log
from include.queue_etl.postgres.connection import Connection, Database, table_identifier
from include.queue_etl.postgres.migrations import head_revision

# What RunStore and `loading` need, apart from the contract's table and what DENIED adds.
PRIVILEGES = {
    "etl.queues": ("SELECT", "INSERT"),
    "etl.runs": ("SELECT", "INSERT", "UPDATE"),
    "etl.batches": ("SELECT", "INSERT", "UPDATE"),
    "etl.keys": ("SELECT", "INSERT"),
    "etl.masked_columns": ("INSERT",),
    "etl.tables": ("SELECT",),
    "etl.ledger": ("INSERT",),
    "etl.quarantine": ("INSERT",),
    "etl.run_summary": ("SELECT",),
}
MIGRATE = "run `python -m include.queue_etl migrate`"


def schema_problems(database: Database) -> list[str]:
    """Whether the schema is the one this code was written for; empty when it is."""
    try:
        return database.transaction(_schema_problems)
    except QueueEtlError as error:
        return [str(error)]


def loading_problems(database: Database, contract: Contract | None = None) -> list[str]:
    """Why nothing could be loaded now; empty when all is well.

    With a contract, its table and columns are looked at too.
    """
    try:
        return database.transaction(_schema_problems) or database.transaction(
            lambda connection: (
                table_problems(connection, contract)
                or room_problems(connection, contract)
                or _partition_problems(connection, contract)
                or _denied(connection, contract)
                or _locked(connection, contract)
            )
        )
    except QueueEtlError as error:
        return [str(error)]


def key_checks(database: Database) -> dict[int, str]:
    """Key id -> check value of every key that has masked and is not retired."""
    return dict(database.execute("SELECT key_id, check_value FROM etl.keys WHERE retired_at IS NULL"))


def log_warnings(database: Database) -> list[str]:
    """What the server may log although it should not, a sentence each; runs start all the same."""
    return database.transaction(server_log.warnings)


def _schema_problems(connection: Connection) -> list[str]:
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
    missing = [name for name in contract.column_names if name not in there]
    return [f"table {contract.table} has no column {name}" for name in missing] or _key_problems(
        connection, contract
    )


def _key_problems(connection: Connection, contract: Contract) -> list[str]:
    """Whether the table is unique by the contract's key: ON CONFLICT needs it."""
    values = {"table": contract.table, "key": contract.key}
    if not contract.key or connection.execute(UNIQUE_BY, values).fetchone() is not None:
        return []
    return [
        f"table {contract.table} is not unique by {contract.key}, the contract's key: "
        f"CREATE UNIQUE INDEX ON {contract.table} ({contract.key})"
    ]


def room_problems(connection: Connection, contract: Contract | None) -> list[str]:
    """Whether the table takes all that the contract accepts: else one message fails its whole batch."""
    if contract is None:
        return []
    from include.queue_etl.postgres import catalogue, table_plan

    found = catalogue.find_columns(connection, contract.table)
    return [
        f"table {contract.table} takes less than the contract accepts: {change.what}: "
        f"`contract migration {contract.name}` writes the revision, and `migrate` runs it"
        for change in table_plan.missing_room(contract, found)
    ]


def _partition_problems(connection: Connection, contract: Contract | None) -> list[str]:
    """Whether the table is partitioned as the contract says, and the database knows it."""
    if contract is None or contract.partition_by is None:
        return []
    table, column = contract.table, contract.partition_by.column
    matches, *registered = _one(connection, PARTITIONS, {"table": table, "column": column})
    if not matches:
        return [f"table {table} is not partitioned by range of {column}: its migration is missing"]
    if registered != [contract.partition_by.kind, column, contract.retain_days]:
        return [f"the contract has other partitions or retain_days for {table} than the database: {MIGRATE}"]
    return []


def _denied(connection: Connection, contract: Contract | None) -> list[str]:
    wanted = [(table, privilege) for table, privileges in PRIVILEGES.items() for privilege in privileges]
    if contract is not None:
        needed = ("INSERT", "SELECT", "UPDATE") if contract.key else ("INSERT",)
        wanted += [(contract.table, privilege) for privilege in needed]
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
            connection.execute(LOCK_TABLES.format(sql.SQL(", ").join(map(table_identifier, tables))))
    except psycopg.errors.LockNotAvailable:
        return [f"another session holds a lock on {' or '.join(tables)}: pg_locks names it"]
    return []


def _one(
    connection: Connection, statement: LiteralString, values: dict[str, Any] | None = None
) -> tuple[Any, ...]:
    return connection.execute(statement, values).fetchall()[0]


# The statements

# An analyst may use the schema, for one view of it.
SCHEMA_ACCESS: LiteralString = """
    SELECT to_regnamespace('etl') IS NOT NULL,
           has_schema_privilege(to_regnamespace('etl')::oid, 'USAGE') AND coalesce(
               (SELECT has_table_privilege(oid, 'SELECT') FROM pg_class
                WHERE relnamespace = to_regnamespace('etl') AND relname = 'schema_revision'), true),
           current_user
"""
TABLE_COLUMNS: LiteralString = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
"""
UNIQUE_BY: LiteralString = """
    SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = to_regclass(%(table)s) AND indisunique AND indisvalid AND indnkeyatts = 1
      AND indpred IS NULL AND attname = %(key)s
"""
PARTITIONS: LiteralString = """
    SELECT pg_get_partkeydef(to_regclass(%(table)s)) = format('RANGE (%%I)', %(column)s::text),
           partition_kind, partition_column, retain_days
    FROM (VALUES (1)) AS one LEFT JOIN etl.tables ON table_name = %(table)s
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
        SELECT split_part(name, '(', 1), 'EXECUTE'
        FROM unnest('{etl.ensure_ledger_partition(date),"etl.missing_partitions(regclass,date[])",
                      "etl.ensure_partition(regclass,date)"}'::text[]) AS name
        WHERE NOT has_function_privilege(name, 'EXECUTE')
        UNION ALL
        SELECT 'database ' || current_database(), 'CREATE TEMPORARY TABLE'
        WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
    )
    SELECT current_user, object, privilege FROM denied
"""
LOCK_PATIENCE: LiteralString = "SET LOCAL lock_timeout = '5s'"
LOCK_TABLES = sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE")  # as a load does
