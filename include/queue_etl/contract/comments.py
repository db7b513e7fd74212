"""What a contract says of its table and columns, in words: comments of the database, catalogues. Pure."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Struct

from include.queue_etl.contract.columns import Column, MaskedField
from include.queue_etl.contract.contract import Contract
from include.queue_etl.contract.marks import ATTRIBUTE_PATH, Personal, Scheme


def of_table(contract: Contract) -> str:
    """What its author says of the event, and what one row is."""
    rows = f"The newest message of each {contract.key}" if contract.key else "One row for each message"
    return " ".join(filter(None, [first_paragraph(contract.event), f"{rows}; contract {contract.name}."]))


def first_paragraph(struct: type[Struct]) -> str:
    """What the docstring of a struct says first, on one line."""
    return _sentence((struct.__doc__ or "").partition("\n\n")[0])


def of_column(column: Column) -> str:
    """What its author says of it, where the value comes from, and what of it is masked, and how."""
    masked = (f"{masked_words(masked)}." for masked in column.masked)
    return " ".join(filter(None, [_sentence(column.comment), f"{source(column)}.", *masked]))


def source(column: Column) -> str:
    """Where a column's value comes from."""
    if column.message_attribute:
        return f"From the message's attribute `{column.message_attribute}`"
    if not column.attributes:
        return f"From the message's {column.field}"
    return f"{'Computed from' if column.convert else 'From'} `{column.field}`"


def masked_words(masked: MaskedField) -> str:
    """What is masked and how."""
    where = f"Masked at `{masked.field}`" if masked.path else "Masked"
    return f"{where}: {masked.mark.scheme} token, normalized as {normalization(masked.mark)}"


def normalization(mark: Personal) -> str:
    """How values are normalized, as `ip`, or `phone of DE`."""
    return f"{mark.normalization} of {mark.region}" if mark.region else str(mark.normalization)


def _sentence(words: str) -> str:
    words = " ".join(words.split())
    return words if not words or words.endswith((".", "!", "?")) else f"{words}."


class Masking(NamedTuple):
    """How a column that is there was masked.

    Attributes:
        field: where the value stood in the event
        normalization: in the words of `normalization`; None where nobody noted it
    """

    field: str
    scheme: Scheme
    normalization: str | None


def masking_in(comment: str) -> frozenset[Masking] | None:
    """What a comment of `of_column` says of masking; None for a comment that somebody else wrote."""
    own = _SOURCE.search(comment)
    if not own:
        return None
    field = f"{ATTRIBUTE_PATH}{own[2]}" if own[2] else own[1] or ""
    return frozenset(_maskings(comment[own.end() :], field))


def _maskings(words: str, own_field: str) -> Iterator[Masking]:
    for field, scheme, how in _MASKED.findall(words):
        yield Masking(field or own_field, Scheme(scheme), how)


_SOURCE = re.compile(
    r"(?:^|(?<=\. )|(?<=[!?] ))(?:(?:From|Computed from) `([^`]+)`"
    r"|From the message's (?:attribute `([^`]+)`|\w+))\.(?= Masked|$)"
)
_MASKED = re.compile(
    rf"Masked(?: at `([^`]+)`)?: ({'|'.join(Scheme)}) token, normalized as (\w+(?: of [A-Z]{{2}})?)\."
)
