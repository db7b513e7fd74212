"""After a restore or a failover: load again, from the retained masked files, what the ledger misses.

Messages of finished runs are deleted from the queue, so that for what the database lost these files are the
only copy. They are kept for `retain_days`.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable
from uuid import UUID

from include.queue_etl import copybinary
from include.queue_etl.batches import MaskedBatch, RejectedBatch
from include.queue_etl.contract import Contract
from include.queue_etl.errors import ContractBroken, StagedFileDamaged
from include.queue_etl.operations.upkeep_pipeline import UpkeepPipeline
from include.queue_etl.staging import BatchFile, Kind, StagedRun

COUNTS = ("runs", "missing_runs", "batches", "loaded", "quarantined", "duplicates", "damaged")
_QUEUE_ID = re.compile(rb"^[0-9]+\t", re.MULTILINE)

log = logging.getLogger(__name__)


def reconcile(pipeline: UpkeepPipeline, contracts: Callable[[str], Contract]) -> dict[str, int]:
    """Load every masked file that has no commit record, whoever made it.

    The ledger decides on each message: what is there already counts as duplicate. Runs that the warehouse
    does not know are entered again; closed runs are left alone. Done again, it changes nothing.

    Args:
        pipeline: gives staging and warehouse; its contract and run do not matter
        contracts: a contract by its name; raises KeyError or ContractBroken

    Returns:
        "runs" looked at, "missing_runs" that the warehouse did not know, "batches" loaded now, of which
        messages "loaded", "quarantined", "duplicates"; "damaged" batches that could not be read

    Raises:
        WarehouseUnavailable, WarehouseRefused, StagingUnavailable: a repetition does the rest
    """
    pipeline.check_warehouse()
    staged = pipeline.staging.runs()
    known = pipeline.warehouse.runs(staged)
    totals = Counter(dict.fromkeys(COUNTS, 0))
    for run_id, files in staged.items():
        if files.batches(Kind.MASKED) and (run_id not in known or known[run_id].closed_at is None):
            totals["missing_runs"] += run_id not in known
            totals += _reconcile_run(pipeline, run_id, files, contracts)
        totals["runs"] += 1
    result = {name: totals[name] for name in COUNTS}
    log.info("reconciled: %s", result)
    return result


def _reconcile_run(
    pipeline: UpkeepPipeline, run_id: UUID, files: StagedRun, contracts: Callable[[str], Contract]
) -> Counter[str]:
    totals: Counter[str] = Counter()
    committed = pipeline.warehouse.committed_batches(run_id)
    for batch in files.batches(Kind.MASKED):
        if batch not in committed:
            totals += _reconcile_batch(pipeline, run_id, batch, contracts)
    # Receipts are destroyed when a run closes: without them it was closed, and nobody else will close it.
    if not files.batches(Kind.RECEIPTS) and not totals["damaged"]:
        _close(pipeline, run_id, totals)
    return totals


def _reconcile_batch(
    pipeline: UpkeepPipeline, run_id: UUID, batch: str, contracts: Callable[[str], Contract]
) -> Counter[str]:
    try:
        masked, rejected = _staged(pipeline, run_id, batch)
        contract = contracts(masked.contract)
    except (StagedFileDamaged, KeyError, ContractBroken) as error:
        log.error("batch %s of run %s stays as it is: %s", batch, run_id, error)
        return Counter(damaged=1)
    run = pipeline.warehouse.open_run(run_id, contract, masked.airflow_run_id, {})
    masked.entries = copybinary.of_queue(run.queue_id, masked.entries)
    rejected.lines = _of_queue(run.queue_id, rejected.lines)
    counts = pipeline.warehouse.load(run_id, contract, batch, masked, rejected)
    log.info("batch %s of run %s: %s", batch, run_id, counts)
    return Counter(
        batches=1, loaded=counts.loaded, quarantined=counts.quarantined, duplicates=counts.duplicates
    )


def _staged(pipeline: UpkeepPipeline, run_id: UUID, batch: str) -> tuple[MaskedBatch, RejectedBatch]:
    staging = pipeline.staging.of_run(run_id)
    masked = staging.open(BatchFile(batch, Kind.MASKED), MaskedBatch)
    rejected = staging.open(BatchFile(batch, Kind.REJECTED), RejectedBatch) or RejectedBatch(b"")
    if masked is None or bool(masked.rejected) != bool(rejected.lines):
        raise StagedFileDamaged("its masked or rejected file is gone")
    return masked, rejected


def _of_queue(queue_id: int, lines: bytes) -> bytes:
    """The same lines with the number the queue has now: a restored database may have given it another."""
    return _QUEUE_ID.sub(b"%d\t" % queue_id, lines)


def _close(pipeline: UpkeepPipeline, run_id: UUID, totals: Counter[str]) -> None:
    received = totals["loaded"] + totals["quarantined"] + totals["duplicates"]
    pipeline.warehouse.record_extract(run_id, received, 0.0)
    pipeline.warehouse.close_run(
        run_id, "succeeded", deleted=0, delete_failed=0, released=0, visible_after=None, finish_seconds=0.0
    )
