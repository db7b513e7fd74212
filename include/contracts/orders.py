"""Orders of the queue `orders-queue` -> table `public.orders`: an example, nested, with a row for each order.

Each message is an order as it is after a change, so that a later message replaces the row of an earlier one.
It has no schedule: people start it, with `./dev demo --contract orders` or in Airflow.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta, Struct

from include.queue_etl.contract import Contract, Normalization, Numeric, Personal, SentAt

Id = Annotated[str, Meta(min_length=1, max_length=40)]


class Customer(Struct, frozen=True, gc=False):
    """Who ordered."""

    id: Annotated[int, Meta(ge=1, description="number of the customer")]
    email: Annotated[str, Personal(Normalization.EMAIL_FOLDED)]
    phone: Annotated[str | None, Personal(Normalization.PHONE, region="DE")] = None


class Item(Struct, frozen=True, gc=False):
    """A line of the order."""

    sku: Id
    quantity: Annotated[int, Meta(ge=1, le=10_000)]
    price: Decimal
    gift_for: Annotated[str | None, Personal()] = None


class OrderChanged(Struct, frozen=True, gc=False):
    """An order, as it is after a change."""

    order_id: Id
    status: Literal["placed", "paid", "shipped", "cancelled"]
    placed_at: Annotated[datetime, Meta(description="when the customer placed it")]
    total: Annotated[Decimal, Numeric(12, 2), Meta(description="with taxes, in the currency")]
    currency: Literal["EUR", "GBP", "USD"]
    customer: Customer
    items: list[Item]
    note: Annotated[str, Meta(max_length=500)] | None = None


CONTRACT = Contract(
    name="orders",
    queue="orders-queue",
    table="public.orders",
    event=OrderChanged,
    message=(SentAt("sent_at"),),
    key="order_id",
    schedule=None,
)
