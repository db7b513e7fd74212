"""A received message as it is sent once more: the same by its id, its day and its attributes. Pure."""

from collections.abc import Collection
from typing import Any

import msgspec

from include.queue_etl.sqs.wire import ORIGIN_ATTRIBUTE, SENT_ATTRIBUTE, AttributeValue, Message

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
MOST_ATTRIBUTES = 10
NO_ROOM = (
    f"SQS allows {MOST_ATTRIBUTES} attributes a message, and those of the contract leave no room for the two "
    "that make it the message it was"
)


def has_room(message: Message, needed: Collection[str]) -> bool:
    """Whether everything needed fits beside what makes a copy the message it was."""
    return sum(name in needed for name in _own(message)) <= MOST_ATTRIBUTES - len(_origin(message))


def entry(id_: str, message: Message, needed: Collection[str]) -> dict[str, Any]:
    """What SendMessageBatch wants of a message that has room; what is not needed goes as far as it fits."""
    own, origin = _own(message), _origin(message)
    names = sorted(own, key=lambda name: name not in needed)[: MOST_ATTRIBUTES - len(origin)]
    attributes = origin | {name: own[name] for name in names}
    group = {"MessageGroupId": message.group_id} if message.group_id else {}
    return {
        "Id": id_,
        "MessageBody": message.body.decode("utf-8", "surrogatepass"),
        "MessageAttributes": msgspec.to_builtins(attributes),
        **group,
    }


def size(message: Message) -> int:
    """Bytes of body and attributes, about."""
    return len(message.body) + sum(
        len(name) + len(value.data_type) + len(value.content or "") for name, value in _own(message).items()
    )


def _own(message: Message) -> dict[str, AttributeValue]:
    origin = (ORIGIN_ATTRIBUTE, SENT_ATTRIBUTE)
    return {name: value for name, value in message.attributes.items() if name not in origin}


def _origin(message: Message) -> dict[str, AttributeValue]:
    """What makes a copy the message it was."""
    return {
        ORIGIN_ATTRIBUTE: AttributeValue("String", message.message_id),
        SENT_ATTRIBUTE: AttributeValue("String", str(message.sent_ms)),
    }
