"""No input raises: every body is an event or a rejection. The verdicts are in tests/events."""

import json
from typing import Annotated

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract import Contract, Derived, Rejected
from include.queue_etl.transform.parsing import Parser
from tests.contracts.newsletter_signups import CONTRACT as SIGNUPS
from tests.support.contracts import redeclared

REASONS = {
    "too_large",
    "bad_json",
    "too_deep",
    "not_object",
    "missing_field",
    "bad_type",
    "too_long",
    "bad_value",
    "nul_char",
    "bad_version",
    "version_range",
    "bad_answer",
    "no_value",
    "unknown_field",
}
PATHS = {column.field for contract in (CONTRACT, SIGNUPS) for column in contract.columns}
FIELDS = {
    "user_id": "u",
    "app_version": "1.0",
    "device_type": "x",
    "ip": "1.2.3.4",
    "locale": None,
    "device_id": "d",
}
ORDINARY = json.dumps(FIELDS).encode()
CANARY = "canary-4711"

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
events = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys((*FIELDS, "email", "newsletter", "doubleOptIn", "Type", "Message"), json_values),
)
bodies = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda value: json.dumps(value).encode()),
    events.map(lambda value: json.dumps(value).encode()),
    events.map(lambda value: json.dumps({**FIELDS, **value}).encode()),
    events.map(
        lambda value: json.dumps({**FIELDS, **value}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ),
    st.builds(
        lambda at, byte: ORDINARY[:at] + byte + ORDINARY[at + 1 :], st.integers(0, 99), st.binary(max_size=2)
    ),
)


def verdict(body: bytes, contract: Contract = CONTRACT, limit: int = 1_048_576) -> msgspec.Struct | Rejected:
    return Parser(contract, limit).parse(body)


def plain(found: msgspec.Struct | Rejected) -> object:
    """Comparable: the events of two parsers are of two types."""
    return found if isinstance(found, Rejected) else msgspec.structs.asdict(found)


@given(bodies)
@example(b"[" * 200_000)
@example(b'{"a":' * 200_000)
@example(b'{"user_id":' + b"9" * 5_000)
@example(ORDINARY[:-1] + b',"ip":-1e999999999}')
@example(b'{"Type":"Notification","Message":"' + b"[" * 200_000 + b'"}')
def test_every_byte_string_is_an_event_or_a_rejection_with_a_known_reason(body):
    for contract in (CONTRACT, SIGNUPS):
        found = verdict(body, contract)
        if isinstance(found, Rejected):
            code, _, path = found.reason.partition(" ")
            assert code in REASONS
            assert not path or path in PATHS
        else:
            assert isinstance(found, contract.event)


@given(bodies)
def test_an_accepted_event_fits_its_table(body):
    found = verdict(body)
    if isinstance(found, Rejected):
        return
    for column in CONTRACT.columns:
        value = getattr(found, column.field, None)
        assert value is None or ("\0" not in value and len(value) <= column.max_length)


@given(bodies)
def test_the_verdict_depends_on_nothing_but_the_body(body):
    parser = Parser(CONTRACT, 1_048_576)
    parser.parse(ORDINARY)
    assert plain(parser.parse(body)) == plain(verdict(body))


@given(bodies)
def test_an_sns_envelope_changes_no_verdict(body):
    try:
        inner = body.decode()
    except UnicodeDecodeError:
        return
    raw_delivery = Contract(
        **{name: getattr(SIGNUPS, name) for name in ("name", "queue", "table", "event", "message")}
    )
    wrapped = json.dumps({"Type": "Notification", "Message": inner}).encode()
    assert plain(verdict(wrapped, SIGNUPS)) == plain(verdict(body, raw_delivery))


@given(json_values)
def test_no_reason_holds_anything_of_the_message(value):
    for field in FIELDS:
        body = json.dumps({**FIELDS, field: [CANARY, value], CANARY: 1}).encode()
        found = verdict(body)
        assert isinstance(found, Rejected)
        assert "canary" not in found.reason


@pytest.mark.parametrize(("limit", "expected"), [(len(ORDINARY), False), (len(ORDINARY) - 1, True)])
def test_a_body_may_be_just_as_long_as_the_limit(limit, expected):
    assert (verdict(ORDINARY, limit=limit) == Rejected("too_large")) is expected


def test_a_body_over_the_limit_is_not_looked_into():
    assert verdict(b"\xff" * 11, limit=10) == Rejected("too_large")


def test_messages_with_unknown_fields_are_told_apart():
    parser = Parser(CONTRACT, 1_048_576)
    bodies = (ORDINARY, ORDINARY[:-1] + b',"x":1,"y":2}', ORDINARY[:-1] + b',"z":"\\u0000"}')
    found = parser.with_unknown_fields(bodies, [parser.parse(body) for body in bodies])
    assert found == {1: bodies[1], 2: bodies[2]}


def test_a_parser_goes_on_after_a_rejection():
    parser = Parser(CONTRACT, 1_048_576)
    assert isinstance(parser.parse(b"[" * 200_000), Rejected)
    assert isinstance(parser.parse(ORDINARY), CONTRACT.event)


# Derived columns --------------------------------------------------------------------------------------------


def counting(calls: list[str | None]) -> Parser:
    """A parser of `user_logins` that notes each text whose version is converted."""
    derived = Annotated[str | None, Derived(calls.append, int)]
    return Parser(redeclared(CONTRACT, app_version=derived), 1_000_000)


def body_of(version: str | None) -> bytes:
    return json.dumps({**FIELDS, "app_version": version}).encode()


def test_a_derived_value_is_computed_once_for_each_text():
    calls: list[str | None] = []
    parser = counting(calls)
    for version in ("x", "y", "x", None, None):
        parser.parse(body_of(version))
    assert calls == ["x", "y", None]


def test_what_is_remembered_of_derived_values_is_bounded():
    calls: list[str | None] = []
    parser = counting(calls)
    for version in (*map(str, range(4_097)), "0"):
        parser.parse(body_of(version))
    assert (len(calls), calls[-1]) == (4_098, "0")
