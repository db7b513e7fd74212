"""What a sample holds: paths, types, shares."""

import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.onboarding.survey import MOST_DEPTH, MOST_DISTINCT, survey
from tests.unit.onboarding_events import ORDER, bodies, fields, order, surveyed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=6),
    max_leaves=20,
)
OBJECTS = st.lists(st.dictionaries(st.text(), JSON, max_size=8), min_size=1, max_size=6)


def test_every_path_of_a_nested_order_is_found():
    assert set(fields(ORDER)) == {
        *("orderId", "placedAt", "shipBy", "pickedAt", "traceId", "total", "currency", "express"),
        *("itemCount", "weight", "customer", "customer.id", "customer.email", "customer.name"),
        *("customer.address", "customer.address.line1", "customer.address.city", "customer.address.geo"),
        *("customer.address.geo.lat", "customer.address.geo.lon", "items", "items[*]", "items[*].sku"),
        *("items[*].price", "items[*].gift", "items[*].gift.phone", "tags", "tags[*]", "scores"),
        *("scores[*]", "class", "coupon"),
    }


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ("orderId", {"text"}),
        ("total", {"decimal"}),
        ("express", {"boolean"}),
        ("itemCount", {"integer"}),
        ("customer", {"object"}),
        ("items", {"array"}),
        ("items[*].gift", {"object"}),
        ("coupon", set()),
    ],
)
def test_a_path_has_the_kinds_of_its_values(path, kinds):
    assert fields(ORDER)[path].kinds == kinds


def test_missing_and_null_are_counted_apart():
    found = fields({"a": 1, "b": None}, {"a": None}, {"a": 2}, {})
    a, b = found["a"], found["b"]
    assert (a.parents, a.missing, a.seen, a.nulls) == (4, 1, 3, 1)
    assert (b.parents, b.missing, b.seen, b.nulls) == (4, 3, 1, 1)


def test_a_nested_field_is_missing_from_the_objects_alone_that_are_there():
    found = fields({"a": {"b": 1}}, {"a": {}}, {})
    assert (found["a.b"].parents, found["a.b"].missing) == (2, 1)


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["2026-01-31T10:11:12Z", "2026-01-31 10:11:12.123456+01:00"], "datetime"),
        (["2026-01-31T10:11:12"], "local datetime"),
        (["2026-01-31T10:11:12", "2026-01-31T10:11:12Z"], ""),
        (["2026-01-31"], "date"),
        (["2026-02-30"], ""),
        (["2026-02-30T10:11:12Z"], ""),
        (["0001-01-01"], ""),
        (["0001-01-01T00:00:00Z"], ""),
        (["7f1b6d0e-63f4-4a57-9c3f-5a5c4f6a1b20"], "uuid"),
        (["7f" * 16], ""),  # may be a digest
        (["2026-01-31", ""], ""),
    ],
)
def test_a_form_is_that_of_all_texts(texts, form):
    assert fields(*({"a": text} for text in texts))["a"].texts.form == form


def test_the_longest_text_and_the_distinct_values_are_counted():
    found = fields(*({"a": "x" * (number % 3)} for number in range(9)))["a"]
    assert (found.texts.longest, found.distinct) == (2, 3)
    many = fields(*({"a": number} for number in range(MOST_DISTINCT + 5)))["a"]
    assert many.distinct == MOST_DISTINCT


def test_true_is_another_value_than_one():
    assert fields({"a": True}, {"a": 1}, {"a": "1"})["a"].distinct == 3


def test_digits_of_numbers_are_those_that_were_written():
    found = survey([b'{"a": 12.50}', b'{"a": -3}'])
    (a,) = found.event.fields
    assert (a.numbers.whole_digits, a.numbers.decimals, a.numbers.cents) == (2, 2, True)
    assert (a.numbers.smallest, a.numbers.largest) == (Decimal(-3), Decimal("12.5"))


@pytest.mark.parametrize(
    ("written", "fits"), [("0.1", True), ("0.12345678901234567890", False), (str(2**53 + 1), False)]
)
def test_numbers_that_a_float_would_change_are_seen(written, fits):
    (a,) = survey([b'{"a": %s}' % written.encode()]).event.fields
    assert a.numbers.fit_float is fits


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b'{"a": NaN}', "bad_json"),
        (b'"text"', "not_object"),
        (b"[]", "not_object"),
        (b"null", "not_object"),
        (b'"bad_json', "bad_json"),
        (b'{"a": "\\ud800"}', "bad_json"),
        (b'{"a": "\xff"}', "bad_json"),
        (b'{"a": 1e999}', "bad_json"),
        (b'{"a": 1e-99999999999999999999}', "bad_json"),
        (b'{"a": 1e-1000}', "out_of_range"),
        (b'{"a": ' + b"9" * 1_001 + b"}", "out_of_range"),
        (b'{"a": ["\\u0000"]}', "nul_char"),
        (b'{"\\u0000": 1}', "nul_char"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep"),
    ],
)
def test_a_body_that_no_contract_loads_is_counted_apart(body, code):
    found = survey([body, b'{"a": 1}'])
    assert (found.bodies, found.events, found.unusable) == (2, 1, {code: 1})


def test_an_sns_notification_is_unwrapped():
    found = survey(bodies({"Type": "Notification", "Message": json.dumps(ORDER)}, order()))
    assert found.envelope
    assert (found.events, found.event.fields[0].path, found.event.fields[0].missing) == (2, "orderId", 0)


def test_an_event_that_only_looks_like_a_notification_is_an_event():
    found = surveyed({"Type": "Notification", "Message": "hello"})
    assert not found.envelope
    assert [field.path for field in found.event.fields] == ["Type", "Message"]


def test_among_notifications_a_message_that_is_no_object_is_counted():
    found = survey(bodies(*({"Type": "Notification", "Message": text} for text in ("{}", "x", "1"))))
    assert (found.events, found.unusable) == (1, {"bad_json": 1, "not_object": 1})


def test_a_name_that_occurs_twice_counts_with_both_values():
    (a,) = survey([b'{"a": 1, "a": "x"}']).event.fields
    assert a.kinds == {"integer", "text"}
    assert a.missing == 0


def test_an_object_whose_names_are_data_is_a_map():
    found = fields({"scores": {"ann@example.org": 1, "x": 2}})
    assert set(found) == {"scores", "scores[*]"}
    assert found["scores"].map_shapes == {"e-mail addresses": 1}


def people(*values: Any) -> list[dict[str, Any]]:
    """Events, each with other names in an object."""
    names = ["ann", "bob", "cy", "dee", "eve", "flo", "gus", "hal", "ida", "jo"]
    return [{"by": {name: value}} for name, value in zip(names, values, strict=True)]


def test_many_names_with_values_of_one_kind_are_a_map():
    found = fields(*people(*range(10)))
    assert set(found) == {"by", "by[*]"}


def test_many_names_with_several_kinds_are_an_object_that_differs():
    found = fields(*people(*range(9), "x"))
    assert found["by"].is_sparse
    assert "by.ann" in found


@pytest.mark.parametrize(("events", "is_field"), [(10, True), (9, False), (21, False)])
def test_a_name_of_ten_events_and_of_half_is_that_of_a_field(events, is_field):
    named = [{"id": 1, "First Name": 2}] * min(events, 10)
    found = surveyed(*named, *[{"id": 1}] * (events - len(named)))
    assert ("First Name" in {field.path for field in found.event.walk()}) is is_field
    assert found.data_names == (not is_field)


def test_a_name_inside_that_looks_like_data_makes_a_map_however_common():
    assert set(fields(*[{"by": {"Zoe Miller": 1}}] * 20)) == {"by", "by[*]"}


def test_what_is_too_deep_to_be_looked_into_is_said():
    deep: Any = {"a": "ann@example.org"}
    for _ in range(MOST_DEPTH):
        deep = {"a": deep}
    cut = [field.path for field in surveyed(deep).event.walk() if field.is_cut]
    assert cut == [".".join("a" * MOST_DEPTH)]
    assert not any(field.is_cut for field in surveyed(deep["a"]).event.walk())
    listed = surveyed({"a": [[]]}).event
    assert not any(field.is_cut for field in listed.walk())


def test_names_at_the_top_that_are_data_are_left_out_and_counted():
    found = surveyed({"id": 1, "ann@example.org": 2, "x" * 300: 3})
    assert [field.path for field in found.event.fields] == ["id"]
    assert found.data_names == 2


@pytest.mark.parametrize(
    ("texts", "choices"),
    [
        (["EUR"] * 3 + ["USD"] * 3, ("EUR", "USD")),
        (["EUR"] * 3 + ["USD"] * 2, ()),  # one value is rare
        ([str(number % 13) for number in range(60)], ()),  # too many
        (["x" * 41] * 9, ()),  # too long
        ([""] * 9, ()),
    ],
)
def test_choices_are_few_short_and_each_seen_often(texts, choices):
    assert fields(*({"a": text} for text in texts))["a"].texts.choices == choices


@given(OBJECTS)
def test_any_objects_are_read(events):
    found = surveyed(*events)
    assert found.bodies == len(events) == found.events + sum(found.unusable.values())
    for field in found.event.walk():
        assert 0 <= field.nulls <= field.seen
        assert 0 <= field.missing <= field.parents


@given(st.lists(st.binary(max_size=40) | st.text(max_size=40).map(str.encode)))
def test_any_bytes_are_counted(given_bodies):
    found = survey(given_bodies)
    assert found.events + Counter(found.unusable).total() == len(given_bodies)


def test_neither_repr_nor_str_of_a_survey_shows_a_value():
    shown = repr(surveyed(*[ORDER] * 5))
    for value in ("77123", "zoe.quill", "Larch", "EUR", "129.9", "991823", "64.95", "fragile"):
        assert value not in shown
