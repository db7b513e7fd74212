"""A contract with every type of column, every mark, names that need quotes, and hostile words."""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Struct, field

from include.queue_etl.contract import (
    Contract,
    Derived,
    Jsonb,
    MessageId,
    Name,
    Numeric,
    Personal,
    ReceiveCount,
    Scheme,
    SentAt,
    SentDay,
    Subject,
    Zone,
)

HOSTILE = 'it\'s 100 % "so": \\ {x} $1 -- ; DROP TABLE x'


class Size(Enum):
    """Choices of an integer column, one of them negative."""

    SMALL = -1
    LARGE = 2


class Address(Struct, frozen=True):
    """Nested: a column for each field."""

    city: str
    zip: Annotated[str, Meta(max_length=10)] | None = None


class Item(Struct, frozen=True):
    """Inside a list, which becomes jsonb."""

    sku: str
    phone: Annotated[str | None, Personal()] = None


def length(text: str | None) -> int | None:
    """How long the text is."""
    return None if text is None else len(text)


class Everything(Struct, frozen=True, kw_only=True):
    """An event that has everything: it's long enough for a second line of the comment on its table.

    This paragraph is for readers of the code alone.
    """

    customer: Annotated[str, Meta(max_length=40, description="Who bought"), Subject()]
    note: Annotated[str, Meta(description=HOSTILE)]
    code: Annotated[str, Meta(max_length=32)]
    paid: bool
    small: Annotated[int, Meta(ge=0, le=100)]
    middle: Annotated[int, Meta(ge=0, le=100_000)] | None
    large: int
    ratio: float
    total: Annotated[Decimal, Numeric(12, 2)]
    exact: Decimal | None = None
    placed_at: datetime
    local_at: Annotated[datetime, Zone("Europe/Berlin")] | None = None
    born: Annotated[date | None, Personal(token_chars=160)]
    day: date
    order: UUID
    currency: Literal["EUR", "GBP", "o'clock"]
    size: Size | None = None
    address: Address | None = None
    items: list[Item]
    extra: Annotated[dict[str, Any], Jsonb(personal={"who": Personal(scheme=Scheme.ONE_WAY)})]
    email: Annotated[str | None, Personal(column="select")] = field(name="eMail")
    words: Annotated[str | None, Derived(length, int), Name("User")]


def contract(**changes: Any) -> Contract:
    """It, with these changes."""
    facts: Mapping[str, Any] = {
        "name": "everything",
        "queue": "everything",
        "table": "public.everything",
        "event": Everything,
        "message": (SentDay("sent_on"), SentAt("sent_at"), MessageId("message_id"), ReceiveCount("receives")),
        "indexes": (("code",), ("customer", "placed_at")),
    }
    return Contract(**{**facts, **changes})


# An event that it accepts.
GOOD = {
    "customer": "ann",
    "note": "n",
    "code": "A-1",
    "paid": True,
    "small": 1,
    "middle": None,
    "large": 2**40,
    "ratio": 0.5,
    "total": 12.5,
    "placed_at": "2026-11-26T10:00:00Z",
    "born": "2000-01-01",
    "day": "2026-11-26",
    "order": "6f1c0d9e-3b52-4c1e-9a37-2f1d6c0a7b11",
    "currency": "EUR",
    "address": {"city": "Bonn"},
    "items": [{"sku": "x", "phone": "+1-202-555-0100"}],
    "extra": {"who": "ann"},
    "eMail": "ann@example.org",
    "words": "w",
}
