"""A typed contract of twelve columns, and its messages: what the mask of types costs beside that of texts.

One column of each kind that a contract may have, a nested struct with a personal field, and a list as jsonb.
As in feed.py, half of the messages come from customers seen before, and one in a hundred is malformed.
"""

import json
import random
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta, Struct

from include.queue_etl.contract import Contract, Normalization, Numeric, Personal
from tests.bench.feed import DISTINCT, MALFORMED, Feed

FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)


class Customer(Struct, frozen=True, gc=False):
    """Who ordered."""

    id: int
    email: Annotated[str, Personal(Normalization.EMAIL)]


class Item(Struct, frozen=True, gc=False):
    """A line of the order."""

    sku: str
    quantity: int
    price: Decimal


class TypedOrder(Struct, frozen=True, gc=False):
    """The body of one message."""

    reference: str
    code: Annotated[str, Meta(max_length=40)]
    express: bool
    parcels: int
    total: Annotated[Decimal, Numeric(12, 2)]
    placed_at: datetime
    ship_on: date
    trace: uuid.UUID
    currency: Literal["EUR", "GBP", "USD"]
    customer: Customer
    items: list[Item]


CONTRACT = Contract(name="typed_orders", queue="typed-orders", table="public.typed_orders", event=TypedOrder)


def feed(count: int, seed: int = 1) -> Feed:
    """A feed of that many messages; the same count and seed give the same."""
    draw = random.Random(seed)
    customers: list[dict[str, object]] = []
    return Feed([_body(number, draw, customers) for number in range(min(count, DISTINCT))], count)


def _body(number: int, draw: random.Random, customers: list[dict[str, object]]) -> bytes:
    if number % 100 == 57:
        return MALFORMED[number // 100 % len(MALFORMED)]
    if number % 2 == 0 or not customers:
        customers.append(
            {"id": number, "email": f"{draw.getrandbits(40):x}@{draw.choice('abcdefgh')}.example"}
        )
        customer = customers[-1]
    else:
        customer = draw.choice(customers)
    placed = FIRST_DAY + timedelta(milliseconds=draw.randrange(10**10))
    items = [_item(draw) for _ in range(draw.randint(1, 3))]
    order = {
        "reference": f"order of {placed:%d %B}",
        "code": f"A-{draw.randrange(10**8):08}",
        "express": draw.random() < 0.2,
        "parcels": draw.randint(1, 9),
        "total": draw.randrange(10**6) / 100,
        "placed_at": placed.isoformat(timespec="milliseconds"),
        "ship_on": f"{placed.date() + timedelta(days=draw.randint(1, 30))}",
        "trace": str(uuid.UUID(int=draw.getrandbits(128), version=4)),
        "currency": draw.choice(["EUR", "GBP", "USD"]),
        "customer": customer,
        "items": items,
    }
    return json.dumps(order).encode()


def _item(draw: random.Random) -> dict[str, object]:
    quantity, price = draw.randint(1, 5), draw.randrange(10**5) / 100
    return {"sku": f"S-{draw.randrange(10**5):05}", "quantity": quantity, "price": price}
