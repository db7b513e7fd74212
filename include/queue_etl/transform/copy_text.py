r"""Events -> lines of Postgres COPY text. Pure.

Tab between columns, newline after each row, \N for NULL; backslash, tab, newline and carriage return inside a
value are escaped. https://www.postgresql.org/docs/current/sql-copy.html (Text Format)

Columns are built one at a time for a whole batch: the loops then run in C (map, zip, join).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from functools import lru_cache
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from include.queue_etl.contract import Column, Contract, Form, MaskedField
from include.queue_etl.transform import json_values
from include.queue_etl.transform.batches import MILLISECONDS_A_DAY

NULL = r"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_ESCAPE = re.compile(r"\\(.)")
_UNESCAPED = {"t": "\t", "n": "\n", "r": "\r"}
_EPOCH = date(1970, 1, 1)

# Masks the values of a field: one token a value, in their order; for a value that is nothing, the text given.
Mask = Callable[[MaskedField, Sequence[str | None], str], list[str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the messages beside their bodies, a list each, in the order of the events.

    Attributes:
        days: UTC day of sending, ISO text
        sent_ms: milliseconds since 1970
        asked_for: field -> texts, of what SQS was asked for; the texts of others are None
    """

    ids: Sequence[str]
    days: Sequence[str]
    sent_ms: Sequence[int]
    receive_counts: Sequence[int]
    asked_for: Mapping[str, Sequence[str | None]] = field(default_factory=dict)


@lru_cache(maxsize=64)
def _day(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).isoformat()


def sent_days(sent_ms: Sequence[int]) -> list[str]:
    """UTC dates (ISO text) of SQS SentTimestamps (milliseconds since 1970)."""
    if not sent_ms:
        return []
    first, last = min(sent_ms) // MILLISECONDS_A_DAY, max(sent_ms) // MILLISECONDS_A_DAY
    if first == last:  # as usual
        return [_day(first)] * len(sent_ms)
    return [_day(milliseconds // MILLISECONDS_A_DAY) for milliseconds in sent_ms]


def row_lines(contract: Contract, events: Sequence[msgspec.Struct], facts: Facts, mask: Mask) -> bytes:
    """The table's lines, one an event, in the events' order.

    Args:
        contract: names the columns
        events: parsed by the same contract
        facts: of the events' messages
        mask: makes tokens of personal values
    """
    columns = [_column(column, events, facts, mask) for column in contract.columns]
    return _lines(map("\t".join, zip(*columns, strict=True)))


def _lines(lines: Iterable[str]) -> bytes:
    text = "\n".join(lines)
    return f"{text}\n".encode() if text else b""


def _column(column: Column, events: Sequence[msgspec.Struct], facts: Facts, mask: Mask) -> Iterable[str]:
    if column.is_asked_for:
        values: Sequence[Any] = facts.asked_for.get(column.field) or [None] * len(events)
    elif column.attributes:
        values = _values(column, events)
    else:
        return _OF_MESSAGE[column.form](facts)
    if column.is_token:
        texts = values if column.form is Form.TEXT else list(map(_personal_text, values))
        return mask(column.masked[0], texts, NULL)
    return _OF_EVENT[column.form](column, values, mask)


def _values(column: Column, events: Sequence[msgspec.Struct]) -> list[Any]:
    """The column's value of each event; None where a struct above it is null."""
    first, *below = map(attrgetter, column.attributes)
    values = list(map(first, events))
    for get in below:
        values = [None if value is None else get(value) for value in values]
    return values


def escaped(value: object) -> str:
    r"""A value as COPY text has it; \N for None."""
    if value is None:
        return NULL
    text = str(value)
    return text if _is_plain(text) else text.translate(_ESCAPES)


def unescaped(text: str) -> str | None:
    r"""The inverse of `escaped`; None for \N."""
    if text == NULL:
        return None
    return _ESCAPE.sub(lambda found: _UNESCAPED.get(found[1], found[1]), text) if "\\" in text else text


def _is_plain(text: str) -> bool:
    # Both tests run in C; the table look-up costs eight times as much and is seldom needed.
    return text.isprintable() and "\\" not in text


# Columns of the message ---------------------------------------------------------------------------


def _moments(facts: Facts) -> list[str]:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return [(epoch + timedelta(milliseconds=sent)).isoformat() for sent in facts.sent_ms]


_OF_MESSAGE: dict[Form, Callable[[Facts], Iterable[str]]] = {
    Form.SENT_DAY: lambda facts: facts.days,
    Form.SENT_AT: _moments,
    Form.MESSAGE_ID: lambda facts: facts.ids,
    Form.RECEIVE_COUNT: lambda facts: map(str, facts.receive_counts),
}


# Columns of the event, a whole column at a time ------------------------------------------------------


def _texts(column: Column, values: Sequence[str | None], mask: Mask) -> Sequence[str]:
    # One look at the whole column, in C: hardly any batch has something to escape.
    if _is_plain("".join([value for value in values if value])):
        return [NULL if value is None else value for value in values]
    return list(map(escaped, values))


def _distinct(text_of: Callable[[Column, Any], str]) -> Callable[..., Iterable[str]]:
    """A few values occur in a batch: each is converted and written once."""

    def write(column: Column, values: Sequence[Any], mask: Mask) -> Iterable[str]:
        texts = {value: NULL if value is None else text_of(column, value) for value in set(values)}
        return map(texts.__getitem__, values)

    return write


def _each(text_of: Callable[[Any], str]) -> Callable[..., Iterable[str]]:
    def write(column: Column, values: Sequence[Any], mask: Mask) -> Iterable[str]:
        return [NULL if value is None else text_of(value) for value in values]

    return write


def _derived(column: Column, values: Sequence[str | None], mask: Mask) -> Iterable[str]:
    convert = column.convert
    texts = {value: escaped(convert(value) if convert else value) for value in set(values)}
    return map(texts.__getitem__, values)


def _timestamps(column: Column, values: Sequence[datetime | None], mask: Mask) -> Iterable[str]:
    if not column.zone:
        return _as_in_json(column, values, mask)
    # isoformat(): zones of old had seconds in their offsets, which JSON has not.
    zone = ZoneInfo(column.zone.key)
    values = [value.replace(tzinfo=zone) if value and value.tzinfo is None else value for value in values]
    return [NULL if value is None else value.isoformat() for value in values]


def _as_in_json(column: Column, values: Sequence[Any], mask: Mask) -> Iterable[str]:
    """Values whose JSON is text without commas, quotes or escapes: one call in C for all of them."""
    texts = msgspec.json.encode(values).decode().replace('"', "").replace("null", NULL)
    return texts[1:-1].split(",") if values else []


def _json(column: Column, values: Sequence[Any], mask: Mask) -> Iterable[str]:
    if not column.masked:
        return _texts(column, json_values.to_texts(values), mask)
    # An untyped field may be null as well as missing: both are NULL.
    documents = json_values.Documents([None if json_values.is_null(value) else value for value in values])
    for masked in column.masked:
        tokens = mask(masked, documents.texts_at(masked.path), "")
        documents.replace(masked.path, [token or None for token in tokens])
    return map(escaped, documents.to_json())


def _personal_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return None if json_values.is_null(value) else json_values.personal_text(value)


_OF_EVENT: dict[Form, Callable[[Column, Sequence[Any], Mask], Iterable[str]]] = {
    Form.TEXT: _texts,
    Form.BOOL: _distinct(lambda _, value: "t" if value else "f"),
    Form.NUMBER: _each(repr),
    Form.DECIMAL: _each(str),
    Form.TIMESTAMP: _timestamps,
    Form.DATE: _as_in_json,
    Form.UUID: _as_in_json,
    Form.CHOICE: _distinct(lambda _, value: escaped(value.value if isinstance(value, Enum) else value)),
    Form.DERIVED: _derived,
    Form.JSON: _json,
}
