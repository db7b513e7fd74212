"""After a restore or a failover: load again, from the retained masked files, what the ledger misses.

Messages of finished runs are deleted from the queue, so that for what the database lost these files are the
only copy. They are kept for `retain_days`.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from uuid import UUID

from include.queue_etl.contract import Contract
from include.queue_etl.counts import in_words
from include.queue_etl.errors import StagedFileDamaged
from include.queue_etl.operations.store import MaintenanceStore
from include.queue_etl.postgres.runs import RunStore, RunTotals
from include.queue_etl.resources import Resources
from include.queue_etl.staging.area import BatchFile, FileList, Kind
from include.queue_etl.transform import copy_binary, kept
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch
from include.queue_etl.transform.quarantine import decode_lines, encode_lines

COUNTS = ("runs", "missing_runs", "batches", "loaded", "quarantined", "duplicates", "damaged")

log = logging.getLogger(__name__)


def reconcile(resources: Resources, contracts: Mapping[str, Contract]) -> dict[str, int]:
    """Load every masked file that has no commit record, of whatever run.

    The ledger decides on each message: what is there already counts as duplicate. Runs that the warehouse
    does not know are entered again; closed runs are left alone. Done again, it changes nothing.

    Args:
        resources: as role etl_maintainer
        contracts: by name; batches of others are left alone and counted as damaged

    Returns:
        "runs" looked at, "missing_runs" that the warehouse did not know, "batches" loaded now, of which
        messages "loaded", "quarantined", "duplicates"; "damaged" batches that could not be read

    Raises:
        WarehouseUnavailable, WarehouseRefused, StagingUnavailable: a repetition does the rest
    """
    resources.require_loading()
    staged = resources.staging.runs()
    known = MaintenanceStore(resources.database).runs(staged)
    totals = Counter(dict.fromkeys(COUNTS, 0))
    for run_id, files in staged.items():
        if files.batches(Kind.MASKED) and (run_id not in known or known[run_id].closed_at is None):
            totals["missing_runs"] += run_id not in known
            totals += _reconcile_run(resources, run_id, files, contracts)
        totals["runs"] += 1
    result = {name: totals[name] for name in COUNTS}
    log.info("reconciled: %s", in_words(result))
    return result


def _reconcile_run(
    resources: Resources, run_id: UUID, files: FileList, contracts: Mapping[str, Contract]
) -> Counter[str]:
    totals: Counter[str] = Counter()
    committed = RunStore(resources.database).committed_batches(run_id)
    for batch in files.batches(Kind.MASKED):
        if batch not in committed:
            totals += _reconcile_batch(resources, run_id, batch, contracts)
    # Receipt handles are destroyed when a run closes: without them nobody else will close it.
    if not files.batches(Kind.RECEIPT_HANDLES) and not totals["damaged"]:
        _close(resources, run_id)
    return totals


def _reconcile_batch(
    resources: Resources, run_id: UUID, batch: str, contracts: Mapping[str, Contract]
) -> Counter[str]:
    try:
        masked, rejected = _staged(resources, run_id, batch)
        contract = _contract_of(masked, contracts)
    except StagedFileDamaged as error:
        log.error("batch %s of run %s stays as it is: %s", batch, run_id, error)
        return Counter(damaged=1)
    run = RunStore(resources.database).open_run(run_id, contract, masked.run_name, {})
    masked.entries = copy_binary.of_queue(run.queue_id, masked.entries)
    rejected.lines = _of_queue(run.queue_id, rejected.lines)
    masked.kept = kept.encode_lines(
        line._replace(queue_id=run.queue_id) for line in kept.decode_lines(masked.kept)
    )
    counts = RunStore(resources.database).load(run_id, contract, batch, masked, rejected)
    log.info("batch %s of run %s: %s", batch, run_id, counts)
    return Counter(
        batches=1, loaded=counts.loaded, quarantined=counts.quarantined, duplicates=counts.duplicates
    )


def _staged(resources: Resources, run_id: UUID, batch: str) -> tuple[MaskedBatch, RejectedBatch]:
    staging = resources.staging.run(run_id)
    masked = staging.open(BatchFile(batch, Kind.MASKED), MaskedBatch)
    rejected = staging.open(BatchFile(batch, Kind.REJECTED), RejectedBatch) or RejectedBatch(b"")
    if masked is None or bool(masked.rejected) != bool(rejected.lines):
        raise StagedFileDamaged("its masked or rejected file is gone")
    return masked, rejected


def _contract_of(masked: MaskedBatch, contracts: Mapping[str, Contract]) -> Contract:
    if masked.contract not in contracts:
        raise StagedFileDamaged(f"its contract {masked.contract!r} cannot be loaded, or is gone")
    return contracts[masked.contract]


def _of_queue(queue_id: int, lines: bytes) -> bytes:
    """The same lines with the number the queue has now: a restored database may have given it another."""
    return encode_lines(line._replace(queue_id=queue_id) for line in decode_lines(lines))


def _close(resources: Resources, run_id: UUID) -> None:
    """Close it with the messages of all its batches: some may have been committed before the backup."""
    store = RunStore(resources.database)
    so_far = store.run_summary(run_id)
    store.record_extract(run_id, so_far["loaded"] + so_far["quarantined"] + so_far["duplicates"], 0.0)
    store.close_run(run_id, "succeeded", RunTotals())
