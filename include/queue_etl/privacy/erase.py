"""The right to erasure: everything kept of one user, or of one personal value, becomes NULL, or goes.

Out of reach, and so to be done again or waited for: messages still on the queues (at most 14 days), staged
files of runs that are not closed, backups of database and staging (as long as they are kept), and what others
copied. A repetition finds what has come since.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from include.queue_etl.contract import Column, Contract, Personal
from include.queue_etl.counts import in_words
from include.queue_etl.errors import PreflightError
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.privacy.audit import AuditLog, Purpose
from include.queue_etl.privacy.mentions import Mentions
from include.queue_etl.privacy.officer_store import OfficerStore
from include.queue_etl.privacy.retained_files import Change, Row, rewrite
from include.queue_etl.resources import Resources
from include.queue_etl.transform.copy_text import NULL, escaped
from include.queue_etl.transform.masking import Masker
from include.queue_etl.transform.quarantine import PayloadCipher, QuarantinedMessage

MESSAGES = 100  # quarantined messages in memory at once, of up to 1 MiB each
log = logging.getLogger(__name__)
COUNTS = (
    "rows",
    "quarantined",
    "files",
    "file_rows",
    "file_messages",
    "unopened",
    "damaged",
    "open_runs",
)


def require_field(contract: Contract, field: str) -> Column:
    """The column of an event field that can be erased by: that of the person, or a personal one.

    Raises:
        ValueError: the field is none of these; the message lists them
    """
    found = {column.field: column for column in contract.columns if column.is_token or column.is_subject}
    if field not in found:
        raise ValueError(f"no field {field!r} to erase by in {contract.name}: one of {', '.join(found)}")
    return found[field]


@dataclass(frozen=True)
class Subject:
    """Whom or what to erase.

    Attributes:
        contract: whose events are looked at
        field: an event field: that of a personal column, or of the column user_id
        value: as it stands in events, in any of its forms
    """

    contract: Contract
    field: str
    value: str

    def __post_init__(self) -> None:
        require_field(self.contract, self.field)
        if not self.value.strip():
            raise ValueError("nothing to erase: the value is blank")

    @cached_property
    def column(self) -> Column:
        """The column that holds the field."""
        return require_field(self.contract, self.field)

    @property
    def columns_to_clear(self) -> list[str]:
        """Columns to overwrite in the rows found: of a user all that is personal, else the column itself."""
        if self.column.is_token:
            return [self.column.name]
        return [self.column.name, *(masked.column for masked in self.contract.personal)]

    def stored(self, keyset: KeysetDocument) -> list[str]:
        """What may stand in the column for the value: itself, or its token under every key."""
        column = self.column
        if not column.is_token:
            return [self.value]
        forms = sorted({self.value, self._mentions.form})  # an unkeyed digest is of the value as it came
        maskers = [Masker(self.contract, keyset.only_key(key_id)) for key_id in keyset.key_ids]
        masked = column.masked[0]
        return sorted({token for masker in maskers for token in masker.mask(masked, forms, "")} - {""})

    def is_in(self, body: bytes) -> bool:
        """Whether a message, well-formed or not, holds the value anywhere, in any of its forms."""
        return self._mentions.are_in(body)

    @cached_property
    def _mentions(self) -> Mentions:
        # A user id is compared as personal texts are.
        mark = self.column.masked[0].mark if self.column.is_token else Personal()
        return Mentions(mark, self.value)


def erase(
    resources: Resources, audit: AuditLog, subject: Subject, purpose: Purpose, *, dry_run: bool = True
) -> dict[str, Any]:
    """Overwrite or delete everything of the subject that is in reach. Done again it finds what is new.

    Args:
        resources: as role pii_officer
        audit: gets an entry before the deed, and one after it
        subject: whom or what
        purpose: why; the audit gets it with the counts, never the value
        dry_run: only count

    Returns:
        "dry_run"; "rows" of the table, overwritten with NULL; "quarantined" messages, deleted; "files"
        retained by closed runs, rewritten, and in these "file_rows" and "file_messages"; "unopened":
        quarantined messages that no key opens, and "damaged" files, which do not open either, and that so
        could not be looked at; "open_runs" whose files were left alone

    Raises:
        PreflightError: warehouse or keyset are not ready, or the officer lacks a privilege, which it names;
            of a dry run too
        WarehouseUnavailable, WarehouseRefused, StagingUnavailable: a repetition does the rest
    """
    resources.require_schema()
    column, store = subject.column.name, OfficerStore(resources.database)
    if problems := store.erase_problems(subject.contract, column, subject.columns_to_clear):
        raise PreflightError(problems)
    wanted = subject.stored(resources.keyset_document)
    counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    # Before the deed, as nothing may happen that is not on record: a count tells whether somebody is there.
    details = {"contract": subject.contract.name, "field": subject.field}
    audit.record("erase dry run" if dry_run else "erase", purpose, details)
    # Files before the quarantine before the table: the way a message goes when it is loaded or redriven.
    _erase_files(resources, subject, set(wanted), counts, dry_run)
    _erase_quarantined(resources, subject, counts, dry_run)
    if dry_run:
        counts["rows"] = store.count_rows(subject.contract, column, wanted)
    else:
        counts["rows"] = store.overwrite(subject.contract, column, wanted, subject.columns_to_clear)
        audit.record("erased", purpose, {**details, **counts})
    log.info("erase by %s: %s", subject.field, in_words(counts))
    return {"dry_run": dry_run, **counts}


def _erase_files(
    resources: Resources, subject: Subject, wanted: set[str], counts: Counter[str], dry_run: bool
) -> None:
    runs = resources.staging.runs()
    still_open = OfficerStore(resources.database).open_runs(runs)
    counts["open_runs"] = len(still_open)
    contracts: Mapping[str, Contract] = {subject.contract.name: subject.contract}
    for run_id in set(runs) - still_open:
        found = rewrite(
            resources.staging.run(run_id),
            contracts,
            lambda _: _erasing(subject, wanted, PayloadCipher(resources.keyset, subject.contract.name)),
            dry_run=dry_run,
        )
        counts["files"] += found["files"]
        counts["file_rows"] += found["rows"]
        counts["file_messages"] += found["payloads"]
        counts["damaged"] += found["damaged"]


def _erasing(subject: Subject, wanted: set[str], cipher: PayloadCipher) -> Change:
    names = subject.contract.column_names
    key, cleared = names.index(subject.column.name), list(map(names.index, subject.columns_to_clear))
    lines = {escaped(value) for value in wanted}

    def row(given: Row) -> Row:
        if given[key] not in lines:
            return given
        return [NULL if index in cleared else text for index, text in enumerate(given)]

    def payload(message_id: str, payload: bytes) -> bytes:
        body = _body(cipher, message_id, payload)
        return b"" if body is not None and subject.is_in(body) else payload

    return Change(row, payload)


def _erase_quarantined(resources: Resources, subject: Subject, counts: Counter[str], dry_run: bool) -> None:
    last: QuarantinedMessage | None = None
    store, cipher = OfficerStore(resources.database), PayloadCipher(resources.keyset, subject.contract.name)
    while page := store.quarantined_after(subject.contract, last, MESSAGES):
        found = []
        for message in page:
            body = _body(cipher, message.message_id, message.payload)
            if body is None:
                counts["unopened"] += 1
            elif subject.is_in(body):
                found.append(message)
        counts["quarantined"] += len(found)
        if not dry_run:
            store.delete_quarantined(subject.contract, found)
        last = page[-1]


def _body(cipher: PayloadCipher, message_id: str, payload: bytes) -> bytes | None:
    """The body; empty where it was erased before, None where no key opens it."""
    if not payload:
        return b""
    original = cipher.decrypt_or_none(message_id, payload)
    return None if original is None else original.body
