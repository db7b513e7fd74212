"""What was found at a path -> the type of its column, in Python and in SQL, and the reason. Pure."""

import re
from dataclasses import dataclass
from shlex import quote

from include.queue_etl.onboarding.survey import Field, Numbers, Texts
from include.queue_etl.recognition import words

LENGTHS = (32, 64, 128, 256, 512, 1024)  # of texts, in characters: the first that is twice the longest
BIGINT = 2**63
NUMERIC_DIGITS = 38  # more than any money has; a longer number gets a numeric without limits
MONEY = re.compile(
    "amount|balance|charges?|cost|deposit|discount|due|fees?|gross|net|paid|payout|prices?|refund(ed)?|revenue"
    "|salary|shipping|subtotal|tax|tip|total|turnover|vat|wage"
)
# Numbers that never leave the range of a smallint.
SMALL = re.compile("attempt|day|hour|minute|month|weekday|year|(.+_)?status_code|http_status")


@dataclass(frozen=True, slots=True)
class ColumnType:
    """The type of a column.

    Attributes:
        python: without `| None`
        sql: as CREATE TABLE has it
        bounds: arguments of msgspec's Meta
        marks: what else stands in Annotated, as Python
        note: why this type, and what a person should know
    """

    python: str
    sql: str
    bounds: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    note: str = ""


def masked(found: Field) -> ColumnType:
    """The type of what is masked: what is no text is masked as its JSON text."""
    if not found.kinds:
        return ColumnType("str", "token")
    if found.kinds == {"text"}:
        return ColumnType("str", "token", _bounds(found.texts))
    if found.kinds == {"integer"} and _fits_bigint(found.numbers):
        return ColumnType("int", "token")
    if found.kinds == {"array"}:
        return ColumnType("list[Any]", "token")
    return ColumnType("dict[str, Any]" if found.kinds == {"object"} else "Any", "token")


def plain(found: Field) -> ColumnType:
    """The type of what stands in the table as it came."""
    kinds = found.kinds
    if kinds == {"text"} and found.texts:
        return _text(found, found.texts)
    if kinds == {"boolean"}:
        return ColumnType("bool", "boolean")
    if kinds == {"integer"} and found.numbers:
        return _integer(found, found.numbers)
    if kinds and kinds <= {"integer", "decimal"} and found.numbers:
        return _fraction(found, found.numbers)
    if kinds == {"array"}:
        return ColumnType(_list(found), "jsonb", note=_names_inside(found.items))
    if kinds == {"object"}:
        return ColumnType("dict[str, Any]", "jsonb", note=_why_whole(found))
    why = f"several types: {', '.join(sorted(kinds))}" if kinds else "only null was seen"
    return ColumnType("Any", "jsonb", note=why)


def _text(found: Field, texts: Texts) -> ColumnType:
    if texts.form == "local datetime":
        note = "without offset: UTC is a guess, correct it in the file"
        return ColumnType("datetime", "timestamptz", marks=('Zone("UTC")',), note=note)
    forms = {
        "datetime": ColumnType("datetime", "timestamptz"),
        "date": ColumnType("date", "date"),
        "uuid": ColumnType("UUID", "uuid"),
    }
    if texts.form:
        return forms[texts.form]
    length = _length(texts)
    hint = f"few distinct values: --choices {quote(found.path)} makes it a Literal" if texts.choices else ""
    return ColumnType("str", f"varchar({length})" if length else "text", _bounds(texts), note=hint)


def _length(texts: Texts) -> int | None:
    return next((length for length in LENGTHS if length >= 2 * texts.longest), None)


def _bounds(texts: Texts | None) -> tuple[str, ...]:
    length = _length(texts) if texts else None
    return (f"max_length={length}",) if length else ()


def _fits_bigint(numbers: Numbers | None) -> bool:
    return numbers is not None and numbers.smallest >= -BIGINT and numbers.largest < BIGINT


def _integer(found: Field, numbers: Numbers) -> ColumnType:
    if not _fits_bigint(numbers):
        return ColumnType("Decimal", "numeric", note="larger than a bigint")
    is_small = (
        SMALL.fullmatch("_".join(words(found.key))) and 0 <= numbers.smallest <= numbers.largest < 10_000
    )
    return ColumnType("int", "smallint", ("ge=0", "le=32767")) if is_small else ColumnType("int", "bigint")


def _fraction(found: Field, numbers: Numbers) -> ColumnType:
    why = _why_exact(found, numbers)
    if not why:
        return ColumnType("float", "double precision", note="fractions, and nothing says money")
    scale, whole = max(2, numbers.decimals), max(10, numbers.whole_digits + 3)
    if scale + whole > NUMERIC_DIGITS:
        return ColumnType("Decimal", "numeric", note=why)
    mark = f"Numeric({whole + scale}, {scale})"
    return ColumnType("Decimal", f"numeric({whole + scale},{scale})", marks=(mark,), note=why)


def _why_exact(found: Field, numbers: Numbers) -> str:
    """Why numbers with a fraction are no floats; "" where they may be."""
    named = [word for word in words(found.key) if MONEY.fullmatch(word)]
    if named:
        return f"money by its name: {named[-1]}"
    if numbers.cents:
        return "money by its digits: two decimals"
    return "" if numbers.fit_float else "more digits than a float keeps"


def _list(found: Field) -> str:
    items = found.items
    if items is None or items.nulls:
        return "list[Any]"
    kinds = {frozenset({"text"}): "list[str]", frozenset({"boolean"}): "list[bool]"}
    return kinds.get(items.kinds, "list[Any]")


def _names_inside(items: Field | None) -> str:
    return f"objects with {', '.join(part.key for part in items.fields)}" if items and items.fields else ""


def _why_whole(found: Field) -> str:
    if found.values:
        return "its names are data"
    if found.is_sparse:
        return "differs from event to event"
    return "kept whole: deep, or too many columns" if found.fields else ""
