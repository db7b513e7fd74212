"""The drafted contract: types, columns, and source that Python, ruff, mypy and the engine accept."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.contract import Contract, Rejected, comments
from include.queue_etl.onboarding import draft, example, names, personal, source, survey
from include.queue_etl.transform.parsing import Parser
from include.queue_etl.transform.shapes import Shapes
from tests.unit.onboarding_events import ORDER, bodies, columns, drafted, order, surveyed
from tests.unit.test_survey import OBJECTS

ROOT = Path(__file__).parents[2]
# As forms and spreadsheets send it, in enough events that these are names of fields.
FORM: dict[str, Any] = {
    "Submission ID": 1,
    "First Name": "Zoe",
    "AC/DC?": True,
    "Ref:": "x",
    "customfield_10045": "x",
    "Where from": {"town": "x"},
}
FORMS = [{**FORM, "Submission ID": number} for number in range(10)]
RUFF = str(Path(sys.executable).with_name("ruff"))
EXPECTED = (Path(__file__).parent / "orders_source.txt").read_text(encoding="utf-8")
HOSTILE = {
    "class": 1,
    "date": "2026-01-31",
    "int": 1,
    "str": "x",
    "field": "x",
    "None": 1,
    "user": "x",
    "select": "x",
    "_id": "x",
    "__init__": 1,
    "1st": "x",
    "名前": "x",
    "straße": {"ß": 1},
    "\U0001d4b3" * 60: "x",
    "名" * 60: None,
    "userId": "x",
    "user_id": "x",
    "UserID": "x",
    "user-id": "x",
    "a.b": {"c": 1},
    "a": {"b": {"c": 2}},
    "a_b_c": 3,
    "name": {"name": {"name": "x"}},
    "contract": {"x": 1},
    "meta": {"x": 1},
    "any": {"x": 1},
    "sent_at": "x",
    "ctid": 1,
    "long_" * 12: {"long_" * 12: {"long_" * 12: 1, "longer_" * 8: 2}},
    "says": {'a "quote"': 1},
    "lines": {"a\nb": 1},
    "x" * 300: 1,
    "top\nline": 1,
    'top "quote"': 1,
    "back\\slash": {"x": 1},
    "'": 2,
    "": 3,
    "\x1b[2J": 4,
    "letters": [{"名" * 40: {"phone": "+4930901820"}}],
    "paths": [
        {
            "b" * 40: {
                "c" * number: {"phone": "+4930901820", "ssn": 1, "d" * 60: {"email": "ann@corp.test"}}
                for number in range(1, 60)
            }
        }
    ],
    "email.address": {"a.b": "ann@corp.test"},
    "l": 1,
    "O": {"I": {"l": 1}},
    "empty": {},
    "nothing": [],
}


def written(*events: Any, **decided: Any) -> str:
    return source.contract_source(drafted(*events, **decided), "orders", "orders-queue", "public.orders")


def loaded(text: str) -> Contract:
    """The contract that the source declares."""
    module = ModuleType("orders")
    sys.modules["orders"] = module  # msgspec looks for the types there
    try:
        exec(compile(text, "orders.py", "exec"), module.__dict__)
        contract: Contract = module.CONTRACT
        assert contract.columns
        return contract
    finally:
        del sys.modules["orders"]


def rejections(contract: Contract, made: list[bytes]) -> set[str]:
    """Why the contract rejects bodies; those that no contract loads are left out."""
    parser = Parser(contract, body_limit_bytes=1_048_576)
    parsed = [parser.parse(body) for body in made if survey.survey([body]).events]
    return {one.reason for one in parsed if isinstance(one, Rejected)}


def test_the_tables_comment_names_the_queue():
    assert comments.of_table(loaded(written(ORDER))) == (
        "A message of the queue `orders-queue`. One row for each message; contract orders."
    )


def test_a_queue_that_no_docstring_can_hold_is_left_out_of_it():
    text = source.contract_source(drafted(ORDER), "orders", 'a"""\\', "public.orders")
    ast.parse(text)
    assert '"""A message of the queue."""' in text


def test_the_source_of_an_order_is_as_expected():
    assert written(*[ORDER] * 5, choices=("currency",)) == EXPECTED


@pytest.mark.parametrize("events", [[ORDER], [HOSTILE], [HOSTILE, {}], [{}], [order(userId="u")], FORMS])
def test_ruff_changes_nothing_and_finds_nothing(events):
    text = written(*events).encode()
    formatted = subprocess.run([RUFF, "format", "-"], input=text, capture_output=True, cwd=ROOT, check=True)
    assert formatted.stdout.decode() == text.decode()
    at = ["--stdin-filename", "include/contracts/orders.py", "-"]
    found = subprocess.run([RUFF, "check", *at], input=text, capture_output=True, cwd=ROOT, check=False)
    assert (found.stdout.decode(), found.returncode) == ("All checks passed!\n", 0)


def test_mypy_accepts_the_source(tmp_path):
    file = tmp_path / "orders_contract.py"
    file.write_text(written(ORDER, HOSTILE), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(file)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout == "Success: no issues found in 1 source file\n"


@pytest.mark.parametrize(
    "events",
    [
        [ORDER],
        [ORDER, order(customer=None, items=[], coupon="x")],
        [HOSTILE],
        [HOSTILE, {}],
        [{}],
        [{"a": 2**63}, {"a": -(2**63)}],
        [{"a": 2**63 - 1, "b": -(2**63)}],
        [{"a": 0.1}, {"a": 10**400}],
        [{"price": 1e-300}],
        [{"a.b": 1, "a": {"b": {"c": 2}}}, {"a.b": "x"}],
        [{"a": {"email": "ann@corp.test"}}, {"a": "ann@corp.test"}],
        [{"a": [[{"email": "ann@corp.test"}]]}],
        [{"a": [1, "x", None, {"b": []}]}],
    ],
)
def test_the_contract_accepts_every_event_it_was_made_from(events):
    assert rejections(loaded(written(*events)), bodies(*events)) == set()


@given(OBJECTS)
def test_the_contract_accepts_any_events_it_was_made_from(events):
    made = bodies(*events)
    found = survey.survey(made)
    drafted_ = draft.draft(found, "orders", personal.proposals(found.event))
    text = source.contract_source(drafted_, "orders", "orders-queue", "public.orders")
    assert text.isascii()
    if found.event.fields:
        contract = loaded(text)
        assert rejections(contract, made) == set()
        assert rejections(contract, bodies(*example.events(found, drafted_))) == set()


@given(st.lists(st.integers(-(10**30), 10**30) | st.floats(-1e18, 1e18), min_size=1))
def test_any_numbers_fit_the_type_that_is_drafted(numbers):
    made = [f'{{"n": {number}}}'.encode() for number in numbers]
    found = survey.survey(made)
    text = source.contract_source(draft.draft(found, "orders", {}), "orders", "q", "public.orders")
    assert rejections(loaded(text), made) == set()


@pytest.mark.parametrize(
    ("path", "kind", "sql"),
    [
        ("orderId", "str", "varchar(32)"),
        ("placedAt", "datetime", "timestamptz"),
        ("shipBy", "date", "date"),
        ("pickedAt", "datetime", "timestamptz"),
        ("traceId", "UUID", "uuid"),
        ("total", "Decimal", "numeric(12,2)"),
        ("express", "bool", "boolean"),
        ("itemCount", "int", "bigint"),
        ("weight", "float", "double precision"),
        ("customer.id", "int", "bigint"),
        ("customer.email", "str", "token"),
        ("items", "list[Any]", "jsonb"),
        ("tags", "list[str]", "jsonb"),
        ("scores", "dict[str, Any]", "token"),
        ("coupon", "Any", "jsonb"),
    ],
)
def test_a_field_gets_the_type_of_its_values(path, kind, sql):
    member = columns(ORDER)[path]
    assert (member.type, member.sql_type) == (kind, sql)


@pytest.mark.parametrize(
    ("name", "numbers", "kind", "note"),
    [
        ("unitPrice", [1.5], "Decimal", "money by its name: price"),
        ("x", [1.55, 2], "Decimal", "money by its digits: two decimals"),
        ("x", [1.5, 2], "float", "fractions, and nothing says money"),
        ("x", [1.555], "float", "fractions, and nothing says money"),
        ("x", [1.5, 2**53 + 1], "Decimal", "more digits than a float keeps"),
        ("x", [2**63], "Decimal", "larger than a bigint"),
        ("price", [5], "int", ""),
        ("year", [2026], "int", ""),
    ],
)
def test_a_type_of_numbers_has_its_reason(name, numbers, kind, note):
    member = columns(*({name: number} for number in numbers))[name]
    assert (member.type, member.note) == (kind, note)


@pytest.mark.parametrize(
    ("name", "largest", "sql"),
    [("http_status_code", 599, "smallint"), ("year", 2026, "smallint"), ("count", 3, "bigint")],
)
def test_an_integer_is_a_bigint_unless_it_is_clearly_small(name, largest, sql):
    assert columns({name: largest})[name].sql_type == sql
    assert columns({name: -largest})[name].sql_type == "bigint"


@pytest.mark.parametrize(
    ("longest", "sql"), [(0, "varchar(32)"), (16, "varchar(32)"), (17, "varchar(64)"), (513, "text")]
)
def test_a_text_gets_twice_its_length_or_no_limit(longest, sql):
    assert columns({"a": "x" * longest})["a"].sql_type == sql


def test_null_and_missing_make_a_field_nullable_and_optional():
    found = columns({"a": 1, "b": 1, "c": 1}, {"a": None, "b": 1})
    assert [(found[name].is_nullable, found[name].is_optional) for name in "abc"] == [
        (True, False),
        (False, False),
        (True, True),
    ]


def test_personal_values_inside_jsonb_are_marked_by_path():
    assert set(columns(ORDER)["items"].inside) == {"[*].gift.phone"}
    deep = columns({"a": [{"b": {"ann@corp.test": {"ip": "x"}}}]}, not_personal=["a[*].b"])
    assert set(deep["a"].inside) == {"[*].b[*].ip"}


@pytest.mark.parametrize(
    "events",
    [
        [{"a": {"email": "ann@corp.test"}}, {"a": "x"}],
        [{"a": {"email": "ann@corp.test", "b": "x"}}, {"a": [1]}],
    ],
)
def test_what_no_path_leads_to_is_masked_as_a_whole(events):
    member = columns(*events)["a"]
    assert member.personal is not None
    assert member.personal.reason == "holds personal values that no path leads to"


@pytest.mark.parametrize(
    ("events", "path"),
    [
        ([{"a": [{"email": "ann@corp.test"}]}, {"a": [1]}], "[*]"),
        ([{"a": [{"b.c": {"email": "ann@corp.test"}}]}], "[*]"),
        ([{"a": [[False], {"": ["ann@corp.test"]}]}], "[*]"),
        ([{"a": [{"b": {"名": {"email": "ann@corp.test"}}}]}], "[*].b"),
        ([{"a": [{"b": {"email": "ann@corp.test"}}]}, {"a": [{"b": "x"}]}], "[*].b"),
    ],
)
def test_inside_jsonb_as_little_as_possible_is_masked_as_a_whole(events, path):
    member = columns(*events)["a"]
    assert {inside: one.reason for inside, one in member.inside.items()} == {
        path: "holds personal values that no path leads to"
    }


def test_an_object_that_is_personal_is_masked_as_a_whole():
    member = columns(ORDER, personal=["customer"])["customer"]
    assert (member.type, member.sql_type, member.struct) == ("dict[str, Any]", "token", None)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("x", "str"),
        (1, "int"),
        (2**63, "Any"),
        (1.5, "Any"),
        (True, "Any"),
        (None, "str"),
        ([1], "list[Any]"),
        ({"b": 1}, "dict[str, Any]"),
    ],
)
def test_anything_may_be_personal(value, kind):
    member = columns({"a": value}, personal=["a"])["a"]
    assert (member.type, member.sql_type) == (kind, "token")
    assert rejections(loaded(written({"a": value}, personal=["a"])), bodies({"a": value})) == set()


def test_objects_deeper_than_the_columns_go_are_jsonb():
    event: Any = 1
    for _ in range(7):
        event = {"a": event}
    assert list(columns(event)) == ["a.a.a.a.a"]


def test_of_too_many_leaves_those_of_the_widest_objects_are_jsonb():
    wide = {f"o{number}": {f"f{inner}": 1 for inner in range(20)} for number in range(15)}
    assert len(columns(wide)) == 9 * 20 + 6 > 200 - 20
    assert len(columns({"a": wide, "b": {"c": 1, "d": 2}})) == 9 * 20 + 6 + 2


def test_an_event_with_more_fields_than_a_table_may_have_is_refused():
    with pytest.raises(draft.TooWide, match="more than 1599 fields"):
        drafted({f"{'abcdefghij'[number % 10]}x{number // 10}": 1 for number in range(1_600)})


def test_an_object_that_differs_is_jsonb_and_masked_inside():
    events: list[Any] = [{"detail": {f"k{letter}": 1}} for letter in "abcdefghij"]
    events[0] = {"detail": {"email": "ann@corp.test"}}
    member = columns(*events)["detail"]
    assert (member.sql_type, member.note) == ("jsonb", "differs from event to event")
    assert set(member.inside) == {"email"}


@pytest.mark.parametrize(
    ("path", "events", "why"),
    [
        ("nothing", [ORDER] * 3, "the sample has no such path"),
        ("customer.email", [ORDER] * 3, "it is proposed as personal: its values must not stand in a file"),
        ("currency", [ORDER], "not a text of at most 12 short values, each in 3 events or more"),
        ("itemCount", [ORDER] * 3, "not a text of at most 12 short values, each in 3 events or more"),
    ],
)
def test_what_is_no_closed_set_is_refused_with_the_reason(path, events, why):
    with pytest.raises(draft.NoChoices) as error:
        drafted(*events, choices=(path,))
    assert (error.value.path, error.value.why) == (path, why)


def test_choices_are_written_for_the_paths_alone_that_the_person_names():
    unnamed = columns(*[ORDER] * 3)["currency"]
    assert (unnamed.type, unnamed.note) == (
        "str",
        "few distinct values: --choices currency makes it a Literal",
    )
    assert "EUR" not in written(*[ORDER] * 3)
    assert 'Literal["EUR"]' in written(*[ORDER] * 3, choices=("currency",))


@pytest.mark.parametrize(
    "text", ["x", "'", '"', "'\"", '""\'', "\\", "\\'", "\n", "\x00", "ß", "😀", "\u202e", "{}"]
)
def test_a_quoted_text_is_the_text_and_is_ascii(text):
    assert ast.literal_eval(source.quoted(text)) == text
    assert source.quoted(text).isascii()


@given(st.text())
def test_any_quoted_text_is_the_text(text):
    assert ast.literal_eval(source.quoted(text)) == text


@given(st.lists(st.text(), max_size=30))
def test_no_two_fields_get_one_name(keys):
    taken: list[str] = []
    for key in keys:
        taken.append(names.attribute(key, taken))
    assert len(set(taken)) == len(keys)
    assert all(name.isidentifier() and name.isascii() and len(name) <= 48 for name in taken)


def test_names_with_blanks_and_numbers_become_fields():
    contract = loaded(written(*FORMS))
    assert [column.field for column in contract.columns[:-1]] == [
        "Submission ID",
        "First Name",
        "AC/DC?",
        "Ref:",
        "customfield_10045",
        "Where from.town",
    ]
    assert contract.column_names[:2] == ("submission_id", "first_name")
    body = bodies({**FORM, "Where from": {"town": 7}})[0]
    rejected = Parser(contract, body_limit_bytes=1_048_576).parse(body)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "bad_type Where from.town"
    shape = Shapes(contract).of(body)
    assert "Ref:: string, Submission ID: integer, Where from: object, Where from.town: integer" in shape
    assert Shapes(contract).differences(shape).other_type == ["Where from.town: integer, not string"]


def test_one_subject_is_proposed_where_no_field_is_user_id():
    assert "Subject()" in columns({"userId": "u"})["userId"].marks
    assert "Subject()" not in columns({"userId": "u", "user_id": "u"})["userId"].marks
    assert loaded(written({"userId": "u", "user": {"id": "u"}})).subject.field == "userId"


@pytest.mark.parametrize(
    ("events", "subject"),
    [
        ([{"user_id": "u"}], "user_id"),
        ([{"user": {"id": "u"}}], "user.id"),
        ([{"user": {"id": "u"}}, {"user": "x"}], ""),  # one column of jsonb
        ([{"user_id": {"a": 1}}], ""),
        ([{"customer.id": "z", "customer": {"id": "a"}}], ""),  # two fields of one path
        ([{"customer": {"id": "a"}}], "customer.id"),
    ],
)
def test_a_subject_is_told_where_a_column_has_it_and_nowhere_else(events, subject):
    assert drafted(*events).subject == subject
    found = loaded(written(*events)).subject
    assert (found.field if found else "") == subject


def test_an_object_that_is_personal_holds_no_subject():
    assert drafted({"customer": {"id": "a"}}, personal=("customer",)).subject == ""


def test_notifications_of_sns_are_declared():
    found = survey.survey(bodies({"Type": "Notification", "Message": "{}"}))
    assert "sns_envelope=True" in source.contract_source(draft.draft(found, "o", {}), "o", "q", "public.o")


def test_made_up_events_have_the_shape_of_the_sample_but_no_value():
    events = [ORDER, order(customer=None, coupon="x")]
    made = example.events(surveyed(*events), drafted(*events))
    assert [set(event) for event in made] == [set(ORDER)] * 3
    assert made[2]["customer"] is None
    assert made[0]["customer"]["email"].endswith("@example.org")
    assert made[0]["items"][0]["gift"]["phone"].startswith("+1")
    seen = surveyed(*events).values
    assert not [value for value in surveyed(*made).values if value in seen and len(value) > 3]


def test_a_made_up_value_that_is_in_the_sample_is_not_used():
    sample = {"email": "person1@example.org", "ip": "192.0.2.2", "x": "made up 3"}
    (made, *_) = example.events(surveyed(sample), drafted(sample))
    assert not set(made.values()) & set(sample.values())


def test_a_number_of_the_sample_stands_in_no_made_up_text():
    sample = {"x": "1", "y": 2, "z": "x"}
    (made, *_) = example.events(surveyed(sample), drafted(sample))
    assert made == {"x": "made up 3", "y": 4, "z": "made up 5"}
