"""The raw batches that closed runs leave for `replay`, rewritten: for erasure and for new keys."""

from collections import Counter
from collections.abc import Callable

from include.queue_etl.privacy.retained_files import open_or_count
from include.queue_etl.staging.area import BatchFile, Kind, StagedRun
from include.queue_etl.transform.batches import RawBatch, chosen
from include.queue_etl.transform.quarantine import Original


def erase(staging: StagedRun, is_in: Callable[[bytes], bool], *, dry_run: bool = False) -> Counter[str]:
    """Remove the messages in which something is; the others stay as they were received.

    Args:
        staging: of a closed run
        is_in: given a body or an attribute as JSON, whether the message is to go
        dry_run: only count

    Returns:
        "files" rewritten, "messages" removed; "damaged" files, which do not open and stay as they are

    Raises:
        StagingUnavailable: files rewritten so far stay so; a repetition does the rest
    """
    counts: Counter[str] = Counter()
    for batch in staging.batches(Kind.RAW):
        file = BatchFile(batch, Kind.RAW)
        raw = open_or_count(staging, file, RawBatch, counts)
        gone = _mentioned(raw, is_in) if raw else []
        if raw is None or not any(gone):
            continue
        counts["files"] += 1
        counts["messages"] += sum(gone)
        if not dry_run:
            staging.seal(file, chosen(raw, [not is_gone for is_gone in gone]))
    return counts


def reseal(staging: StagedRun, to_key: int) -> Counter[str]:
    """Seal the files anew that another key sealed.

    Args:
        staging: of a closed run
        to_key: id of the keyset's primary key

    Returns:
        as `erase`

    Raises:
        StagingUnavailable: files rewritten so far stay so; a repetition does the rest
    """
    counts: Counter[str] = Counter()
    for batch in staging.batches(Kind.RAW):
        file = BatchFile(batch, Kind.RAW)
        if staging.key_of(file) == to_key:
            continue
        if raw := open_or_count(staging, file, RawBatch, counts):
            staging.seal(file, raw)
            counts["files"] += 1
    return counts


def _mentioned(raw: RawBatch, is_in: Callable[[bytes], bool]) -> list[bool]:
    """For each message whether something is in its body or its attributes."""
    originals = (Original(body, facts=raw.facts_of(number)) for number, body in enumerate(raw.bodies))
    return [any(map(is_in, [one.body, *one.facts_as_json()])) for one in originals]
