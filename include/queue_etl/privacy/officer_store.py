"""Postgres, as role `pii_officer`: finding tokens and overwriting them, each on record first."""

from collections.abc import Collection, Iterable, Sequence
from typing import LiteralString
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from include.queue_etl.contract import Contract, MaskedField
from include.queue_etl.postgres.checks import table_problems
from include.queue_etl.postgres.connection import Connection, Database, table_identifier
from include.queue_etl.transform.quarantine import QuarantinedMessage

# What erasing needs, apart from the contract's table: privilege, object
ERASE_PRIVILEGES = (
    ("SELECT", "etl.queues"),
    ("SELECT", "etl.run_summary"),
    ("SELECT", "etl.quarantine"),
    ("DELETE", "etl.quarantine"),
)


class OfficerStore:
    """What role pii_officer may do beside the audit: find tokens, overwrite rows, delete from quarantine."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tokens_where(self, contract: Contract, column: str, value: str) -> list[tuple[MaskedField, str]]:
        """Distinct recoverable tokens of the rows whose `column` is `value`, by personal column."""
        found: list[tuple[MaskedField, str]] = []
        for personal in contract.recoverable:
            query = sql.SQL(
                "SELECT DISTINCT {p} FROM {t} WHERE {c} = %(value)s AND {p} IS NOT NULL ORDER BY 1"
            ).format(
                p=sql.Identifier(personal.column),
                t=table_identifier(contract.table),
                c=sql.Identifier(column),
            )
            found += [(personal, token) for (token,) in self._database.execute(query, value=value)]
        return found

    def erase_problems(self, contract: Contract, column: str, columns: Sequence[str]) -> list[str]:
        """Why `overwrite` or `delete_quarantined` would fail, a sentence each with the way to fix it."""

        def run(connection: Connection) -> list[str]:
            return (
                _schemas_denied(connection, contract)
                or table_problems(connection, contract)
                or _denied(connection, contract, column, columns)
                + _without_null(connection, contract, columns)
            )

        return self._database.transaction(run)

    def count_rows(self, contract: Contract, column: str, values: Collection[str]) -> int:
        """Rows whose `column` has one of these values."""
        query = sql.SQL("SELECT count(*) FROM {} WHERE {} = ANY (%(values)s)").format(
            table_identifier(contract.table), sql.Identifier(column)
        )
        return int(self._database.execute(query, values=list(values))[0][0])

    def overwrite(
        self, contract: Contract, column: str, values: Collection[str], columns: Sequence[str]
    ) -> int:
        """Set `columns` to NULL in the rows whose `column` has one of these values; returns how many."""
        nulls = [sql.SQL("{} = NULL").format(sql.Identifier(name)) for name in columns]
        query = sql.SQL(
            "WITH erased AS (UPDATE {} SET {} WHERE {} = ANY (%(values)s) RETURNING 1) "
            "SELECT count(*) FROM erased"
        ).format(table_identifier(contract.table), sql.SQL(", ").join(nulls), sql.Identifier(column))
        return int(self._database.execute(query, values=list(values))[0][0])

    def quarantined_after(
        self, contract: Contract, last: QuarantinedMessage | None, messages: int
    ) -> list[QuarantinedMessage]:
        """The next messages in quarantine in the order of their key, redriven ones too."""
        found = self._database.execute(
            SELECT_QUARANTINED,
            queue=contract.queue,
            after_day=last and last.sent_day,
            after_id=last and last.message_id,
            messages=messages,
        )
        return [QuarantinedMessage(*line) for line in found]

    def delete_quarantined(self, contract: Contract, messages: Iterable[QuarantinedMessage]) -> int:
        """Delete messages from the quarantine; returns how many were there. The ledger keeps their ids."""
        ids = [message.message_id for message in messages]
        return len(self._database.execute(DELETE_QUARANTINED, queue=contract.queue, ids=ids)) if ids else 0

    def open_runs(self, run_ids: Iterable[UUID]) -> set[UUID]:
        """Those of these runs that are not closed."""
        return {run_id for (run_id,) in self._database.execute(SELECT_OPEN, ids=list(run_ids))}


def _schemas_denied(connection: Connection, contract: Contract) -> list[str]:
    schemas = ["etl", "pii", contract.table.partition(".")[0]]
    return [
        f"role {role} may not use schema {schema}: GRANT USAGE ON SCHEMA {schema} TO {role}"
        for role, schema in connection.execute(DENIED_SCHEMAS, {"schemas": schemas})
    ]


def _denied(connection: Connection, contract: Contract, column: str, columns: Sequence[str]) -> list[str]:
    table = contract.table
    wanted = [
        *((privilege, name, None) for privilege, name in ERASE_PRIVILEGES),
        ("SELECT", table, column),
        *(("UPDATE", table, name) for name in columns),
    ]
    return [
        f"role {role} may not {what} on {name}: GRANT {what} ON {name} TO {role}"
        for role, what, name in connection.execute(DENIED, {"wanted": Jsonb(wanted)})
    ]


def _without_null(connection: Connection, contract: Contract, columns: Sequence[str]) -> list[str]:
    table = contract.table
    found = connection.execute(NOT_NULL, {"table": table, "columns": list(columns)})
    return [
        f"column {name} of {table} does not allow NULL: ALTER TABLE {table} ALTER {name} DROP NOT NULL"
        for (name,) in found
    ]


SELECT_QUARANTINED: LiteralString = """
    SELECT queue_id, sent_day, message_id::text, payload
    FROM etl.quarantine JOIN etl.queues USING (queue_id)
    WHERE name = %(queue)s AND (%(after_id)s::uuid IS NULL
                                OR (sent_day, message_id) > (%(after_day)s::date, %(after_id)s::uuid))
    ORDER BY sent_day, message_id LIMIT %(messages)s
"""
DELETE_QUARANTINED: LiteralString = """
    DELETE FROM etl.quarantine WHERE message_id = ANY (%(ids)s::uuid[])
      AND queue_id = (SELECT queue_id FROM etl.queues WHERE name = %(queue)s) RETURNING 1
"""
# USAGE first: without it the functions of DENIED fail.
DENIED_SCHEMAS: LiteralString = """
    SELECT current_user, name FROM unnest(%(schemas)s::text[]) AS name
    WHERE has_schema_privilege(to_regnamespace(name)::oid, 'USAGE') IS NOT TRUE
"""
DENIED: LiteralString = """
    SELECT current_user, concat(wanted ->> 0, ' (' || (wanted ->> 2) || ')'), wanted ->> 1
    FROM jsonb_array_elements(%(wanted)s) AS wanted
    WHERE NOT CASE WHEN wanted ->> 2 IS NULL THEN has_table_privilege(wanted ->> 1, wanted ->> 0)
                   ELSE has_column_privilege(wanted ->> 1, wanted ->> 2, wanted ->> 0) END
    UNION ALL
    SELECT current_user, 'EXECUTE', 'FUNCTION pii.record'
    WHERE NOT has_function_privilege('pii.record(text, text, text, jsonb, bigint)', 'EXECUTE')
"""
NOT_NULL: LiteralString = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = to_regclass(%(table)s) AND attname = ANY (%(columns)s) AND attnotnull
"""
SELECT_OPEN: LiteralString = """
    SELECT run_id FROM etl.run_summary WHERE state = 'running' AND run_id = ANY (%(ids)s::uuid[])
"""
