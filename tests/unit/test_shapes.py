"""Shapes of messages: what they say, what they never say, and how they differ from the contract."""

import json
import re
from datetime import date
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Raw, Struct, defstruct, field

from include.contracts.user_logins import CONTRACT
from include.queue_etl.transform import shapes as engine
from include.queue_etl.transform.shapes import CUT, MAX_CHARS, MAX_PATHS, Differences, ShapeLine, Shapes
from tests.contracts.newsletter_signups import CONTRACT as SIGNUPS

LOGINS = Shapes(CONTRACT)
GOOD = {"user_id": "u", "app_version": "2.3.0", "device_type": "ios", "ip": "192.0.2.7", "locale": None}
ALL = {*GOOD, "device_id"}


class Size(Enum):
    SMALL = 1
    LARGE = 2


class Item(Struct):
    sku: str
    size: Size = Size.SMALL
    parts: "list[Item]" = field(default_factory=list)


class Customer(Struct):
    id: int
    email: Annotated[str, Meta(max_length=95)] | None


class Order(Struct):
    order_id: UUID
    placed_on: date
    total: Decimal
    weight: float
    currency: Literal["EUR", "GBP"]
    version: Literal[1, 2]
    customer: Customer
    items: list[Item]
    paid: bool
    extras: dict[str, int]
    source: Any
    raw: Raw
    detail_type: str = field(name="detail-type")
    dotted: str = field(name="a.b", default="")
    note: str | None = None


def of_events(event: type[Struct]) -> Shapes:
    contract: Any = SimpleNamespace(event=event, sns_envelope=False)
    return Shapes(contract)


class Described(Struct):
    """A description wraps the type, or the whole union, in what msgspec calls Metadata."""

    number: Annotated[int, Meta(description="a number")]
    note: Annotated[str | None, Meta(description="a text, or null")]
    items: Annotated[list[Item], Meta(description="a list")]
    extras: Annotated[dict[str, int], Meta(description="a map")]


ORDERS = of_events(Order)
ORDER: dict[str, Any] = {
    "order_id": "00000000-0000-4000-8000-000000000001", "placed_on": "2026-11-21", "total": 1, "weight": 2,
    "currency": "EUR", "customer": {"id": 7, "email": None}, "items": [{"sku": "a", "size": 1}], "paid": True,
    "extras": {"gift": 1}, "source": {"x": [1]}, "raw": 7, "detail-type": "t",
    "version": 2,
}  # fmt: skip


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def shape(value: object) -> str:
    return LOGINS.of(body(value))


def paths(text: str) -> set[str]:
    return {part.partition(": ")[0] for part in text.split(", ")}


# What a shape says ------------------------------------------------------------------------------------------


def test_a_shape_has_each_path_with_its_types_sorted():
    value = {"b": [1, 2.5, None, {"x": True}], "a": {"c": "text"}, "e": [], "d": {}}
    assert shape(value) == (
        "$: object, a: object, a.c: string, b: array, b[*]: integer|null|number|object, b[*].x: boolean, "
        "d: object, e: array"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xff\x00", "not UTF-8"),
        (b"canary", "not JSON"),
        (b'{"canary": ', "not JSON"),
        (b'{"canary": "\\ud800"}', "not JSON"),
        (b"[" * 100_000, "too deep"),
        (b"7", "$: integer"),
        (b"1e999", "$: number"),
        (b"null", "$: null"),
        (b"{}", "$: object"),
        (b'["canary", 1]', "$: array, $[*]: integer|string"),
    ],
)
def test_what_is_no_object_has_a_shape_too(text, expected):
    assert LOGINS.of(text) == expected


@pytest.mark.parametrize(("reason", "expected"), [
    ("too_many_receives", "not parsed"),
    ("too_large", "not parsed"),
    ("missing_field ip", "$: object"),
])  # fmt: skip
def test_what_the_pipeline_does_not_parse_is_not_parsed_here(reason, expected, monkeypatch):
    if expected == "not parsed":
        monkeypatch.setattr(engine, "decode_without_floats", lambda _: pytest.fail("parsed"))
    assert LOGINS.of_rejected(b"{}", reason) == expected


def test_of_an_sns_notification_the_event_inside_is_meant():
    wrapped = {"Type": "Notification", "Message": json.dumps({"email": "a@example.org"})}
    assert Shapes(SIGNUPS).of(body(wrapped)) == "$: object, email: string"
    assert Shapes(SIGNUPS).of(body({**wrapped, "Message": "no json"})) == "not JSON"
    assert Shapes(SIGNUPS).of(body({**wrapped, "Message": 7})) == "$: object, Message: integer, Type: string"
    assert shape(wrapped) == "$: object, Message: string, Type: string"


def test_lines_say_how_long_values_are():
    value = {"user_id": "zoë", "x": [{"y": "a"}, {"y": "abc"}], "n": 12_345}
    assert LOGINS.lines(body(value)) == [
        ShapeLine("$", "object", "3"),
        ShapeLine("n", "integer", ""),
        ShapeLine("user_id", "string", "3"),
        ShapeLine("x", "array", "2"),
        ShapeLine("x[*]", "object", "1"),
        ShapeLine("x[*].y", "string", "1 to 3"),
    ]
    assert LOGINS.lines(b"no json") == [ShapeLine("not JSON", "-", "7 bytes")]


# What it never says -----------------------------------------------------------------------------------------

KEYS_THAT_ARE_DATA = [
    "anna@example.org", "+4915112345678", "192.0.2.7", "ip-192-0-2-7", "u123", "order_2026", "u1-2-3",
    "deadbeef", "dev-5f9c", "a8f3-91cc-77", "Anna Muster", "zoë", "x" * 41, "-a", "", "a.b", "a: b", "a, b",
    "[*]", "a\tb", "a\\b", "$",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS_THAT_ARE_DATA)
def test_a_key_that_may_be_data_is_not_shown(key):
    assert shape({key: 1}) == "$: object, *: integer"


@pytest.mark.parametrize(
    "key", ["ip", "userAgent", "detail-type", "line_1", "v12", "md5", "base64", "_id", "x" * 40]
)
def test_a_key_that_looks_like_a_name_is_shown(key):
    assert shape({key: 1}) == f"$: object, {key}: integer"


def test_a_key_that_the_contract_names_is_shown_whatever_it_looks_like():
    class Event(Struct):
        code: str = field(name="code1234")

    assert of_events(Event).of(body({"code1234": "x"})) == "$: object, code1234: string"


def test_keys_of_a_map_that_the_contract_declares_are_never_shown():
    found = ORDERS.of(body({"extras": {"anna": 1, "sku": 2, "bert": {"inner": 3}}}))
    assert found == "$: object, extras: object, extras.*: integer|object, extras.*.inner: integer"
    assert ORDERS.differences(found).other_type == ["extras.*: object, not integer"]


@pytest.mark.parametrize("key", ["a.b", "a, b", "a: b", "[*]", "*", "$"])
def test_a_key_that_would_make_a_path_ambiguous_is_shown_for_no_contract(key):
    event = defstruct("Event", [("code", str, field(name=key))])
    shapes = of_events(event)
    assert shapes.of(body({key: "x"})) == "$: object, *: string"
    assert differences({}, shapes) == Differences([], [], [])


# Each holds three digits, so that none looks like a name.
canaries = st.from_regex(r"canary[0-9]{3}[a-z0-9@. ]{0,10}", fullmatch=True)
leaves = st.one_of(
    canaries, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()
)
events = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(canaries, st.sampled_from(sorted(ALL))), inner, max_size=4),
    ),
    max_leaves=30,
)


@given(events)
def test_neither_values_nor_keys_that_are_data_stand_in_a_shape(event):
    text = LOGINS.of(body(event))
    lines = LOGINS.lines(body(event))
    told = LOGINS.differences(text)
    assert "canary" not in f"{text} {lines} {told}"
    names = {name for path in paths(text) for name in re.split(r"[.\[]", path)} - {"*]", "$", ""}
    assert names <= ALL | {"*", CUT.strip(".")}


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode), events.map(body)))
def test_any_body_has_a_bounded_shape_that_copy_text_need_not_escape(text):
    found = LOGINS.of(text)
    assert 0 < len(found) <= MAX_CHARS
    assert found.isprintable()
    assert "\\" not in found
    assert found == LOGINS.of(text)


flat = st.dictionaries(st.sampled_from(["a", "b", "user_id", "x9y"]), leaves, max_size=3)


@given(st.lists(st.one_of(flat, events), max_size=8))
def test_no_message_has_the_shape_of_one_before(several):
    shared = Shapes(CONTRACT)
    assert [shared.of(body(one)) for one in several] == [Shapes(CONTRACT).of(body(one)) for one in several]


def test_the_same_names_with_other_types_have_another_shape():
    shared = Shapes(CONTRACT)
    told = [shared.of(body({"a": value})) for value in (1, "x", None, 2)]
    assert told == [f"$: object, a: {kind}" for kind in ("integer", "string", "null", "integer")]


def test_more_shapes_than_are_remembered_are_told_too(monkeypatch):
    monkeypatch.setattr(engine, "MAX_REMEMBERED", 2)
    one_by_one = Shapes(CONTRACT)
    told = [one_by_one.of(body({name: 1})) for name in ("a", "b", "c", "a")]
    assert told == ["$: object, a: integer", "$: object, b: integer", "$: object, c: integer", told[0]]


# How large it may be ----------------------------------------------------------------------------------------


def nested(depth: int) -> object:
    return {"a": nested(depth - 1)} if depth else 1


@pytest.mark.parametrize(
    "event",
    [
        {f"k{number}x": 1 for number in range(MAX_PATHS)},
        {f"{'long_name_' * 4}{number:02}"[-40:]: {"y" * 39: 1} for number in range(30)},
        nested(9),
        {"a": [[[0] * 20] * 20] * 20, "b": 1},
    ],
    ids=["many paths", "long paths", "deep", "many values"],
)
def test_what_is_too_large_is_cut_and_says_so(event):
    text = shape(event)
    assert text.endswith(f", {CUT}")
    assert len(text) <= MAX_CHARS
    assert len(text.split(", ")) <= MAX_PATHS + 1
    assert LOGINS.differences(text).missing == []  # it may be what was cut


def test_what_just_fits_is_not_cut():
    assert not shape({f"k{number}x": 1 for number in range(MAX_PATHS - 1)}).endswith(CUT)
    assert not shape(nested(8)).endswith(CUT)


def test_lines_that_are_cut_say_so():
    assert LOGINS.lines(body(nested(9)))[-1] == ShapeLine(CUT, "", "")


def test_the_contracts_own_fields_are_shown_before_others():
    event = {**{f"other_{letter * 30}": [{"x": 1}] for letter in "abcdefghijklmnopqrstuvwxyz"}, **GOOD}
    assert set(GOOD) <= paths(shape({f"k{number}x": 1 for number in range(5_000)} | GOOD))
    assert set(GOOD) <= paths(shape(event))


def test_arrays_of_any_length_have_one_shape():
    assert shape([{"x": 1}] * 3) == shape([{"x": 1}] * 3_000) == "$: array, $[*]: object, $[*].x: integer"


# How it differs from the contract ---------------------------------------------------------------------------


def test_a_field_with_a_description_keeps_its_types() -> None:
    shapes = of_events(Described)
    event = {"number": 1, "note": None, "items": [{"sku": "a", "size": 1}], "extras": {"gift": 1}}
    assert differences(event, shapes) == Differences([], [], [])
    wrong = {"number": "1", "note": 1, "items": [{"sku": 7, "size": 1}], "extras": {"gift": "x"}}
    assert differences(wrong, shapes).other_type == [
        "extras.*: string, not integer",
        "items[*].sku: integer, not string",
        "note: integer, not null|string",
        "number: string, not integer",
    ]


def differences(event: object, shapes: Shapes = ORDERS) -> Differences:
    return shapes.differences(shapes.of(body(event)))


@pytest.mark.parametrize("change", [
    {}, {"total": 1.5}, {"total": "1.50"}, {"note": None}, {"note": "x"},
    {"customer": {"id": 7, "email": "x"}},
    {"items": []}, {"items": [{"sku": "a", "parts": [{"sku": "b", "parts": []}]}]}, {"extras": {}},
    {"source": None}, {"raw": {"any": [1]}}, {"items": [{"sku": "a"}] * 50},
])  # fmt: skip
def test_what_the_contract_accepts_differs_in_nothing(change):
    assert differences({**ORDER, **change}) == Differences([], [], [])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"customer": {"id": 7}}, (["customer.email"], [], [])),
        ({"customer": {"id": 7, "email": None, "mail": "x"}}, ([], ["customer.mail: string"], [])),
        ({"customer": "x"}, ([], [], ["customer: string, not object"])),
        ({"customer": {"id": "7", "email": None}}, ([], [], ["customer.id: string, not integer"])),
        ({"items": [{"sku": 1}]}, ([], [], ["items[*].sku: integer, not string"])),
        ({"items": {"sku": 1}}, ([], [], ["items: object, not array"])),
        ({"items": [{}]}, (["items[*].sku"], [], [])),
        ({"total": [1]}, ([], [], ["total: array, not integer|number|string"])),
        ({"weight": "2"}, ([], [], ["weight: string, not integer|number"])),
        ({"paid": None}, ([], [], ["paid: null, not boolean"])),
        ({"items": [{"sku": "a", "size": "L"}]}, ([], [], ["items[*].size: string, not integer"])),
        ({"currency": 1}, ([], [], ["currency: integer, not string"])),
        ({"version": "2"}, ([], [], ["version: string, not integer"])),
        ({"extra": {"inner": 1}}, ([], ["extra: object"], [])),
        ({"u1234": 1, "u5678": "x"}, ([], ["*: integer|string"], [])),
    ],
)
def test_each_difference_is_told_by_its_path(change, expected):
    assert differences({**ORDER, **change}) == Differences(*expected)


def test_all_that_is_missing_is_told():
    assert differences({}, LOGINS).missing == sorted(ALL)
    assert "note" not in differences({}).missing


@pytest.mark.parametrize(("event", "told"), [
    ([1], "$: array, not object"), (7, "$: integer, not object"), (None, "$: null, not object"),
])  # fmt: skip
def test_what_is_no_object_differs_in_its_type_alone(event, told):
    assert differences(event) == Differences([], [], [told])


@pytest.mark.parametrize("text", ["not JSON", "empty", "not UTF-8", "too deep", "not parsed"])
def test_what_has_no_paths_differs_in_none(text):
    assert LOGINS.differences(text) == Differences([], [], [])
