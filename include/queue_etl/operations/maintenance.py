"""Daily upkeep: what nobody finished is finished, what nobody needs is removed.

Four parts that do not depend on each other. Each may run at any time, beside pipelines and beside itself, and
again after a failure; each returns counts.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

from include.queue_etl import steps
from include.queue_etl.contract import Contract
from include.queue_etl.errors import QueueEtlError, RunFailed
from include.queue_etl.operations.upkeep import KnownRun
from include.queue_etl.operations.upkeep_pipeline import UpkeepPipeline
from include.queue_etl.staging import Kind, StagedRun

# Folders of runs the warehouse does not know may be all that is left of messages: after a restore,
# `reconcile` loads them. 14 days is the longest that SQS keeps a message and `retain_days` a masked file.
UNKNOWN_KEPT = timedelta(days=14)

Contracts = Mapping[str, Contract]
log = logging.getLogger(__name__)


def maintain_ledger(pipeline: UpkeepPipeline) -> dict[str, int]:
    """Make the ledger's partitions of the days to come; drop those older than `ledger_days`.

    Raises:
        WarehouseUnavailable: also when loads kept a partition locked for five seconds: try again
    """
    made = pipeline.warehouse.prepare_ledger_days()
    dropped = pipeline.warehouse.drop_ledger_days(pipeline.settings.ledger_days)
    return {"ledger_days_made": made, "ledger_days_dropped": dropped}


def expire_quarantine(pipeline: UpkeepPipeline) -> dict[str, int]:
    """Delete messages that are in quarantine for longer than `quarantine_days`."""
    days = pipeline.settings.quarantine_days
    expired, never_redriven = pipeline.warehouse.expire_quarantine(days)
    if never_redriven:
        log.warning(
            "%d messages were in quarantine for %d days and never redriven: deleted", never_redriven, days
        )
    return {"quarantine_expired": expired, "quarantine_never_redriven": never_redriven}


def settle_runs(pipeline: UpkeepPipeline, contracts: Contracts) -> dict[str, int]:
    """Finish the runs that nobody finished.

    An orphan is an open run without progress for the visibility timeout and `orphan_margin_seconds`: it is
    closed as failed. Its messages, and those whose receipts were staged after their run was closed, are
    deleted where the ledger proves them loaded, and given back otherwise.

    Returns:
        "orphans" closed; "late_receipts": closed runs that still had receipts; "unsettled": runs of either
        sort that could not be finished now, each with an error in the log
    """
    counts = Counter(orphans=0, late_receipts=0, unsettled=0)
    for kind, run_id, run in _unfinished(pipeline, contracts):
        log.warning("run %s (%s) was not finished: %s", run.airflow_run_id, run_id, kind)
        counts[kind if _is_finished(pipeline, contracts, run_id, run) else "unsettled"] += 1
    return dict(counts)


def close_ended_runs(
    pipeline: UpkeepPipeline, contracts: Contracts, has_ended: Callable[[str, str], bool]
) -> dict[str, int]:
    """Finish the open runs that their scheduler has ended: it starts no task of them any more.

    They are closed as failed, as orphans are, but at once. A task of such a run that is still being killed
    loses nothing: what it loads from then on counts 0, what it seals is a late receipt.

    Args:
        pipeline: gives queue, staging and warehouse
        contracts: by name; runs of others are left alone
        has_ended: given a contract and the name of a run, whether the scheduler says so; not so for runs that
            are none of its own, such as those of `drain`

    Returns:
        "ended" runs that are closed now; "unsettled": runs that could not be, each with an error in the log
    """
    counts = Counter(ended=0, unsettled=0)
    for run_id, contract, airflow_run_id, _ in pipeline.warehouse.idle_runs(list(contracts), 0):
        if has_ended(contract, airflow_run_id):
            log.warning("run %s (%s) was ended before its finish", airflow_run_id, run_id)
            run = KnownRun(contract, airflow_run_id, None)
            counts["ended" if _is_finished(pipeline, contracts, run_id, run) else "unsettled"] += 1
    return dict(counts)


def clean_staging(
    pipeline: UpkeepPipeline, now: datetime | None = None, *, broken: Collection[str] = ()
) -> dict[str, int]:
    """Remove staged files by the state of their run.

    | run | its files |
    |---|---|
    | open | stay |
    | closed | raw bodies, receipts and half-written files go; masked and rejected ones after `retain_days` |
    | unknown to the warehouse | stay for 14 days after the last write: `reconcile` may need them |
    | of a contract in `broken` | stay: nobody can say what they are needed for |

    Returns:
        number of runs: "expired" of which all files went, "tidied" of which some went, "unknown" that stay,
        "unknown_removed"
    """
    staged = pipeline.staging.runs()
    known = pipeline.warehouse.runs(staged)
    counts = Counter(expired=0, tidied=0, unknown=0, unknown_removed=0)
    for run_id, files in staged.items():
        run = known.get(run_id)
        if run is not None and run.contract in broken:
            continue
        done = _clean(pipeline, run_id, files, run, now or datetime.now(UTC))
        if done:
            counts[done] += 1
    if counts["unknown"]:
        log.warning(
            "%d staged runs are unknown to the warehouse: if it was restored, run reconcile",
            counts["unknown"],
        )
    return dict(counts)


def maintain(pipeline: UpkeepPipeline, contracts: Contracts, broken: Collection[str] = ()) -> dict[str, int]:
    """All four parts; one that fails does not keep the others from running.

    Runs of contracts in `broken`, which cannot be loaded, stay as they are, and so do their staged files.

    Raises:
        QueueEtlError: of the first part that failed, after the last
    """
    parts: tuple[Callable[[], dict[str, int]], ...] = (
        lambda: maintain_ledger(pipeline),
        lambda: expire_quarantine(pipeline),
        lambda: settle_runs(pipeline, contracts),
        lambda: clean_staging(pipeline, broken=broken),
    )
    counts: dict[str, int] = {}
    failures: list[QueueEtlError] = []
    for part in parts:
        try:
            counts |= part()
        except QueueEtlError as error:
            log.error("%s", error)
            failures.append(error)
    log.info("maintenance: %s", counts)
    if failures:
        raise failures[0]
    return counts


def _unfinished(pipeline: UpkeepPipeline, contracts: Contracts) -> Iterator[tuple[str, UUID, KnownRun]]:
    settings = pipeline.settings
    idle_seconds = settings.visibility_timeout_seconds + settings.orphan_margin_seconds
    for run_id, contract, airflow_run_id, _ in pipeline.warehouse.idle_runs(list(contracts), idle_seconds):
        yield "orphans", run_id, KnownRun(contract, airflow_run_id, None)
    staged = [run_id for run_id, files in pipeline.staging.runs().items() if files.batches(Kind.RECEIPTS)]
    for run_id, run in pipeline.warehouse.runs(staged).items():
        if run.closed_at and run.contract in contracts:
            yield "late_receipts", run_id, run


def _is_finished(pipeline: UpkeepPipeline, contracts: Contracts, run_id: UUID, run: KnownRun) -> bool:
    """Finish one run; whether that went well."""
    with pipeline.of_run(contracts[run.contract], run.airflow_run_id) as unfinished:
        if unfinished.run.id != run_id:
            log.error("run %s was not made by this engine: left alone", run_id)
            return False
        try:
            # Not the last attempt: without SQS it stays as it is, for the next maintenance.
            steps.finish(unfinished, upstream_failed=True, last_attempt=False)
        except RunFailed:
            return True  # that is how finish says that it closed the run as failed
        except QueueEtlError as error:
            log.error("run %s: %s", run.airflow_run_id, error)
            return False
    return True


def _clean(
    pipeline: UpkeepPipeline, run_id: UUID, files: StagedRun, run: KnownRun | None, now: datetime
) -> str:
    """What was done to the files of one run: a key of the counts, or nothing."""
    staging = pipeline.staging.of_run(run_id)
    if run is None:
        if now - datetime.fromtimestamp(files.written_at, UTC) < UNKNOWN_KEPT:
            return "unknown"
        staging.remove(files.names)
        return "unknown_removed"
    if run.closed_at is None:
        return ""
    if now - run.closed_at >= timedelta(days=pipeline.settings.retain_days):
        staging.remove(files.names)
        return "expired"
    staging.remove(files.leftovers)
    return "tidied" if files.leftovers else ""
