"""What a batch is at each stage: the contents of the staged files, one struct a kind."""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import msgspec

MILLISECONDS_A_DAY = 86_400_000  # from `sent_ms` to the day of the ledger


# Staged files have the names of their fields in them: what a field was called when files of that name were
# first written, it is called there for good.
class ReceiptHandles(msgspec.Struct, rename={"handles": "receipts"}):
    """What finish needs: which messages the batch holds, and how to delete or release them.

    Attributes:
        ids: ledger ids (lower-case UUIDs)
        handles: SQS receipt handles, in the order of `ids`
        oldest_age_seconds: of the oldest of the messages, when the batch was sealed; 0 in files of versions
            that did not keep it
    """

    ids: list[str]
    handles: list[str]
    oldest_age_seconds: int = 0

    @property
    def digest(self) -> bytes:
        """Stands for the batch's messages in its commit record."""
        return ids_digest(self.ids)


class RawBatch(msgspec.Struct):
    """Messages as received, in columns, sorted by day, then id: every loader then locks in one order.

    Attributes:
        queue_id: of etl.queues
        ids: ledger ids (lower-case UUIDs)
        sent_ms: SQS SentTimestamp, milliseconds since 1970
        receive_counts: SQS ApproximateReceiveCount
        bodies: UTF-8
        facts: field of a column that SQS was asked for -> what each message says: None where it says
            nothing, bytes where it is no text. Empty where the contract has no such column, and in files of
            versions before
    """

    queue_id: int
    ids: list[str]
    sent_ms: list[int]
    receive_counts: list[int]
    bodies: list[bytes]
    # Any: msgspec has no union of str and bytes.
    facts: dict[str, list[Any]] = {}

    def facts_of(self, index: int) -> dict[str, str | bytes]:
        """What one message says, of what SQS was asked for."""
        return {field: value for field, values in self.facts.items() if (value := values[index]) is not None}


class RejectedBatch(msgspec.Struct):
    """The batch's rejected messages.

    Attributes:
        lines: COPY text of etl.quarantine (quarantine.QuarantineLine), in the order of the entries of status
            Q; every payload is encrypted
    """

    lines: bytes


class MaskedBatch(msgspec.Struct, rename={"anomalies": "odd", "run_name": "airflow_run_id"}):
    """A batch ready to load; holds no personal data but what is encrypted.

    Attributes:
        ids_digest: of all messages of the batch
        entries: of etl.ledger (copy_binary), one a message, sorted by day, then id
        rows: COPY text of the contract's table, in the order of the entries of status L
        accepted: number of rows
        rejected: number of rejected messages by reason
        anomalies: what loads although it is unusual: messages with `unknown_fields`, distinct values that are
            `blank` or `not_an_address`
        sent_days: ISO dates on which the messages were sent
        key_id: of the key that masked
        key_check: that key's check value
        mask_seconds: time mask took
        contract: its name; with the run's, what a warehouse that lost the run has to be told
        run_name: of the batch's run
        unknown_fields: path -> accepted messages that have a field which no struct declares
        personal_data_checked: messages that the personal data check looked at; 0 in files of versions before
        personal_data_found: path -> kind -> messages of those, also the ones that it sends to quarantine
        partitions: ISO first days of the partitions that the rows go to; empty where the table has none, and
            in files of versions before
        kept: COPY text of etl.kept_fields (kept.KeptLine), in the order of the entries; every payload is
            encrypted
    """

    ids_digest: bytes
    entries: bytes
    rows: bytes
    accepted: int
    rejected: dict[str, int]
    anomalies: dict[str, int]
    sent_days: list[str]
    key_id: int
    key_check: str = ""
    mask_seconds: float = 0.0
    contract: str = ""
    run_name: str = ""
    unknown_fields: dict[str, int] = {}
    partitions: list[str] = []
    personal_data_checked: int = 0
    personal_data_found: dict[str, dict[str, int]] = {}
    kept: bytes = b""


def ids_digest(ids: Iterable[str]) -> bytes:
    """SHA-256 over the sorted ids of a batch's messages."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).digest()


def chosen(raw: RawBatch, flags: Sequence[bool]) -> RawBatch:
    """The batch with the messages that have a flag, in their order."""
    return RawBatch(
        raw.queue_id,
        ids=[*compress(raw.ids, flags)],
        sent_ms=[*compress(raw.sent_ms, flags)],
        receive_counts=[*compress(raw.receive_counts, flags)],
        bodies=[*compress(raw.bodies, flags)],
        facts={field: [*compress(values, flags)] for field, values in raw.facts.items()},
    )
