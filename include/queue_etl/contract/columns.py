"""The columns of a table, derived from the types of an event and the facts of its message. Pure."""

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

from msgspec import Raw, Struct
from msgspec.structs import replace

from include.queue_etl.contract.event_types import Annotation, Leaf, leaves, personal_paths
from include.queue_etl.contract.marks import (
    ATTRIBUTE_PATH,
    Attribute,
    Derived,
    Jsonb,
    MessageColumn,
    MessageGroupId,
    MessageId,
    Name,
    Normalization,
    Numeric,
    Personal,
    ReceiveCount,
    Rejected,
    SentAt,
    SentDay,
    SequenceNumber,
    Subject,
    Zone,
)

SUBJECT = "user_id"  # the field that says whose a row is, where no other is marked
# What a person is looked for by where nobody names a field: whose a row is, or a personal value of this kind.
KINDS = (SUBJECT, *dict.fromkeys(normalization.kind for normalization in Normalization))
# Longest declared varchar: https://www.postgresql.org/docs/current/datatype-character.html
_LONGEST_VARCHAR = 10_485_760
# 128 characters, and a number of 128 bits:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
_LONGEST_GROUP = 128
_SEQUENCE_NUMBER = "numeric(39,0)"


class Form(StrEnum):
    """How a value is written for Postgres."""

    TEXT = "text"
    BOOL = "bool"
    NUMBER = "number"
    DECIMAL = "decimal"
    TIMESTAMP = "timestamp"
    DATE = "date"
    UUID = "uuid"
    CHOICE = "choice"
    JSON = "json"
    DERIVED = "derived"
    SENT_DAY = "sent_day"
    SENT_AT = "sent_at"
    MESSAGE_ID = "message_id"
    RECEIVE_COUNT = "receive_count"


class MaskedField(Struct, frozen=True):
    """Something personal in a table.

    Attributes:
        column: the column that holds the token
        field: where the value stands in the event: `customer.email`, `items[*].phone`; or in the message:
            `attribute:trace-id`. Tokens are bound to it
        mark: how it is masked
        path: inside a jsonb column, such as `[*].phone`; empty where the column is the token
    """

    column: str
    field: str
    mark: Personal
    path: str = ""


class Column(Struct, frozen=True):
    """A column of a contract's table.

    Attributes:
        name: in the table
        field: where it comes from: names in the event's JSON, joined with "."; or what SQS calls it;
            `attribute:trace-id` for an attribute
        sql_type: as CREATE TABLE has it
        nullable: it may be NULL
        form: how a value is written
        attributes: names of the Python attributes that lead from the event to the value
        comment: of the contract's author
        masked: what is personal in it: itself, or of a jsonb column what is masked inside
        choices: all values it may have; empty: any
        max_length: of a text, in characters
        numeric: of a Decimal
        zone: of a datetime without offset
        convert: of a derived column
        is_subject: it says whose row it is
    """

    name: str
    field: str
    sql_type: str
    nullable: bool
    form: Form
    attributes: tuple[str, ...] = ()
    comment: str = ""
    masked: tuple[MaskedField, ...] = ()
    choices: tuple[Any, ...] = ()
    max_length: float = float("inf")
    numeric: Numeric | None = None
    zone: Zone | None = None
    convert: Callable[[str | None], int | str | Rejected | None] | None = None
    is_subject: bool = False

    @property
    def is_token(self) -> bool:
        """It holds a token, or NULL."""
        return any(not masked.path for masked in self.masked)

    @property
    def is_asked_for(self) -> bool:
        """A text beside the body that SQS sends only where it is asked for: an attribute, a group."""
        return self.form is Form.TEXT and not self.attributes

    @property
    def message_attribute(self) -> str:
        """Name of the message attribute that it holds; empty where it holds none."""
        is_attribute = self.field.startswith(ATTRIBUTE_PATH) and not self.attributes
        return self.field.removeprefix(ATTRIBUTE_PATH) if is_attribute else ""


def columns_of(event: type[Struct], message: Sequence[MessageColumn]) -> tuple[Column, ...]:
    """The columns of a contract: those of the event in the order of its fields, then those of the message.

    Raises:
        ValueError: fields that cannot become a column, all of them, with what to do
    """
    columns, problems = [], []
    for leaf in leaves(event):
        try:
            columns.append(_column(leaf))
        except ValueError as error:
            problems.append(f"{leaf.path}: {error}")
    if problems:
        raise ValueError("; ".join(problems))
    return (*columns, *map(_message_column, message))


def _column(leaf: Leaf) -> Column:
    annotation = leaf.annotation
    personal = annotation.mark(Personal)
    form, sql_type, choices = _form(annotation)
    derived = annotation.mark(Derived)
    if derived:
        if form is not Form.TEXT:
            raise ValueError("declare it as str, or str | None: Derived computes from a text")
        form, sql_type = Form.DERIVED, _DERIVED[derived.type]
    name = annotation.mark(Name)
    own_name = (name and name.column) or (personal and personal.column) or "_".join(leaf.attributes)
    is_subject = annotation.mark(Subject) is not None or leaf.path == SUBJECT
    return Column(
        name=own_name,
        field=leaf.path,
        sql_type=_token_type(personal) if personal else sql_type,
        # What is erased becomes NULL; what a contract computes may be NULL.
        nullable=leaf.nullable or bool(personal or derived or is_subject),
        form=form,
        attributes=leaf.attributes,
        comment=annotation.bound("description") or "",
        masked=_masked(leaf, own_name, personal, form),
        choices=() if personal else choices,
        max_length=_max_length(annotation),
        numeric=annotation.mark(Numeric),
        zone=annotation.mark(Zone),
        convert=derived.convert if derived else None,
        is_subject=is_subject,
    )


def _masked(leaf: Leaf, name: str, personal: Personal | None, form: Form) -> tuple[MaskedField, ...]:
    if personal:
        return (MaskedField(name, leaf.path, personal),)
    inside = personal_paths(leaf.annotation) if form is Form.JSON else []
    return tuple(MaskedField(name, f"{leaf.path}{path}", mark, path) for path, mark in inside)


_DERIVED: dict[type, str] = {int: "integer", str: "text", bool: "boolean"}


def _message_column(fact: MessageColumn) -> Column:
    if isinstance(fact, Attribute):
        return _attribute_column(fact)
    form, sql_type, source = {
        SentDay: (Form.SENT_DAY, "date", "SentTimestamp"),
        SentAt: (Form.SENT_AT, "timestamptz", "SentTimestamp"),
        MessageId: (Form.MESSAGE_ID, "uuid", "MessageId"),
        ReceiveCount: (Form.RECEIVE_COUNT, "integer", "ApproximateReceiveCount"),
        MessageGroupId: (Form.TEXT, _text_type(_LONGEST_GROUP), "MessageGroupId"),
        SequenceNumber: (Form.TEXT, _SEQUENCE_NUMBER, "SequenceNumber"),
    }[type(fact)]
    column = Column(fact.column, source, sql_type, False, form)
    if not column.is_asked_for:
        return column
    return replace(column, nullable=True, max_length=_LONGEST_GROUP)


def _attribute_column(fact: Attribute) -> Column:
    personal, length = fact.personal, float("inf") if fact.max_length is None else fact.max_length
    name = fact.column or (personal and personal.column) or re.sub(r"[.-]", "_", fact.name.lower())
    return Column(
        name=name,
        field=fact.path,
        sql_type=_token_type(personal) if personal else _text_type(length),
        nullable=True,
        form=Form.TEXT,
        comment=fact.description,
        masked=(MaskedField(name, fact.path, personal),) if personal else (),
        max_length=length,
        is_subject=fact.subject,
    )


def _text_type(length: float) -> str:
    return f"varchar({length})" if length <= _LONGEST_VARCHAR else "text"


def _token_type(personal: Personal) -> str:
    return "text" if personal.token_chars is None else f"varchar({personal.token_chars})"


def _max_length(annotation: Annotation) -> float:
    length = annotation.bound("max_length")
    return float("inf") if length is None else length


_UNTYPED: tuple[Any, ...] = (Any, object, Raw, list, dict)
_PLAIN = {
    bool: (Form.BOOL, "boolean"),
    float: (Form.NUMBER, "double precision"),
    datetime: (Form.TIMESTAMP, "timestamptz"),
    date: (Form.DATE, "date"),
    UUID: (Form.UUID, "uuid"),
}


def _form(annotation: Annotation) -> tuple[Form, str, tuple[Any, ...]]:
    """How a type is written, its column's type, and its choices."""
    kind = annotation.type
    if annotation.mark(Jsonb):
        return Form.JSON, "jsonb", ()
    if get_origin(kind) is Literal:
        return _choices(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _choices(tuple(member.value for member in kind))
    if kind is str:
        return Form.TEXT, _text_type(_max_length(annotation)), ()
    if kind is int:
        return Form.NUMBER, _integer_type(annotation), ()
    if kind is Decimal:
        numeric = annotation.mark(Numeric)
        return Form.DECIMAL, f"numeric({numeric.precision},{numeric.scale})" if numeric else "numeric", ()
    if kind in _PLAIN:
        return (*_PLAIN[kind], ())
    return _json(kind)


def _json(kind: Any) -> tuple[Form, str, tuple[Any, ...]]:
    is_class = isinstance(kind, type) and get_origin(kind) is None
    if is_class and kind not in _UNTYPED and not issubclass(kind, Struct):
        raise ValueError(f"{kind.__name__} has no column type: declare it as str, or as Any for jsonb")
    return Form.JSON, "jsonb", ()


def _choices(values: tuple[Any, ...]) -> tuple[Form, str, tuple[Any, ...]]:
    allowed = tuple(value for value in values if value is not None)
    if all(isinstance(value, str) for value in allowed):
        return Form.CHOICE, "text", allowed
    if all(isinstance(value, int) and not isinstance(value, bool) for value in allowed):
        return Form.CHOICE, "bigint", allowed
    raise ValueError("its choices are to be all texts, or all integers")


_INTEGERS = (("smallint", 2**15), ("integer", 2**31))


def _integer_type(annotation: Annotation) -> str:
    """The smallest type that holds everything between the bounds; bigint without bounds."""
    low, high = annotation.bound("ge"), annotation.bound("le")
    low = annotation.bound("gt") if low is None else low
    high = annotation.bound("lt") if high is None else high
    if low is None or high is None:
        return "bigint"
    return next((name for name, most in _INTEGERS if -most <= low and high < most), "bigint")
