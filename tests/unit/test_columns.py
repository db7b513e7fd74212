"""Which column a field becomes, and what a contract refuses."""

import re
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from msgspec import Meta, Raw, Struct, defstruct, field

from include.queue_etl.contract import (
    Contract,
    Day,
    Derived,
    Form,
    Jsonb,
    MaskedField,
    MessageId,
    Month,
    Name,
    Normalization,
    Numeric,
    Personal,
    ReceiveCount,
    SentAt,
    SentDay,
    Subject,
    Zone,
)


def length(text: str | None) -> int:
    return len(text or "")


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(Enum):
    LOW = 1
    HIGH = 2


class Item(Struct):
    sku: str
    phone: Annotated[str | None, Personal(Normalization.TEXT)] = None


class Customer(Struct, rename="camel"):
    customer_id: int
    e_mail: Annotated[str, Personal()]


def columns(annotation: Any, **declared: Any) -> tuple:
    """The columns of a contract whose event has one field `a`, and of `message`."""
    return contract(("a", annotation), **declared).columns


def contract(*fields: Any, **declared: Any) -> Contract:
    event = defstruct("Event", fields, kw_only=True)
    return Contract(name="visits", queue="visits", table="public.visits", event=event, **declared)


TYPES = [
    (str, "text", False),
    (Annotated[str, Meta(max_length=40)], "varchar(40)", False),
    (Annotated[str, Meta(max_length=40)] | None, "varchar(40)", True),
    (Optional[str], "text", True),  # noqa: UP045 people write it so too
    (bool, "boolean", False),
    (int, "bigint", False),
    (Annotated[int, Meta(ge=0)], "bigint", False),
    (Annotated[int, Meta(ge=-32768, le=32767)], "smallint", False),
    (Annotated[int, Meta(ge=0, le=32768)], "integer", False),
    (Annotated[int, Meta(gt=0, lt=2**31)], "bigint", False),
    (Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)], "integer", False),
    (float, "double precision", False),
    (Decimal, "numeric", False),
    (Annotated[Decimal | None, Numeric(12, 2)], "numeric(12,2)", True),
    (datetime, "timestamptz", False),
    (date, "date", False),
    (UUID, "uuid", False),
    (Literal["a", "b"], "text", False),
    (Literal[1, 2] | None, "bigint", True),
    (Color, "text", False),
    (Level, "bigint", False),
    (list[int], "jsonb", False),
    (list[Item] | None, "jsonb", True),
    (dict[str, Any], "jsonb", False),
    (list, "jsonb", False),
    (dict, "jsonb", False),
    (Any, "jsonb", True),
    (Raw, "jsonb", False),
    (int | str, "jsonb", False),
    (Annotated[Customer, Jsonb()], "jsonb", False),
    (Annotated[Customer, Personal()], "text", True),
    (Annotated[int, Personal()], "text", True),
    (Annotated[str | None, Derived(length, int)], "integer", True),
    (Annotated[str, Derived(bool, bool)], "boolean", True),
    (Annotated[str, Subject()], "text", True),
]


@pytest.mark.parametrize(("annotation", "sql_type", "nullable"), TYPES, ids=lambda value: str(value)[:60])
def test_each_type_has_its_column(annotation, sql_type, nullable):
    (column,) = columns(annotation)
    assert (column.name, column.field, column.sql_type, column.nullable) == ("a", "a", sql_type, nullable)


@pytest.mark.parametrize(("kind", "choices"), [(Color, ("red", "blue")), (Literal[2, 1, None], (2, 1))])
def test_a_closed_set_of_values_is_told(kind, choices):
    (column,) = columns(kind)
    assert (column.form, column.choices) == (Form.CHOICE, choices)


def test_a_field_with_a_default_of_none_may_be_null():
    (column,) = contract(("a", str, None)).columns
    assert column.nullable


def test_a_struct_becomes_a_column_for_each_of_its_fields_in_its_place():
    found = contract(("first", str), ("customer", Customer), ("last", bool)).columns
    assert [(c.name, c.field, c.attributes) for c in found] == [
        ("first", "first", ("first",)),
        ("customer_customer_id", "customer.customerId", ("customer", "customer_id")),
        ("customer_e_mail", "customer.eMail", ("customer", "e_mail")),
        ("last", "last", ("last",)),
    ]
    assert [column.nullable for column in found] == [False, False, True, False]


def test_the_fields_of_a_struct_that_may_be_null_may_be_null():
    assert all(column.nullable for column in contract(("customer", Customer | None)).columns)


def test_a_description_becomes_the_comment_and_a_name_the_column():
    (column,) = columns(Annotated[str, Meta(description="why it was made"), Name("why")])
    assert (column.name, column.field, column.comment) == ("why", "a", "why it was made")


def test_the_facts_of_the_message_follow_in_their_order():
    message = (SentDay("day"), SentAt("at"), MessageId("id"), ReceiveCount("times"))
    assert [(c.name, c.sql_type, c.nullable) for c in columns(str, message=message)][1:] == [
        ("day", "date", False),
        ("at", "timestamptz", False),
        ("id", "uuid", False),
        ("times", "integer", False),
    ]


# What is personal -----------------------------------------------------------------------------------------


def test_everything_personal_is_listed_with_its_place_in_event_and_table():
    found = contract(
        ("ip", Annotated[str, Personal(Normalization.IP, "masked_ip")]),
        ("customer", Customer),
        ("items", list[Item]),
        ("by_name", dict[str, Item]),
        ("raw", Annotated[Any, Jsonb({"who.phone": Personal(), "[*]": Personal()})]),
    )
    assert [(m.column, m.field, m.path) for m in found.personal] == [
        ("masked_ip", "ip", ""),
        ("customer_e_mail", "customer.eMail", ""),
        ("items", "items[*].phone", "[*].phone"),
        ("by_name", "by_name[*].phone", "[*].phone"),
        ("raw", "raw.who.phone", ".who.phone"),
        ("raw", "raw[*]", "[*]"),
    ]


def test_a_list_of_personal_texts_is_masked_item_by_item():
    (column,) = columns(list[Annotated[str, Personal()]])
    assert column.masked == (MaskedField("a", "a[*]", Personal(), "[*]"),)
    assert not column.is_token


class Outer(Struct):
    inner: "Outer | None" = None


def test_a_struct_may_hold_itself_only_inside_of_jsonb():
    class Node(Struct):
        name: Annotated[str, Personal()]
        children: list["Node"]

    Node.__annotations__["children"] = list[Node]
    with pytest.raises(ValueError, match=r"tree\.inner: Outer holds itself: mark the field with Jsonb\(\)"):
        contract(("tree", Outer))
    assert [masked.path for masked in contract(("tree", Annotated[Node, Jsonb()])).personal] == [".name"]


def test_the_field_that_says_whose_row_it_is_is_user_id_or_the_marked_one():
    assert contract(("user_id", str), ("b", str)).subject.name == "user_id"
    assert contract(("b", Annotated[str, Subject()])).subject.name == "b"
    assert contract(("b", str)).subject is None


# What is refused ------------------------------------------------------------------------------------------

MONTH = Month("a")
REFUSED = [
    ([("a", bytes)], {}, "a: bytes has no column type: declare it as str, or as Any for jsonb"),
    ([("a", Literal[1, "b"])], {}, "a: its choices are to be all texts, or all integers"),
    (
        [("a", Annotated[int, Derived(length, int)])],
        {},
        "a: declare it as str, or str | None: Derived",
    ),
    ([("a", str), ("b", Annotated[str, Name("a")])], {}, "2 columns have the name a: give one another"),
    ([("a", Annotated[str, Name("a b")])], {}, "'a b' is no name of a column"),
    ([("a" * 64, str)], {}, "at most 63 characters"),
    *(
        ([("a", str, field(name=name))], {}, "a: names in the JSON may not have double quotes")
        for name in ("x`", "x: y", "x, y", " x", "x ", "x  y", "x\N{NO-BREAK SPACE}y")
    ),
    ([("user_id", str), ("b", Annotated[str, Subject()])], {}, "several fields say whose row it is"),
    ([("a", str)], {"key": "b"}, "key: there is no column b: one of a"),
    ([("a", str | None)], {"key": "a", "message": (SentAt("s"),)}, "key: a may be NULL: declare its field"),
    ([("a", Annotated[str, Personal()])], {"key": "a"}, "key: a holds tokens or jsonb, which change"),
    ([("a", str)], {"key": "a"}, 'key: add SentAt("sent_at") to message'),
    (
        [("a", str), ("d", date)],
        {"key": "a", "message": (SentAt("s"),), "partition_by": Day("d")},
        "key: a table with partition_by cannot be unique by another column",
    ),
    (
        [("a", str)],
        {"retain_days": 3},
        "retain_days: rows are dropped with their partition: give",
    ),
    ([("a", date)], {"retain_days": 0, "partition_by": MONTH}, "retain_days: give at least 1"),
    ([("a", date | None)], {"partition_by": MONTH}, "partition_by: a is to be a date or a datetime that is"),
    (
        [("a", str)],
        {"partition_by": MONTH},
        "a is to be a date or a datetime that is never null",
    ),
    ([("b", str)], {"partition_by": MONTH}, "partition_by: there is no column a: one of b"),
    ([("a", str)], {"unknown_fields": "drop"}, "unknown_fields='drop': give one of ignore, reject, keep"),
    (
        [("a", str)],
        {"personal_data_check": "on"},
        "personal_data_check='on': give one of count, quarantine, off",
    ),
    ([("a", str)], {"retries": -1}, "retries=-1: give a whole number from 0 to 100"),
    ([("a", str)], {"settings": {"env": 1}}, "no setting env of a pipeline: one of max_messages, freshn"),
    ([("a", str)], {"runs_at_once": 0}, "runs_at_once=0: give a whole number from 1 to 100"),
    ([("a", str)], {"task_seconds": 60}, "task_seconds=60: give a whole number from 900 to 43200"),
    (
        [("a", str)],
        {"runs_at_once": 4},
        "runs_at_once=4: give settings a max_messages of at most 30000, because SQS lets",
    ),
    (
        [("a", str)],
        {"settings": {"batch_messages": 1}},
        "batch_messages=1: must be a whole number",
    ),
    ([("a", str)], {"indexes": (("a",), ("c",))}, "indexes: there is no column c: one of a"),
]


@pytest.mark.parametrize(("fields", "declared", "told"), REFUSED, ids=[told for _, _, told in REFUSED])
def test_what_cannot_be_is_refused_with_the_way_to_mend_it(fields, declared, told):
    with pytest.raises(ValueError, match=f"^contract visits: .*{re.escape(told)}"):
        contract(*fields, **declared)


def test_all_problems_are_told_at_once():
    with pytest.raises(ValueError, match=r"bytes has no column type.*; b: bytes has no column type"):
        contract(("a", bytes), ("b", bytes))
    with pytest.raises(ValueError, match=r"key: there is no column.*; indexes: there is no column"):
        contract(("a", str), key="b", indexes=(("c",),), message=(SentAt("s"),))


@pytest.mark.parametrize(
    "table", ["visits", "a.b.c", "public.visits; DROP", "public.", "", "Public.visits", "public.userVisits"]
)
def test_a_table_has_a_schema_and_a_name_in_lower_case(table):
    with pytest.raises(ValueError, match=r"its schema and its name in lower case, such as public.orders"):
        Contract(name="v", queue="v", table=table, event=defstruct("E", [("a", str)]))


@pytest.mark.parametrize("table", ["etl.runs", "pii.audit", "pg_catalog.orders", "information_schema.a"])
def test_a_table_is_in_no_schema_of_the_engine_or_of_postgres(table):
    with pytest.raises(ValueError, match=r"its schema is not for contracts: give another, such as public"):
        Contract(name="v", queue="v", table=table, event=defstruct("E", [("a", str)]))


@pytest.mark.parametrize("options", [{"array_like": True}, {"tag": True}])
def test_a_struct_that_is_no_ordinary_object_is_refused(options):
    event = defstruct("Odd", [("a", str)], **options)
    with pytest.raises(ValueError, match="Odd is array_like or has a tag: declare an ordinary struct"):
        contract(("odd", event))


def test_marks_refuse_what_they_cannot_mean():
    with pytest.raises(ValueError, match=r"Numeric\(2, 3\): give 0 <= scale <= precision <= 1000"):
        Numeric(2, 3)
    with pytest.raises(ValueError, match="no such zone; give one such as 'Europe/Berlin'"):
        Zone("Berlin")
