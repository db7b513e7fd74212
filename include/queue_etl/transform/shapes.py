"""The shape of a message: its paths and their JSON types, without any value. Pure; no input raises.

A shape is text: the paths, sorted, each with its types:

    $: object, customer: object, customer.email: null|string, items: array, items[*]: integer

A key can be data, such as those of a map. So a key that the contract does not name is shown only where it
looks like a name, and as `*` otherwise; those of a map that the contract declares are all `*`. A shape is
bounded, and ends in `...` where paths are left out; of an array the first items stand for all. A body that is
no JSON has a shape that says so.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from include.queue_etl.contract import Contract
from include.queue_etl.transform.json_values import decode_without_floats

MAX_CHARS = 2_000
MAX_PATHS = 60
MAX_DEPTH = 8
MAX_ITEMS = 20  # of an array that are looked at
MAX_REMEMBERED = 100  # shapes of flat messages
MAX_VALUES = 2_000  # of a message that are looked at: what a hostile one may cost
CUT = "..."
OTHER_KEY = "*"

EMPTY, NOT_UTF8, NOT_JSON, TOO_DEEP, NOT_PARSED = "empty", "not UTF-8", "not JSON", "too deep", "not parsed"
# Reasons of messages that nobody parses: too large, or perhaps what killed the process that did.
UNPARSED = ("too_large", "too_many_receives")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")
_SEPARATORS = re.compile(r"[_-]")
# Three digits, wherever they stand; a hash; digits between letters: 192-0-2-7, user_171, deadbeef, dev-5f9c.
_DATA = re.compile(r"([0-9].*){3}|[0-9A-Fa-f]{8}|[0-9][A-Za-z]+[0-9]")
# Of a key that the contract names: what separates in a shape, or what COPY text escapes, cannot stand in one.
_PATH_NAME = re.compile(r"(?!\$$)(?! )(?:[^\s.,:|*\[\]\\]| |:(?! )){1,100}(?<! )")

ANYTHING = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
# What a field of a type accepts; of others a string, as of dates.
_ACCEPTED: dict[type[inspect.Type], frozenset[str]] = {
    inspect.NoneType: frozenset({"null"}),
    inspect.BoolType: frozenset({"boolean"}),
    inspect.IntType: frozenset({"integer"}),
    inspect.FloatType: frozenset({"integer", "number"}),
    inspect.DecimalType: frozenset({"integer", "number", "string"}),
    inspect.StructType: frozenset({"object"}),
    inspect.DictType: frozenset({"object"}),
    inspect.ListType: frozenset({"array"}),
    inspect.AnyType: ANYTHING,
    inspect.RawType: ANYTHING,
    inspect.CustomType: ANYTHING,
}


class ShapeLine(NamedTuple):
    """One path of a message.

    Attributes:
        types: joined by `|`
        length: characters of its texts, items of its arrays, keys of its objects; "3 to 7" where they differ,
            empty for other types
    """

    path: str
    types: str
    length: str


class Differences(NamedTuple):
    """How a shape differs from what the contract expects; `missing` are paths, the others say types too."""

    missing: list[str]
    extra: list[str]
    other_type: list[str]


class Shapes:
    """Makes shapes of a contract's messages, and compares them with it."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._flat: dict[tuple[object, ...], str] = {}

    def of_rejected(self, body: bytes, reason: str) -> str:
        """The shape of a message that was rejected for `reason`; it is not parsed where that said so."""
        return NOT_PARSED if reason in UNPARSED else self.of(body)

    def of(self, body: bytes) -> str:
        """The shape of a body: at most MAX_CHARS, and no character that COPY text would have to escape."""
        value = self._read(body)
        if isinstance(value, _Unreadable):
            return value.why
        if not isinstance(value, dict) or any(isinstance(inner, list | dict) for inner in value.values()):
            return self._followed(value).text()
        # Names and types say all of a flat message, and a producer makes the same mistake again and again.
        key = (*value, *map(type, value.values()))
        if key not in self._flat:
            if len(self._flat) == MAX_REMEMBERED:
                self._flat.clear()
            self._flat[key] = self._followed(value).text()
        return self._flat[key]

    def lines(self, body: bytes) -> list[ShapeLine]:
        """The paths of a body with the lengths of their values; one line that says why, where it has none."""
        value = self._read(body)
        if isinstance(value, _Unreadable):
            return [ShapeLine(value.why, "-", f"{len(body)} bytes")]
        return self._followed(value).lines()

    def differences(self, shape: str) -> Differences:
        """What the shape lacks of the contract, has beside it, and has of another type."""
        found = _parsed(shape)
        if not found:
            return Differences([], [], [])
        expected, is_cut = self._expected, shape.endswith(CUT)
        missing = [
            path
            for path, wanted in expected.items()
            if wanted.is_required
            and not is_cut
            and path not in found
            and "object" in found.get(_parent(path), ())
        ]
        extra = [
            f"{path}: {'|'.join(sorted(types))}"
            for path, types in found.items()
            if path not in expected and not path.endswith("[*]") and _is_closed(expected.get(_parent(path)))
        ]
        other_type = [
            f"{path}: {'|'.join(sorted(other))}, not {'|'.join(sorted(expected[path].types))}"
            for path, types in found.items()
            if path in expected and (other := types - expected[path].types)
        ]
        return Differences(sorted(missing), extra, other_type)

    @cached_property
    def _expected(self) -> "dict[str, _Expected]":
        return _expected(self._contract.event)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(
            name
            for path in self._expected
            for name in path.replace("[*]", "").split(".")
            if name not in ("$", OTHER_KEY)
        )

    @cached_property
    def _maps(self) -> frozenset[str]:
        suffix = f".{OTHER_KEY}"
        return frozenset(path.removesuffix(suffix) for path in self._expected if path.endswith(suffix))

    def _read(self, body: bytes) -> "Any | _Unreadable":
        """The event in a body, or why there is none."""
        if not body.strip():
            return _Unreadable(EMPTY)
        try:
            body.decode()
            return self._unwrapped(decode_without_floats(body))
        except UnicodeDecodeError:
            return _Unreadable(NOT_UTF8)
        except RecursionError:
            return _Unreadable(TOO_DEEP)
        except (msgspec.DecodeError, ValueError):
            return _Unreadable(NOT_JSON)

    def _followed(self, value: Any) -> "_Walk":
        walk = _Walk(self._names, self._maps)
        walk.follow(value)
        return walk

    def _unwrapped(self, value: Any) -> Any:
        """The event inside an SNS notification; any other value as it is."""
        if self._contract.sns_envelope and isinstance(value, dict) and value.get("Type") == "Notification":
            inner = value.get("Message")
            return decode_without_floats(inner.encode()) if isinstance(inner, str) else value
        return value


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A body of which nothing can be told, and why."""

    why: str


@dataclass
class _Found:
    """What stands at one path: its types, and the lengths of its values."""

    types: set[str] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)

    @property
    def joined(self) -> str:
        return "|".join(sorted(self.types))

    @property
    def length(self) -> str:
        least, most = min(self.lengths, default=None), max(self.lengths, default=None)
        if least is None:
            return ""
        return str(least) if least == most else f"{least} to {most}"


class _Walk:
    """A way through a message: level by level, so that a bound leaves out what lies deepest."""

    def __init__(self, names: frozenset[str], maps: frozenset[str]) -> None:
        self._names = names
        self._maps = maps
        self._found: dict[str, _Found] = {}
        self._is_cut = False

    def follow(self, value: Any) -> None:
        """Look at the value and at all in it, as far as the bounds let it."""
        waiting, left = deque([("$", value, 0)]), MAX_VALUES
        while waiting:
            left -= 1
            path, value, depth = waiting.popleft()
            if path not in self._found and len(self._found) == MAX_PATHS:
                self._is_cut = True
                continue
            self._note(path, value)
            room = left - len(waiting) if depth < MAX_DEPTH else 0
            inside = list(islice(self._inside(path, value), room + 1))
            self._is_cut = self._is_cut or len(inside) > room
            waiting.extend((at, inner, depth + 1) for at, inner in inside[:room])

    def text(self) -> str:
        """The shape."""
        kept, chars = {}, len(CUT)
        for path, found in self._found.items():  # in the order of the walk: what came first matters most
            chars += len(f"{path}: {found.joined}, ")
            if chars <= MAX_CHARS:
                kept[path] = found.joined
        parts = [f"{path}: {types}" for path, types in sorted(kept.items())]
        return ", ".join([*parts, CUT] if self._is_cut or len(kept) < len(self._found) else parts)

    def lines(self) -> list[ShapeLine]:
        """The paths, in the order of the shape."""
        lines = [ShapeLine(path, found.joined, found.length) for path, found in sorted(self._found.items())]
        return [*lines, ShapeLine(CUT, "", "")] if self._is_cut else lines

    def _note(self, path: str, value: Any) -> None:
        found = self._found.setdefault(path, _Found())
        found.types.add(_TYPES[type(value)])
        if isinstance(value, str | list | dict):
            found.lengths.add(len(value))

    def _inside(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Paths and values within a value."""
        if isinstance(value, list):
            yield from ((f"{path}[*]", item) for item in value[:MAX_ITEMS])
        if isinstance(value, dict):
            # The contract's own first: a message full of others still shows them.
            named = [name for name in value if name in self._names]
            others = (name for name in value if name not in self._names)
            for name in (*named, *others):
                yield _joined(path, self._shown(path, name)), value[name]

    def _shown(self, path: str, name: str) -> str:
        """The key itself, where the contract names it, or it looks like a name and cannot be data."""
        if path in self._maps:
            return OTHER_KEY
        return name if is_name(name) or name in self._names else OTHER_KEY


def is_name(key: str) -> bool:
    """Whether a key that the contract does not name looks like a name, and cannot be data."""
    return bool(_NAME.fullmatch(key)) and not _DATA.search(_SEPARATORS.sub("", key))


def _joined(path: str, name: str) -> str:
    return name if path == "$" else f"{path}.{name}"


def _parent(path: str) -> str:
    """The path of the object that a key stands in."""
    return path.rpartition(".")[0] or "$"


def _parsed(shape: str) -> dict[str, set[str]]:
    """Types by path; empty for a shape that has no paths, such as `not JSON`."""
    parts = [part.partition(": ") for part in shape.split(", ")]
    return {path: set(types.split("|")) for path, _, types in parts if types}


# What a contract expects ------------------------------------------------------------------------------------


class _Expected(NamedTuple):
    """What the contract expects at one path; `is_open`: it names no keys, so that none is extra."""

    types: frozenset[str]
    is_required: bool
    is_open: bool


def _is_closed(parent: _Expected | None) -> bool:
    return parent is not None and "object" in parent.types and not parent.is_open


@lru_cache(maxsize=64)  # each batch asks, for its first message that is rejected
def _expected(event: type[msgspec.Struct]) -> dict[str, _Expected]:
    """The paths that an event struct names, each with its types; keys that no shape shows are left out."""
    found: dict[str, _Expected] = {}
    waiting: deque[tuple[str, inspect.Type, bool, int]] = deque([("$", inspect.type_info(event), True, 0)])
    while waiting:
        path, kind, is_required, depth = waiting.popleft()
        members = _members(kind)
        found[path] = _Expected(
            frozenset().union(*map(_accepted, members)),
            is_required,
            not any(isinstance(member, inspect.StructType) for member in members),
        )
        if depth < MAX_DEPTH:  # a struct may hold itself
            waiting.extend((at, inner, must, depth + 1) for at, inner, must in _nested(path, members))
    return found


def _members(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    """Of a union, also within the Metadata that a description brings; or the type itself."""
    if isinstance(kind, inspect.Metadata):
        return _members(kind.type)
    kinds = kind.types if isinstance(kind, inspect.UnionType) else ()
    return tuple(member for one in kinds for member in _members(one)) or (kind,)


def _nested(path: str, members: Iterable[inspect.Type]) -> Iterator[tuple[str, inspect.Type, bool]]:
    for member in members:
        if isinstance(member, inspect.ListType):
            yield f"{path}[*]", member.item_type, False
        if isinstance(member, inspect.DictType):
            yield _joined(path, OTHER_KEY), member.value_type, False
        if isinstance(member, inspect.StructType):
            for one in member.fields:
                if _PATH_NAME.fullmatch(one.encode_name) and one.encode_name.isprintable():
                    yield _joined(path, one.encode_name), one.type, one.required


def _accepted(kind: inspect.Type) -> frozenset[str]:
    if isinstance(kind, inspect.LiteralType):
        return frozenset(_TYPES[type(value)] for value in kind.values)
    if isinstance(kind, inspect.EnumType):
        return frozenset(_TYPES[type(member.value)] for member in kind.cls)
    return _ACCEPTED.get(type(kind), frozenset({"string"}))
