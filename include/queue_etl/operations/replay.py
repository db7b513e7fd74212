"""Archived messages, once more through the current contract: a column declared later gets its past so.

A replay is a run of its own in `etl.runs`, with a batch for each archived batch. Into a table with a key its
rows go by upsert: they replace what is older, and what the same message made. Any other table is one of the
contract's `replay_tables`. There the ledger knows the messages under a queue entry of the table's own, so
that each is loaded once, by whichever replay. The messages stay in the archive, rejected ones too.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from time import perf_counter
from typing import Any
from uuid import UUID

from include.queue_etl.contract import Contract
from include.queue_etl.counts import in_words
from include.queue_etl.errors import RunFailed, SettingsError, StagedFileDamaged
from include.queue_etl.operations.store import MaintenanceStore
from include.queue_etl.postgres.loading import BatchCounts, Load
from include.queue_etl.postgres.runs import RunState, RunStore, RunTotals
from include.queue_etl.resources import Resources
from include.queue_etl.run_context import RunContext
from include.queue_etl.staging.area import BatchFile, Kind
from include.queue_etl.transform import copy_binary
from include.queue_etl.transform.batch import LOADED, mask_batch
from include.queue_etl.transform.batches import (
    MILLISECONDS_A_DAY,
    MaskedBatch,
    RawBatch,
    RejectedBatch,
    chosen,
)

PROGRESS_SECONDS = 5.0
CLOCKS = timedelta(days=1)  # between those of SQS and Postgres, and more than enough
EPOCH = date(1970, 1, 1)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What to replay, and where to.

    Attributes:
        table: one of the contract's `replay_tables`; empty: its own table, which needs a key
        since: messages that were sent then or later
        until: messages that were sent before
    """

    table: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def covers(self, sent_ms: int) -> bool:
        """Whether a message that was sent then is meant."""
        if self.since and sent_ms < self.since.timestamp() * 1000:
            return False
        return not self.until or sent_ms < self.until.timestamp() * 1000


@dataclass(frozen=True, slots=True)
class _Batch:
    """An archived batch: its run, and its name there."""

    run_id: UUID
    name: str

    @property
    def commit_name(self) -> str:
        """What it is called as a batch of the replay."""
        return f"{self.run_id}/{self.name}"


@dataclass(slots=True)
class _Tally:
    """What has been done so far.

    Attributes:
        runs: whose batches were looked at
        batches: replayed by this call
        done_before: batches that an earlier attempt at this replay committed
        messages: in the batches of this call, sent within the time that was asked for
        days: on which they were sent
        rejected: by reason
        rows: made or changed
        unchanged: messages whose row was there as it is now, or is of a later message
        forgotten: messages whose day the ledger may forget; left out
        damaged: batches that do not open, or went meanwhile
    """

    runs: set[UUID] = field(default_factory=set)
    batches: int = 0
    done_before: int = 0
    messages: int = 0
    days: set[str] = field(default_factory=set)
    rejected: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    unchanged: int = 0
    forgotten: int = 0
    damaged: int = 0

    def took(self, raw: RawBatch, masked: MaskedBatch) -> None:
        """Count a batch that the contract has judged."""
        self.batches += 1
        self.messages += len(raw.ids)
        self.days |= set(masked.sent_days)
        self.rejected += Counter(masked.rejected)

    def loaded(self, counts: BatchCounts) -> None:
        """Count what became of its accepted messages."""
        self.rows += counts.loaded
        self.unchanged += counts.duplicates

    def result(self, table: str, dry_run: bool) -> dict[str, Any]:
        """What `replay` returns."""
        done = {} if dry_run else {"rows": self.rows, "unchanged": self.unchanged}
        return {
            "dry_run": dry_run,
            "table": table,
            "runs": len(self.runs),
            "batches": self.batches,
            "done_before": self.done_before,
            "messages": self.messages,
            "first_day": min(self.days, default=None),
            "last_day": max(self.days, default=None),
            **done,
            "rejected": dict(self.rejected),
            "forgotten": self.forgotten,
            "damaged": self.damaged,
        }


def replay(context: RunContext, request: Request, *, dry_run: bool = True) -> dict[str, Any]:
    """Put archived messages through the current contract, the newest runs first.

    Safe beside running pipelines and other replays. Stopped at any point, it goes on under the same run name
    where it was. Under another it begins anew, and changes nothing twice. Of messages with one key that were
    sent in the same millisecond, the first that was loaded stays: hence the order.

    Args:
        context: as role etl_maintainer; its run's name, with the request, names the replay
        request: what, and where to
        dry_run: change nothing, only say what would become of them

    Returns:
        "dry_run", "table", "runs" and "batches" replayed, "done_before": batches of an earlier attempt;
        "messages", "first_day" and "last_day" on which they were sent, "rejected" {reason: messages},
        "forgotten" messages, left out as the ledger may forget their day, "damaged" batches; when it is no
        dry run also "rows" made or changed, and "unchanged": messages that changed nothing

    Raises:
        SettingsError: the table is none that the contract can be replayed into
        PreflightError: warehouse or keyset are not ready, or the table is not there
        RunFailed: maintenance took it for abandoned and closed it; a new run does the rest
        WarehouseUnavailable, WarehouseRefused, StagingUnavailable: a repetition does the rest
    """
    target = _target(context, request)
    target.resources.require_loading(target.contract)
    tally, progress = _Tally(), _Progress()
    queue_id, committed = 0, set[str]()
    if not dry_run:
        run = _open_run(target)
        if run.closed:
            log.info("replay %s is done already: start a new run", target.run.name)
            return tally.result(target.contract.table, dry_run)
        target.record_key()
        queue_id, committed = run.queue_id, set(target.store.committed_batches(target.run.id))
    batches = list(_archived(context.resources, context.contract, request.since))
    for number, batch in enumerate(batches, 1):
        if batch.commit_name in committed:
            tally.done_before += 1
        else:
            _replay_batch(target, request, batch, queue_id, tally, dry_run)
        progress.tell(number, len(batches), tally.messages)
    if not dry_run:
        _close(target, progress.seconds, "failed" if tally.damaged else "succeeded")
    return tally.result(target.contract.table, dry_run)


def _target(context: RunContext, request: Request) -> RunContext:
    """The run that loads: of the contract for that table, named by all that decides what it loads."""
    contract = require_table(context.contract, request.table)
    window = [f"{word} {moment.isoformat()}" for word, moment in _bounds(request) if moment]
    name = " ".join([context.run.name, "into", contract.table, *window])
    return RunContext(context.resources, contract, name)


def _bounds(request: Request) -> tuple[tuple[str, datetime | None], ...]:
    return (("since", request.since), ("until", request.until))


def require_table(contract: Contract, table: str) -> Contract:
    """The contract as it is for that table; raises SettingsError where it cannot be replayed into it."""
    own = table in ("", contract.table)
    if own and contract.key:
        return contract
    add = f"then run `contract migration {contract.name}` and `migrate`"
    names = ", ".join(contract.replay_tables)
    if own:
        can = f"give --table, one of {names}" if names else f"name a new one in its replay_tables, {add}"
        problem = f"{contract.name} has no key, so its table would have every row twice: {can}"
        raise SettingsError([problem])
    if table not in contract.replay_tables:
        there = f"it has {names}" if names else "it has none"
        problem = f"{table} is not in the replay_tables of {contract.name}; {there}: add the table, {add}"
        raise SettingsError([problem])
    return replace(contract, table=table, replay_tables=())


def _archived(resources: Resources, contract: Contract, since: datetime | None) -> Iterator[_Batch]:
    """Archived batches of the contract's runs that may hold messages sent since then, the newest first."""
    staged = {
        run_id: raw for run_id, files in resources.staging.runs().items() if (raw := files.batches(Kind.RAW))
    }
    known = MaintenanceStore(resources.database).runs(staged)
    closed = sorted(
        (
            (run.closed_at, run_id)
            for run_id, run in known.items()
            if run.closed_at and run.contract == contract.name
        ),
        reverse=True,
    )
    for closed_at, run_id in closed:
        if since is None or closed_at >= since - CLOCKS:
            proven = RunStore(resources.database).committed_batches(run_id)
            yield from (
                _Batch(run_id, name) for name in sorted(staged[run_id], reverse=True) if name in proven
            )


def _replay_batch(
    target: RunContext, request: Request, batch: _Batch, queue_id: int, tally: _Tally, dry_run: bool
) -> None:
    started = perf_counter()
    raw = _opened(target, batch)
    if raw is None:
        tally.damaged += 1
        return
    raw = _meant(target, request, raw, tally)
    if not raw.ids:
        return
    raw.queue_id = queue_id
    masked, _ = mask_batch(raw, target.contract, target.keyset, target.settings, target.run.id)
    masked.mask_seconds = perf_counter() - started
    tally.runs.add(batch.run_id)
    tally.took(raw, masked)
    if not dry_run:
        tally.loaded(_load(target, batch, masked))


def _opened(target: RunContext, batch: _Batch) -> RawBatch | None:
    staging = target.resources.staging.run(batch.run_id)
    try:
        raw = staging.open(BatchFile(batch.name, Kind.RAW), RawBatch)
    except StagedFileDamaged as error:
        log.error("%s; it is left out", error)
        return None
    if raw is None:
        log.error("archived batch %s went meanwhile: its days are over", batch.commit_name)
    return raw


def _meant(target: RunContext, request: Request, raw: RawBatch, tally: _Tally) -> RawBatch:
    """The messages of the time asked for; without those that the ledger, where it decides, may forget."""
    raw = chosen(raw, [request.covers(sent_ms) for sent_ms in raw.sent_ms])
    if target.contract.key:
        return raw
    # Maintenance drops a day when it is more than `ledger_days` ago.
    oldest = datetime.now(UTC).date() - timedelta(days=target.settings.ledger_days - 1)
    first_ms = (oldest - EPOCH).days * MILLISECONDS_A_DAY
    known = chosen(raw, [sent_ms >= first_ms for sent_ms in raw.sent_ms])
    tally.forgotten += len(raw.ids) - len(known.ids)
    return known


def _load(target: RunContext, batch: _Batch, masked: MaskedBatch) -> BatchCounts:
    """Load the accepted messages alone: an earlier run has put the others into quarantine, or their rows.

    What nobody declares is kept beside the rows of that run already.
    """
    masked.entries = copy_binary.of_status(LOADED, masked.entries)
    masked.rejected, masked.kept = {}, b""
    run_id, contract, name = target.run.id, target.contract, batch.commit_name
    if contract.key:
        load = Load(run_id, contract, name, masked, RejectedBatch(b""))
        return MaintenanceStore(target.resources.database).replay(load)
    return target.store.load(run_id, contract, name, masked, RejectedBatch(b""))


def _open_run(target: RunContext) -> RunState:
    run, contract = target.run, target.contract
    queue = contract.queue if contract.key else ledger_queue(contract)
    return target.store.open_run(run.id, contract, run.name, {}, kind="replay", queue=queue)


def ledger_queue(contract: Contract) -> str:
    """The entry of etl.queues by which the ledger knows what was replayed into the contract's table."""
    return f"replay:{contract.table}:{contract.queue}"


def _close(target: RunContext, seconds: float, state: str) -> None:
    target.store.record_extract(target.run.id, 0, 0.0)  # nothing from the queue
    target.store.close_run(target.run.id, state, RunTotals(finish_seconds=seconds))
    found = target.store.run_state(target.run.id)
    if found is None or found.state != state:  # batches that came after that were not loaded
        raise RunFailed("the replay was closed meanwhile, for it made no progress: start a new one")


class _Progress:
    """Says now and then how far it is."""

    def __init__(self) -> None:
        self._started = self._told = perf_counter()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return perf_counter() - self._started

    def tell(self, done: int, batches: int, messages: int) -> None:
        """A line, if the last is some seconds ago."""
        if perf_counter() - self._told >= PROGRESS_SECONDS:
            self._told = perf_counter()
            log.info("%d of %d batches, %d messages a second", done, batches, messages / self.seconds)


def in_one_line(result: dict[str, Any]) -> str:
    """What `replay` returned, for people."""
    counts = {name: value for name, value in result.items() if name not in ("dry_run", "table", "rejected")}
    would = "would be replayed" if result["dry_run"] else "replayed"
    rejected = f"; rejected: {in_words(result['rejected'])}" if result["rejected"] else ""
    return f"{would} into {result['table']}: {in_words(counts)}{rejected}"
