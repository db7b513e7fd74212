"""The staged files that closed runs leave for `reconcile`, rewritten: for erasure and for new keys."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.queue_etl.contract import Contract
from include.queue_etl.errors import StagedFileDamaged
from include.queue_etl.staging.area import RETAINED, BatchFile, Content, Kind, StagedRun
from include.queue_etl.transform import json_values, kept
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch
from include.queue_etl.transform.copy_text import escaped, unescaped
from include.queue_etl.transform.quarantine import QuarantineLine, decode_lines, encode_lines

Row = list[str]  # COPY text of one row, in the order of the contract's columns
log = logging.getLogger(__name__)
ERASED = "erased"  # the reason that stands where a message was


@dataclass(frozen=True, slots=True)
class Change:
    """What to do with each row and each encrypted payload.

    Attributes:
        row: the row as it has to be; itself where nothing is to be done
        payload: message id and payload -> the payload as it has to be; empty where it is erased
        kept_fields: the same of the payloads beside rows
    """

    row: Callable[[Row], Row]
    payload: Callable[[str, bytes], bytes]
    kept_fields: Callable[[str, bytes], bytes]


def with_changes(text: str, path: str, change: Callable[[Any], Any]) -> str:
    """COPY text of a column with its value changed, or everything at a path inside it; NULL stays.

    Args:
        text: of one column
        path: inside a jsonb column; empty where the column itself is the value
        change: the value -> the value as it has to be; itself where nothing is to be done, None for NULL
    """
    value = unescaped(text)
    if value is None:
        return text
    new = json_values.changed(value, path, change) if path else change(value)
    return text if new == value else escaped(new)


def rewrite(
    staging: StagedRun,
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
        "files" rewritten, "rows", "payloads" and "kept_fields" changed; "damaged" files, which do not open
        and stay as they are

    Raises:
        StagingUnavailable: files rewritten so far stay so; a repetition does the rest
    """
    counts: Counter[str] = Counter()
    # Either kind may lie there alone: a task that was killed had written no more.
    for batch in sorted({batch for kind in RETAINED for batch in staging.batches(kind)}):
        counts += _rewrite_batch(staging, batch, contracts, change_of, to_key, dry_run)
    return counts


def _rewrite_batch(
    staging: StagedRun,
    batch: str,
    contracts: Mapping[str, Contract],
    change_of: Callable[[Contract], Change],
    to_key: int | None,
    dry_run: bool,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    masked = open_or_count(staging, BatchFile(batch, Kind.MASKED), MaskedBatch, counts)
    # Without the masked file nobody knows whose messages were rejected. A payload opens only as what it is.
    concerned = contracts if masked is None else contracts.keys() & {masked.contract}
    changes = [change_of(contracts[name]) for name in concerned]
    if not changes:
        return counts
    rejected = open_or_count(staging, BatchFile(batch, Kind.REJECTED), RejectedBatch, counts)
    counts["rows"] = _rows(masked, changes[0], to_key) if masked else 0
    counts["kept_fields"] = _kept_fields(masked, changes[0]) if masked else 0
    counts["payloads"] = _payloads(rejected, changes) if rejected else 0
    # Rejected first: the masked file stands for the whole of the batch.
    for kind, content, found in (
        (Kind.REJECTED, rejected, counts["payloads"]),
        (Kind.MASKED, masked, counts["rows"] + counts["kept_fields"]),
    ):
        file = BatchFile(batch, kind)
        if content is None or not (found or (to_key and staging.key_of(file) != to_key)):
            continue
        counts["files"] += 1
        if not dry_run:
            staging.seal(file, content)
    return counts


def open_or_count(
    staging: StagedRun, file: BatchFile, content_type: type[Content], counts: Counter[str]
) -> Content | None:
    """The file's content; None where there is none, or it is damaged, which is counted."""
    try:
        return staging.open(file, content_type)
    except StagedFileDamaged as error:  # nobody can read it, so nothing of it can be loaded either
        log.warning("%s; it is left alone", error)
        counts["damaged"] += 1
        return None


def _rows(masked: MaskedBatch, change: Change, to_key: int | None) -> int:
    """Change the rows of a batch; returns how many changed."""
    # Not splitlines: it also splits at characters that COPY text holds unescaped, such as U+2028.
    rows = [line.split("\t") for line in masked.rows.decode().split("\n")[:-1]]
    new = [change.row(row) for row in rows]
    masked.rows = "".join(["\t".join(row) + "\n" for row in new]).encode()
    masked.key_id = to_key or masked.key_id
    return sum(before != after for before, after in zip(rows, new, strict=True))


def _kept_fields(masked: MaskedBatch, change: Change) -> int:
    """Change the kept fields of a batch, whose lines go where they are erased; returns how many changed."""
    lines = kept.decode_lines(masked.kept)
    new = [line._replace(payload=change.kept_fields(line.message_id, line.payload)) for line in lines]
    masked.kept = kept.encode_lines(line for line in new if line.payload)
    return sum(before != after for before, after in zip(lines, new, strict=True))


def _payloads(rejected: RejectedBatch, changes: Sequence[Change]) -> int:
    """Change the payloads of a batch's rejected messages; returns how many changed."""
    lines = decode_lines(rejected.lines)
    new = [_changed(line, changes) for line in lines]
    rejected.lines = encode_lines(new)
    return sum(before != after for before, after in zip(lines, new, strict=True))


def _changed(line: QuarantineLine, changes: Sequence[Change]) -> QuarantineLine:
    payload = line.payload
    for change in changes:
        payload = change.payload(line.message_id, payload)
    if not payload:
        return line._replace(payload=payload, reason=ERASED, payload_bytes=0, shape=None)
    return line._replace(payload=payload)
