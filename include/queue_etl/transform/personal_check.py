"""The personal data check: are there personal values where the contract says that there are none? Pure.

It looks at undeclared fields, at texts of columns, jsonb and attributes that no mark calls personal, and at
keys that may be data. It tells paths, kinds and counts, never a value. The mark NotPersonal() leaves a field
out.
"""

import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from include.queue_etl.contract import Attribute, Contract, Derived, Jsonb, NotPersonal, Personal
from include.queue_etl.contract.event_types import Annotation, fields_of, is_struct
from include.queue_etl.transform.batches import MaskedBatch
from include.queue_etl.transform.json_values import (
    Step,
    decode_items,
    decode_object,
    decode_without_floats,
    steps_of,
)
from include.queue_etl.transform.personal_values import KINDS, kinds_in
from include.queue_etl.transform.shapes import OTHER_KEY, is_name
from include.queue_etl.transform.undeclared import MAX_PATHS, OTHERS

Finding = tuple[str, str]  # path and kind
Counts = dict[str, dict[str, int]]  # path -> kind -> messages

_ID_CHARS, _DIGITS = 36, "0123456789abcdef"  # of a UUID
_MOST_WARNINGS = 10  # of a batch
_MOST_CHARS = 200  # of a path
_REMEDY = "declare it Personal(), or NotPersonal() where it is none"


@dataclass(slots=True, eq=False)
class _Place:
    """What is looked at in a value; None in place of a place: nothing.

    Attributes:
        is_looked_at: the value itself, where it is a text or a whole number
        names: of the fields that are known, with their places
        others: of the values of all other fields
        items: of those of a list
        is_map: the other fields are keys of a declared map, which are not shown
    """

    is_looked_at: bool = False
    names: Mapping[str, "_Place | None"] = field(default_factory=dict)
    others: "_Place | None" = None
    items: "_Place | None" = None
    is_map: bool = False


_ANYTHING = _Place(is_looked_at=True)
_ANYTHING.others = _ANYTHING.items = _ANYTHING
_TEXT = _Place(is_looked_at=True)


class PersonalCheck:
    """Looks at messages that a contract accepts."""

    def __init__(self, contract: Contract) -> None:
        self._event = _of_struct(contract.event, {})
        self._attributes = [
            fact
            for fact in contract.message
            if isinstance(fact, Attribute) and not (fact.personal or fact.not_personal)
        ]

    def findings(self, body: bytes, facts: Mapping[str, str | bytes]) -> list[Finding]:
        """What is found in a message, each path and kind once; in its order, what is nested later.

        Args:
            body: accepted by the contract's parser, without its SNS envelope
            facts: of the message (RawBatch.facts_of)
        """
        beside = [
            (one.path, kind)
            for one in self._attributes
            for kind in kinds_in(_text(facts.get(one.path)), one.name)
        ]
        return list(dict.fromkeys([*_findings(Raw(body), self._event), *beside]))


def sampled(ids: Sequence[str], one_in: int) -> list[int]:
    """Indexes of the messages that are in the sample: the same messages whenever and wherever they come.

    Args:
        ids: of the ledger, lower-case UUIDs: the last digits of every version that is in use are random
        one_in: 0: none, 1: all
    """
    if not one_in:
        return []
    highest = f"{0xFFFFFFFF // one_in:08x}"
    # One text of the last digits of all: most ids are done with in C, which takes a quarter of the time.
    last_digits = "".join(ids)[_ID_CHARS - 1 :: _ID_CHARS]
    low_enough = re.compile(f"[{_DIGITS[: _DIGITS.index(highest[0]) + 1]}]")
    return [
        found.start()
        for found in low_enough.finditer(last_digits)
        if ids[found.start()][:-9:-1] <= highest  # the last eight digits, read backwards
    ]


def counted(findings: Iterable[Sequence[Finding]]) -> Counts:
    """Path -> kind -> messages that have it; beyond MAX_PATHS, under OTHERS.

    Args:
        findings: of each message
    """
    counts: Counter[Finding] = Counter()
    for found in findings:
        counts.update(found)
    result: Counts = {}
    for (path, kind), messages in counts.most_common():
        shown = path if path in result or len(result) < MAX_PATHS else OTHERS
        kinds = result.setdefault(shown, {})
        kinds[kind] = kinds.get(kind, 0) + messages
    return result


def reason(findings: Sequence[Finding], shown: Collection[str]) -> str:
    """Why a message goes to quarantine: the first path.

    Args:
        findings: of the message, at least one
        shown: paths that may be named: a producer that invents names makes no endless list of reasons
    """
    path = findings[0][0]
    return f"personal_data {path if path in shown else OTHERS}"


def warnings(masked: MaskedBatch, contract: Contract) -> list[str]:
    """What people should know of a batch and do about it, a sentence for each path and kind."""
    is_guarded = contract.personal_data_check == "quarantine"
    remedy = f"they are in quarantine; {_REMEDY}, and redrive" if is_guarded else _REMEDY
    checked = masked.personal_data_checked
    found = [
        f"{messages} of {checked} checked messages have what looks like {KINDS[kind]} in {path}: {remedy}"
        for path, kinds in masked.personal_data_found.items()
        for kind, messages in kinds.items()
    ]
    more = [f"{len(found) - _MOST_WARNINGS} more such lines: see personal_data_found in etl.run_summary"]
    return found[:_MOST_WARNINGS] + (more if len(found) > _MOST_WARNINGS else [])


# A way through a message ----------------------------------------------------------------------------


def _findings(body: Raw, event: _Place) -> Iterator[Finding]:
    """Level by level and not by recursion: a message may be nested as deep as the parser accepts."""
    waiting: deque[tuple[str, str, Any, _Place]] = deque([("", "", body, event)])
    while waiting:
        path, name, value, place = waiting.popleft()
        if isinstance(value, Raw):
            value = _opened(value)
        if isinstance(value, dict):
            yield from _in_keys(value, path, place)
            waiting.extend(_inside(value, path, place))
        elif isinstance(value, list):
            at = _extended(path, "[*]")
            waiting.extend((at, name, item, place.items) for item in value if place.items)
        elif place.is_looked_at:
            yield from ((path, kind) for kind in kinds_in(_text(value), name))


def _in_keys(value: dict[str, Any], path: str, place: _Place) -> Iterator[Finding]:
    """A key of a map may be an e-mail address."""
    for key in value:
        if key not in place.names and not is_name(key):
            yield from ((_path(place, path, key), kind) for kind in kinds_in(key))


def _inside(value: dict[str, Any], path: str, place: _Place) -> Iterator[tuple[str, str, Any, _Place]]:
    for key, inner in value.items():
        if below := place.names.get(key, place.others):
            yield _path(place, path, key), key, inner, below


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _path(place: _Place, path: str, key: str) -> str:
    if place.is_map and key not in place.names:
        return _extended(path, "[*]")
    shown = key if key in place.names or is_name(key) else OTHER_KEY
    return _extended(path, f".{shown}") if path else shown


def _extended(path: str, step: str) -> str:
    """One step further; paths of messages that are nested deeper end in `...`."""
    if len(path) < _MOST_CHARS:
        return path + step
    return path if path.endswith(OTHERS) else path + OTHERS


def _opened(raw: Raw) -> Any:
    """The value; one level of it, where there is a number in it that Python does not take."""
    try:
        return decode_without_floats(raw)
    except (msgspec.ValidationError, RecursionError):
        text = bytes(raw).lstrip()
        opened = {b"{": decode_object, b"[": decode_items}.get(text[:1])
        return opened(raw) if opened else text.decode()


# Which places a contract has ------------------------------------------------------------------------


def _of_struct(struct: type[Struct], known: dict[type[Struct], _Place]) -> _Place:
    if struct not in known:
        place = known[struct] = _Place(others=_ANYTHING)  # entered first: a struct may hold itself
        place.names = {one.encode_name: _of_field(annotation, known) for one, annotation in fields_of(struct)}
    return known[struct]


def _of_field(annotation: Annotation, known: dict[type[Struct], _Place]) -> _Place | None:
    # A derived column holds what was computed, and not the text.
    if any(annotation.mark(mark) for mark in (Personal, NotPersonal, Derived)):
        return None
    place = _of_type(annotation.type, known)
    jsonb = annotation.mark(Jsonb)
    if jsonb:
        for path in jsonb.personal:
            place = _without(place, steps_of(path))
    return place


def _of_type(kind: Any, known: dict[type[Struct], _Place]) -> _Place | None:
    if is_struct(kind):
        return _of_struct(kind, known)
    if kind is str:
        return _TEXT
    if kind in (Any, object, Raw, list, dict):
        return _ANYTHING
    origin, inner = get_origin(kind), [_of_field(Annotation.parse(one), known) for one in get_args(kind)]
    if origin in (Union, UnionType):
        return _either(inner)
    if origin is dict:
        return _Place(others=inner[-1], is_map=True)
    return _Place(items=_either(inner)) if origin in (list, tuple, set, frozenset) else None


def _either(places: Iterable[_Place | None]) -> _Place | None:
    """Of a union: what is looked at in one of its types is looked at."""
    found = [place for place in places if place]
    if len(found) < 2:
        return found[0] if found else None
    return _Place(
        any(place.is_looked_at for place in found),
        {name: inner for place in found for name, inner in place.names.items()},
        next((place.others for place in found if place.others), None),
        next((place.items for place in found if place.items), None),
        any(place.is_map for place in found),
    )


def _without(place: _Place | None, steps: Sequence[Step]) -> _Place | None:
    """The place without what is masked at the end of the steps."""
    if place is None or not steps:
        return None
    step, *rest = steps
    if step != "[*]":
        return replace(
            place, names={**place.names, step: _without(place.names.get(step, place.others), rest)}
        )
    return replace(place, items=_without(place.items, rest), others=_without(place.others, rest))
