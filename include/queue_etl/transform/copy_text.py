r"""Events -> lines of Postgres COPY text. Pure.

Tab between columns, newline after each row, \N for NULL; backslash, tab, newline and carriage return inside a
value are escaped. https://www.postgresql.org/docs/current/sql-copy.html (Text Format)

Columns are built one at a time for a whole batch: the loops then run in C (map, zip, join).
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from functools import lru_cache
from operator import attrgetter

import msgspec

from include.queue_etl.contract import Column, Contract, Derived, Personal, SentDay
from include.queue_etl.transform.batches import MILLISECONDS_A_DAY

NULL = r"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_EPOCH = date(1970, 1, 1)

# Masks a column: one token a value, in their order, and for a value that is nothing the text given.
Mask = Callable[[Personal, Sequence[str | None], str], list[str]]


@lru_cache(maxsize=64)
def _day(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).isoformat()


def sent_days(sent_ms: Iterable[int]) -> list[str]:
    """UTC dates (ISO text) of SQS SentTimestamps (milliseconds since 1970)."""
    return [_day(milliseconds // MILLISECONDS_A_DAY) for milliseconds in sent_ms]


def row_lines(contract: Contract, events: Sequence[msgspec.Struct], days: Sequence[str], mask: Mask) -> bytes:
    """The table's lines, one an event, in the events' order.

    Args:
        contract: names the columns
        events: parsed by the same contract
        days: sent day of each event, ISO text
        mask: makes tokens of a column of personal values
    """
    columns = [_column(column, events, days, mask) for column in contract.columns]
    return _lines(map("\t".join, zip(*columns, strict=True)))


def _lines(lines: Iterable[str]) -> bytes:
    text = "\n".join(lines)
    return f"{text}\n".encode() if text else b""


def _column(
    column: Column, events: Sequence[msgspec.Struct], days: Sequence[str], mask: Mask
) -> Iterable[str]:
    if isinstance(column, SentDay):
        return days
    values = list(map(attrgetter(column.field), events))
    if isinstance(column, Personal):
        return mask(column, values, NULL)
    if isinstance(column, Derived):
        # A few versions occur in a batch: each is converted and written once.
        texts = {value: escaped(column.convert(value)) for value in set(values)}
        return map(texts.__getitem__, values)
    return _text_column(values)


def _text_column(values: Sequence[str | None]) -> Sequence[str]:
    # One look at the whole column, in C: hardly any batch has something to escape.
    if _is_plain("".join([value for value in values if value])):
        return [NULL if value is None else value for value in values]
    return list(map(escaped, values))


def escaped(value: object) -> str:
    r"""A value as COPY text has it; \N for None."""
    if value is None:
        return NULL
    text = str(value)
    return text if _is_plain(text) else text.translate(_ESCAPES)


def _is_plain(text: str) -> bool:
    # Both tests run in C; the table look-up costs eight times as much and is seldom needed.
    return text.isprintable() and "\\" not in text
