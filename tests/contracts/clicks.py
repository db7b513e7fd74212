"""Clicks of the queue `clicks` -> table `public.clicks`.

What it has that the others have not: columns of what stands beside the body. One attribute is personal, one
says whose row it is.
"""

from msgspec import Struct

from include.queue_etl.contract import (
    Attribute,
    Contract,
    MessageGroupId,
    MessageId,
    Normalization,
    Personal,
    SentAt,
    SequenceNumber,
)


class ClickEvent(Struct, frozen=True, gc=False):
    """The body of one message."""

    page: str


CONTRACT = Contract(
    name="clicks",
    queue="clicks",
    table="public.clicks",
    event=ClickEvent,
    message=(
        SentAt("sent_at"),
        MessageId("message_id"),
        Attribute("trace-id", max_length=40, description="Of the request that was clicked"),
        Attribute("customer-email", personal=Personal(Normalization.EMAIL)),
        Attribute("User.Id", "visitor", subject=True),
        Attribute("dedup-id"),
        MessageGroupId("tenant"),
        SequenceNumber("sequence_number"),
    ),
)
