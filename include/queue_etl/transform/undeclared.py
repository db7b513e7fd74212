"""Fields of a message that no struct of the contract declares: their paths, and what stands there. Pure.

A name that may be data, such as an e-mail address that is a key of a map, is shown as `*`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from include.queue_etl.contract.event_types import Annotation, fields_of, is_struct
from include.queue_etl.transform.json_values import decode_items, decode_object, is_null
from include.queue_etl.transform.shapes import OTHER_KEY, is_name

MAX_PATHS = 100  # of a batch; further ones are counted together, under OTHERS
OTHERS = "..."
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Declared:
    """What a value is declared as.

    Attributes:
        fields: of a struct, by their names in the JSON
        items: of the items of a list, or the values of a map; None where the value is neither
        is_list: the items are those of a list
    """

    fields: dict[str, "_Declared | None"] = field(default_factory=dict)
    items: "_Declared | None" = None
    is_list: bool = False


class Undeclared:
    """Finds the undeclared fields of messages that a contract accepts."""

    def __init__(self, event: type[Struct]) -> None:
        self._event = _declared(event, {}) or _Declared()

    def count(self, bodies: Iterable[bytes]) -> dict[str, int]:
        """Path -> messages that have it.

        Args:
            bodies: accepted by the contract's parser, without their SNS envelope
        """
        counts: Counter[str] = Counter()
        for body in bodies:
            counts.update(set(_paths(Raw(body), self._event, "")))
        first = dict(counts.most_common(MAX_PATHS))
        rest = counts.total() - sum(first.values())
        return {**first, **({OTHERS: rest} if rest else {})}

    def of(self, body: bytes) -> bytes:
        """The undeclared fields of a body that has some, as JSON: each where it stands in the body.

        In a list the items before keep their places, as null. A body that cannot be taken apart is returned
        whole, so that nothing is lost: its structs are nested too deeply, or stand in a union or a tuple.

        Args:
            body: accepted by the contract's parser, without its SNS envelope
        """
        try:
            return _picked(Raw(body), self._event) or body
        except RecursionError:
            return body


def _paths(raw: Raw, declared: _Declared, path: str) -> Iterator[str]:
    """Of every undeclared field, without those inside of another."""
    if declared.items:
        inner = decode_items(raw) if declared.is_list else decode_object(raw).values()
        for value in inner:
            if not is_null(value):
                yield from _paths(value, declared.items, f"{path}[*]")
        return
    prefix = f"{path}." if path else ""
    for name, value in decode_object(raw).items():
        if name not in declared.fields:
            yield f"{prefix}{name if is_name(name) else OTHER_KEY}"
        elif (inside := declared.fields[name]) and not is_null(value):
            yield from _paths(value, inside, f"{prefix}{name}")


def _picked(raw: Raw, declared: _Declared) -> bytes | None:
    """JSON of what is undeclared in a value; None where nothing is."""
    if declared.items and declared.is_list:
        return _list([_inside(value, declared.items) for value in decode_items(raw)])
    values = decode_object(raw).items()
    if declared.items:
        return _object({name: _inside(value, declared.items) for name, value in values})
    fields = declared.fields
    return _object(
        {name: _inside(value, fields[name]) if name in fields else bytes(value) for name, value in values}
    )


def _inside(value: Raw, declared: _Declared | None) -> bytes | None:
    return None if declared is None or is_null(value) else _picked(value, declared)


def _list(items: Sequence[bytes | None]) -> bytes | None:
    length = max((number for number, item in enumerate(items, 1) if item), default=0)
    return b"[%b]" % b",".join([item or b"null" for item in items[:length]]) if length else None


def _object(values: Mapping[str, bytes | None]) -> bytes | None:
    parts = [b"%b:%b" % (_encode(name), value) for name, value in values.items() if value]
    return b"{%b}" % b",".join(parts) if parts else None


def _declared(kind: Any, known: dict[Any, _Declared]) -> _Declared | None:
    """None for what has no fields inside."""
    if kind in known:
        return known[kind]
    if is_struct(kind):
        found = known[kind] = _Declared()
        for one, annotation in fields_of(kind):
            found.fields[one.encode_name] = _declared(annotation.type, known)
        return found
    origin, args = get_origin(kind), get_args(kind)
    if origin in (list, dict) and args:
        items = _declared(Annotation.parse(args[-1]).type, known)
        return _Declared(items=items, is_list=origin is list) if items else None
    return None
