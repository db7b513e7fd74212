"""Queue, warehouse and staging in memory, with the promises of the real ones and no more.

The queue behaves as AWS documents it: at least once, in no order; a delete with an old receipt "succeeds".
The warehouse is a set of tables and transactions that happen whole or not at all.
"""

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any
from uuid import UUID

from include.queue_etl.contract import Contract
from include.queue_etl.errors import (
    QueueUnavailable,
    StagingUnavailable,
    WarehouseRefused,
    WarehouseUnavailable,
)
from include.queue_etl.postgres.loading import BatchCounts
from include.queue_etl.postgres.runs import RunState, RunTotals
from include.queue_etl.sqs.client import Depth, Message, Outcome
from include.queue_etl.sqs.wire import Asked
from include.queue_etl.staging.area import BatchFile, Kind, StagedRun
from include.queue_etl.staging.stores import StoredFile
from include.queue_etl.transform import copy_binary
from include.queue_etl.transform.batches import MaskedBatch, ReceiptHandles, RejectedBatch
from tests.model.world import VISIBILITY_SECONDS, World
from tests.unit.copy_decoder import decoded_entries

QUEUE_ID = 1


@dataclass(eq=False)
class Sent:
    """A message on the queue."""

    message_id: str
    body: bytes
    sent_ms: int
    visible_at: float = 0.0
    receives: int = 0
    receipt_handle: str = ""
    deleted: bool = False


class Queue:
    """A standard queue. Its rare faults happen often here."""

    lost_delete = 0.03  # "the message might not be deleted", and returns
    second_copy = 0.02  # handed out while in flight
    refused = 0.03  # an entry of a batch fails
    patience = 2  # empty polls, one after another, that mean "empty"

    def __init__(self, world: World) -> None:
        self.world = world
        self.receivers = 0  # at work just now
        self.messages: dict[str, Sent] = {}
        self._receipts: dict[str, Sent] = {}

    def send(self, message_id: str, event: object) -> None:
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        self.messages[message_id] = Sent(message_id, body, int(self.world.now * 1000))
        self.world.events["arrival_in_extract"] += self.receivers > 0

    def waiting(self) -> int:
        return sum(not message.deleted for message in self.messages.values())

    def depth(self) -> Depth:
        self.world.point()
        visible = len(self._visible())
        return Depth(visible, self.waiting() - visible, 0)

    def receive(
        self, max_messages: int, seconds: float, asked: Asked, caught_up_seconds: float = inf
    ) -> Generator[list[Message], None, None]:
        """An empty list says that a poll found nothing; `seconds` count from the first message."""
        self.receivers += 1
        try:
            yield from self._polls(max_messages, seconds)
        finally:
            self.receivers -= 1

    def delete(self, receipts: Sequence[str]) -> Outcome:
        return self._change(receipts, self._delete)

    def release(self, receipts: Sequence[str]) -> Outcome:
        return self._change(receipts, self._release)

    def close(self) -> None:
        pass

    def _polls(self, room: int, seconds: float) -> Iterator[list[Message]]:
        until, empty_polls = inf, 0
        while room > 0 and empty_polls < self.patience:
            self._may_fail()
            if self.world.now >= until:
                self.world.events["extract_out_of_time"] += 1
                return
            taken = self._take(min(room, self.world.chance.randint(1, 4)))
            empty_polls = 0 if taken else empty_polls + 1
            if taken:
                self._may_fail()  # taken, and nobody is told
                until = min(until, self.world.now + seconds)
                room -= len(taken)
            yield taken

    def _visible(self) -> list[Sent]:
        now = self.world.now
        return [
            message
            for message in self.messages.values()
            if not message.deleted and (message.visible_at <= now or self._rarely(self.second_copy))
        ]

    def _take(self, count: int) -> list[Message]:
        visible = self._visible()
        return [
            self._hand_out(message) for message in self.world.chance.sample(visible, min(count, len(visible)))
        ]

    def _hand_out(self, message: Sent) -> Message:
        message.receives += 1
        message.visible_at = self.world.now + VISIBILITY_SECONDS
        message.receipt_handle = f"{message.message_id}/{message.receives}"
        self._receipts[message.receipt_handle] = message
        return Message(
            message.message_id, message.receipt_handle, message.body, message.sent_ms, message.receives
        )

    def _change(self, receipts: Sequence[str], change: Any) -> Outcome:
        done, failed = 0, 0
        for receipt in receipts:
            self._may_fail()  # some of them are done
            if self._rarely(self.refused):
                failed += 1
                continue
            message = self._receipts[receipt]
            if message.receipt_handle == receipt:  # an old receipt changes nothing, and succeeds
                change(message)
            done += 1
        self._may_fail()
        return Outcome(done, {"InternalError": failed} if failed else {})

    def _delete(self, message: Sent) -> None:
        message.deleted = not self._rarely(self.lost_delete)

    def _release(self, message: Sent) -> None:
        message.visible_at = self.world.now

    def _rarely(self, probabilities: float) -> bool:
        return self.world.probabilities.fail > 0 and self.world.maybe(probabilities)

    def _may_fail(self) -> None:
        self.world.point()
        if self.world.maybe(self.world.probabilities.fail):
            self.world.events["queue_error"] += 1
            raise QueueUnavailable("the queue does not answer")


class Tables:
    """What is in the database. `rows` holds user ids, `quarantine` message ids, both with repetitions."""

    def __init__(self) -> None:
        self.rows: list[tuple[UUID, str]] = []
        self.quarantine: list[tuple[UUID, str]] = []
        self.ledger: set[str] = set()
        self.batches: dict[tuple[UUID, str], tuple[bytes, BatchCounts]] = {}
        self.runs: dict[UUID, str] = {}
        self.keys: dict[int, str] = {}


class Warehouse:
    """One connection to the tables; its transactions are serial, as those of the ledger's key are."""

    def __init__(self, world: World, tables: Tables, staging: StagedRun) -> None:
        self.world = world
        self.tables = tables
        self.staging = staging

    def problems(self, contract: Contract) -> list[str]:
        self._may_fail()
        return []

    def open_run(self, run_id: UUID, contract: Contract, run_name: str, depth: Mapping[str, int]) -> RunState:
        self._may_fail()
        state = self.tables.runs.setdefault(run_id, "running")
        self._may_fail()
        return RunState(QUEUE_ID, state)

    def run_state(self, run_id: UUID) -> RunState | None:
        self._may_fail()
        state = self.tables.runs.get(run_id)
        return RunState(QUEUE_ID, state) if state else None

    def record_extract(self, run_id: UUID, received: int, seconds: float, oldest_age_seconds: int) -> None:
        self._may_fail()

    def committed_batches(self, run_id: UUID) -> dict[str, bytes]:
        self._may_fail()
        return {batch: digest for (of, batch), (digest, _) in self.tables.batches.items() if of == run_id}

    def close_run(self, run_id: UUID, state: str, totals: RunTotals) -> None:
        self._may_fail()
        if self.tables.runs.get(run_id) == "running":
            self.tables.runs[run_id] = state
        self._may_fail()

    def run_summary(self, run_id: UUID) -> dict[str, Any]:
        self._may_fail()
        figures = ("received", "loaded", "quarantined", "duplicates", "deleted", "visible_after")
        return {
            "state": self.tables.runs[run_id],
            **dict.fromkeys(figures, 0),
            "quarantined_by_reason": {},
            "unknown_fields": {},
            "personal_data_found": {},
        }

    def load(
        self, run_id: UUID, contract: Contract, batch: str, masked: MaskedBatch, rejected: RejectedBatch
    ) -> BatchCounts:
        self._may_fail()
        counts = self.commit(run_id, batch, masked, rejected)
        self._may_fail()  # committed, and nobody is told
        return counts

    def commit(self, run_id: UUID, batch: str, masked: MaskedBatch, rejected: RejectedBatch) -> BatchCounts:
        """The one transaction: claim, ledger, rows, quarantine."""
        known = self.tables.batches.get((run_id, batch))
        if known:
            if known[0] != masked.ids_digest:
                raise WarehouseRefused("committed with other messages")
            return known[1]
        if self.tables.runs[run_id] != "running":
            return BatchCounts(0, 0, 0)
        loaded, quarantined = self._insert_unseen(run_id, masked, rejected)
        duplicates = len(copy_binary.statuses(masked.entries)) - loaded - quarantined
        counts = BatchCounts(loaded, quarantined, duplicates)
        self.tables.batches[run_id, batch] = masked.ids_digest, counts
        return counts

    def key_checks(self) -> dict[int, str]:
        return self.tables.keys

    def register_columns(self, contract: Contract) -> None:
        self._may_fail()

    def add_key_check(self, key_id: int, value: str) -> None:
        self._may_fail()
        self.tables.keys.setdefault(key_id, value)

    def close(self) -> None:
        pass

    def _insert_unseen(self, run_id: UUID, masked: MaskedBatch, rejected: RejectedBatch) -> tuple[int, int]:
        users = iter(masked.rows.decode().splitlines())
        counts: Counter[str] = Counter()
        for _, _, message_id, _, status in decoded_entries(masked.entries):
            user = next(users).split("\t")[0] if status == "L" else ""
            if message_id not in self.tables.ledger:
                self.tables.ledger.add(message_id)
                self._insert(run_id, status, user, message_id)
                counts[status] += 1
        return counts["L"], counts["Q"]

    def _insert(self, run_id: UUID, status: str, user: str, message_id: str) -> None:
        if status == "L":
            self.tables.rows.append((run_id, user))
        else:
            self.tables.quarantine.append((run_id, message_id))

    def _may_fail(self) -> None:
        self.world.point()
        if self.world.maybe(self.world.probabilities.fail):
            self.world.events["warehouse_error"] += 1
            raise WarehouseUnavailable("the connection was lost")


class Store:
    """A folder that every process shares."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.files: dict[str, bytes] = {}

    def write(self, name: str, content: bytes) -> None:
        self._may_fail()
        self.files[name] = content
        self._may_fail()

    def read(self, name: str) -> bytes | None:
        self.world.point()
        return self.files.get(name)

    def names(self, folder: str) -> list[str]:
        start = f"{folder}/"
        return sorted(name.removeprefix(start) for name in self.files if name.startswith(start))

    def remove(self, names: list[str]) -> None:
        for name in names:
            self._may_fail()
            self.files.pop(name, None)

    def everything(self) -> Iterator[StoredFile]:
        yield from (StoredFile(name, 0.0, len(content)) for name, content in self.files.items())

    def problem(self) -> str | None:
        return None

    def _may_fail(self) -> None:
        self.world.point()
        if self.world.maybe(self.world.probabilities.fail):
            self.world.events["staging_error"] += 1
            raise StagingUnavailable("the disk is full")


# The usual ways to do it, which lose or double messages -----------------------------------------------


class DeletingQueue(Queue):
    """Deletes on reception, as the stock SqsSensor does by default."""

    def _take(self, count: int) -> list[Message]:
        taken = super()._take(count)
        for message in taken:
            self.messages[message.message_id].deleted = True
        return taken


class PlainWarehouse(Warehouse):
    """INSERT without a ledger; what is committed is recorded."""

    def commit(self, run_id: UUID, batch: str, masked: MaskedBatch, rejected: RejectedBatch) -> BatchCounts:
        users = iter(masked.rows.decode().splitlines())
        for _, _, message_id, _, status in decoded_entries(masked.entries):
            user = next(users).split("\t")[0] if status == "L" else ""
            self._insert(run_id, status, user, message_id)
        counts = BatchCounts(masked.accepted, sum(masked.rejected.values()), 0)
        self.tables.batches[run_id, batch] = masked.ids_digest, counts
        return counts


class ReplacingWarehouse(PlainWarehouse):
    """DELETE WHERE run_id, then INSERT: a cleared run starts anew, but the queue cannot be read again."""

    def open_run(self, run_id: UUID, contract: Contract, run_name: str, depth: Mapping[str, int]) -> RunState:
        super().open_run(run_id, contract, run_name, depth)
        self.tables.runs[run_id] = "running"
        self.tables.rows = [row for row in self.tables.rows if row[0] != run_id]
        self.tables.quarantine = [row for row in self.tables.quarantine if row[0] != run_id]
        return RunState(QUEUE_ID, "running")


class TrustingWarehouse(Warehouse):
    """Ids are unique, but the delete trusts the staged list instead of the commit record."""

    def committed_batches(self, run_id: UUID) -> dict[str, bytes]:
        digests = {}
        for batch in self.staging.batches(Kind.RECEIPT_HANDLES):
            receipts = self.staging.open(BatchFile(batch, Kind.RECEIPT_HANDLES), ReceiptHandles)
            if receipts is not None:
                digests[batch] = receipts.digest
        return digests
