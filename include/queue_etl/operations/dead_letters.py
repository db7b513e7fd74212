"""The dead-letter queue: what is committed is deleted there, the rest goes back on the queue.

SQS moves a message there that was received too often, under the id it has. Sent back it gets a new id, and so
carries the old one, and its day, as attributes: the ledger knows it however often it is sent. Its own
attributes and its group go with it.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from include.queue_etl.contract import Contract
from include.queue_etl.counts import in_words
from include.queue_etl.operations.store import MaintenanceStore
from include.queue_etl.resources import Resources
from include.queue_etl.settings import RECEIVE_SHARE
from include.queue_etl.sqs.wire import EVERYTHING, Message

COUNTS = ("messages", "committed", "others", "deleted", "redriven")
log = logging.getLogger(__name__)


def redrive_dead_letters(
    resources: Resources, contract: Contract, *, max_messages: int | None = None, dry_run: bool = True
) -> dict[str, Any]:
    """Empty the contract's dead-letter queue without losing or doubling a message.

    It ends when half of the visibility timeout has passed, too; what is left then takes another call.
    A crash between sending and deleting leaves a message on both queues: the ledger lets one of them in.

    Args:
        resources: as role etl_maintainer
        contract: names the queues
        max_messages: take at most so many; default: the setting
        dry_run: only count; the messages are visible again when it returns

    Returns:
        "dry_run", "messages" seen, of them "committed" and "others"; "deleted" there because committed, and
        "redriven" to the queue

    Raises:
        QueueRefused, QueueUnavailable, WarehouseUnavailable, WarehouseRefused: a repetition does the rest
    """
    counts = Counter(dict.fromkeys(COUNTS, 0))
    held: set[str] = set()  # receipt handles of messages that stay
    dead_letters = resources.queue(contract.dead_letter_queue, contract.place)
    settings = resources.settings
    most = settings.max_messages if max_messages is None else max_messages
    # Then what is held must be released, before it comes back by itself and is counted twice.
    seconds = settings.visibility_timeout_seconds / RECEIVE_SHARE
    try:
        with closing(dead_letters.receive(most, seconds, EVERYTHING)) as replies:
            for messages in filter(None, replies):
                held |= {message.receipt_handle for message in messages}
                held -= _redrive(resources, contract, messages, counts, dry_run)
    finally:
        if held:
            dead_letters.release(list(held))
    result = {"dry_run": dry_run, **{name: counts[name] for name in COUNTS}}
    log.info("dead letters of %s: %s", contract.queue, in_words(result))
    return result


def _send_back(resources: Resources, contract: Contract, messages: Sequence[Message]) -> list[str]:
    """Receipt handles of the messages that are on the queue again."""
    queue = resources.queue(contract.queue, contract.place)
    needed = [column.message_attribute for column in contract.asked_for]
    return [message.receipt_handle for message in queue.resend(messages, needed)]


def _redrive(
    resources: Resources,
    contract: Contract,
    messages: Sequence[Message],
    counts: Counter[str],
    dry_run: bool,
) -> set[str]:
    """Deal with the messages of one answer; returns the receipt handles of those that are gone from here."""
    ids = [message.message_id for message in messages]
    known = MaintenanceStore(resources.database).known(contract.queue, ids)
    committed = [message.receipt_handle for message in messages if message.message_id in known]
    others = [message for message in messages if message.message_id not in known]
    counts.update(messages=len(messages), committed=len(committed), others=len(others))
    if dry_run:
        return set()
    dead_letters = resources.queue(contract.dead_letter_queue, contract.place)
    if committed:
        counts["deleted"] += dead_letters.delete(committed).done
    sent = _send_back(resources, contract, others) if others else []
    if sent:
        dead_letters.delete(sent)
    counts["redriven"] += len(sent)
    return {*committed, *sent}
