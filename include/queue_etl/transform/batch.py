"""A raw batch -> a masked batch and its rejected messages. Pure, given the keyset."""

from collections import Counter
from itertools import compress
from operator import not_
from typing import Any
from uuid import UUID

from msgspec import Struct

from include.queue_etl.contract import Contract, Rejected
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.settings import Settings
from include.queue_etl.transform import beside, copy_binary, copy_text, kept, partitions
from include.queue_etl.transform.batches import MaskedBatch, RawBatch, RejectedBatch, ids_digest
from include.queue_etl.transform.masking import Masker
from include.queue_etl.transform.parsing import TOO_MANY_RECEIVES, Parser
from include.queue_etl.transform.personal_check import Finding, PersonalCheck, counted, reason, sampled
from include.queue_etl.transform.quarantine import Original, PayloadCipher, QuarantineLine, encode_lines
from include.queue_etl.transform.shapes import Shapes
from include.queue_etl.transform.undeclared import Undeclared

LOADED, QUARANTINED = "L", "Q"


def mask_batch(
    raw: RawBatch, contract: Contract, keyset: Keyset, settings: Settings, run_id: UUID
) -> tuple[MaskedBatch, RejectedBatch]:
    """Parse, validate and mask every message; each ends in exactly one of rows and rejected.

    All lines keep the order of `raw` (by day, then id). The same batch and key give the same result.
    """
    parser, masker = Parser(contract, settings.body_limit_bytes), Masker(contract, keyset)
    days = copy_text.sent_days(raw.sent_ms)
    verdicts = _verdicts(raw, parser, settings.max_receives)
    for index, verdict in beside.rejected(contract, raw.facts).items():
        if not isinstance(verdicts[index], Rejected):
            verdicts[index] = verdict
    checked = _checked(raw, parser, contract, settings.personal_data_sample, verdicts)
    found = counted(checked.values())
    if contract.personal_data_check == "quarantine":
        for index, findings in checked.items():
            verdicts[index] = Rejected(reason(findings, found)) if findings else verdicts[index]
    is_rejected = [verdict.__class__ is Rejected for verdict in verdicts]
    is_accepted = list(map(not_, is_rejected))
    bad = compress(enumerate(verdicts), is_rejected)
    rejected = [(index, verdict) for index, verdict in bad if isinstance(verdict, Rejected)]
    events: list[Any] = list(compress(verdicts, is_accepted))
    facts = _facts(raw, days, is_accepted)
    rows = copy_text.row_lines(contract, events, facts, masker.mask)
    unknown = parser.with_unknown_fields(raw.bodies, verdicts)
    anomalies = {**masker.anomalies, "unknown_fields": len(unknown)}
    masked = MaskedBatch(
        ids_digest=ids_digest(raw.ids),
        entries=copy_binary.entries(
            raw.queue_id, run_id, days, raw.ids, [QUARANTINED if flag else LOADED for flag in is_rejected]
        ),
        rows=rows,
        accepted=len(events),
        rejected=dict(Counter(verdict.reason for _, verdict in rejected)),
        anomalies={kind: count for kind, count in anomalies.items() if count},
        sent_days=sorted(set(days)),
        key_id=keyset.primary_key_id,
        key_check=keyset.check_value(),
        unknown_fields=Undeclared(contract.event).count(unknown.values()) if unknown else {},
        partitions=partitions.of_rows(contract, events, facts),
        personal_data_checked=len(checked),
        personal_data_found=found,
    )
    if unknown and contract.unknown_fields == "keep":
        unusual = ((number, body, verdicts[number]) for number, body in unknown.items())
        masked.kept = kept.lines(raw, days, unusual, kept.Keeper(contract, keyset), run_id)
    cipher, shapes = PayloadCipher(keyset, contract.name), Shapes(contract)
    lines = [
        _quarantine_line(raw, index, days[index], verdict, cipher, shapes, run_id)
        for index, verdict in rejected
    ]
    return masked, RejectedBatch(encode_lines(lines))


def _verdicts(raw: RawBatch, parser: Parser, max_receives: int) -> list[Struct | Rejected]:
    """Event or Rejected for each message; one received too often is not parsed: it may kill the worker."""
    return [
        parser.parse(body) if receives <= max_receives else TOO_MANY_RECEIVES
        for body, receives in zip(raw.bodies, raw.receive_counts, strict=True)
    ]


def _checked(
    raw: RawBatch, parser: Parser, contract: Contract, one_in: int, verdicts: list[Struct | Rejected]
) -> dict[int, list[Finding]]:
    """Index -> what the personal data check found, for each accepted message that it looks at."""
    if contract.personal_data_check == "off":
        return {}
    # A guard that lets 99 of 100 pass is none: quarantine looks at every message.
    chosen = sampled(raw.ids, 1 if contract.personal_data_check == "quarantine" else one_in)
    accepted = [index for index in chosen if verdicts[index].__class__ is not Rejected]
    check = PersonalCheck(contract)
    return {
        index: check.findings(parser.event_body(raw.bodies[index]), raw.facts_of(index)) for index in accepted
    }


def _facts(raw: RawBatch, days: list[str], is_accepted: list[bool]) -> copy_text.Facts:
    """Those of the accepted messages."""

    def of_accepted(values: list[Any]) -> list[Any]:
        return list(compress(values, is_accepted))

    return copy_text.Facts(
        of_accepted(raw.ids),
        of_accepted(days),
        of_accepted(raw.sent_ms),
        of_accepted(raw.receive_counts),
        {field: of_accepted(values) for field, values in raw.facts.items()},
    )


def _quarantine_line(
    raw: RawBatch,
    index: int,
    day: str,
    verdict: Rejected,
    cipher: PayloadCipher,
    shapes: Shapes,
    run_id: UUID,
) -> QuarantineLine:
    message_id, body = raw.ids[index], raw.bodies[index]
    return QuarantineLine(
        queue_id=raw.queue_id,
        sent_day=day,
        message_id=message_id,
        run_id=run_id,
        reason=verdict.reason,
        payload=cipher.encrypt(message_id, Original(body, raw.sent_ms[index], raw.facts_of(index))),
        payload_bytes=len(body),
        receive_count=raw.receive_counts[index],
        shape=shapes.of_rejected(body, verdict.reason),
    )
