r"""Values of jsonb columns: what Postgres can hold, and what is masked inside. Pure.

Postgres refuses \u0000 in jsonb, and a number with too many digits would take it much memory.
https://www.postgresql.org/docs/current/datatype-json.html
"""

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec

# No double has a larger exponent than 308, and a numeric of more digits helps nobody.
MAX_EXPONENT = 1000
# A few first characters make the search three times as fast; outside of strings nothing else fits them.
_LARGE_NUMBER = re.compile(rb"[eENI](?:[+-]?0*[0-9]{4}|aN|nfinity)")
_MANY_DIGITS = re.compile(rb"[0-9]{1000}")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')

# Decimals as numbers: a text would be another value to Postgres.
_encoder = msgspec.json.Encoder(decimal_format="number")
_encode = _encoder.encode
_decode = msgspec.json.Decoder(float_hook=Decimal).decode
# For who looks at names, types and texts; floats as 0, as one may be too large for Python.
decode_without_floats = msgspec.json.Decoder(float_hook=lambda _: 0.0).decode
# One level; what is inside stays as the message has it.
decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode_sorted = msgspec.json.Encoder(decimal_format="number", order="deterministic").encode

Step = str  # name of a field, or "[*]" for each item of a list or value of a map
_STEP = re.compile(r"\[\*\]|[^.\[]+")


def to_json(value: Any) -> str:
    """The JSON text of a value; untyped parts keep the digits that the message has."""
    return _encode(value).decode()


def to_texts(values: Sequence[Any]) -> list[str | None]:
    """The JSON text of each value, as `to_json` gives it; None for what is missing or null."""
    lines = _encoder.encode_lines(values).decode().split("\n")[:-1]
    if len(lines) != len(values):  # a message may have line breaks between what is not declared
        lines = list(map(to_json, values))
    return [None if line == "null" else line for line in lines]


def is_null(value: Any) -> bool:
    """Whether it is missing, or null in the JSON."""
    return value is None or (isinstance(value, msgspec.Raw) and bytes(value) == b"null")


def canonical_text(value: Any) -> str:
    """The same text for equal values: keys are sorted, there are no blanks."""
    return _encode_sorted(_decode(_encode(value))).decode()


def personal_text(value: Any) -> str:
    """What is masked of a value: a text as it is, a date or UUID as a text has it, all else as its JSON."""
    return _text_of(_decode(_encode(value)))


def problem(value: Any, personal: Sequence[str] = ()) -> str | None:
    """The code of what keeps a value from a jsonb column; None where it fits.

    Args:
        value: as decoded; untyped parts are Raw
        personal: paths inside that are masked: on the way there may be nothing that hides a value from it
    """
    text = _encode(value)
    if _has_large_number(text) and _has_large_number(_STRING.sub(b'""', text)):
        return "out_of_range"
    if personal:
        decoded = _decode(text)
        if not all(_is_reachable(decoded, steps_of(path)) for path in personal):
            return "bad_type"
    return None


def _has_large_number(text: bytes) -> bool:
    return bool(_LARGE_NUMBER.search(text) or (len(text) >= 1000 and _MANY_DIGITS.search(text)))


def nul_problem(value: Any) -> str | None:
    """Whether a text inside, or a name, holds a NUL character."""
    text = _encode(value)
    if rb"\u0000" not in text:
        return None
    return "nul_char" if any("\x00" in found for found in _texts(_decode(text))) else None


def steps_of(path: str) -> list[Step]:
    """The steps of a path such as `[*].phone`."""
    return _STEP.findall(path)


class Documents:
    """The values of one jsonb column, whose insides can be read and replaced by path."""

    def __init__(self, values: Sequence[Any]) -> None:
        """Take values as decoded or JSON texts as Raw; None is NULL."""
        self._values = [None if value is None else _decode(_encode(value)) for value in values]

    def texts_at(self, path: str) -> list[str]:
        """Everything at a path that is not null, in the order of the values; what is no text as its JSON."""
        return [_text_of(parent[name]) for parent, name in self._places(path)]

    def replace(self, path: str, texts: Sequence[str | None]) -> None:
        """Put these in the place of what `texts_at` gave; None is null."""
        for (parent, name), text in zip(self._places(path), texts, strict=True):
            parent[name] = text

    def to_json(self) -> list[str | None]:
        """The JSON text of each value."""
        return [None if value is None else to_json(value) for value in self._values]

    def _places(self, path: str) -> list[tuple[Any, Any]]:
        return [place for value in self._values for place in _places(value, steps_of(path))]


def changed(text: str, path: str, change: Callable[[Any], Any]) -> str:
    """A JSON text with everything at a path changed that is not null; the same text where nothing changes.

    The rest has the same meaning and digits as before, whatever it is: rows may be older than the path.
    """
    value = _decode(text.encode())
    places = list(_places(value, steps_of(path)))
    old = [parent[name] for parent, name in places]
    new = list(map(change, old))
    if new == old:
        return text
    for (parent, name), replacement in zip(places, new, strict=True):
        parent[name] = replacement
    return to_json(value)


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else canonical_text(value)


def _places(value: Any, steps: Sequence[Step]) -> Iterator[tuple[Any, Any]]:
    """Parent and key of everything at the path that is not null."""
    *above, last = steps
    for parent in _parents(value, above):
        for name in _names(parent, last):
            if parent[name] is not None:
                yield parent, name


def _parents(value: Any, steps: Sequence[Step]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    for name in _names(value, steps[0]):
        yield from _parents(value[name], steps[1:])


def _names(value: Any, step: Step) -> list[Any]:
    if isinstance(value, dict):
        return list(value) if step == "[*]" else [step] if step in value else []
    return list(range(len(value))) if isinstance(value, list) and step == "[*]" else []


def _is_reachable(value: Any, steps: Sequence[Step]) -> bool:
    """Whether every value on the way is of the kind that its step needs, or null."""
    if value is None or not steps:
        return True
    step, *rest = steps
    kinds = (list, dict) if step == "[*]" else (dict,)
    if not isinstance(value, kinds):
        return False
    return all(_is_reachable(value[name], rest) for name in _names(value, step))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts(item)
