"""Ledger entries in the binary format of COPY, which takes Postgres a third less CPU than text. Pure.

Every column is its length and its value, numbers big-endian, so that all entries have the same length.
https://www.postgresql.org/docs/current/sql-copy.html (Binary Format). Only the ledger is written so: its
columns are the same for every contract, and none is free text.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from itertools import compress
from struct import Struct
from uuid import UUID

LEDGER = ("queue_id", "sent_day", "message_id", "run_id", "status")

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no header extension
_TRAILER = b"\xff\xff"
_DAY_ZERO = date(2000, 1, 1)  # from which Postgres counts the days of a date
_UUID_BYTES = 16
_HEAD = Struct(">h ih ii i")  # number of columns, queue id, sent day, length of the message id
_TAIL = Struct(">i16s ic")  # run id, status
_ENTRY_BYTES = _HEAD.size + _UUID_BYTES + _TAIL.size
_QUEUE_ID_AT, _DAY_AT = Struct(">h i").size, Struct(">h ih i").size
_DAY = Struct(">i")


def entries(
    queue_id: int, run_id: UUID, days: Sequence[str], ids: Sequence[str], statuses: Iterable[str]
) -> bytes:
    """Entries of etl.ledger in the order of `ids`.

    Args:
        queue_id: of etl.queues
        run_id: of the run they belong to
        days: on which each message was sent, ISO text
        ids: UUIDs as text
        statuses: L or Q

    Raises:
        ValueError: not all are of one length
    """
    tail = _TAIL.pack(_UUID_BYTES, run_id.bytes, 1, b"L")
    head = _HEAD.pack(len(LEDGER), 2, queue_id, _DAY.size, 0, _UUID_BYTES)
    found = bytearray((head + bytes(_UUID_BYTES) + tail) * len(ids))
    packed = {day: _DAY.pack((date.fromisoformat(day) - _DAY_ZERO).days) for day in set(days)}
    _put(found, _DAY_AT, b"".join(map(packed.__getitem__, days)), _DAY.size)
    _put(found, _HEAD.size, bytes.fromhex("".join(ids).replace("-", "")), _UUID_BYTES)
    _put(found, _ENTRY_BYTES - 1, "".join(statuses).encode(), 1)
    return bytes(found)


def _put(entries_: bytearray, at: int, values: bytes, size: int) -> None:
    """Put values of one size into all entries; raises ValueError where there is not one for each."""
    if len(values) * _ENTRY_BYTES != size * len(entries_):
        raise ValueError("not one value for each entry")
    # A byte of all entries at a time: a few steps in C, in place of one for each entry.
    for byte in range(size):
        entries_[at + byte :: _ENTRY_BYTES] = values[byte::size]


def statuses(ledger_entries: bytes) -> str:
    """The status of each entry, a letter each."""
    return ledger_entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].decode()


def of_status(status: str, ledger_entries: bytes) -> bytes:
    """Those of the entries that have this status, L or Q, in their order."""
    starts = range(0, len(ledger_entries), _ENTRY_BYTES)
    chosen = compress(starts, [found == status for found in statuses(ledger_entries)])
    return b"".join([ledger_entries[start : start + _ENTRY_BYTES] for start in chosen])


def of_queue(queue_id: int, ledger_entries: bytes) -> bytes:
    """The same entries for another queue id."""
    changed = bytearray(ledger_entries)
    for at, byte in enumerate(queue_id.to_bytes(2), _QUEUE_ID_AT):
        changed[at::_ENTRY_BYTES] = bytes([byte]) * (len(changed) // _ENTRY_BYTES)
    return bytes(changed)


def stream(ledger_entries: bytes) -> bytes:
    """What COPY ... (FORMAT binary) reads."""
    return _SIGNATURE + ledger_entries + _TRAILER
