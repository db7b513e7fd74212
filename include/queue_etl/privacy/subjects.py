"""Whom a request is about: a value, and everywhere one contract may hold it. Pure, given the keyset.

People know an e-mail address or a user id, not the fields of contracts. So a request names either a field of
one contract, or a kind of value, which is looked for in every field of every contract that is of this kind.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from include.queue_etl.contract import (
    KINDS,
    SUBJECT,
    Column,
    Contract,
    Form,
    MaskedField,
    Normalization,
    Personal,
)
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.privacy.mentions import Mentions
from include.queue_etl.transform.json_values import to_json
from include.queue_etl.transform.masking import Masker

Holder = TypeVar("Holder")


class Place(NamedTuple):
    """Where a value may stand in a contract's table.

    Attributes:
        column: its name
        path: inside a jsonb column, such as `[*].phone`; empty where the value is the whole column
        values: what stands there for it: itself, or its tokens
        is_subject: the column says whose row it is: all that is personal in the row is of this person
    """

    column: str
    path: str
    values: list[str]
    is_subject: bool


def require_field(contract: Contract, field: str) -> MaskedField | Column:
    """What holds an event field by which can be searched: that of the person, or a personal one.

    Raises:
        ValueError: the field is none of these; the message lists them
    """
    found = dict(_searchable(contract))
    return _one_of(found, field, f"no field {field!r} to search by in {contract.name}")


def require_personal(contract: Contract, field: str) -> MaskedField:
    """What holds a personal event field, recoverable or not.

    Raises:
        ValueError: the contract has no such field; the message lists those it has
    """
    found = {masked.field: masked for masked in contract.personal}
    return _one_of(found, field, f"no personal field {field!r} in {contract.name}")


def require_recoverable(contract: Contract, field: str) -> MaskedField:
    """What holds the tokens of an event field from which its values can be recovered.

    Raises:
        ValueError: the contract has no such field; the message lists those it has
    """
    found = {masked.field: masked for masked in contract.recoverable}
    return _one_of(found, field, f"no recoverable field {field!r} in {contract.name}")


def _one_of(found: Mapping[str, Holder], name: str, problem: str) -> Holder:
    if name not in found:
        raise ValueError(f"{problem}: one of {', '.join(found)}")
    return found[name]


def require_subject(contract: Contract) -> Column:
    """The column that says whose row it is.

    Raises:
        ValueError: the contract has none
    """
    if contract.subject is None:
        raise ValueError(
            f"no field of {contract.name} says whose row it is: give tokens and --field, or --by"
        )
    return contract.subject


def require_kind(kind: str) -> None:
    """Raises ValueError where no value is of such a kind; the message lists them."""
    if kind not in KINDS:
        raise ValueError(f"no kind of value {kind!r}: one of {', '.join(KINDS)}")


def _searchable(contract: Contract) -> Iterable[tuple[str, MaskedField | Column]]:
    for column in contract.columns:
        if column.is_subject and not column.is_token:
            yield column.field, column
        for masked in column.masked:
            yield masked.field, masked


@dataclass(frozen=True)
class Subject:
    """A value in one field of a contract.

    Attributes:
        contract: whose events are looked at
        field: an event field: a personal one, inside jsonb too, or that which says whose row it is
        value: as it stands in events, in any of its forms
    """

    contract: Contract
    field: str
    value: str

    def __post_init__(self) -> None:
        require_field(self.contract, self.field)
        if not self.value.strip():
            raise ValueError("the value is blank")

    @cached_property
    def holder(self) -> MaskedField | Column:
        """What holds the field."""
        return require_field(self.contract, self.field)

    @property
    def mark(self) -> Personal:
        """How the value is normalized; a user id in the clear is compared as personal texts are."""
        return self.holder.mark if isinstance(self.holder, MaskedField) else Personal()

    @cached_property
    def mentions(self) -> Mentions:
        """Looks for the value in messages."""
        return Mentions(self.mark, self.value)

    def stored(self, keyset: KeysetDocument) -> list[str]:
        """What may stand in the table for the value: itself, or its token under every key."""
        holder = self.holder
        if isinstance(holder, Column):
            return [self.value]
        forms = {self.value, self.mentions.form}  # an unkeyed digest is of the value as it came
        column = next(one for one in self.contract.columns if one.name == holder.column)
        if column.is_token and column.form is not Form.TEXT:
            # Dates and untyped texts were once masked with the quotes of their JSON.
            forms.add(to_json(self.value))
        maskers = [Masker(self.contract, keyset.only_key(key_id)) for key_id in keyset.key_ids]
        return sorted(
            {token for masker in maskers for token in masker.mask(holder, sorted(forms), "")} - {""}
        )

    def place(self, keyset: KeysetDocument) -> Place:
        """Where the value stands in the table."""
        holder, subject = self.holder, self.contract.subject
        name, path = (holder.name, "") if isinstance(holder, Column) else (holder.column, holder.path)
        is_subject = subject is not None and subject.name == name
        return Place(name, path, self.stored(keyset), is_subject)


@dataclass(frozen=True)
class Search:
    """A value, and the fields of one contract that may hold it.

    Attributes:
        by: a field of the contract, or a kind
        subjects: one for each field. There may be none: then messages may mention the value all the same
        marks: how the value is normalized where messages are searched
    """

    contract: Contract
    by: str
    value: str
    subjects: tuple[Subject, ...]
    marks: tuple[Personal, ...]

    @classmethod
    def of_field(cls, contract: Contract, field: str, value: str) -> "Search":
        """By one field; raises ValueError where the contract has no such one, or the value is blank."""
        subject = Subject(contract, field, value)
        return cls(contract, field, value, (subject,), (subject.mark,))

    @classmethod
    def of_kind(cls, contract: Contract, kind: str, value: str) -> "Search":
        """By every field of a kind; raises ValueError where there is no such kind, or the value is blank."""
        require_kind(kind)
        if not value.strip():
            raise ValueError("the value is blank")
        subjects = tuple(Subject(contract, field, value) for field in fields_of_kind(contract, kind))
        # Also where no field is of the kind: a broken message, or one with a field too many, may hold it.
        plain = (Personal(found) for found in Normalization if found.kind == kind)
        marks = dict.fromkeys(replace(mark, column="") for mark in (*(s.mark for s in subjects), *plain))
        return cls(contract, kind, value, subjects, tuple(marks) or (Personal(),))

    @property
    def fields(self) -> list[str]:
        """Names of the event fields."""
        return [subject.field for subject in self.subjects]

    @cached_property
    def _mentions(self) -> list[Mentions]:
        return [Mentions(mark, self.value) for mark in self.marks]

    def places(self, keyset: KeysetDocument) -> list[Place]:
        """Where the value stands in the table; first whose row it is."""
        places = [subject.place(keyset) for subject in self.subjects]
        return sorted(places, key=lambda place: not place.is_subject)

    def is_in(self, body: bytes) -> bool:
        """Whether a message, well-formed or not, holds the value anywhere, in any of its forms."""
        return any(mentions.are_in(body) for mentions in self._mentions)


def fields_of_kind(contract: Contract, kind: str) -> list[str]:
    """Event fields of the contract that hold values of a kind: see KINDS."""
    if kind == SUBJECT:
        return [contract.subject.field] if contract.subject else []
    return [masked.field for masked in contract.personal if masked.mark.normalization.kind == kind]
