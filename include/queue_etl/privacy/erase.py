"""The right to erasure: everything kept of one user, or of one personal value, becomes NULL, or goes.

Of a value inside a jsonb column the value becomes null; what is beside it stays. Quarantined messages that
mention it are deleted, and so are kept fields that mention it or are those of its row.

Out of reach, and so to be done again or waited for: messages still on the queues (at most 14 days), staged
files of runs that are not closed, backups of database and staging (as long as they are kept), and what others
copied. A repetition finds what has come since.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from include.queue_etl.contract import Contract
from include.queue_etl.counts import in_words
from include.queue_etl.postgres.payloads import PayloadTable, StoredPayload
from include.queue_etl.privacy import archived_files
from include.queue_etl.privacy.audit import AuditLog, Purpose
from include.queue_etl.privacy.officer_store import OfficerStore, refuse_problems
from include.queue_etl.privacy.retained_files import Change, Row, rewrite, with_changes
from include.queue_etl.privacy.subjects import Place, Search, Subject
from include.queue_etl.resources import Resources
from include.queue_etl.transform import kept
from include.queue_etl.transform.copy_text import unescaped
from include.queue_etl.transform.payloads import MessageCipher
from include.queue_etl.transform.quarantine import Original, PayloadCipher

MESSAGES = 100  # payloads in memory at once, of up to 1 MiB each
log = logging.getLogger(__name__)
COUNTS = (
    "rows",
    "quarantined",
    "kept_fields",
    "files",
    "file_rows",
    "file_messages",
    "file_kept_fields",
    "unopened",
    "damaged",
    "open_runs",
)


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
        "dry_run"; "rows" of its tables, overwritten with NULL; "quarantined" messages, and the "kept_fields"
        of messages, deleted; "files" of closed runs, retained or archived, rewritten, and in these
        "file_rows", "file_messages" and "file_kept_fields"; "unopened": quarantined messages and kept fields
        that no key opens, and "damaged" files, which do not open either, and that so could not be looked at;
        "open_runs" whose files were left alone, and replays under way, which may have read the archive
        before

    Raises:
        PreflightError: warehouse or keyset are not ready, or the officer lacks a privilege, which it names;
            of a dry run too
        WarehouseUnavailable, WarehouseRefused, StagingUnavailable: a repetition does the rest
    """
    search = Search.of_field(subject.contract, subject.field, subject.value)
    [(search, places)] = ready(resources, [search])
    # Before the deed, as nothing may happen that is not on record: a count tells whether somebody is there.
    details = {"contract": subject.contract.name, "field": subject.field}
    audit.record("erase dry run" if dry_run else "erase", purpose, details)
    counts = _erase(resources, search, places, dry_run)
    if not dry_run:
        audit.record("erased", purpose, {**details, **counts})
    return {"dry_run": dry_run, **counts}


def erase_everywhere(
    resources: Resources,
    audit: AuditLog,
    searches: Sequence[Search],
    purpose: Purpose,
    *,
    dry_run: bool = True,
) -> dict[str, dict[str, int]]:
    """As `erase`, in one contract after the other, for one request.

    Args:
        resources: as role pii_officer
        audit: gets one entry before the first deed, and one after the last, with the counts of all contracts
        searches: one for each contract, all by the same kind of value
        purpose: why
        dry_run: only count

    Returns:
        Name of the contract -> its counts, as `erase` returns them

    Raises:
        PreflightError: as `erase` does, with the problems of all contracts; nothing was done
        WarehouseUnavailable, WarehouseRefused, StagingUnavailable: a repetition does the rest
    """
    places_of = ready(resources, searches)
    by = {search.by for search in searches}
    details = {"by": ", ".join(by), "contracts": {search.contract.name: search.fields for search in searches}}
    audit.record("erase dry run" if dry_run else "erase", purpose, details)
    counts = {
        search.contract.name: _erase(resources, search, places, dry_run) for search, places in places_of
    }
    if not dry_run:
        audit.record("erased", purpose, {**details, "counts": counts})
    return counts


def ready(resources: Resources, searches: Sequence[Search]) -> list[tuple[Search, list[Place]]]:
    """Each search with where its value may stand; raises PreflightError where something is not ready."""
    resources.require_schema()
    store, document = OfficerStore(resources.database), resources.keyset_document
    found = [(search, search.places(document)) for search in searches]
    refuse_problems(
        store.erase_problems(table, places)
        for search, places in found
        for table in search.contract.each_table()
    )
    return found


def _erase(resources: Resources, search: Search, places: Sequence[Place], dry_run: bool) -> dict[str, int]:
    contract, store = search.contract, OfficerStore(resources.database)
    counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    # Files, quarantine, kept fields, table: the way a message goes when it is loaded or redriven.
    _erase_files(resources, search, places, counts, dry_run)
    for payloads in _payloads(resources, contract):
        _erase_payloads(store, payloads, search, counts, dry_run)
    deed = store.count_rows if dry_run else store.overwrite
    counts["rows"] = sum(deed(table, places) for table in contract.each_table())
    log.info("erase by %s in %s: %s", search.by, contract.name, in_words(counts))
    return dict(counts)


def _erase_files(
    resources: Resources, search: Search, places: Sequence[Place], counts: Counter[str], dry_run: bool
) -> None:
    runs = resources.staging.runs()
    contract = search.contract
    of_contract, still_open = OfficerStore(resources.database).staged_runs(contract, runs)
    counts["open_runs"] = len(still_open)
    for run_id in of_contract:
        found = rewrite(
            resources.staging.run(run_id),
            {contract.name: contract},
            lambda _: _erasing(search, places, *_payloads(resources, contract)),
            dry_run=dry_run,
        )
        archived = archived_files.erase(resources.staging.run(run_id), search.is_in, dry_run=dry_run)
        counts["files"] += found["files"] + archived["files"]
        counts["file_rows"] += found["rows"]
        counts["file_messages"] += found["payloads"] + archived["messages"]
        counts["file_kept_fields"] += found["kept_fields"]
        counts["damaged"] += found["damaged"] + archived["damaged"]
    # Asked only now: what began later reads the files as they are now, what ended earlier is in the table.
    counts["open_runs"] += OfficerStore(resources.database).open_replays(contract)


@dataclass(frozen=True, slots=True)
class _Payloads:
    """The payloads of one kind that a contract has.

    Attributes:
        table: where they are
        count: what counts those that are erased
        opened: message id and payload -> the JSON texts to look at; None where no key opens it
    """

    table: PayloadTable
    count: str
    opened: Callable[[str, bytes], list[bytes] | None]

    def mention(self, search: Search, message_id: str, payload: bytes) -> bool | None:
        """Whether a payload holds the value; None where no key opens it."""
        texts = self.opened(message_id, payload)
        return None if texts is None else any(map(search.is_in, texts))


def _payloads(resources: Resources, contract: Contract) -> tuple[_Payloads, _Payloads]:
    """Those of the quarantine, and those beside rows."""
    of_messages = PayloadCipher(resources.keyset, contract.name)
    of_fields = kept.cipher(resources.keyset, contract.name)
    return (
        _Payloads(PayloadTable.QUARANTINE, "quarantined", partial(_message, of_messages)),
        _Payloads(PayloadTable.KEPT_FIELDS, "kept_fields", partial(_fields, of_fields)),
    )


def _erasing(search: Search, places: Sequence[Place], quarantined: _Payloads, beside: _Payloads) -> Change:
    def eraser(payloads: _Payloads) -> Callable[[str, bytes], bytes]:
        def payload(message_id: str, payload: bytes) -> bytes:
            return b"" if payloads.mention(search, message_id, payload) else payload

        return payload

    return Change(_row_eraser(search.contract, places), eraser(quarantined), eraser(beside))


def _row_eraser(contract: Contract, places: Sequence[Place]) -> Callable[[Row], Row]:
    """A row of COPY text -> the row without what stands at these places."""
    index = {name: number for number, name in enumerate(contract.column_names)}
    personal = [(index[masked.column], masked.path) for masked in contract.personal]
    found = [(index[place.column], place, set(place.values)) for place in places]

    def row(given: Row) -> Row:
        new = [*given]
        for number, place, values in found:
            if place.is_subject and unescaped(given[number]) in values:
                for cleared, path in ((number, ""), *personal):
                    new[cleared] = with_changes(new[cleared], path, _nothing)
            else:
                new[number] = with_changes(new[number], place.path, partial(_without, values))
        return new

    return row


def _nothing(value: object) -> None:
    return None


def _without(values: set[str], value: object) -> object:
    return None if isinstance(value, str) and value in values else value


def _erase_payloads(
    store: OfficerStore, payloads: _Payloads, search: Search, counts: Counter[str], dry_run: bool
) -> None:
    last: StoredPayload | None = None
    while page := store.payloads_after(payloads.table, search.contract, last, MESSAGES):
        found = []
        for stored in page:
            is_in = payloads.mention(search, stored.message_id, stored.payload)
            if is_in is None:
                counts["unopened"] += 1
            elif is_in:
                found.append(stored)
        counts[payloads.count] += len(found)
        if not dry_run:
            store.delete_payloads(payloads.table, found)
        last = page[-1]


def _message(cipher: PayloadCipher, message_id: str, payload: bytes) -> list[bytes] | None:
    """Body and attributes of a message; nothing where it was erased before, None where no key opens it."""
    original = cipher.decrypt_or_none(message_id, payload) if payload else Original(b"")
    return None if original is None else [original.body, *original.facts_as_json()]


def _fields(cipher: MessageCipher, message_id: str, payload: bytes) -> list[bytes] | None:
    """The fields that are kept beside a row, with its subject; None where no key opens them."""
    found = cipher.decrypt_or_none(message_id, payload)
    return None if found is None else [found]
