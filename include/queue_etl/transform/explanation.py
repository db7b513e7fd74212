"""Why the types of an event refuse a body. Pure; slow, so only for messages that are rejected.

A reason names fields that the contract declares, and `[*]` for an item of a list or a map. It never has a
value in it, nor a name that stands only in the message.
"""

from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Raw

from include.queue_etl.contract import Rejected
from include.queue_etl.contract.event_types import Annotation, fields_of, is_struct

NOT_OBJECT = Rejected("not_object")
_TEXTS = (str,)
_NUMBERS = (int, float)
# To read the annotations of a struct takes 1 ms, and every hundredth message may be one that is rejected.
_fields_of = lru_cache(maxsize=256)(fields_of)


def explain(body: bytes, event: type[msgspec.Struct]) -> Rejected:
    """The first problem, fields in their order; missing ones first.

    Args:
        body: JSON in UTF-8 that `event` refuses
        event: a decoding type

    Raises:
        msgspec.DecodeError: it is no JSON
        RecursionError: it is nested too deeply
    """
    try:
        msgspec.json.decode(body, type=dict[str, Raw])
    except msgspec.ValidationError:
        msgspec.json.decode(body, type=Raw)  # raises where it is no JSON at all, or too deep
        return NOT_OBJECT
    code, path = next(_problems(Raw(body), Annotation(event), ""), ("bad_value", ""))
    return Rejected(f"{code} {path}".rstrip())


def _problems(raw: Raw, expected: Annotation, path: str) -> Iterator[tuple[str, str]]:
    """Code and path of what the type refuses, if it does."""
    kind, origin = expected.type, get_origin(expected.type)
    container = dict[str, Raw] if is_struct(kind) or origin is dict else list[Raw]
    if not (is_struct(kind) or origin in (list, dict)) or not _fits(raw, container):
        yield _code(raw, expected), path
    elif is_struct(kind):
        yield from _object_problems(raw, kind, path)
    else:
        yield from _item_problems(raw, container, get_args(kind)[-1], path)


def _object_problems(raw: Raw, kind: type[msgspec.Struct], path: str) -> Iterator[tuple[str, str]]:
    given = msgspec.json.decode(raw, type=dict[str, Raw])
    prefix = f"{path}." if path else ""
    fields = _fields_of(kind)
    for field, _ in fields:
        if field.required and field.encode_name not in given:
            yield "missing_field", f"{prefix}{field.encode_name}"
    for field, annotation in fields:
        value = given.get(field.encode_name)
        if value is not None and not _fits(value, field.type):
            yield from _problems(value, annotation, f"{prefix}{field.encode_name}")
    yield "bad_value", path  # the struct's own __post_init__ refuses it


def _item_problems(raw: Raw, container: Any, item: Any, path: str) -> Iterator[tuple[str, str]]:
    given = msgspec.json.decode(raw, type=container)
    for value in given.values() if isinstance(given, dict) else given:
        if not _fits(value, item):
            yield from _problems(value, Annotation.parse(item), f"{path}[*]")
    yield "bad_value", path  # too few items, or too many


def _fits(raw: Raw, expected: Any) -> bool:
    try:
        msgspec.json.decode(raw, type=expected)
    except msgspec.ValidationError:
        return False
    return True


def _code(raw: Raw, expected: Annotation) -> str:
    """What is wrong with a value that is no object, list or map, or should be none."""
    wanted = _json_types(expected.type)
    try:
        value = msgspec.json.decode(raw)
    except msgspec.ValidationError:  # a number that Python does not take
        return "out_of_range" if float in wanted or int in wanted else "bad_type"
    if value is None or value == "":
        return "no_value"
    if isinstance(value, bool) != (wanted == (bool,)) or not isinstance(value, wanted):
        return "bad_type"
    if isinstance(value, str):
        max_length = expected.bound("max_length")
        return "too_long" if max_length is not None and len(value) > max_length else "bad_value"
    return "out_of_range" if expected.type in (int, float) else "bad_value"


def _json_types(kind: Any) -> tuple[type, ...]:
    """The Python types of the JSON that a type is made from."""
    if get_origin(kind) is Literal:
        return tuple({type(value) for value in get_args(kind)})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple({type(member.value) for member in kind})
    if is_struct(kind):
        return (dict,)
    plain: dict[Any, tuple[type, ...]] = {
        bool: (bool,),
        int: (int,),
        float: _NUMBERS,
        dict: (dict,),
        list: (list,),
    }
    return plain.get(get_origin(kind) or kind, _TEXTS)
