"""The staged files that closed runs leave for `reconcile`, rewritten: for erasure and for new keys."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from include.queue_etl.batches import MaskedBatch, RejectedBatch
from include.queue_etl.contract import Contract
from include.queue_etl.errors import StagedFileDamaged
from include.queue_etl.staging import BatchFile, Kind, Staging

Row = list[str]  # COPY text of one row, in the order of the contract's columns
REASON, PAYLOAD, SIZE = 4, 5, 6  # columns of a quarantine line (copytext.quarantine_line)
log = logging.getLogger(__name__)
ERASED = "erased"  # the reason that stands where a message was


@dataclass(frozen=True, slots=True)
class Change:
    """What to do with each row and each sealed payload.

    Attributes:
        row: the row as it has to be; itself where nothing is to be done
        payload: message id and sealed payload -> the payload as it has to be; empty where it is erased
    """

    row: Callable[[Row], Row]
    payload: Callable[[str, bytes], bytes]


def rewrite(
    staging: Staging,
    contracts: Mapping[str, Contract],
    change_of: Callable[[Contract], Change],
    to_key: int | None = None,
    dry_run: bool = False,
) -> Counter[str]:
    """Change the retained files of one closed run.

    Args:
        staging: of the run
        contracts: those to look at, by name; batches of others are left alone
        change_of: makes the change of a contract's batches
        to_key: id of the keyset's primary key; with it, files sealed with another are sealed anew
        dry_run: only count

    Returns:
        "files" rewritten, "rows" and "payloads" changed; "damaged" batches, which do not open and stay as
        they are

    Raises:
        StagingUnavailable: files rewritten so far stay so; a repetition does the rest
    """
    counts: Counter[str] = Counter()
    for batch in staging.batches(Kind.MASKED):
        try:
            counts += _rewrite_batch(staging, batch, contracts, change_of, to_key, dry_run)
        except StagedFileDamaged as error:  # nobody can read it, so nothing of it can be loaded either
            log.warning("%s; it is left alone", error)
            counts["damaged"] += 1
    return counts


def _rewrite_batch(
    staging: Staging,
    batch: str,
    contracts: Mapping[str, Contract],
    change_of: Callable[[Contract], Change],
    to_key: int | None,
    dry_run: bool,
) -> Counter[str]:
    masked = staging.open(BatchFile(batch, Kind.MASKED), MaskedBatch)
    if masked is None or masked.contract not in contracts:
        return Counter()
    change = change_of(contracts[masked.contract])
    rejected = staging.open(BatchFile(batch, Kind.REJECTED), RejectedBatch)
    found = {Kind.MASKED: _rows(masked, change, to_key), Kind.REJECTED: _payloads(rejected, change)}
    counts = Counter(rows=found[Kind.MASKED], payloads=found[Kind.REJECTED])
    # Rejected first: the masked file stands for the whole of the batch.
    for kind, content in ((Kind.REJECTED, rejected), (Kind.MASKED, masked)):
        file = BatchFile(batch, kind)
        if content is None or not (found[kind] or (to_key and staging.key_of(file) != to_key)):
            continue
        counts["files"] += 1
        if not dry_run:
            staging.seal(file, content)
    return counts


def _rows(masked: MaskedBatch, change: Change, to_key: int | None) -> int:
    """Change the rows of a batch; returns how many changed."""
    # Not splitlines: it also splits at characters that COPY text holds unescaped, such as U+2028.
    rows = [line.split("\t") for line in masked.rows.decode().split("\n")[:-1]]
    new = [change.row(row) for row in rows]
    masked.rows = "".join(["\t".join(row) + "\n" for row in new]).encode()
    masked.key_id = to_key or masked.key_id
    return sum(before != after for before, after in zip(rows, new, strict=True))


def _payloads(rejected: RejectedBatch | None, change: Change) -> int:
    """Change the payloads of a batch's rejected messages; returns how many changed."""
    if rejected is None:
        return 0
    lines = [line.split("\t") for line in rejected.lines.decode().split("\n")[:-1]]
    new = [_line(line, change) for line in lines]
    rejected.lines = "".join(["\t".join(line) + "\n" for line in new]).encode()
    return sum(before != after for before, after in zip(lines, new, strict=True))


def _line(line: list[str], change: Change) -> list[str]:
    head = r"\\x"
    payload = change.payload(line[2], bytes.fromhex(line[PAYLOAD].removeprefix(head)))
    new = [*line]
    new[PAYLOAD] = head + payload.hex()
    if not payload:
        new[REASON], new[SIZE] = ERASED, "0"
    return new
