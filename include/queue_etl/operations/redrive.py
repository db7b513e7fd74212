"""Quarantined messages, once more through the current contract.

A redrive is a run of its own in `etl.runs`, where it counts only the rows it makes. Each of its batches is
one transaction. What the contract now accepts becomes a row, and its ledger entry turns from Q to L; what it
still rejects stays, with its new reason.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from time import perf_counter
from typing import Any

from include.queue_etl.contract import Contract
from include.queue_etl.counts import in_words
from include.queue_etl.errors import SettingsError
from include.queue_etl.operations.store import MaintenanceStore, Selection
from include.queue_etl.postgres.loading import Load
from include.queue_etl.postgres.runs import RunState, RunTotals
from include.queue_etl.run_context import RunContext
from include.queue_etl.staging.area import batch_name
from include.queue_etl.transform import copy_binary
from include.queue_etl.transform.batch import LOADED, mask_batch
from include.queue_etl.transform.batches import MILLISECONDS_A_DAY, MaskedBatch, RawBatch, RejectedBatch
from include.queue_etl.transform.quarantine import (
    Original,
    PayloadCipher,
    QuarantinedMessage,
    decode_lines,
)

EPOCH = date(1970, 1, 1)
LOADS = "loads"  # the verdict of the contract on a message that is accepted now
UNOPENED = "does not open"  # encrypted with a key that the keyset lacks

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Tally:
    """What has been done so far; `verdicts` counts by old reason, then by LOADS, UNOPENED or new reason."""

    verdicts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    loaded: int = 0
    still_quarantined: int = 0
    overtaken: int = 0  # done by another redrive, or erased, between reading and writing

    def figures(self, dry_run: bool) -> dict[str, int]:
        """Messages of each verdict; when it is no dry run, what was done."""
        if not dry_run:
            return {
                "loaded": self.loaded,
                "still_quarantined": self.still_quarantined,
                "overtaken": self.overtaken,
            }
        return dict(sum(self.verdicts.values(), Counter[str]()))

    def result(self, dry_run: bool) -> dict[str, Any]:
        """What `redrive` returns."""
        verdicts = {reason: dict(found) for reason, found in sorted(self.verdicts.items())}
        messages = sum(found.total() for found in self.verdicts.values())
        done = {} if dry_run else self.figures(dry_run)
        return {"dry_run": dry_run, "messages": messages, "verdicts": verdicts, **done}


def redrive(context: RunContext, selection: Selection, *, dry_run: bool = True) -> dict[str, Any]:
    """Put quarantined messages through the current contract, each loaded at most once.

    Safe beside running pipelines and beside another redrive, and after a crash: it goes on with what is left.
    Of a run that is closed it does nothing.

    Args:
        context: as role etl_maintainer; its run is this redrive
        selection: which messages
        dry_run: change nothing, only say what would become of them

    Returns:
        "dry_run", "messages", "verdicts" {old reason: {"loads", "does not open" or new reason: messages}};
        when it is no dry run also "loaded", "still_quarantined" and "overtaken"

    Raises:
        PreflightError: warehouse or keyset are not ready
        SettingsError: no message of the queue was ever rejected for the selection's reason
        WarehouseUnavailable, WarehouseRefused: what was committed stays; a repetition does the rest
    """
    context.resources.require_loading(context.contract)
    _require_known(context, selection)
    tally, started = _Tally(), perf_counter()
    if not dry_run:
        if _open_run(context).closed:
            log.info("redrive %s is done already: start a new run", context.run.name)
            return tally.result(dry_run)
        context.record_key()
    for number, page in enumerate(_pages(context, selection)):
        _redrive_page(context, page, number, tally, dry_run)
    result = tally.result(dry_run)
    if not dry_run:
        _close(context, perf_counter() - started)
    log.info("redrive of %s: %s", selection.queue, in_words(tally.figures(dry_run)))
    return result


def _require_known(context: RunContext, selection: Selection) -> None:
    """A reason once met stays known, so that a redrive that is repeated finds nothing rather than fails."""
    if selection.reason is None:
        return
    known = MaintenanceStore(context.resources.database).reasons(selection.queue)
    if not any(selection.reason in (reason, reason.split(" ")[0]) for reason in known):
        there_are = f"there are: {', '.join(known)}" if known else "there are none yet"
        problem = f"no message of {selection.queue} was ever rejected for {selection.reason!r}; {there_are}"
        raise SettingsError([problem])


def _pages(context: RunContext, selection: Selection) -> Iterator[list[QuarantinedMessage]]:
    """The selected messages in the order of their key, a batch at a time: what stays is not met again."""
    last: QuarantinedMessage | None = None
    settings, store = context.settings, MaintenanceStore(context.resources.database)
    while page := store.quarantined(selection, last, settings.batch_messages, settings.batch_bytes):
        yield page
        last = page[-1]


def _redrive_page(
    context: RunContext, page: Sequence[QuarantinedMessage], number: int, tally: _Tally, dry_run: bool
) -> None:
    raw, reasons = _decrypt(context, page, tally)
    masked, rejected = mask_batch(raw, context.contract, context.keyset, context.settings, context.run.id)
    for reason, verdict in zip(reasons, _verdicts(masked, rejected), strict=True):
        tally.verdicts[reason][verdict] += 1
    if dry_run or not raw.ids:
        return
    batch = batch_name(number)
    load = Load(context.run.id, context.contract, batch, masked, rejected)
    counts = MaintenanceStore(context.resources.database).redrive(load)
    log.info("batch %s: %s", batch, counts)
    tally.loaded += counts.loaded
    tally.still_quarantined += counts.quarantined
    tally.overtaken += counts.duplicates


def _decrypt(
    context: RunContext, page: Sequence[QuarantinedMessage], tally: _Tally
) -> tuple[RawBatch, list[str]]:
    """The messages as they were received, and their old reasons; those that do not open are counted."""
    raw, reasons = RawBatch(page[0].queue_id, [], [], [], []), []
    originals: list[Original] = []
    cipher = PayloadCipher(context.keyset, context.contract.name)
    for message in page:
        original = cipher.decrypt_or_none(message.message_id, message.payload)
        if original is None:
            tally.verdicts[message.reason][UNOPENED] += 1
            continue
        raw.ids.append(message.message_id)
        midnight = (message.sent_day - EPOCH).days * MILLISECONDS_A_DAY
        raw.sent_ms.append(midnight if original.sent_ms is None else original.sent_ms)
        raw.receive_counts.append(1)  # those received too often are parsed now: they were asked for
        raw.bodies.append(original.body)
        reasons.append(message.reason)
        originals.append(original)
    for column in context.contract.asked_for:
        raw.facts[column.field] = [original.facts.get(column.field) for original in originals]
    return raw, reasons


def _verdicts(masked: MaskedBatch, rejected: RejectedBatch) -> list[str]:
    """LOADS or the new reason of each message, in the batch's order."""
    reasons = (line.reason for line in decode_lines(rejected.lines))
    return [LOADS if status == LOADED else next(reasons) for status in copy_binary.statuses(masked.entries)]


def _open_run(context: RunContext) -> RunState:
    run = context.run
    return context.store.open_run(run.id, context.contract, run.name, {}, kind="redrive")


def _close(context: RunContext, seconds: float) -> None:
    context.store.record_extract(context.run.id, 0, 0.0)  # nothing from the queue
    context.store.close_run(context.run.id, "succeeded", RunTotals(finish_seconds=seconds))


def selection(contract: Contract, reason: str | None, since: str | None, until: str | None) -> Selection:
    """What people asked for, on the contract's queue.

    Args:
        contract: names the queue
        reason: a reason, or its code for any field; None or "": any but `too_many_receives`
        since: a time as in ISO 8601, UTC where it names no zone; a bare date is its first moment
        until: the same

    Raises:
        SettingsError: not a time, or no time lies between the two
    """
    chosen = Selection(contract.queue, reason or None, _moment(since), _moment(until))
    if chosen.since and chosen.until and chosen.since >= chosen.until:
        raise SettingsError([f"nothing lies between since {since} and until {until}: give an earlier since"])
    return chosen


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError([f"{text!r} is no time: give 2026-11-21 or 2026-11-21T08:30+01:00"]) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
