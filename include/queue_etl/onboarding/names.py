"""Names of a JSON event -> names of Python attributes, classes and columns. Pure.

All names are ASCII, and no two in one place are the same.
"""

import keyword
import re
import unicodedata
from collections.abc import Iterable

from include.queue_etl.recognition import LONGEST_NAME

# So that a field's name, its class and what follows them fit a line of 110 characters.
_ATTRIBUTE_CHARS, _CLASS_CHARS = 48, 40
# What the annotations of a contract's file are made of: an attribute of that name would hide it. And `l`,
# which ruff takes for a 1, as it does I and O below.
_ANNOTATION_NAMES = frozenset(
    {"bool", "date", "datetime", "dict", "field", "float", "int", "l", "list", "str"}
)
# Classes that a contract's file imports.
_IMPORTED = frozenset(
    {"Annotated", "Any", "Contract", "Decimal", "Jsonb", "Literal", "Meta", "Name", "None", "Normalization"}
    | {"I", "Numeric", "O", "Personal", "SentAt", "Struct", "Subject", "True", "False", "UUID", "Zone"}
)
# Reserved in Postgres, so that every query would have to quote them; and the names of its own columns.
# https://www.postgresql.org/docs/current/sql-keywords-appendix.html
_RESERVED = frozenset(
    re.findall(
        r"\w+",
        """
        all analyse analyze and any array as asc asymmetric authorization binary both case cast check
        collate collation column concurrently constraint create cross current_catalog current_date
        current_role current_schema current_time current_timestamp current_user default deferrable desc
        distinct do else end except false fetch for foreign freeze from full grant group having ilike in
        initially inner intersect into is isnull join lateral leading left like limit localtime
        localtimestamp natural not notnull null offset on only or order outer overlaps placing primary
        references returning right select session_user similar some symmetric system_user table tablesample
        then to trailing true union unique user using variadic verbose when where window with cmax cmin ctid
        tableoid xmax xmin
        """,
    )
)


def attribute(name: str, taken: Iterable[str]) -> str:
    """The Python attribute of a field: `orderId` -> order_id, `class` -> class_."""
    words = snake(name)
    if keyword.iskeyword(words) or words in _ANNOTATION_NAMES:
        words += "_"
    return unique(words, taken, _ATTRIBUTE_CHARS)


def class_name(words: str, taken: Iterable[str]) -> str:
    """A class of these words: `billing_details` -> BillingDetails."""
    name = "".join(word.capitalize() for word in snake(words).split("_"))
    return unique(f"{name}Object" if name in _IMPORTED else name, taken, _CLASS_CHARS)


def column(words: str, taken: Iterable[str]) -> str:
    """A column that no query has to quote: `order` -> order_."""
    return unique(f"{words}_" if words in _RESERVED else words, taken, LONGEST_NAME)


def unique(name: str, taken: Iterable[str], most_chars: int) -> str:
    """The name, shortened, and with a number where it is taken."""
    used, number, end = set(taken), 1, ""
    while (found := name[: most_chars - len(end)].rstrip("_" if end else "") + end) in used:
        number += 1
        end = f"_{number}"
    return found


def renamed(style: str, attribute: str) -> str:
    """What msgspec makes of an attribute with `rename=style`; "" leaves it as it is."""
    first, *others = attribute.split("_")
    rest = "".join(word.capitalize() for word in others)
    return {"": attribute, "camel": first + rest, "pascal": first.capitalize() + rest}[style]


def snake(name: str) -> str:
    """The words of a name, in lower case and joined with `_`: `sourceIPAddress` -> source_ip_address."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    parted = re.sub(r"([a-z0-9])([A-Z])|([A-Z]+)(?=[A-Z][a-z])", _part, plain)
    words = "_".join(re.findall(r"[A-Za-z0-9]+", parted)).lower()
    if not words:
        return "field_1"  # `field` is msgspec's
    return f"n_{words}" if words[0].isdecimal() else words


def _part(found: re.Match[str]) -> str:
    return f"{found[1]}_{found[2]}" if found[1] else f"{found[3]}_"
