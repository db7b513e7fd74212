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
from include.queue_etl.settings import RECEIVE_SHARE
from include.queue_etl.sqs import Message

COUNTS = ("messages", "committed", "others", "deleted", "sent_back")
log = logging.getLogger(__name__)


def bring_back(
    pipeline: UpkeepPipeline, *, max_messages: int | None = None, dry_run: bool = True
) -> dict[str, Any]:
    """Empty the contract's dead-letter queue without losing or doubling a message.

    It ends when half of the visibility timeout has passed, too; what is left then takes another call.
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
    held: set[str] = set()  # receipts of messages that stay
    settings = pipeline.settings
    most = settings.max_messages if max_messages is None else max_messages
    # Then what is held must be released, before it comes back by itself and is counted twice.
    seconds = settings.visibility_timeout_seconds / RECEIVE_SHARE
    try:
        with closing(pipeline.dead_letters.receive(most, seconds)) as replies:
            for messages in filter(None, replies):
                held |= {message.receipt for message in messages}
                held -= _settle(pipeline, messages, counts, dry_run)
    finally:
        if held:
            pipeline.dead_letters.release(list(held))
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
