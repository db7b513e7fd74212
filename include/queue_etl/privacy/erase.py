"""The right to erasure: everything kept of one user, or of one personal value, becomes NULL, or goes.

Out of reach, and so to be done again or waited for: messages still on the queues (at most 14 days), staged
files of runs that are not closed, backups of database and staging (as long as they are kept), and what others
copied. A repetition finds what has come since.
"""

import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from typing import Any, TypeGuard

from include.queue_etl.contract import Canonical, Column, Contract, Personal, Text
from include.queue_etl.copytext import NULL, escaped
from include.queue_etl.errors import KeysetError, PreflightError
from include.queue_etl.keyset import Keyset
from include.queue_etl.masking import Masker
from include.queue_etl.privacy import keys
from include.queue_etl.privacy.audit import Purpose
from include.queue_etl.privacy.officer import USER, OfficerPipeline, Sealed
from include.queue_etl.privacy.retained import Change, Row, rewrite
from include.queue_etl.transform import quarantine_context

MESSAGES = 100  # quarantined messages in memory at once, of up to 1 MiB each
_WORDS = re.compile(r"[\s\"'{}\[\],=&<>()/\\]+")
log = logging.getLogger(__name__)


def require_field(contract: Contract, field: str) -> Personal | Text:
    """The column of an event field that can be erased by: that of the user, or a personal one.

    Raises:
        ValueError: the field is none of these; the message lists them
    """
    found = {column.field: column for column in contract.columns if _is_of_a_person(column)}
    if field not in found:
        raise ValueError(f"no field {field!r} to erase by in {contract.name}: one of {', '.join(found)}")
    return found[field]


def _is_of_a_person(column: Column) -> TypeGuard[Personal | Text]:
    return isinstance(column, Personal) or (isinstance(column, Text) and column.column == USER)


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
    def column(self) -> Personal | Text:
        """The column that holds the field."""
        return require_field(self.contract, self.field)

    @property
    def doomed(self) -> list[str]:
        """Columns to overwrite in the rows found: of a user all that is personal, else the column itself."""
        if isinstance(self.column, Personal):
            return [self.column.column]
        return [self.column.column, *(column.column for column in self.contract.personal)]

    def stored(self, keyset_json: str) -> list[str]:
        """What may stand in the column for the value: itself, or its token under every key."""
        column = self.column
        if isinstance(column, Text):
            return [self.value]
        forms = {self.value, self._form(self.value)}  # an unkeyed digest is of the value as it came
        maskers = [
            Masker(self.contract, keys.single(keyset_json, key_id)) for key_id in keys.key_ids(keyset_json)
        ]
        return sorted({token for masker in maskers for token in masker.tokens(column, sorted(forms))})

    def is_in(self, body: bytes) -> bool:
        """Whether a message, well-formed or not, says the value anywhere, in any of its forms."""
        return any(self._is_said(text) for text in _texts(body.decode("utf-8", "replace")))

    def _is_said(self, text: str) -> bool:
        wanted = self._form(self.value)
        if self._form(text) == wanted or any(self._form(word) == wanted for word in _WORDS.split(text)):
            return True
        # As part of a longer text, but not of a longer word: 10.0.0.1 is not in 10.0.0.12.
        return re.search(rf"(?<![\w.:-]){re.escape(wanted)}(?![\w:-]|\.\w)", self._form(text)) is not None

    def _form(self, text: str) -> str:
        form = unicodedata.normalize("NFC", text.strip())
        if isinstance(self.column, Personal) and self.column.canonical is Canonical.IP:
            try:
                address = ip_address(form)
            except ValueError:
                return form
            return str(getattr(address, "ipv4_mapped", None) or address)
        return form


def erase(
    pipeline: OfficerPipeline, subject: Subject, purpose: Purpose, *, dry_run: bool = True
) -> dict[str, Any]:
    """Overwrite or delete everything of the subject that is in reach. Done again it finds what is new.

    Args:
        pipeline: of the officer
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
    pipeline.check_warehouse()
    column = subject.column.column
    if problems := pipeline.warehouse.erase_problems(subject.contract, column, subject.doomed):
        raise PreflightError(problems)
    wanted = subject.stored(pipeline.keyset_json)
    counts: Counter[str] = Counter(unopened=0)
    if not dry_run:  # before the deed, as nothing may happen that is not on record
        details = {"contract": subject.contract.name, "field": subject.field}
        pipeline.warehouse.record("erase", purpose, details)
    # Files before the quarantine before the table: the way a message goes when it is loaded or redriven.
    _erase_files(pipeline, subject, set(wanted), counts, dry_run)
    _erase_quarantined(pipeline, subject, counts, dry_run)
    if dry_run:
        counts["rows"] = pipeline.warehouse.count_rows(subject.contract, column, wanted)
    else:
        counts["rows"] = pipeline.warehouse.overwrite(subject.contract, column, wanted, subject.doomed)
        pipeline.warehouse.record("erased", purpose, {**details, **counts})
    log.info("erase by %s: %s", subject.field, dict(counts))
    return {"dry_run": dry_run, **counts}


def _erase_files(
    pipeline: OfficerPipeline, subject: Subject, wanted: set[str], counts: Counter[str], dry_run: bool
) -> None:
    runs = pipeline.staging.runs()
    still_open = pipeline.warehouse.open_runs(runs)
    counts["open_runs"] = len(still_open)
    contracts: Mapping[str, Contract] = {subject.contract.name: subject.contract}
    for run_id in set(runs) - still_open:
        found = rewrite(
            pipeline.staging.of_run(run_id),
            contracts,
            lambda _: _erasing(subject, wanted, pipeline.keyset),
            dry_run=dry_run,
        )
        counts["files"] += found["files"]
        counts["file_rows"] += found["rows"]
        counts["file_messages"] += found["payloads"]
        counts["damaged"] += found["damaged"]


def _erasing(subject: Subject, wanted: set[str], keyset: Keyset) -> Change:
    names = [column.column for column in subject.contract.columns]
    key, doomed = names.index(subject.column.column), [names.index(name) for name in subject.doomed]
    lines = {escaped(value) for value in wanted}

    def row(given: Row) -> Row:
        if given[key] not in lines:
            return given
        return [NULL if index in doomed else text for index, text in enumerate(given)]

    def payload(message_id: str, sealed: bytes) -> bytes:
        body = _opened(keyset, subject.contract, message_id, sealed)
        return b"" if body is not None and subject.is_in(body) else sealed

    return Change(row, payload)


def _erase_quarantined(
    pipeline: OfficerPipeline, subject: Subject, counts: Counter[str], dry_run: bool
) -> None:
    last: Sealed | None = None
    while page := pipeline.warehouse.quarantined_after(subject.contract, last, MESSAGES):
        found = []
        for message in page:
            body = _opened(pipeline.keyset, subject.contract, message.message_id, message.payload)
            if body is None:
                counts["unopened"] += 1
            elif subject.is_in(body):
                found.append(message)
        counts["quarantined"] += len(found)
        if not dry_run:
            pipeline.warehouse.delete_quarantined(subject.contract, found)
        last = page[-1]


def _opened(keyset: Keyset, contract: Contract, message_id: str, sealed: bytes) -> bytes | None:
    if not sealed:  # erased already
        return b""
    try:
        return keyset.decrypt(sealed, quarantine_context(contract, message_id))
    except KeysetError:
        return None


def _texts(text: str) -> Iterator[str]:
    """Every text in a body: those of its JSON, of JSON inside these, or the body itself where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        yield text
        return
    waiting = [found]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, Mapping):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list):
            waiting += thing
        elif isinstance(thing, str):
            yield thing
            if thing[:1] in ("{", "["):  # such as the Message of an SNS notification
                yield from _texts(thing)
        elif thing is not None:
            yield str(thing)
