"""The two tables of payloads, each encrypted message by message: the quarantine, and kept fields.

Who erases and who moves to another key walk both in the same way; their roles have the rights to it.
"""

from collections.abc import Sequence
from datetime import date
from enum import StrEnum
from typing import LiteralString, NamedTuple

from psycopg import sql

from include.queue_etl.keys.token_format import PREFIX_BYTES, ciphertext_prefix
from include.queue_etl.postgres.connection import Database


class PayloadTable(StrEnum):
    """A table of schema etl with the columns of `StoredPayload`."""

    QUARANTINE = "quarantine"
    KEPT_FIELDS = "kept_fields"

    def named_in(self, statement: LiteralString) -> sql.Composed:
        """The statement, with this table for {table}."""
        return sql.SQL(statement).format(table=sql.Identifier("etl", self.value))


class StoredPayload(NamedTuple):
    """A payload as it is stored; the tables' key is (queue_id, sent_day, message_id)."""

    queue_id: int
    sent_day: date
    message_id: str
    payload: bytes


def page(
    database: Database,
    table: PayloadTable,
    queue: str,
    last: StoredPayload | None,
    messages: int,
    key_ids: Sequence[int] | None = None,
) -> list[StoredPayload]:
    """The next payloads of a queue in the order of their key; empty when there are no more.

    Args:
        database: of a role that may read them
        table: which
        queue: their messages came from it
        last: of the page before
        messages: at most so many
        key_ids: only those encrypted with one of these
    """
    found = database.execute(
        table.named_in(SELECT_PAGE),
        queue=queue,
        after_day=last and last.sent_day,
        after_id=last and last.message_id,
        messages=messages,
        prefixes=None if key_ids is None else [ciphertext_prefix(key_id) for key_id in key_ids],
        prefix_bytes=PREFIX_BYTES,
    )
    return [StoredPayload(*line) for line in found]


SELECT_PAGE: LiteralString = """
    SELECT queue_id, sent_day, message_id::text, payload FROM {table}
    WHERE queue_id = (SELECT queue_id FROM etl.queues WHERE name = %(queue)s)
      AND (%(after_id)s::uuid IS NULL OR (sent_day, message_id) > (%(after_day)s::date, %(after_id)s::uuid))
      AND (%(prefixes)s::bytea[] IS NULL
           OR substring(payload FOR %(prefix_bytes)s) = ANY (%(prefixes)s::bytea[]))
    ORDER BY sent_day, message_id LIMIT %(messages)s
"""
