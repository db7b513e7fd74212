"""The audit of personal data: a chain of hashes that only the database can extend.

Each entry's hash covers the entry and the hash before it, so that no row can be changed, removed or put in
without breaking the chain behind it. Who owns the database could write the whole chain anew: against that
helps the hash of an entry that is kept elsewhere, which every command prints.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import LiteralString, NamedTuple

from psycopg.types.json import Jsonb

from include.queue_etl.errors import AuditBroken
from include.queue_etl.postgres.connection import Database

PAGE = 10_000  # entries read at once
REFUSED = " refused"


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why personal data is touched: free text and the reference of a request. Both stay in the audit."""

    reason: str
    ticket: str


class Entry(NamedTuple):
    """An entry as it is stored.

    Attributes:
        content: the text that its hash covers, together with `previous_hash`
    """

    id: int
    action: str
    previous_hash: bytes | None
    hash: bytes
    content: str

    @property
    def mark(self) -> str:
        """Stands for this entry and all before it: to be kept where the database's owner cannot write."""
        return f"{self.id}:{self.hash.hex()}"


def verify(entries: Iterable[Entry], mark: str | None = None) -> Entry | None:
    """Follow the chain from its beginning; returns its last entry.

    Args:
        entries: all of them, by id
        mark: `Entry.mark` noted earlier; that entry has to be there, unchanged

    Raises:
        AuditBroken: names the first entry that was changed, removed or put in
    """
    last: Entry | None = None
    marked = mark is None
    for entry in entries:
        _check_link(last, entry)
        marked = marked or entry.mark == mark
        last = entry
    if not marked:
        raise AuditBroken(
            f"the audit does not hold the entry {str(mark).partition(':')[0]} that was noted: "
            "it, or one before it, was changed or removed, and the chain behind it made anew"
        )
    return last


def _check_link(last: Entry | None, entry: Entry) -> None:
    expected = last.id + 1 if last else 1
    if entry.id > expected:
        raise AuditBroken(f"audit entry {expected} was removed")
    if entry.id < expected or entry.previous_hash != (last.hash if last else None):
        raise AuditBroken(f"audit entry {entry.id} was put in, or one of its hashes was changed")
    if hashlib.sha256((entry.previous_hash or b"") + entry.content.encode()).digest() != entry.hash:
        raise AuditBroken(f"audit entry {entry.id} was changed")


class AuditLog:
    """The audit, for those who say why: role pii_officer or etl_remasker.

    Attributes:
        last_entry: the last entry committed here; its mark stands for all before it too
    """

    last_entry: Entry | None = None

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        action: str,
        purpose: Purpose,
        details: Mapping[str, object],
        per_hour: int | None = None,
    ) -> Entry:
        """Commit an entry. Call it before what it is about; never give it a personal value.

        Args:
            action: one word or two
            purpose: both of its texts must say something
            details: counts and names
            per_hour: most `details["tokens"]` of this login and action within an hour

        Raises:
            WarehouseRefused: the role may not, or a text is blank; nothing may be done then
        """
        found = self._database.execute(
            RECORD,
            action=action,
            reason=purpose.reason,
            ticket=purpose.ticket,
            details=Jsonb(dict(details)),
            per_hour=per_hour,
        )
        self.last_entry = Entry(*found[0])
        return self.last_entry

    def entries(self) -> Iterator[Entry]:
        """All entries by id, a page at a time."""
        last = None
        while page := self._database.execute(SELECT_ENTRIES, after=last, page=PAGE):
            yield from (Entry(*line) for line in page)
            last = page[-1][0]


# What pii.chained covers, in words of our own: who could change the entries could have changed that too.
RECORD: LiteralString = """
    SELECT id, action, previous_hash, hash, '' FROM pii.record(
        %(action)s, %(reason)s, %(ticket)s, %(details)s, %(per_hour)s::bigint)
"""
SELECT_ENTRIES: LiteralString = """
    SELECT id, action, previous_hash, hash, jsonb_build_array(
        id, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), who, action, reason, ticket, details
    )::text
    FROM pii.audit WHERE id > %(after)s::bigint OR %(after)s::bigint IS NULL ORDER BY id LIMIT %(page)s
"""
