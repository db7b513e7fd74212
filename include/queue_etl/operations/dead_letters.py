"""The dead-letter queue: what is committed is deleted there, the rest goes back on the queue.

SQS moves a message there that was received too often, under the id it has. Sent back it gets a new id, and so
carries the old one, and its day, as attributes: the ledger knows it however often it is sent.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from include.queue_etl.operations.upkeep_pipeline import UpkeepPipeline
from include.queue_etl.sqs import Message

COUNTS = ("messages", "committed", "others", "deleted", "sent_back")
log = logging.getLogger(__name__)


def bring_back(
    pipeline: UpkeepPipeline, *, max_messages: int | None = None, dry_run: bool = True
) -> dict[str, Any]:
    """Empty the contract's dead-letter queue without losing or doubling a message.

    A crash between sending and deleting leaves a message on both queues: the ledger lets one of them in.

    Args:
        pipeline: names the queues
        max_messages: take at most so many; default: the setting
        dry_run: only count; the messages are visible again when it returns

    Returns:
        "dry_run", "messages" seen, of them "committed" and "others"; "deleted" there because committed, and
        "sent_back" to the queue

    Raises:
        QueueRefused, QueueUnavailable, WarehouseUnavailable, WarehouseRefused: a repetition does the rest
    """
    counts = Counter(dict.fromkeys(COUNTS, 0))
    held: list[str] = []  # receipts of messages that stay
    try:
        with closing(
            pipeline.dead_letters.receive(
                pipeline.settings.max_messages if max_messages is None else max_messages
            )
        ) as replies:
            for messages in replies:
                receipts = {message.receipt for message in messages}
                held += receipts
                settled = _settle(pipeline, messages, counts, dry_run)
                held[-len(receipts) :] = receipts - settled
    finally:
        if held:
            pipeline.dead_letters.release(held)
    result = {"dry_run": dry_run, **{name: counts[name] for name in COUNTS}}
    log.info("dead letters of %s: %s", pipeline.contract.queue, result)
    return result


def _settle(
    pipeline: UpkeepPipeline, messages: Sequence[Message], counts: Counter[str], dry_run: bool
) -> set[str]:
    """Deal with the messages of one answer; returns the receipts of those that are gone from here."""
    ids = [message.message_id for message in messages]
    known = pipeline.warehouse.known(pipeline.contract.queue, ids)
    committed = [message.receipt for message in messages if message.message_id in known]
    others = [message for message in messages if message.message_id not in known]
    counts.update(messages=len(messages), committed=len(committed), others=len(others))
    if dry_run:
        return set()
    if committed:
        counts["deleted"] += pipeline.dead_letters.delete(committed).done
    sent = [message.receipt for message in pipeline.queue.send_again(others)] if others else []
    if sent:
        pipeline.dead_letters.delete(sent)
    counts["sent_back"] += len(sent)
    return {*committed, *sent}
