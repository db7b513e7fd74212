"""Deliveries of the queue `deliveries` -> table `public.deliveries`.

What it has that the others have not: personal values inside jsonb, in a list of structs and at a path of what
is not declared any further, a one-way one among them; and a field of its own that says whose row it is.
"""

from typing import Annotated, Any

from msgspec import Struct

from include.queue_etl.contract import Contract, Jsonb, Normalization, Personal, Scheme, SentDay, Subject


class Contact(Struct, frozen=True, gc=False):
    """Somebody who may take the parcel."""

    role: str
    phone: Annotated[str | None, Personal()] = None
    ip: Annotated[str | None, Personal(Normalization.IP)] = None
    member: Annotated[str | None, Personal(scheme=Scheme.ONE_WAY)] = None


class DeliveryEvent(Struct, frozen=True, gc=False):
    """The body of one message."""

    parcel: str
    customer: Annotated[str, Subject()]
    sender_ip: Annotated[str | None, Personal(Normalization.IP)]
    contacts: list[Contact]
    notes: Annotated[Any, Jsonb({"by[*].who": Personal()})] = None


CONTRACT = Contract(
    name="deliveries",
    queue="deliveries",
    table="public.deliveries",
    event=DeliveryEvent,
    message=(SentDay("day"),),
)
