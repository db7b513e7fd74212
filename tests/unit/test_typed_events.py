"""Typed and nested events: the reason of each rejection, and the text that Postgres reads."""

import json
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Raw, Struct, field

from include.queue_etl.contract import (
    Contract,
    Jsonb,
    MessageId,
    Normalization,
    Numeric,
    Personal,
    ReceiveCount,
    Rejected,
    SentAt,
    Zone,
)
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import MaskedBatch, RawBatch
from include.queue_etl.transform.masking import Masker
from include.queue_etl.transform.parsing import Parser
from tests.unit.copy_decoder import decoded

ID = "00000000-0000-4000-8000-00000000000a"
SENT_MS = 1_769_903_999_123
CANARY = "canary-4711"
Small = Annotated[int, Meta(ge=0, le=1000)]


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Customer(Struct):
    id: int
    email: Annotated[str | None, Personal()]
    tags: list[Annotated[str, Meta(max_length=5)]] = []


class Item(Struct):
    sku: str
    price: Decimal
    phone: Annotated[str | None, Personal()] = None


class Order(Struct):
    order_id: Annotated[str, Meta(min_length=1, max_length=40)]
    placed_at: datetime
    total: Annotated[Decimal, Numeric(6, 2)]
    customer: Customer
    items: Annotated[list[Item], Meta(max_length=3)] = []
    quantity: Small = 1
    currency: Literal["EUR", "GBP"] = "EUR"
    color: Color | None = None
    paid: bool | None = None
    ratio: float | None = None
    any_amount: Decimal | None = None
    picked: Annotated[datetime | None, Zone("Europe/Berlin")] = None
    tracking: uuid.UUID | None = None
    note: str | None = field(name="theNote", default=None)
    levels: dict[str, Small] = {}
    extra: Annotated[Any, Jsonb({"who": Personal(), "people[*].name": Personal()})] = None
    secret: Annotated[dict[str, Any] | None, Personal()] = None
    contact: Annotated[Any, Personal(Normalization.EMAIL)] = None
    born: Annotated[date | None, Personal()] = None
    billing: Customer | None = None

    def __post_init__(self) -> None:
        if self.quantity == 13:
            raise ValueError("no thirteen of anything")


ORDERS = Contract(
    name="orders",
    queue="orders",
    table="public.orders",
    event=Order,
    message=(SentAt("sent_at"), MessageId("message_id"), ReceiveCount("receives")),
)
PARSER = Parser(ORDERS, 1_048_576)
GOOD: dict[str, Any] = {
    "order_id": "o-1",
    "placed_at": "2026-01-31T10:00:00.123456+02:00",
    "total": 12.5,
    "customer": {"id": 7, "email": "ann@example.org"},
}


def order(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def customer(**changes: Any) -> dict[str, Any]:
    return {**GOOD["customer"], **changes}


def masked(keyset: Keyset, *bodies: bytes) -> MaskedBatch:
    count = len(bodies)
    raw = RawBatch(1, [ID] * count, [SENT_MS] * count, [2] * count, list(bodies))
    return mask_batch(raw, ORDERS, keyset, Settings(staging="/staging"), uuid.UUID(ID))[0]


def row(keyset: Keyset, **changes: Any) -> dict[str, str | None]:
    """The one row of an order, as Postgres reads its text."""
    batch = masked(keyset, order(**changes))
    assert batch.rejected == {}
    (values,) = decoded(batch.rows)
    return dict(zip(ORDERS.column_names, values, strict=True))


REASONS: list[tuple[dict[str, Any], str]] = [
    ({"order_id": None}, "no_value order_id"),
    ({"order_id": ""}, "no_value order_id"),
    ({"order_id": "x" * 41}, "too_long order_id"),
    ({"order_id": 1}, "bad_type order_id"),
    ({"customer": {"id": 7}}, "missing_field customer.email"),
    ({"customer": None}, "no_value customer"),
    ({"customer": [1]}, "bad_type customer"),
    ({"customer": customer(id="7")}, "bad_type customer.id"),
    ({"customer": customer(id=True)}, "bad_type customer.id"),
    ({"customer": customer(id=2**63)}, "out_of_range customer.id"),
    ({"customer": customer(tags=["ok", "longer"])}, "too_long customer.tags[*]"),
    ({"billing": {"email": None}}, "missing_field billing.id"),
    ({"placed_at": "2026-01-31T10:00:00"}, "bad_value placed_at"),
    ({"placed_at": "2026-02-30T10:00:00Z"}, "bad_value placed_at"),
    ({"placed_at": 1769903999}, "bad_type placed_at"),
    ({"total": 12.345}, "out_of_range total"),
    ({"total": 12345.6}, "out_of_range total"),
    ({"total": "NaN"}, "bad_value total"),
    ({"total": "twelve"}, "bad_value total"),
    ({"total": False}, "bad_type total"),
    ({"any_amount": "Infinity"}, "bad_value any_amount"),
    ({"any_amount": "1e1000"}, "out_of_range any_amount"),
    ({"quantity": 1001}, "out_of_range quantity"),
    ({"quantity": 1.5}, "bad_type quantity"),
    ({"quantity": 13}, "bad_value"),
    ({"currency": "USD"}, "bad_value currency"),
    ({"currency": 1}, "bad_type currency"),
    ({"color": "green"}, "bad_value color"),
    ({"paid": "yes"}, "bad_type paid"),
    ({"paid": 1}, "bad_type paid"),
    ({"ratio": "1.5"}, "bad_type ratio"),
    ({"tracking": "no uuid"}, "bad_value tracking"),
    ({"theNote": "a\0b"}, "nul_char theNote"),
    ({"items": {}}, "bad_type items"),
    ({"items": [{"sku": "a", "price": 1}] * 4}, "bad_value items"),
    ({"items": [{"sku": "a"}]}, "missing_field items[*].price"),
    ({"items": [{"sku": 1, "price": 1}]}, "bad_type items[*].sku"),
    ({"items": [{"sku": "a\0", "price": 1}]}, "nul_char items"),
    ({"items": [{"sku": "a", "price": "NaN"}]}, "out_of_range items"),
    ({"items": [{"sku": "a", "price": "-Infinity"}]}, "out_of_range items"),
    ({"levels": {CANARY: 1001}}, "out_of_range levels[*]"),
    ({"levels": [1]}, "bad_type levels"),
    ({"extra": {"x": "\0"}}, "nul_char extra"),
    ({"extra": {"\0": 1}}, "nul_char extra"),
    ({"extra": {"people": [], "a backslash": ["\\u0000", 1, {"x": None}]}}, ""),
    ({"extra": {"people": "none"}}, "bad_type extra"),
    ({"extra": {"people": [{"name": "a"}, "b"]}}, "bad_type extra"),
    ({"extra": {"people": {"first": {"name": "a"}}, "who": [[1]]}}, ""),
    ({"extra": "a text"}, "bad_type extra"),
]


@pytest.mark.parametrize(("changes", "reason"), REASONS, ids=lambda value: str(value)[:60])
def test_a_rejection_names_what_is_wrong_and_where(changes, reason):
    found = PARSER.parse(order(**changes))
    assert (found.reason if isinstance(found, Rejected) else "") == reason


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("1e999", ""),
        ("-1E+1000", "out_of_range extra"),
        ("1e0001000", "out_of_range extra"),
        ("1e-1000", "out_of_range extra"),
        ("1" * 1000, "out_of_range extra"),
        ('"1e1000 in a text, and ' + "1" * 1000 + '"', ""),
        ("1.7976931348623157e308", ""),
        ("0.1234567890123456789012345678901234567890", ""),
    ],
)
def test_jsonb_holds_no_number_beyond_all_limits(number, reason):
    body = order(extra={"people": [{"name": None}], "n": "@"}).replace(b'"@"', number.encode())
    found = PARSER.parse(body)
    assert (found.reason if isinstance(found, Rejected) else "") == reason


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner)),
        max_leaves=8,
    ),
    st.sampled_from([*GOOD, "items", "quantity", "color", "extra", "secret", "billing", "levels", "picked"]),
)
def test_any_value_anywhere_is_an_event_or_a_rejection_that_quotes_nothing(value, name):
    for given_value in (value, {CANARY: value}, [CANARY, value], customer(email=value)):
        found = PARSER.parse(order(**{name: given_value}))
        assert isinstance(found, Order | Rejected)
        assert not isinstance(found, Rejected) or "canary" not in found.reason


# What Postgres reads ---------------------------------------------------------------------------------------


def test_each_type_is_written_as_postgres_reads_it(keyset):
    found = row(
        keyset,
        color="red",
        paid=True,
        ratio=1e-7,
        any_amount="0.10",
        picked="2026-07-01T10:00:00",
        tracking=ID,
        theNote="a\tb\\\n",
        levels={"x": 1},
    )
    assert found["placed_at"] == "2026-01-31T10:00:00.123456+02:00"
    assert (found["total"], found["any_amount"], found["ratio"]) == ("12.5", "0.10", "1e-07")
    assert (found["customer_id"], found["quantity"], found["currency"]) == ("7", "1", "EUR")
    assert (found["color"], found["paid"], found["tracking"]) == ("red", "t", ID)
    assert found["picked"] == "2026-07-01T10:00:00+02:00"
    assert (found["note"], found["levels"], found["items"]) == ("a\tb\\\n", '{"x":1}', "[]")
    assert (found["billing_id"], found["billing_tags"], found["extra"]) == (None, None, None)
    assert (found["message_id"], found["receives"]) == (ID, "2")


def test_the_moment_of_sending_is_written_to_the_millisecond(keyset):
    assert row(keyset)["sent_at"] == "2026-01-31T23:59:59.123000+00:00"


@pytest.mark.parametrize(("digits", "microseconds"), [("123456499", "123456"), ("123456789", "123457")])
def test_digits_behind_the_microsecond_are_rounded(keyset, digits, microseconds):
    placed_at = f"2026-01-31T10:00:00.{digits}Z"
    assert row(keyset, placed_at=placed_at)["placed_at"] == f"2026-01-31T10:00:00.{microseconds}Z"


def test_an_offset_wins_over_the_declared_zone(keyset):
    assert row(keyset, picked="2026-07-01T10:00:00Z")["picked"] == "2026-07-01T10:00:00+00:00"


def test_digits_in_jsonb_are_those_of_the_message(keyset):
    number = "0.1234567890123456789012345678901234567890"
    body = order(levels={}, items=[{"sku": "a", "price": "@"}]).replace(b'"@"', number.encode())
    (values,) = decoded(masked(keyset, body).rows)
    items = dict(zip(ORDERS.column_names, values, strict=True))["items"]
    assert items == f'[{{"sku":"a","price":{number},"phone":null}}]'


def test_personal_values_inside_of_jsonb_become_tokens_in_place(keyset):
    people = [{"name": "Ann", "age": 1.50}, {"name": None}, {"age": 2}, {"name": 5}]
    found = row(
        keyset,
        items=[{"sku": "a", "price": 1, "phone": "+1"}, {"sku": "b", "price": 2, "phone": " "}],
        extra={"who": {"b": 1, "a": "x"}, "people": people, "rest": "stays"},
    )
    masker = Masker(ORDERS, keyset)
    fields = {one.field: one for one in ORDERS.personal}
    items, extra = json.loads(found["items"] or ""), json.loads(found["extra"] or "")
    assert masker.unmask(fields["items[*].phone"], items[0]["phone"]) == "+1"
    assert items[1]["phone"] is None
    assert masker.unmask(fields["extra.who"], extra["who"]) == '{"a":"x","b":1}'
    names = [one.get("name") for one in extra["people"]]
    assert names[1:3] == [None, None]
    assert [masker.unmask(fields["extra.people[*].name"], names[n]) for n in (0, 3)] == ["Ann", "5"]
    assert (extra["rest"], extra["people"][0]["age"], "age" in extra["people"][2]) == ("stays", 1.5, True)


def test_a_personal_object_is_one_token_whatever_the_order_of_its_fields(keyset):
    one, other = (row(keyset, secret=secret)["secret"] for secret in ({"a": 1, "b": [2]}, {"b": [2], "a": 1}))
    assert one == other
    assert one != row(keyset, secret={"a": 1, "b": [3]})["secret"]
    assert row(keyset)["secret"] is None


@pytest.mark.parametrize(
    ("field", "value", "masked_text"),
    [
        ("contact", "Ann@Example.org", "Ann@example.org"),
        ("contact", 7, "7"),
        ("contact", {"b": 1, "a": "x"}, '{"a":"x","b":1}'),
        ("born", "1990-01-31", "1990-01-31"),
    ],
)
def test_a_personal_value_is_masked_without_the_quotes_of_its_json(keyset, field, value, masked_text):
    personal = next(one for one in ORDERS.personal if one.field == field)
    token = row(keyset, **{field: value})[field]
    assert token is not None
    assert Masker(ORDERS, keyset).unmask(personal, token) == masked_text


def test_a_blank_text_of_an_untyped_personal_field_is_null(keyset):
    assert row(keyset, contact=" ")["contact"] is None


def test_json_null_of_an_untyped_field_is_null(keyset):
    assert row(keyset, extra=None)["extra"] is None


def test_messages_that_are_rejected_shift_no_fact_of_the_others(keyset):
    raw = RawBatch(1, [ID, ID[:-1] + "b"], [SENT_MS, 0], [1, 9], [b"x", order()])
    batch, _ = mask_batch(raw, ORDERS, keyset, Settings(staging="/staging"), uuid.UUID(ID))
    (values,) = decoded(batch.rows)
    assert values[-3:] == [datetime(1970, 1, 1, tzinfo=UTC).isoformat(), ID[:-1] + "b", "9"]


def test_untyped_fields_of_a_contract_may_be_declared_raw(keyset):
    event = msgspec.defstruct("Event", [("a", Raw), ("b", Any), ("c", Any | None), ("d", list), ("e", dict)])
    contract = Contract(name="raw", queue="raw", table="public.raw", event=event)
    body = b'{"a": {"x":  1.0}, "b": null, "c": 1.0, "d": [1.0], "e": {"x": 1.0}}'
    raw = RawBatch(1, [ID], [0], [1], [body])
    batch, _ = mask_batch(raw, contract, keyset, Settings(staging="/staging"), uuid.UUID(ID))
    assert decoded(batch.rows) == [['{"x":  1.0}', None, "1.0", "[1.0]", '{"x":1.0}']]


def test_a_line_break_between_what_is_not_declared_shifts_no_row(keyset):
    event = msgspec.defstruct("Event", [("a", Any), ("b", list[int], [])])
    contract = Contract(name="p", queue="p", table="p.p", event=event)
    bodies = [b'{"a": {"x":\n1}}', b'{"a": null, "b": [2]}', b'{"a": "null"}']
    raw = RawBatch(1, [ID] * 3, [0] * 3, [1] * 3, bodies)
    batch, _ = mask_batch(raw, contract, keyset, Settings(staging="/staging"), uuid.UUID(ID))
    assert decoded(batch.rows) == [['{"x":\n1}', "[]"], [None, "[2]"], ['"null"', "[]"]]


def test_columns_of_moments_dates_and_uuids_keep_their_nulls_in_place(keyset):
    kinds: list[tuple[str, Any]] = [
        ("moment", datetime),
        ("local", Annotated[datetime, Zone("Europe/Berlin")]),
        ("day", date),
    ]
    event = msgspec.defstruct("Event", [(name, kind | None) for name, kind in [*kinds, ("uid", uuid.UUID)]])
    contract = Contract(name="p", queue="p", table="p.p", event=event)
    rows: list[list[str | None]] = [
        ["0001-01-01T00:00:00.000001-23:59", "1890-01-01T00:00:00", "9999-12-31", ID],
        [None, None, None, None],
        ["2026-06-30T23:59:59Z", "2026-07-01T00:00:00+05:30", None, ID.upper()],
    ]
    bodies = [json.dumps(dict(zip(contract.column_names, values, strict=True))).encode() for values in rows]
    raw = RawBatch(1, [ID] * 3, [0] * 3, [1] * 3, bodies)
    batch, _ = mask_batch(raw, contract, keyset, Settings(staging="/staging"), uuid.UUID(ID))
    assert decoded(batch.rows) == [
        [rows[0][0], "1890-01-01T00:00:00+00:53:28", "9999-12-31", ID],
        rows[1],
        [*rows[2][:3], ID],
    ]


# Fields that nobody declared -------------------------------------------------------------------------------


def test_undeclared_fields_are_seen_at_every_depth():
    bodies = [
        order(),
        order(new=1),
        order(customer=customer(new=1)),
        order(items=[{"sku": "a", "price": 1, "n": 2}]),
    ]
    verdicts = [PARSER.parse(body) for body in bodies]
    assert [*PARSER.with_unknown_fields(bodies, verdicts).values()] == bodies[1:]


def test_a_plain_event_is_decoded_into_its_own_struct():
    event = msgspec.defstruct("Event", [("a", str)])
    found = Parser(Contract(name="p", queue="p", table="p.p", event=event), 100).parse(b'{"a":"x","b":1}')
    assert found.__class__ is event


@pytest.mark.parametrize("value", [1, "one"])
def test_a_field_of_several_types_is_kept_as_json(keyset, value):
    event = msgspec.defstruct("Event", [("a", int | str)])
    contract = Contract(name="p", queue="p", table="p.p", event=event)
    raw = RawBatch(1, [ID], [0], [1], [json.dumps({"a": value}).encode()])
    batch, _ = mask_batch(raw, contract, keyset, Settings(staging="/staging"), uuid.UUID(ID))
    assert decoded(batch.rows) == [[json.dumps(value)]]


def test_a_contract_may_reject_messages_with_undeclared_fields():
    strict = Contract(
        name="orders", queue="orders", table="public.orders", event=Order, unknown_fields="reject"
    )
    assert Parser(strict, 1_000_000).parse(order(customer=customer(new=1))) == Rejected("unknown_field")
