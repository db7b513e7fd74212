"""Postgres, as role `pii_officer`: finding tokens and overwriting them, each on record first."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from itertools import chain
from typing import LiteralString, NamedTuple
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from include.queue_etl.contract import Contract, MaskedField
from include.queue_etl.errors import PreflightError
from include.queue_etl.postgres import payloads
from include.queue_etl.postgres.checks import table_problems
from include.queue_etl.postgres.connection import Connection, Database, table_identifier
from include.queue_etl.postgres.payloads import PayloadTable, StoredPayload
from include.queue_etl.privacy import place_sql
from include.queue_etl.privacy.subjects import Place

# What erasing needs, apart from the contract's table: privilege, object
ERASE_PRIVILEGES = (
    ("SELECT", "etl.queues"),
    ("SELECT", "etl.run_summary"),
    ("SELECT", "etl.quarantine"),
    ("DELETE", "etl.quarantine"),
    ("SELECT", "etl.kept_fields"),
    ("DELETE", "etl.kept_fields"),
)
RECORD = "pii.record(text, text, text, jsonb, bigint)"
# What searching inside jsonb needs, and changing it.
JSON_SEARCH = ("etl.json_steps(text)", "etl.json_paths(text)", "etl.json_values(jsonb, jsonpath[])")
JSON_CHANGE = "etl.json_changed(jsonb, text[], jsonb)"


class StoredMessage(NamedTuple):
    """All that the quarantine knows of a message."""

    message_id: str
    reason: str
    sent_day: date
    quarantined_at: datetime
    receive_count: int
    run_id: UUID
    run_name: str | None
    redriven_at: datetime | None
    payload_bytes: int
    payload: bytes


class KeptFields(NamedTuple):
    """All that is known of the undeclared fields of a message that became a row."""

    message_id: str
    sent_day: date
    run_id: UUID
    run_name: str | None
    payload: bytes


def refuse_problems(problems_of_contracts: Iterable[Sequence[str]]) -> None:
    """Raise PreflightError with the problems of all contracts; each once, as those of the role are of all."""
    if problems := list(dict.fromkeys(chain.from_iterable(problems_of_contracts))):
        raise PreflightError(problems)


class OfficerStore:
    """What role pii_officer may do beside the audit: find tokens, overwrite rows, delete payloads.

    To find rows, Postgres reads the whole table, unless the column has an index; inside jsonb none helps. A
    path with one `[*]` took it 11 us a row with five items, and each further `[*]` doubles that.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def tokens_where(self, contract: Contract, places: Sequence[Place]) -> list[tuple[MaskedField, str]]:
        """Distinct recoverable tokens of the rows where one of these places has its value, by field."""
        found: list[tuple[MaskedField, str]] = []
        for personal in contract.recoverable if places else ():
            query = sql.SQL(
                "SELECT DISTINCT token FROM (SELECT {} AS token FROM {} WHERE {}) AS of_person"
                " WHERE token IS NOT NULL ORDER BY 1"
            ).format(
                place_sql.tokens(personal), table_identifier(contract.table), place_sql.is_at_any(places)
            )
            found += [
                (personal, token) for (token,) in self._database.execute(query, **place_sql.values(places))
            ]
        return found

    def search_problems(self, contract: Contract, places: Sequence[Place]) -> list[str]:
        """Why `tokens_where` or the audit would fail, a sentence each with the way to fix it."""

        def run(connection: Connection) -> list[str]:
            table = contract.table
            columns = dict.fromkeys([
                *(place.column for place in places),
                *(masked.column for masked in contract.recoverable),
            ])  # fmt: skip
            wanted = [("SELECT", table, column) for column in columns]
            functions = [*(JSON_SEARCH if any(masked.path for masked in contract.personal) else ()), RECORD]
            return (
                _schemas_denied(connection, contract)
                or table_problems(connection, contract)
                or _denied(connection, wanted, functions)
            )

        return self._database.transaction(run)

    def erase_problems(self, contract: Contract, places: Sequence[Place]) -> list[str]:
        """Why `overwrite` or `delete_payloads` would fail, a sentence each with the way to fix it."""
        cleared = [
            *places,
            *(place_sql.everything(contract) if any(place.is_subject for place in places) else ()),
        ]
        columns = dict.fromkeys(place.column for place in cleared)
        looked_at = dict.fromkeys(place.column for place in [*places, *(p for p in cleared if p.path)])
        inside = any(place.path for place in cleared)

        def run(connection: Connection) -> list[str]:
            wanted = [
                *((privilege, name, None) for privilege, name in ERASE_PRIVILEGES),
                *(("SELECT", contract.table, name) for name in looked_at),
                *(("UPDATE", contract.table, name) for name in columns),
            ]
            functions = [*((*JSON_SEARCH, JSON_CHANGE) if inside else ()), RECORD]
            to_null = dict.fromkeys(place.column for place in cleared if not place.path)
            return (
                _schemas_denied(connection, contract)
                or table_problems(connection, contract)
                or _denied(connection, wanted, functions) + _without_null(connection, contract, list(to_null))
            )

        return self._database.transaction(run)

    def count_rows(self, contract: Contract, places: Sequence[Place]) -> int:
        """Rows in which one of these places has its value."""
        if not places:
            return 0
        query = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
            table_identifier(contract.table), place_sql.is_at_any(places)
        )
        return int(self._database.execute(query, **place_sql.values(places))[0][0])

    def overwrite(self, contract: Contract, places: Sequence[Place]) -> int:
        """Set what stands at these places to NULL, or to null inside jsonb; returns how many rows had it.

        In rows of the person, which a place with `is_subject` finds, everything personal goes.
        """
        persons = [place for place in places if place.is_subject]
        values = [place for place in places if not place.is_subject]
        cleared = [*persons, *place_sql.everything(contract)]
        rows = self._update(
            contract,
            persons,
            {name: place_sql.cleared(name, cleared) for name in place_sql.columns_of(cleared)},
        )
        return rows + self._update(
            contract, values, {name: place_sql.without(name, values) for name in place_sql.columns_of(values)}
        )

    def _update(self, contract: Contract, places: Sequence[Place], new: dict[str, sql.Composed]) -> int:
        """Update the rows in which one of these places has its value, as they are when it is their turn."""
        if not places:
            return 0
        changes = [sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in new.items()]
        query = sql.SQL(
            "WITH erased AS (UPDATE {} SET {} WHERE {} RETURNING 1) SELECT count(*) FROM erased"
        ).format(table_identifier(contract.table), sql.SQL(", ").join(changes), place_sql.is_at_any(places))
        return int(self._database.execute(query, **place_sql.values(places))[0][0])

    def payloads_after(
        self, table: PayloadTable, contract: Contract, last: StoredPayload | None, messages: int
    ) -> list[StoredPayload]:
        """The next payloads in the order of their key, those of redriven messages too."""
        return payloads.page(self._database, table, contract.queue, last, messages)

    def quarantined(self, contract: Contract, message_id: UUID) -> list[StoredMessage]:
        """The messages of that id, the newest first: two, where copies were sent on two days."""
        found = self._database.execute(SELECT_MESSAGE, queue=contract.queue, id=message_id)
        return [StoredMessage(*line) for line in found]

    def kept_fields(self, contract: Contract, message_id: UUID) -> list[KeptFields]:
        """What is kept of the messages of that id, the newest first."""
        found = self._database.execute(SELECT_KEPT, queue=contract.queue, id=message_id)
        return [KeptFields(*line) for line in found]

    def of_message(self, contract: Contract, message_id: UUID) -> list[StoredMessage | KeptFields]:
        """What the quarantine and the kept fields have of the messages of that id."""
        return [*self.quarantined(contract, message_id), *self.kept_fields(contract, message_id)]

    def delete_payloads(self, table: PayloadTable, found: Sequence[StoredPayload]) -> int:
        """Delete them, all of one queue; returns how many were there. The ledger keeps the messages' ids."""
        if not found:
            return 0
        days = [payload.sent_day for payload in found]
        ids = [payload.message_id for payload in found]
        statement = table.named_in(DELETE_PAYLOADS)
        return len(self._database.execute(statement, queue_id=found[0].queue_id, days=days, ids=ids))

    def staged_runs(self, contract: Contract, run_ids: Iterable[UUID]) -> tuple[set[UUID], set[UUID]]:
        """Of runs with staged files: those to look at, and the contract's open ones.

        To look at are those of the contract that are closed, and those of which nobody knows whose they are:
        a restored database may have lost their line.
        """
        staged = set(run_ids)
        known = self._database.execute(SELECT_RUNS, ids=list(staged))
        others = {run_id for run_id, name, _ in known if name != contract.name}
        still_open = {run_id for run_id, _, is_open in known if is_open} - others
        return staged - others - still_open, still_open

    def open_replays(self, contract: Contract) -> int:
        """How many replays of the contract are under way."""
        return int(self._database.execute(COUNT_REPLAYS, contract=contract.name)[0][0])


# What the role lacks ----------------------------------------------------------------------------------------


def _schemas_denied(connection: Connection, contract: Contract) -> list[str]:
    schemas = ["etl", "pii", contract.table.partition(".")[0]]
    return [
        f"role {role} may not use schema {schema}: GRANT USAGE ON SCHEMA {schema} TO {role}"
        for role, schema in connection.execute(DENIED_SCHEMAS, {"schemas": schemas})
    ]


def _denied(
    connection: Connection, wanted: Sequence[tuple[str, str, str | None]], functions: Sequence[str]
) -> list[str]:
    """What of it the role may not do.

    Args:
        wanted: privilege, table, and column; None for all columns
        functions: with their argument types, to execute
    """
    given = {"wanted": Jsonb(wanted), "functions": list(functions)}
    return [
        f"role {role} may not {what} on {name}: GRANT {what} ON {name} TO {role}"
        for role, what, name in connection.execute(DENIED, given)
    ]


def _without_null(connection: Connection, contract: Contract, columns: Sequence[str]) -> list[str]:
    table = contract.table
    found = connection.execute(NOT_NULL, {"table": table, "columns": list(columns)})
    return [
        f"column {name} of {table} does not allow NULL: ALTER TABLE {table} ALTER {name} DROP NOT NULL"
        for (name,) in found
    ]


SELECT_MESSAGE: LiteralString = """
    SELECT message_id::text, reason, sent_day, quarantined_at, receive_count, quarantine.run_id,
           run_summary.airflow_run_id, redriven_at, payload_bytes, payload
    FROM etl.quarantine JOIN etl.queues USING (queue_id)
    LEFT JOIN etl.run_summary ON run_summary.run_id = quarantine.run_id
    WHERE name = %(queue)s AND message_id = %(id)s
    ORDER BY sent_day DESC
"""
SELECT_KEPT: LiteralString = """
    SELECT message_id::text, sent_day, kept_fields.run_id, run_summary.airflow_run_id, payload
    FROM etl.kept_fields JOIN etl.queues USING (queue_id)
    LEFT JOIN etl.run_summary ON run_summary.run_id = kept_fields.run_id
    WHERE name = %(queue)s AND message_id = %(id)s
    ORDER BY sent_day DESC
"""
DELETE_PAYLOADS: LiteralString = """
    DELETE FROM {table} AS stored
    USING unnest(%(days)s::date[], %(ids)s::uuid[]) AS found (sent_day, message_id)
    WHERE queue_id = %(queue_id)s
      AND (stored.sent_day, stored.message_id) = (found.sent_day, found.message_id)
    RETURNING 1
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
    SELECT current_user, 'EXECUTE', 'FUNCTION ' || split_part(name, '(', 1)
    FROM unnest(%(functions)s::text[]) AS name WHERE NOT has_function_privilege(name, 'EXECUTE')
"""
NOT_NULL: LiteralString = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = to_regclass(%(table)s) AND attname = ANY (%(columns)s) AND attnotnull
"""
SELECT_RUNS: LiteralString = """
    SELECT run_id, contract, state = 'running' FROM etl.run_summary WHERE run_id = ANY (%(ids)s::uuid[])
"""
COUNT_REPLAYS: LiteralString = """
    SELECT count(*) FROM etl.run_summary
    WHERE contract = %(contract)s AND kind = 'replay' AND state = 'running'
"""
