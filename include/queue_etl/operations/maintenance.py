"""Daily maintenance: closes abandoned runs, deletes expired data, and checks that the numbers agree.

Six parts that do not depend on each other. Each may run at any time, beside pipelines and beside itself, and
again after a failure; each returns counts.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from uuid import UUID

from include.queue_etl import steps
from include.queue_etl.contract import Contract
from include.queue_etl.counts import in_words
from include.queue_etl.errors import QueueEtlError, RunFailed
from include.queue_etl.log_fields import bound
from include.queue_etl.operations import verify
from include.queue_etl.operations.alerts import AlertStore
from include.queue_etl.operations.shapes import fill_shapes
from include.queue_etl.operations.store import KnownRun, MaintenanceStore
from include.queue_etl.postgres.runs import RunStore
from include.queue_etl.resources import Resources
from include.queue_etl.run_context import RunContext
from include.queue_etl.staging.area import RETAINED, BatchFile, FileList, Kind
from include.queue_etl.transform import partitions

# Folders of runs the warehouse does not know may be all that is left of messages: after a restore,
# `reconcile` loads them. 14 days is the longest that SQS keeps a message and `retain_days` a masked file.
UNKNOWN_KEPT = timedelta(days=14)

Contracts = Mapping[str, Contract]
log = logging.getLogger(__name__)


def maintain_ledger(resources: Resources) -> dict[str, int]:
    """Make the ledger's partitions of the days to come; drop those older than `ledger_days`.

    Raises:
        WarehouseUnavailable: also when loads kept a partition locked for five seconds: try again
    """
    made = MaintenanceStore(resources.database).prepare_ledger_days()
    dropped = MaintenanceStore(resources.database).drop_ledger_days(resources.settings.ledger_days)
    return {"ledger_days_made": made, "ledger_days_dropped": dropped}


def maintain_partitions(resources: Resources, contracts: Contracts) -> dict[str, int]:
    """Make the partitions that contracts will need next; drop those whose last day `retain_days` is past.

    With them go the kept fields of messages that were sent longer ago than that.

    The log names each contract's partitions before they are dropped. The ledger keeps the messages' ids, so
    none of them is loaded again.

    Raises:
        QueueEtlError: of the first contract that failed, after the last; WarehouseUnavailable also when
            somebody kept a table locked for five seconds: try again
    """
    counts, failures = Counter(partitions_made=0, partitions_dropped=0, kept_fields_expired=0), []
    for contract in chain.from_iterable(one.each_table() for one in contracts.values()):
        try:
            counts.update(_maintain_table(MaintenanceStore(resources.database), contract))
        except QueueEtlError as error:
            log.error("partitions of %s: %s", contract.table, error)
            failures.append(error)
    if failures:
        raise failures[0]
    return dict(counts)


def _maintain_table(store: MaintenanceStore, contract: Contract) -> dict[str, int]:
    if contract.partition_by is None:
        return {}
    days = partitions.ahead(contract.partition_by, datetime.now(UTC).date())
    counts = {"partitions_made": store.prepare_partitions(contract.table, days), "partitions_dropped": 0}
    if expired := store.expired_partitions(contract.table):
        log.info("%s: its rows are older than %s days: %s", contract.name, contract.retain_days, expired)
        counts["partitions_dropped"] = store.drop_partitions(contract.table)
    if contract.retain_days:
        expired_fields = store.expire_kept_fields(contract.queue, contract.retain_days)
        counts["kept_fields_expired"] = expired_fields
    if any(counts.values()):
        log.info("%s: %s", contract.name, in_words(counts))
    return counts


def expire_quarantine(resources: Resources) -> dict[str, int]:
    """Delete messages that are in quarantine for longer than `quarantine_days`."""
    days = resources.settings.quarantine_days
    expired, never_redriven = MaintenanceStore(resources.database).expire_quarantine(days)
    if never_redriven:
        log.warning(
            "%d messages were in quarantine for %d days and never redriven: deleted", never_redriven, days
        )
    return {"quarantine_expired": expired, "quarantine_never_redriven": never_redriven}


def maintain_quarantine(resources: Resources, contracts: Contracts) -> dict[str, int]:
    """Delete what is expired; give what earlier versions quarantined its shape."""
    return expire_quarantine(resources) | fill_shapes(resources, contracts)


def settle_runs(resources: Resources, contracts: Contracts) -> dict[str, int]:
    """Finish the runs that nobody finished.

    An orphan is an open run without progress for the visibility timeout and `orphan_margin_seconds`: it is
    closed as failed. Its messages, and those whose receipt handles were staged after their run was closed,
    are deleted where the ledger proves them loaded, and released otherwise.

    Returns:
        "orphans" closed; "late_receipt_handles": closed runs that still had receipt handles; "unsettled":
        runs of either sort that could not be finished now, each with an error in the log
    """
    counts = Counter(orphans=0, late_receipt_handles=0, unsettled=0)
    for kind, run_id, run in _unfinished(resources, contracts):
        log.warning("run %s (%s) was not finished: %s", run.run_name, run_id, kind)
        counts[kind if _is_finished(resources, contracts, run_id, run) else "unsettled"] += 1
    return dict(counts)


def close_ended_runs(
    resources: Resources, contracts: Contracts, has_ended: Callable[[str, str], bool]
) -> dict[str, int]:
    """Finish the open runs that their scheduler has ended: it starts no task of them any more.

    They are closed as failed, as orphans are, but at once. A task of such a run that is still being killed
    loses nothing: what it loads from then on counts 0, what it seals has late receipt handles.

    Args:
        resources: as role etl_maintainer
        contracts: by name; runs of others are left alone
        has_ended: given a contract and the name of a run, whether the scheduler says so; not so for runs that
            are none of its own, such as those of `drain`

    Returns:
        "ended" runs that are closed now; "unsettled": runs that could not be, each with an error in the log
    """
    counts = Counter(ended=0, unsettled=0)
    idle_runs = MaintenanceStore(resources.database).idle_runs(list(contracts), 0)
    for run_id, contract, run_name, _ in idle_runs:
        if has_ended(contract, run_name):
            log.warning("run %s (%s) was ended before its finish", run_name, run_id)
            run = KnownRun(contract, run_name, None)
            counts["ended" if _is_finished(resources, contracts, run_id, run) else "unsettled"] += 1
    return dict(counts)


def clean_staging(
    resources: Resources,
    contracts: Contracts,
    now: datetime | None = None,
    *,
    broken: Collection[str] = (),
) -> dict[str, int]:
    """Remove staged files by the state of their run. Their days count from the end of the run.

    | run | its files |
    |---|---|
    | open | stay |
    | closed | raw ones of loaded batches stay for `archive_days`, masked and rejected for `retain_days` |
    | closed | all others go |
    | unknown to the warehouse | stay for 14 days after the last write: `reconcile` may need them |
    | of a contract in `broken` | stay: nobody can say what they are needed for |

    Returns:
        number of runs: "expired" of which all files went, "tidied" of which some went, "unknown" that stay,
        "unknown_removed"
    """
    staged = resources.staging.runs()
    known = MaintenanceStore(resources.database).runs(staged)
    counts = Counter(expired=0, tidied=0, unknown=0, unknown_removed=0)
    for run_id, files in staged.items():
        run = known.get(run_id)
        if run is not None and run.contract in broken:
            continue
        done = _clean(resources, contracts, run_id, files, run, now or datetime.now(UTC))
        if done:
            counts[done] += 1
    if counts["unknown"]:
        log.warning(
            "%d staged runs are unknown to the warehouse: if it was restored, run reconcile",
            counts["unknown"],
        )
    return dict(counts)


def verify_days(resources: Resources, contracts: Contracts) -> dict[str, int]:
    """Verify yesterday, and each day whose numbers did not agree the last time; raises and ends their alerts.

    The alert of a day that the ledger has forgotten is ended: nobody can verify it any more.

    Returns:
        "verified": tables and days that agree

    Raises:
        NumbersDisagree: some do not; their alerts are raised
    """
    days = {(name, verify.yesterday()) for name in contracts}
    days |= {(name, date.fromisoformat(day)) for name, day in AlertStore(resources.database).verify_days()}
    oldest = datetime.now(UTC).date() - timedelta(days=resources.settings.ledger_days)
    found = list[verify.Verified]()
    for name, day in sorted(days):
        if day < oldest:  # nobody can verify it any more
            verify.report(resources, [name], day, [])
        elif name in contracts:
            own = {name: contracts[name]}
            verified = verify.verify(resources, own, day)
            verify.report(resources, [name], day, verified)
            found += verified
    verify.refuse(found)
    return {"verified": len(found)}


def maintain(resources: Resources, contracts: Contracts, broken: Collection[str] = ()) -> dict[str, int]:
    """All six parts; one that fails does not keep the others from running.

    Runs of contracts in `broken`, which cannot be loaded, stay as they are, and so do their staged files.

    Raises:
        QueueEtlError: of the first part that failed, after the last
    """
    parts: tuple[Callable[[], dict[str, int]], ...] = (
        lambda: maintain_ledger(resources),
        lambda: maintain_partitions(resources, contracts),
        lambda: maintain_quarantine(resources, contracts),
        lambda: settle_runs(resources, contracts),
        lambda: clean_staging(resources, contracts, broken=broken),
        lambda: verify_days(resources, contracts),
    )
    counts: dict[str, int] = {}
    failures: list[QueueEtlError] = []
    for part in parts:
        try:
            counts |= part()
        except QueueEtlError as error:
            log.error("%s", error)
            failures.append(error)
    log.info("maintenance: %s", in_words(counts))
    if failures:
        raise failures[0]
    return counts


def _unfinished(resources: Resources, contracts: Contracts) -> Iterator[tuple[str, UUID, KnownRun]]:
    for name, contract in contracts.items():
        idle_seconds = _hidden_seconds(resources, contract) + resources.settings.orphan_margin_seconds
        for run_id, _, run_name, _ in MaintenanceStore(resources.database).idle_runs([name], idle_seconds):
            yield "orphans", run_id, KnownRun(name, run_name, None)
    staged = [
        run_id for run_id, files in resources.staging.runs().items() if files.batches(Kind.RECEIPT_HANDLES)
    ]
    for run_id, run in MaintenanceStore(resources.database).runs(staged).items():
        if run.closed_at and run.contract in contracts:
            yield "late_receipt_handles", run_id, run


def _hidden_seconds(resources: Resources, contract: Contract) -> int:
    """How long messages of the contract stay hidden."""
    default = resources.settings.visibility_timeout_seconds
    return contract.settings.get("visibility_timeout_seconds", default)


def _is_finished(resources: Resources, contracts: Contracts, run_id: UUID, run: KnownRun) -> bool:
    """Finish one run; whether that went well."""
    context = RunContext(resources, contracts[run.contract], run.run_name)
    if context.run.id != run_id:
        log.error("run %s was not made by this engine: left alone", run_id)
        return False
    try:
        # Not the last attempt: without SQS it stays as it is, for the next maintenance.
        with bound(contract=run.contract, run=run.run_name):
            steps.finish(context, upstream_failed=True, last_attempt=False)
    except RunFailed:
        return True  # finish closed the run as failed
    except QueueEtlError as error:
        log.error("run %s: %s", run.run_name, error)
        return False
    return True


def _clean(
    resources: Resources,
    contracts: Contracts,
    run_id: UUID,
    files: FileList,
    run: KnownRun | None,
    now: datetime,
) -> str:
    """What was done to the files of one run: a key of the counts, or nothing."""
    staging = resources.staging.run(run_id)
    if run is None:
        if now - datetime.fromtimestamp(files.written_at, UTC) < UNKNOWN_KEPT:
            return "unknown"
        staging.remove(files.names)
        return "unknown_removed"
    if run.closed_at is None:
        return ""
    age, kept = now - run.closed_at, set[BatchFile]()
    if age < timedelta(days=resources.settings.retain_days):
        kept |= {BatchFile(batch, kind) for kind in RETAINED for batch in files.batches(kind)}
    if age < timedelta(days=resources.archive_days(contracts.get(run.contract))):
        kept |= _archived(resources, run_id, files)
    names = {file.name for file in kept}
    gone = [name for name in files.names if name not in names]
    staging.remove(gone)
    return "expired" if not kept else "tidied" if gone else ""


def _archived(resources: Resources, run_id: UUID, files: FileList) -> set[BatchFile]:
    """Raw files of loaded batches; messages of the others are on the queue again."""
    raw = files.batches(Kind.RAW)
    proven = RunStore(resources.database).committed_batches(run_id) if raw else {}
    return {BatchFile(batch, Kind.RAW) for batch in raw if batch in proven}
