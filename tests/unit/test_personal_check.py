"""The personal data check: which fields are looked at, in which messages, and what is told of them."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from include.queue_etl.contract import Contract, Derived, Jsonb, NotPersonal, Personal
from include.queue_etl.transform.batches import MaskedBatch
from include.queue_etl.transform.personal_check import PersonalCheck, counted, reason, sampled, warnings
from include.queue_etl.transform.undeclared import MAX_PATHS, OTHERS
from tests.support.json_strategies import json_values

EMAIL = "canary@example.org"


class Item(Struct):
    sku: str = ""
    phone: Annotated[str | None, Personal()] = None
    parts: "list[Item]" = []


class Customer(Struct):
    nickname: str = ""
    email: Annotated[str, Personal()] = ""


class Event(Struct):
    note: str | None = None
    customer: Customer | None = None
    items: list[Item] = []
    by_name: dict[str, Item] = {}
    free: Annotated[dict, Jsonb(personal={"to.mail": Personal(), "all[*].mail": Personal()})] = {}
    rows: Annotated[Any, Jsonb(personal={"[*].mail": Personal()})] = None
    either: Annotated[Item | list[str] | None, Jsonb()] = None
    harmless: Annotated[str, NotPersonal()] = ""
    agent: Annotated[str, Derived(lambda _: 1, int)] = ""
    kind: Literal["canary@example.org", ""] = ""
    at: datetime | None = None
    number: int = 0
    app_version: str = ""
    secret: Annotated[Any, Personal()] = None


CONTRACT = Contract(name="events", queue="events", table="public.events", event=Event)
CHECK = PersonalCheck(CONTRACT)


def findings(event: dict[str, Any]) -> list[tuple[str, str]]:
    return CHECK.findings(json.dumps(event).encode(), {})


def paths(event: dict[str, Any]) -> list[str]:
    return [path for path, _ in findings(event)]


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ({"note": EMAIL}, "note"),
        ({"customer": {"nickname": EMAIL}}, "customer.nickname"),
        ({"items": [{"sku": "a"}, {"sku": EMAIL}]}, "items[*].sku"),
        ({"items": [{"parts": [{"sku": EMAIL}]}]}, "items[*].parts[*].sku"),
        ({"by_name": {"ann": {"sku": EMAIL}}}, "by_name[*].sku"),
        ({"free": {"to": {"name": EMAIL}}}, "free.to.name"),
        ({"free": {"all": [{"x": EMAIL}]}}, "free.all[*].x"),
        ({"rows": [{"x": [EMAIL]}]}, "rows[*].x[*]"),
        ({"rows": EMAIL}, "rows"),
        ({"either": {"sku": EMAIL}}, "either.sku"),
        ({"either": [EMAIL]}, "either[*]"),
        # Nobody declared these.
        ({"new": EMAIL}, "new"),
        ({"new": [{"a": {"b": EMAIL}}]}, "new[*].a.b"),
        ({"customer": {"new": EMAIL}}, "customer.new"),
        ({"items": [{"new": EMAIL}]}, "items[*].new"),
        # A key that is data, and what stands under it.
        ({"new": {EMAIL: 1}}, "new.*"),
        ({EMAIL: 1}, "*"),
        ({"free": {EMAIL: 1}}, "free.*"),
        ({"by_name": {EMAIL: {"sku": ""}}}, "by_name[*]"),
        ({"new": {"user 4711": EMAIL}}, "new.*"),
    ],
)
def test_texts_that_no_mark_calls_personal_are_looked_at(event, path):
    assert findings(event) == [(path, "email")]


@pytest.mark.parametrize(
    "event",
    [
        {"customer": {"email": EMAIL}},
        {"items": [{"phone": EMAIL, "parts": [{"phone": EMAIL}]}]},
        {"by_name": {"a": {"phone": EMAIL}}},
        {"free": {"to": {"mail": EMAIL}, "all": [{"mail": EMAIL}]}},
        {"free": {"all": {"any": {"mail": EMAIL}}}},
        {"rows": [{"mail": EMAIL}]},
        {"either": {"phone": EMAIL}},
        {"secret": {"x": EMAIL}},
        {"harmless": EMAIL},
        {"customer": None, "either": None},
        {"agent": EMAIL},
        {"kind": EMAIL},
        {"app_version": "203.0.113.7"},
        {"number": 4111111111111111, "note": None, "at": "2026-01-31T10:11:12Z"},
    ],
)
def test_what_is_masked_marked_or_no_text_is_not_looked_at(event):
    assert findings(event) == []


def test_whole_numbers_are_looked_at_where_nobody_declared_a_type():
    assert findings({"new": 4111111111111111, "free": {"n": 4111111111111111, "t": True, "f": 4.5}}) == [
        ("new", "card"),
        ("free.n", "card"),
    ]


def test_each_path_and_kind_counts_once_for_a_message():
    assert findings({"items": [{"sku": EMAIL}, {"sku": f"{EMAIL} 203.0.113.7"}]}) == [
        ("items[*].sku", "email"),
        ("items[*].sku", "ip"),
    ]


@pytest.mark.parametrize("number", ["9" * 5_000, "-" + "9" * 5_000, "1e999", "-0.0e-7"])
def test_a_number_that_python_does_not_take_hides_nothing(number):
    body = f'{{"new": {{"n": [{number}, "{EMAIL}"]}}, "note": "{EMAIL}"}}'.encode()
    assert set(CHECK.findings(body, {})) == {("note", "email"), ("new.n[*]", "email")}


def test_a_deeply_nested_message_is_looked_at_to_the_bottom():
    depth = 900
    body = b'{"new": ' + b"[" * depth + f'"{EMAIL}"'.encode() + b"]" * depth + b"}"
    assert CHECK.findings(body, {}) == [(f"new{'[*]' * 66}...", "email")]


def test_a_path_of_long_names_is_cut():
    inner: dict[str, Any] = {"x": EMAIL}
    for _ in range(100):
        inner = {"x" * 40: inner}
    ((path, _),) = findings(inner)
    assert path.endswith("...")
    assert len(path) < 250


nested = json_values(text=12, key=8, width=4, leaves=20)


@given(st.dictionaries(st.text(max_size=8), nested, max_size=5))
def test_no_message_raises_and_no_odd_name_is_told(extra):
    found = findings({"new": {f"canary {name} {EMAIL}": value for name, value in extra.items()}})
    assert "canary" not in json.dumps(found)


# Which messages --------------------------------------------------------------------------------------


IDS = [str(uuid4()) for _ in range(20_000)]


@pytest.mark.parametrize("one_in", [2, 7, 16, 17, 100])
def test_the_sample_has_about_the_share_that_was_asked_for(one_in):
    expected = len(IDS) / one_in
    assert abs(len(sampled(IDS, one_in)) - expected) < 6 * expected**0.5


def test_no_message_is_in_the_sample_of_zero_and_each_in_that_of_one():
    assert sampled(IDS, 0) == []
    assert sampled(IDS, 1) == list(range(len(IDS)))
    assert sampled([], 100) == []


def test_a_message_is_in_the_sample_wherever_it_comes():
    chosen = {IDS[index] for index in sampled(IDS, 50)}
    backwards = IDS[::-1]
    assert {backwards[index] for index in sampled(backwards, 50)} == chosen
    assert {one for one in IDS if sampled([one], 50)} == chosen


def test_a_rarer_sample_is_part_of_a_denser_one():
    assert set(sampled(IDS, 100)) < set(sampled(IDS, 10)) < set(sampled(IDS, 9))


# What is told ----------------------------------------------------------------------------------------


def test_messages_are_counted_by_path_and_kind():
    assert counted([[("a", "ip"), ("b", "email")], [("a", "ip"), ("a", "card")], []]) == {
        "a": {"ip": 2, "card": 1},
        "b": {"email": 1},
    }


def test_further_paths_are_counted_together():
    found = counted([[("first", "ip")]] * 2 + [[(f"p{number}", "ip")] for number in range(MAX_PATHS + 5)])
    assert len(found) == MAX_PATHS + 1
    assert (found["first"], found[OTHERS]) == ({"ip": 2}, {"ip": 6})


def test_a_reason_names_a_path_that_was_counted_by_name_and_no_other():
    assert reason([("a.b", "ip"), ("c", "ip")], {"a.b"}) == "personal_data a.b"
    assert reason([("a.b", "ip")], {"c"}) == "personal_data ..."


def batch_with(found: dict[str, dict[str, int]]) -> MaskedBatch:
    return MaskedBatch(b"", b"", b"", 0, {}, {}, [], 0, personal_data_checked=100, personal_data_found=found)


def test_a_warning_says_how_many_where_and_what_to_do():
    assert warnings(batch_with({"note": {"email": 3}}), CONTRACT) == [
        "3 of 100 checked messages have what looks like an e-mail address in note: "
        "declare it Personal(), or NotPersonal() where it is none"
    ]
    assert warnings(batch_with({}), CONTRACT) == []


def test_a_warning_says_that_the_messages_are_in_quarantine():
    contract = Contract("events", "events", "public.events", Event, personal_data_check="quarantine")
    (warning,) = warnings(batch_with({"note": {"ip": 1}}), contract)
    assert "an IP address in note: they are in quarantine; " in warning


def test_a_batch_has_ten_warnings_at_most_and_says_that_there_are_more():
    found = warnings(batch_with({f"p{number}": {"ip": 1} for number in range(12)}), CONTRACT)
    assert len(found) == 11
    assert found[-1].startswith("2 more such lines")
