"""The types of an event: which leaves its struct has, and what msgspec decodes a body into. Pure.

A type allows what its column can hold: an `int` without bounds is a bigint's, and a datetime has an offset.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Raw, Struct

from include.queue_etl.contract.marks import Jsonb, Personal, Zone

Mark = TypeVar("Mark")
SMALLEST_BIGINT, LARGEST_BIGINT = -(2**63), 2**63 - 1
_COLLECTIONS = (list, dict, tuple, set, frozenset)


class Annotation(Struct, frozen=True):
    """A field's annotation, taken apart.

    Attributes:
        type: without marks and without None; a union where several types remain
        marks: of this project, such as Personal, and msgspec's Meta, from the inside to the outside
        nullable: None is allowed
    """

    type: Any
    marks: tuple[object, ...] = ()
    nullable: bool = False

    @classmethod
    def parse(cls, annotation: Any) -> "Annotation":
        """Take an annotation apart."""
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            inner = cls.parse(args[0])
            return cls(inner.type, (*inner.marks, *args[1:]), inner.nullable)
        if origin in (Union, UnionType) and NoneType in args:
            others = tuple(arg for arg in args if arg is not NoneType)
            inner = cls.parse(Union[others])  # noqa: UP007 the members are known only here
            return cls(inner.type, inner.marks, True)
        return cls(annotation, (), annotation in (Any, object, NoneType))

    def mark(self, kind: type[Mark]) -> Mark | None:
        """The outermost mark of this kind."""
        return next((mark for mark in reversed(self.marks) if isinstance(mark, kind)), None)

    def bound(self, name: str) -> Any:
        """What the Metas say of `max_length`, `ge` and others; None where they say nothing."""
        found = [getattr(mark, name) for mark in self.marks if isinstance(mark, Meta)]
        return next((value for value in reversed(found) if value is not None), None)


class Leaf(Struct, frozen=True):
    """A value of an event that becomes a column.

    Attributes:
        attributes: names of the Python attributes that lead to it
        path: names in the JSON, joined with "."
        annotation: its own
        nullable: it, or a struct above it, may be null or missing
    """

    attributes: tuple[str, ...]
    path: str
    annotation: Annotation
    nullable: bool


def is_struct(kind: Any) -> TypeGuard[type[Struct]]:
    """Whether a type is a msgspec struct."""
    return isinstance(kind, type) and issubclass(kind, Struct)


def fields_of(struct: type[Struct]) -> list[tuple[msgspec.structs.FieldInfo, Annotation]]:
    """The fields of a struct with their annotations, in their order."""
    hints = get_type_hints(struct, include_extras=True)
    return [(found, Annotation.parse(hints[found.name])) for found in msgspec.structs.fields(struct)]


def leaves(event: type[Struct]) -> list[Leaf]:
    """The leaves of an event, in the order of the fields; those of a nested struct in its place.

    Raises:
        ValueError: a struct holds itself, or is one of a kind that makes no JSON object
    """
    return list(_leaves(event, (), "", False, (event,)))


def _leaves(
    struct: type[Struct], above: tuple[str, ...], path: str, nullable: bool, seen: tuple[type, ...]
) -> Iterator[Leaf]:
    if struct.__struct_config__.array_like or struct.__struct_config__.tag is not None:
        raise ValueError(f"{struct.__name__} is array_like or has a tag: declare an ordinary struct")
    for found, annotation in fields_of(struct):
        attributes, here = (*above, found.name), f"{path}{found.encode_name}"
        may_be_null = nullable or annotation.nullable or _default_is_none(found)
        whole = annotation.mark(Jsonb) or annotation.mark(Personal)
        if whole or not is_struct(annotation.type):
            yield Leaf(attributes, here, annotation, may_be_null)
        elif annotation.type in seen:
            raise ValueError(f"{here}: {annotation.type.__name__} holds itself: mark the field with Jsonb()")
        else:
            below = (*seen, annotation.type)
            yield from _leaves(annotation.type, attributes, f"{here}.", may_be_null, below)


def _default_is_none(found: msgspec.structs.FieldInfo) -> bool:
    return not found.required and found.default is None


def personal_paths(annotation: Annotation) -> list[tuple[str, Personal]]:
    """Path -> mark of everything personal inside a jsonb column: `[*].phone` for a list of structs."""
    jsonb = annotation.mark(Jsonb) or Jsonb()
    declared = [(path if path[:1] == "[" else f".{path}", mark) for path, mark in jsonb.personal.items()]
    return [*declared, *_personal_within(annotation.type, "", ())]


def _personal_within(kind: Any, path: str, seen: tuple[type, ...]) -> Iterator[tuple[str, Personal]]:
    if is_struct(kind):
        if kind in seen:
            return
        for found, annotation in fields_of(kind):
            here = f"{path}.{found.encode_name}"
            personal = annotation.mark(Personal)
            if personal:
                yield here, personal
            else:
                yield from _personal_within(annotation.type, here, (*seen, kind))
    for argument in get_args(kind):
        inner = Annotation.parse(argument)
        step = "" if get_origin(kind) in (Union, UnionType) else "[*]"
        personal = inner.mark(Personal)
        if personal:
            yield f"{path}{step}", personal
        else:
            yield from _personal_within(inner.type, f"{path}{step}", seen)


# What msgspec decodes into ------------------------------------------------------------------------


@dataclass(slots=True)
class _Rewriting:
    """Makes decoding types.

    Attributes:
        strict: no struct accepts a field that it does not declare
        done: struct -> its decoding type
    """

    strict: bool
    done: dict[type[Struct], type[Struct]] = field(default_factory=dict)

    def struct(self, given: type[Struct]) -> type[Struct]:
        if given not in self.done:
            # Entered before its types are known, as a struct may hold itself; msgspec reads them later.
            made = self.done[given] = self._like_it(given)
            hints = get_type_hints(given, include_extras=True)
            types = {one.name: self.type(hints[one.name]) for one in msgspec.structs.fields(given)}
            if any(new != hints[name] for name, new in types.items()):
                made.__annotations__ = types
            elif not self.strict:
                self.done[given] = given
        return self.done[given]

    def _like_it(self, given: type[Struct]) -> type[Struct]:
        return msgspec.defstruct(
            given.__name__,
            # All fields, so that they keep their order.
            [(one.name, one.type, _like(one)) for one in msgspec.structs.fields(given)],
            bases=(given,),
            forbid_unknown_fields=self.strict,
            kw_only=True,
            gc=False,
        )

    def type(self, annotation: Any) -> Any:
        """The annotation with every type exchanged for one that allows what its column can hold."""
        whole = Annotation.parse(annotation)
        metas = [*_needed_bounds(whole), *(mark for mark in whole.marks if isinstance(mark, Meta))]
        new = self._plain(whole.type)
        if new is Raw:  # which takes null too
            return Raw
        new = Annotated[(new, *metas)] if metas else new
        return new | None if whole.nullable else new

    def _plain(self, kind: Any) -> Any:
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            return Union[tuple(map(self.type, args))]  # noqa: UP007 the members are known only here
        if origin in _COLLECTIONS:
            return origin[tuple(arg if arg is ... else self.type(arg) for arg in args)]
        if kind in _UNTYPED:
            return _UNTYPED[kind]
        return self.struct(kind) if is_struct(kind) else kind


_UNTYPED: dict[Any, Any] = {Any: Raw, object: Raw, list: list[Raw], dict: dict[str, Raw]}


def _needed_bounds(whole: Annotation) -> list[Meta]:
    """What a column of the type demands and the annotation does not say."""
    if whole.type is datetime:
        return [] if whole.mark(Zone) else [Meta(tz=True)]
    if whole.type is not int:
        return []
    bounds = []
    if whole.bound("ge") is None and whole.bound("gt") is None:
        bounds.append(Meta(ge=SMALLEST_BIGINT))
    if whole.bound("le") is None and whole.bound("lt") is None:
        bounds.append(Meta(le=LARGEST_BIGINT))
    return bounds


def decoding_type(event: type[Struct], *, strict: bool) -> type[Struct]:
    """The struct that msgspec decodes a body into: a subclass of `event`, or itself.

    Untyped parts stay Raw, so that their digits are those of the message.

    Args:
        event: of a contract
        strict: fields that no struct declares are refused, at every depth
    """
    return _Rewriting(strict).struct(event)


def _like(found: msgspec.structs.FieldInfo) -> Any:
    """A field with the name and the default of another."""
    if found.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(name=found.encode_name, default_factory=found.default_factory)
    return msgspec.field(name=found.encode_name, default=found.default)
