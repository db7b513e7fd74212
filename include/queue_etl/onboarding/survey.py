"""Bodies of messages -> what stands at every path: types, shares, lengths. Pure; no body raises.

Paths: `customer.email`; `items[*].sku` for what lists hold, and `labels[*]` for what is in a map, which is an
object whose names are data.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec

from include.queue_etl.contract import Rejected
from include.queue_etl.recognition import looks_like_data, shapes_of

MOST_DEPTH = 24  # of objects and lists in each other; what is deeper is not looked into
MOST_DISTINCT = 1_000  # values of a field that are told apart
MOST_CHOICES = 12
CHOICE_CHARS = 40
LEAST_OF_A_CHOICE = 3  # a value that is seen less often may be anything, also a person's
# Of an object: many names, each in few of them. What all of them have alike is a map, all else an object
# that differs from event to event.
SPARSE_OBJECTS, SPARSE_NAMES, SPARSE_SHARE = 4, 8, 0.25
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
MOST_NAMES = 1_000  # of a nested object: more are a map
# A name at the top of so many events, and of this share of them, is a field's where it can be.
COMMON_EVENTS, COMMON_SHARE = 10, 0.5
MOST_DIGITS = 1_000
KINDS: dict[type, str] = {
    str: "text",
    bool: "boolean",
    int: "integer",
    Decimal: "decimal",
    list: "array",
}
_MOMENT = re.compile(r"(19|20|21)[0-9]{2}-[0-9]{2}-[0-9]{2}.+")


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts at one path.

    Attributes:
        longest: in characters
        form: of all texts: `datetime` (with offset), `local datetime` (without), `date`, `uuid`, or ""
        shapes: plural of a Shape -> how many texts have it
        choices: the values, where they are few and each is seen often; values of the sample, so never shown
    """

    count: int
    longest: int
    form: str
    shapes: dict[str, int]
    choices: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers at one path.

    Attributes:
        smallest, largest: values of the sample, so never shown
        whole_digits, decimals: the most digits before and behind the point
        cents: numbers with two decimals, and none with more
        fit_float: a float keeps every digit
    """

    count: int
    whole_digits: int
    decimals: int
    cents: bool
    fit_float: bool
    smallest: Decimal = field(repr=False)
    largest: Decimal = field(repr=False)
    shapes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Field:
    """What stands at one path.

    Attributes:
        path: see the module; "" of the event itself
        key: its name in the JSON; `[*]` and `*` for what lists and maps hold
        parents: objects in which it could stand
        missing: of these, without it
        seen, nulls: values, and those that are null
        kinds: of object, array, text, integer, decimal (a number with a fraction or exponent), boolean
        distinct: values that are no object or list, MOST_DISTINCT at most
        fields: of its objects, in the order in which they first came
        items: what its lists hold
        values: what its objects hold, where they are maps; then there are no `fields`
        is_sparse: its objects differ from each other
        map_shapes: of the names of a map: plural of a Shape -> how many names have it
        is_cut: its objects and lists are MOST_DEPTH deep, so nobody looked into them
    """

    path: str
    key: str
    parents: int
    missing: int
    seen: int
    nulls: int
    kinds: frozenset[str]
    distinct: int = 0
    texts: Texts | None = None
    numbers: Numbers | None = None
    fields: tuple["Field", ...] = ()
    items: "Field | None" = None
    values: "Field | None" = None
    is_sparse: bool = False
    map_shapes: dict[str, int] = field(default_factory=dict)
    is_cut: bool = False

    @property
    def parts(self) -> tuple["Field", ...]:
        """All that stands directly in it."""
        return (*self.fields, *filter(None, (self.items, self.values)))

    def walk(self) -> Iterator["Field"]:
        """Itself and all in it."""
        yield self
        for part in self.parts:
            yield from part.walk()


@dataclass(frozen=True, slots=True)
class Survey:
    """What a sample holds.

    Attributes:
        bodies: messages
        unusable: code of the rejection that any contract would give -> bodies
        event: what stands in the others
        envelope: at least one body was the notification of an SNS topic
        data_names: names at the event's top that look like data
        values: every text and number of the sample as text, to keep made-up values apart from them
    """

    bodies: int
    unusable: dict[str, int]
    event: Field
    envelope: bool
    data_names: int
    values: frozenset[str] = field(repr=False)

    @property
    def events(self) -> int:
        """Bodies that became an event."""
        return self.event.seen


class _Object(list[tuple[str, Any]]):
    """An object with every name as often as it stands there: a parser by types looks at each of them."""


def survey(bodies: Iterable[bytes]) -> Survey:
    """Look at bodies of messages, each a JSON object or the SNS notification of one."""
    read = [_read(body) for body in bodies]
    notified = [_notified(one) for one in read]
    envelope = any(isinstance(one, _Object) for one in notified)
    if envelope:
        read = [one if inner is None else inner for one, inner in zip(read, notified, strict=True)]
    events = [one for one in read if isinstance(one, _Object)]
    unusable = Counter(_code(one) for one in read if not isinstance(one, _Object))
    data_names = _data_names(events)
    shown = [_Object(pair for pair in event if pair[0] not in data_names) for event in events]
    return Survey(
        bodies=len(read),
        unusable=dict(sorted(unusable.items())),
        event=_field("", "", len(events), shown, depth=0),
        envelope=envelope,
        data_names=len(data_names),
        values=frozenset(_scalars(events)),
    )


def _read(body: bytes) -> Any:
    """The JSON, with numbers as they are written; Rejected where no contract would load it."""
    try:
        msgspec.json.decode(body)  # what the engine reads with
        found = json.loads(body, parse_float=Decimal, object_pairs_hook=_Object)
        return _problem(found) or found
    except RecursionError:
        return Rejected("too_deep")
    except (ValueError, ArithmeticError):
        return Rejected("bad_json")


def _notified(one: Any) -> Any:
    """What the notification of an SNS topic holds; None for anything else."""
    if not isinstance(one, _Object):
        return None
    fields = dict(one)
    message = fields.get("Message")
    return (
        _read(message.encode()) if fields.get("Type") == "Notification" and isinstance(message, str) else None
    )


def _code(one: Any) -> str:
    return one.reason if isinstance(one, Rejected) else "not_object"


def _problem(value: Any) -> Rejected | None:
    """What no column holds: the character NUL, or a number of more than 1,000 digits."""
    if isinstance(value, str):
        return Rejected("nul_char") if "\x00" in value else None
    if type(value) in (int, Decimal):
        number = Decimal(value)
        is_huge = number != 0 and max(abs(number.adjusted()), _decimals(number)) >= MOST_DIGITS
        return Rejected("out_of_range") if is_huge else None
    if not isinstance(value, list):
        return None
    inside = [part for pair in value for part in pair] if isinstance(value, _Object) else value
    return next(filter(None, map(_problem, inside)), None)


def _scalars(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, _Object):
            yield from _scalars(inner for _, inner in value)
        elif isinstance(value, list):
            yield from _scalars(value)
        elif value is not None and not isinstance(value, bool):
            yield str(value)


def _field(path: str, key: str, parents: int, values: Sequence[Any], depth: int, missing: int = 0) -> Field:
    objects = [value for value in values if isinstance(value, _Object)]
    lists = [value for value in values if isinstance(value, list) and not isinstance(value, _Object)]
    fields, of_map, is_sparse = _parts(path, objects, depth)
    inside = [inner for value in lists for inner in value] if depth < MOST_DEPTH else []
    return Field(
        path=path,
        key=key,
        parents=parents,
        missing=missing,
        seen=len(values),
        nulls=sum(value is None for value in values),
        kinds=frozenset(_kind(value) for value in values if value is not None),
        distinct=_distinct(values),
        texts=_texts([value for value in values if isinstance(value, str)]),
        numbers=_numbers([value for value in values if type(value) in (int, Decimal)]),
        fields=fields,
        items=_field(f"{path}[*]", "[*]", len(inside), inside, depth + 1) if inside else None,
        values=of_map,
        is_sparse=is_sparse,
        map_shapes=_name_shapes(objects) if of_map else {},
        is_cut=depth >= MOST_DEPTH and any(isinstance(value, list) and value for value in values),
    )


def _parts(path: str, objects: Sequence[_Object], depth: int) -> tuple[tuple[Field, ...], Field | None, bool]:
    """Fields of objects, or the values of a map; and whether the objects differ from each other."""
    names = Counter(name for value in objects for name in dict(value))
    if depth >= MOST_DEPTH or not names:
        return (), None, False
    is_sparse = depth > 0 and _is_sparse(names, len(objects))
    if depth > 0 and _is_map(names, objects, is_sparse):
        inside = [inner for value in objects for _, inner in value]
        return (), _field(f"{path}[*]", "[*]", len(inside), inside, depth + 1), False
    by_name: dict[str, list[Any]] = {name: [] for name in names}
    for value in objects:
        for name, inner in value:
            by_name[name].append(inner)
    fields = [
        _field(f"{path}.{name}" if path else name, name, len(objects), inner, depth + 1, len(objects) - count)
        for (name, count), inner in zip(names.items(), by_name.values(), strict=True)
    ]
    return tuple(fields), None, is_sparse


def _name_shapes(objects: Sequence[_Object]) -> dict[str, int]:
    return dict(shapes_of({name for value in objects for name, _ in value}))


def _data_names(events: Sequence[_Object]) -> set[str]:
    names = Counter(name for event in events for name in dict(event))
    least = max(COMMON_EVENTS, COMMON_SHARE * len(events))
    return {name for name, count in names.items() if looks_like_data(name, is_common=count >= least)}


def _is_sparse(names: Counter[str], objects: int) -> bool:
    share = names.total() / (objects * len(names))
    return objects >= SPARSE_OBJECTS and len(names) >= SPARSE_NAMES and share < SPARSE_SHARE


def _is_map(names: Counter[str], objects: Sequence[_Object], is_sparse: bool) -> bool:
    if len(names) > MOST_NAMES or any(looks_like_data(name) for name in names):
        return True
    kinds = {_kind(inner) for value in objects for _, inner in value if inner is not None}
    return is_sparse and len(kinds) == 1


def _kind(value: Any) -> str:
    return KINDS.get(type(value), "object")


def _distinct(values: Sequence[Any]) -> int:
    seen: set[str] = set()
    for value in values:
        if value is not None and not isinstance(value, list):
            seen.add(f"{type(value).__name__} {value}")
            if len(seen) == MOST_DISTINCT:
                break
    return len(seen)


def _texts(texts: Sequence[str]) -> Texts | None:
    if not texts:
        return None
    return Texts(
        count=len(texts),
        longest=max(map(len, texts)),
        form=next((name for name, fits in FORMS.items() if all(map(fits, set(texts)))), ""),
        shapes=dict(shapes_of(texts)),
        choices=_choices(texts),
    )


def _choices(texts: Sequence[str]) -> tuple[str, ...]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts[text] += 1
        if len(counts) > MOST_CHOICES:
            return ()
    is_short = all(0 < len(text) <= CHOICE_CHARS and text.isprintable() for text in counts)
    return tuple(sorted(counts)) if is_short and min(counts.values()) >= LEAST_OF_A_CHOICE else ()


def _numbers(numbers: Sequence[int | Decimal]) -> Numbers | None:
    if not numbers:
        return None
    decimals = [_decimals(number) for number in numbers]
    return Numbers(
        count=len(numbers),
        whole_digits=max(_whole_digits(number) for number in numbers),
        decimals=max(decimals),
        cents=max(decimals) == 2,
        fit_float=all(map(_fits_float, numbers)),
        smallest=Decimal(min(numbers)),
        largest=Decimal(max(numbers)),
        shapes=dict(shapes_of(str(number) for number in numbers if isinstance(number, int))),
    )


def _whole_digits(number: int | Decimal) -> int:
    return max(1, Decimal(number).adjusted() + 1)


def _decimals(number: int | Decimal) -> int:
    exponent = Decimal(number).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _fits_float(number: int | Decimal) -> bool:
    try:
        return Decimal(repr(float(number))) == number
    except OverflowError:
        return False


def _moment(text: str) -> datetime | None:
    if not _MOMENT.fullmatch(text):
        return None
    try:
        return msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return None


def _has_offset(text: str) -> bool:
    moment = _moment(text)
    return moment is not None and moment.tzinfo is not None


def _is_local(text: str) -> bool:
    moment = _moment(text)
    return moment is not None and moment.tzinfo is None


def _is_date(text: str) -> bool:
    try:
        return 1900 <= msgspec.convert(text, date).year <= 2199
    except msgspec.ValidationError:
        return False


def _is_uuid(text: str) -> bool:
    # With hyphens: 32 hexadecimal digits may as well be a digest.
    return _UUID.fullmatch(text) is not None


FORMS = {"datetime": _has_offset, "local datetime": _is_local, "date": _is_date, "uuid": _is_uuid}
