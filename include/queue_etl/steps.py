"""The pipeline: extract, mask, load, finish. The only module that combines the others.

    extract   receive -> sealed raw batches, receipt handles        a re-run adopts what is sealed
    mask      raw batch -> masked batch, ready for COPY             a re-run adopts it
    load      masked batch -> Postgres, in one transaction          a re-run changes nothing
    finish    delete what the ledger proves, release the rest, record the run

Every step of a closed run is a no-op: its messages are deleted, or back on the queue.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from include.queue_etl.contract import Column
from include.queue_etl.counts import found_in_words, in_words, run_in_words
from include.queue_etl.errors import (
    QueueEtlError,
    QueueRefused,
    QueueUnavailable,
    RunFailed,
    StagedFileDamaged,
    StagingUnavailable,
    TransientError,
    WarehouseRefused,
)
from include.queue_etl.log_fields import bound
from include.queue_etl.run_context import RunContext
from include.queue_etl.settings import Settings
from include.queue_etl.sqs.wire import USUAL, Message
from include.queue_etl.staging.area import BatchFile, Kind, batch_name
from include.queue_etl.transform import personal_check
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import (
    MILLISECONDS_A_DAY,
    MaskedBatch,
    RawBatch,
    ReceiptHandles,
    RejectedBatch,
)

if TYPE_CHECKING:
    from include.queue_etl.postgres.runs import RunTotals

log = logging.getLogger(__name__)
Content = TypeVar("Content")

# What a killed process has received and not sealed stays hidden until the visibility timeout: so much of it.
SEAL_SECONDS = 5.0


def extract(
    context: RunContext, depth: Mapping[str, int] | None = None, *, caught_up_seconds: float = math.inf
) -> list[dict[str, Any]]:
    """Receive messages and seal them in batches.

    It ends when the queue is empty, when it has `max_messages`, or `receive_seconds` after the first message,
    whatever arrives meanwhile. A queue that fails after the first message ends it too: what has come goes on.

    The warehouse knows the run from its first message on. A run without messages leaves nothing there.

    Args:
        context: the run
        depth: what the sensor saw, recorded with the run
        caught_up_seconds: it also ends so long after the first message, once it takes messages as they come:
            for runs that another one follows at once

    Returns:
        one {"batch", "messages"} a batch, those of earlier attempts first; nothing for a closed run, or where
        no message came

    Raises:
        PreflightError: something is not ready; nothing has been received
        TransientError: what was received but not sealed has been released
    """
    context.preflight()
    run = context.store.run_state(context.run.id)
    if run is not None and run.closed:
        log.info("run %s is closed (%s): nothing to do", context.run.name, run.state)
        return []
    # Before the first message is taken: a process that is killed cannot say it afterwards.
    log.info("what this process takes and loses when killed is visible again by %s or so", _back_by(context))
    started = perf_counter()
    intake = _Intake(depth or {})
    _adopt(context, intake)
    _receive(context, intake, caught_up_seconds)
    if run is None and not intake.queue_id:
        log.info("no message came: nothing to do")
        return []
    received, batches = intake.messages, intake.batches
    seconds = perf_counter() - started
    context.store.record_extract(context.run.id, received, seconds, intake.oldest_age_seconds)
    log.info("extracted %d messages in %d batches", received, len(batches))
    if not batches:
        _close(context, {}, upstream_failed=False, last_attempt=True)  # without batches, finish is skipped
    return [{"batch": batch, "messages": messages} for batch, messages in batches.items()]


def grouped(batches: Sequence[Mapping[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Batches in groups of about the same number of messages, in their order: a task each.

    A task costs Airflow about 0.4 s of CPU, mask and load of a full batch 0.1 s. So there are as many groups
    as can be at work at once, and no more than full batches: those are sealed early when messages arrive
    slowly.

    Args:
        batches: what `extract` returned
        settings: `groups`, and how large a full batch is

    Returns:
        one {"name", "batches", "messages"} a group; the name is for people
    """
    total = sum(batch["messages"] for batch in batches)
    most = min(settings.group_count, math.ceil(total / settings.batch_messages), len(batches))
    groups: dict[int, list[Mapping[str, Any]]] = {}
    before = 0
    for batch in batches:
        middle = before + batch["messages"] / 2
        groups.setdefault(int(middle * most / total), []).append(batch)
        before += batch["messages"]
    return [_group(group) for group in groups.values()]


def _group(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [batch["batch"] for batch in batches]
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return {
        "name": f"{names[0]}{more}",
        "batches": names,
        "messages": sum(batch["messages"] for batch in batches),
    }


def mask(context: RunContext, batch: str) -> dict[str, Any]:
    """Parse, validate and mask one batch.

    Returns:
        {"batch", "accepted", "rejected", "anomalies"}: counts

    Raises:
        StagedFileDamaged: the raw file was changed, or is gone while the run is open
    """
    with bound(batch=batch):
        return _masked(context, batch)


def _masked(context: RunContext, batch: str) -> dict[str, Any]:
    masked = context.staging.open(BatchFile(batch, Kind.MASKED), MaskedBatch) or _mask(context, batch)
    if masked is None:
        return {"batch": batch, "accepted": 0, "rejected": {}, "anomalies": {}}
    log.info("batch %s: %d accepted, rejected: %s", batch, masked.accepted, in_words(masked.rejected))
    for warning in personal_check.warnings(masked, context.contract):
        log.warning("batch %s: %s", batch, warning)
    return {
        "batch": batch,
        "accepted": masked.accepted,
        "rejected": masked.rejected,
        "anomalies": masked.anomalies,
    }


def load(context: RunContext, batch: str) -> dict[str, Any]:
    """Load one masked batch in one transaction.

    Returns:
        {"batch", "loaded", "quarantined", "duplicates"}: counts; those of the first time on a re-run

    Raises:
        WarehouseUnavailable, WarehouseRefused: nothing of the batch is in the tables
        StagedFileDamaged: a staged file was changed, or is gone while the run is open
    """
    with bound(batch=batch):
        return _loaded(context, batch)


def _loaded(context: RunContext, batch: str) -> dict[str, Any]:
    # Here and not at the top: mask does without psycopg, whose import takes 0.15 s.
    from include.queue_etl.postgres.loading import BatchCounts

    if context.is_closed():
        counts = BatchCounts(0, 0, 0)
    else:
        masked = _staged(context, BatchFile(batch, Kind.MASKED), MaskedBatch)
        rejected = _rejected(context, batch, masked)
        counts = context.store.load(context.run.id, context.contract, batch, masked, rejected)
    log.info("batch %s: %s", batch, counts)
    return {"batch": batch, **asdict(counts)}


def finish(
    context: RunContext,
    *,
    upstream_failed: bool = False,
    last_attempt: bool = True,
    tell: Callable[[str], None] = lambda figures: None,
    report: Callable[[RunContext, Mapping[str, Any]], None] = lambda context, summary: None,
) -> dict[str, Any]:
    """Delete the messages the ledger proves committed, release the others, record and close the run.

    Args:
        context: the run
        upstream_failed: a task before this one failed
        last_attempt: nobody will try again after this call
        tell: is given the line with the run's figures once the run is closed, before any RunFailed
        report: is given the run and what is returned, the first time only, before any RunFailed

    Returns:
        the run's row of etl.run_summary; of a closed run as it was recorded

    Raises:
        RunFailed: the run is closed as failed, for `upstream_failed` or batches that could not be settled;
            everything above is done all the same
        TransientError: not done; on the last attempt, what can be released has been
    """
    try:
        run = context.store.run_state(context.run.id)
        proven = context.store.committed_batches(context.run.id)
    except (TransientError, WarehouseRefused) as error:
        if last_attempt or isinstance(error, WarehouseRefused):  # which Airflow does not retry
            # Without proof nothing may be deleted, but releasing is always safe.
            _settle(context, {}, last_attempt=True)
        raise
    if run is None:
        raise RunFailed("the run never started: nothing was received; see the log of extract")
    closes_now = not run.closed
    if closes_now:
        _close(context, proven, upstream_failed=upstream_failed, last_attempt=last_attempt)
    else:  # an attempt of extract that outlived its run may have sealed messages since
        _settle(context, proven, last_attempt)
    _destroy_leftovers(context, proven)
    summary = context.store.run_summary(context.run.id)
    _log_figures(summary)
    tell(run_in_words(summary))
    if closes_now:  # counters would count it twice
        report(context, summary)
    # Also when somebody else had closed it, as an attempt that was killed: the DAG run must not end green.
    if summary["state"] == "failed":
        raise RunFailed("the run failed; each of its messages is deleted, released, or comes back by itself")
    return summary


# What the steps are made of -----------------------------------------------------------------------


def _log_figures(summary: Mapping[str, Any]) -> None:
    log.info("%s", run_in_words(summary))
    if summary["quarantined_by_reason"]:
        log.info("quarantined: %s", in_words(summary["quarantined_by_reason"]))
    if summary["unknown_fields"]:
        log.info("messages with undeclared fields: %s", in_words(summary["unknown_fields"]))
    if summary["personal_data_found"]:
        found, checked = found_in_words(summary["personal_data_found"]), summary["personal_data_checked"]
        log.info("of %d checked messages, those with what looks personal: %s", checked, found)


@dataclass(slots=True)
class _Intake:
    """What extract has: sealed batches, and messages that are not sealed yet.

    Attributes:
        depth: what the sensor saw
        queue_id: of etl.queues; 0 until this attempt has entered the run in the warehouse
        batches: name -> number of messages, in the order in which they were sealed
        oldest_age_seconds: of the oldest message in them, when its batch was sealed
        open: received, not sealed
        open_bytes: of their bodies
        open_since: when the first of them came, by the monotonic clock
    """

    depth: Mapping[str, int]
    queue_id: int = 0
    batches: dict[str, int] = field(default_factory=dict)
    oldest_age_seconds: int = 0
    open: list[Message] = field(default_factory=list)
    open_bytes: int = 0
    open_since: float = 0.0

    @property
    def messages(self) -> int:
        """In sealed batches."""
        return sum(self.batches.values())

    def add(self, messages: list[Message]) -> None:
        """Take messages in."""
        if messages and not self.open:
            self.open_since = time.monotonic()
        self.open += messages
        self.open_bytes += sum([len(message.body) for message in messages])

    def is_due(self, settings: Settings) -> bool:
        """Whether the open messages are to be sealed now: they fill a batch, or are old."""
        if len(self.open) >= settings.batch_messages or self.open_bytes >= settings.batch_bytes:
            return True
        return bool(self.open) and time.monotonic() - self.open_since >= SEAL_SECONDS

    def sealed(self, batch: str, messages: int, oldest_age_seconds: int) -> None:
        """Enter a sealed batch."""
        self.batches[batch] = messages
        self.oldest_age_seconds = max(self.oldest_age_seconds, oldest_age_seconds)


def _adopt(context: RunContext, intake: _Intake) -> None:
    """Take over the batches sealed by an earlier attempt; half-sealed ones are released."""
    raw = set(context.staging.batches(Kind.RAW))
    for batch in context.staging.batches(Kind.RECEIPT_HANDLES):
        handles = _staged(context, BatchFile(batch, Kind.RECEIPT_HANDLES), ReceiptHandles)
        if batch in raw:
            intake.sealed(batch, len(handles.ids), handles.oldest_age_seconds)
        else:
            _release_after_failure(context, handles.handles, "an earlier attempt stopped while sealing them")
            context.staging.destroy(Kind.RECEIPT_HANDLES, batch=batch)
    if intake.batches:
        _enter(context, intake)  # again: the keyset may have another primary key since


def _enter(context: RunContext, intake: _Intake) -> None:
    """Enter the run and its key in the warehouse; before anything is sealed, as all that follows needs it."""
    run = context.open_run(intake.depth)
    context.record_key()
    intake.queue_id = run.queue_id


def _receive(context: RunContext, intake: _Intake, caught_up_seconds: float = math.inf) -> None:
    """Receive what there is room for and seal it; on any failure the unsealed messages are released."""
    try:
        with closing(_arriving(context, intake, caught_up_seconds)) as arriving:
            for messages in arriving:
                intake.add(messages)
                if intake.open and not intake.queue_id:
                    _enter(context, intake)
                if intake.is_due(context.settings):
                    _seal(context, intake)
        if intake.open:
            _seal(context, intake)
    except BaseException:  # also a task's time limit, or a stop by signal
        _release_after_failure(
            context, [message.receipt_handle for message in intake.open], "extract did not get to seal them"
        )
        if intake.batches:
            log.warning("%d sealed messages stay staged: an attempt to come takes them", intake.messages)
        raise


def _arriving(
    context: RunContext, intake: _Intake, caught_up_seconds: float
) -> Generator[list[Message], None, None]:
    """Messages as they come; lists may be empty. A queue that fails when some have come counts as empty."""
    settings = context.settings
    room = settings.max_messages - intake.messages
    try:
        columns = context.contract.asked_for
        attributes = [column.message_attribute for column in columns if column.message_attribute]
        asked = USUAL.also(attributes, [column.field for column in columns if not column.message_attribute])
        receiving = context.queue.receive(room, settings.receive_seconds, asked, caught_up_seconds)
        with closing(receiving) as replies:
            yield from replies
    except (QueueUnavailable, QueueRefused) as error:
        if not (intake.open or intake.batches):
            raise
        log.warning("received no more, and go on with what has come: %s", error)


def _seal(context: RunContext, intake: _Intake) -> None:
    """Seal the open messages; handles first: a raw file without them could be loaded but never deleted."""
    messages = intake.open
    # Two stable sorts whose keys need no tuple: half the time of one.
    messages.sort(key=attrgetter("message_id"))
    messages.sort(key=lambda message: message.sent_ms // MILLISECONDS_A_DAY)
    ids = [message.message_id for message in messages]
    sent_ms = [message.sent_ms for message in messages]
    batch = batch_name(len(intake.batches))
    age = max(0, int(time.time() - min(sent_ms) / 1000))  # SQS's clock may be ahead of ours
    handles = ReceiptHandles(ids, [message.receipt_handle for message in messages], age)
    context.staging.seal(BatchFile(batch, Kind.RECEIPT_HANDLES), handles)
    raw = RawBatch(
        intake.queue_id,
        ids,
        sent_ms,
        [message.receive_count for message in messages],
        [message.body for message in messages],
        {column.field: _values(column, messages) for column in context.contract.asked_for},
    )
    context.staging.seal(BatchFile(batch, Kind.RAW), raw)
    intake.sealed(batch, len(ids), age)
    intake.open, intake.open_bytes = [], 0
    with bound(batch=batch):
        log.info("batch %s: sealed %d messages", batch, len(ids))


def _values(column: Column, messages: Sequence[Message]) -> list[str | bytes | None]:
    """What each message says of a column that is asked for."""
    if name := column.message_attribute:
        return [message.attribute(name) for message in messages]
    return [message.system(column.field) for message in messages]


def _mask(context: RunContext, batch: str) -> MaskedBatch | None:
    """Mask the raw batch and seal the result; None where a closed run has no raw batches any more."""
    started = perf_counter()
    file = BatchFile(batch, Kind.RAW)
    raw = context.staging.open(file, RawBatch)
    if raw is None:
        # Asked only now: to connect to Postgres takes as long as to mask a batch.
        if context.is_closed():
            return None
        raise _gone(context, file)
    if _is_archived(context, batch):
        return None
    masked, rejected = mask_batch(raw, context.contract, context.keyset, context.settings, context.run.id)
    masked.contract, masked.run_name = context.run.contract, context.run.name
    masked.mask_seconds = perf_counter() - started
    if masked.rejected:  # before the masked file, which stands for the whole of the step
        context.staging.seal(BatchFile(batch, Kind.REJECTED), rejected)
    context.staging.seal(BatchFile(batch, Kind.MASKED), masked)
    return masked


def _is_archived(context: RunContext, batch: str) -> bool:
    """Whether the raw batch is of a closed run: its receipt handles, which are sealed first, are gone."""
    if not context.resources.archive_days(context.contract):
        return False
    return batch not in context.staging.batches(Kind.RECEIPT_HANDLES)


def _rejected(context: RunContext, batch: str, masked: MaskedBatch) -> RejectedBatch:
    if not masked.rejected:
        return RejectedBatch(b"")
    return _staged(context, BatchFile(batch, Kind.REJECTED), RejectedBatch)


def _staged(context: RunContext, file: BatchFile, content_type: type[Content]) -> Content:
    content = context.staging.open(file, content_type)
    if content is None:
        raise _gone(context, file)
    return content


def _gone(context: RunContext, file: BatchFile) -> StagedFileDamaged:
    return StagedFileDamaged(
        f"staged file {file.name} of run {context.run.id} is gone although the run is open: "
        "do workers share the staging folder? Its messages come back by themselves"
    )


def _close(
    context: RunContext, proven: Mapping[str, bytes], *, upstream_failed: bool, last_attempt: bool
) -> None:
    """Settle every message and close the run. Without SQS: again later, or at last closed as failed."""
    started = perf_counter()
    settlement = _settle(context, proven, last_attempt)
    is_in_vain = settlement.batches and not proven
    has_failed = upstream_failed or settlement.unsettled or is_in_vain
    totals = settlement.totals
    totals.visible_after = None if settlement.outage else _visible(context)  # SQS may be what is out
    totals.finish_seconds = perf_counter() - started
    context.store.close_run(context.run.id, "failed" if has_failed else "succeeded", totals)


@dataclass(slots=True)
class _Settlement:
    """What became of the run's messages on the queue.

    Attributes:
        unsettled: batches whose receipt handles could not be read, or that an outage left behind
        outage: SQS or staging did not answer
    """

    totals: "RunTotals"
    batches: int
    unsettled: int = 0
    outage: bool = False


def _settle(context: RunContext, proven: Mapping[str, bytes], last_attempt: bool) -> _Settlement:
    """Delete the messages of batches whose commit record matches their receipt handles; release all others.

    An outage ends it, at the last attempt too: to wait for SQS or S3 once a batch could take days.
    """
    from include.queue_etl.postgres.runs import RunTotals

    batches = _settleable_batches(context, last_attempt)
    settlement = _Settlement(RunTotals(), len(batches))
    for number, batch in enumerate(batches):
        with bound(batch=batch):
            try:
                _settle_batch(context, batch, proven.get(batch), settlement.totals)
            except (QueueRefused, StagedFileDamaged) as error:
                settlement.unsettled += 1
                log.error("batch %s: %s; its messages come back by %s", batch, error, _back_by(context))
            except TransientError as error:
                if not last_attempt:
                    raise
                settlement.unsettled += len(batches) - number
                settlement.outage = True
                text = "batch %s and %d after it: %s; their messages come back by %s"
                log.error(text, batch, len(batches) - number - 1, error, _back_by(context))
                break
    return settlement


def _settle_batch(context: RunContext, batch: str, proof: bytes | None, totals: "RunTotals") -> None:
    handles = _staged(context, BatchFile(batch, Kind.RECEIPT_HANDLES), ReceiptHandles)
    if proof == handles.digest:
        outcome = context.queue.delete(handles.handles)
        totals.deleted += outcome.done
        totals.delete_failed += sum(outcome.failed.values())
    else:
        totals.released += _release(context, handles.handles, "they are not proven loaded")


def _settleable_batches(context: RunContext, last_attempt: bool) -> list[str]:
    """The batches that hold messages; raises StagingUnavailable, at last saying when they come back."""
    try:
        return context.staging.batches(Kind.RECEIPT_HANDLES)
    except StagingUnavailable:
        if last_attempt:
            log.error("the run stays open; its messages come back by %s", _back_by(context))
        raise


def _release_after_failure(context: RunContext, handles: Sequence[str], why: str) -> None:
    """Release on the way out of a failure, which matters more than one of the release itself."""
    try:
        _release(context, handles, why)
    except QueueEtlError as error:
        log.error("%d messages stay hidden until %s: %s", len(handles), _back_by(context), error)


def _release(context: RunContext, handles: Sequence[str], why: str) -> int:
    """Make messages visible again at once; returns how many. What SQS leaves hidden is said, and until when.

    Raises:
        QueueUnavailable, QueueRefused: some may be visible
    """
    if not handles:
        return 0
    released = context.queue.release(handles).done
    log.warning("released %d of %d messages: %s", released, len(handles), why)
    if released < len(handles):
        log.warning("%d messages stay hidden until %s", len(handles) - released, _back_by(context))
    return released


def _back_by(context: RunContext) -> str:
    """When messages received until now are visible again at the latest (UTC)."""
    hidden = timedelta(seconds=context.settings.visibility_timeout_seconds)
    return (datetime.now(UTC) + hidden).isoformat(timespec="seconds")


def _visible(context: RunContext) -> int | None:
    try:
        return context.queue.depth().visible
    except QueueEtlError as error:
        log.warning("depth after the run unknown: %s", error)
        return None


def _destroy_leftovers(context: RunContext, proven: Mapping[str, bytes]) -> None:
    """Remove the closed run's files, but those of loaded batches that `reconcile` or `replay` could need."""
    context.staging.destroy(Kind.RECEIPT_HANDLES)
    archived = proven if context.resources.archive_days(context.contract) else {}
    raw = [batch for batch in context.staging.batches(Kind.RAW) if batch not in archived]
    context.staging.remove([BatchFile(batch, Kind.RAW).name for batch in raw])
    for batch in context.staging.batches(Kind.MASKED):
        if batch not in proven or context.settings.retain_days == 0:
            context.staging.destroy(Kind.MASKED, Kind.REJECTED, batch=batch)
