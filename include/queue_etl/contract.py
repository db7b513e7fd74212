"""What a pipeline is: which queue, which fields, which of them are personal, which table."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import msgspec


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that cannot become a row; `reason` is a short code that is shown and counted."""

    reason: str


class Canonical(StrEnum):
    """How a personal value is normalised before it is masked, so that equal things get equal tokens."""

    IP = "ip"  # 10.0.0.1 and ::ffff:10.0.0.1 are one address
    TEXT = "text"  # surrounding blanks stripped, Unicode NFC, case kept


@dataclass(frozen=True, slots=True)
class Text:
    """A column that holds the field as it came. Its length limit stands in the event struct."""

    column: str
    field: str


@dataclass(frozen=True, slots=True)
class Personal:
    """A column that holds a token in place of the field's value."""

    column: str
    field: str
    canonical: Canonical = Canonical.TEXT


@dataclass(frozen=True, slots=True)
class Derived:
    """A column computed from one text field.

    `convert` must be pure: it is called once for each distinct value of a batch. It returns what Postgres
    should read, None for NULL, or Rejected.
    """

    column: str
    field: str
    convert: Callable[[str | None], int | str | None | Rejected]


@dataclass(frozen=True, slots=True)
class SentDay:
    """A column that holds the UTC date on which the message was sent: the same on every redelivery."""

    column: str


Column = Text | Personal | Derived | SentDay


@dataclass(frozen=True, slots=True)
class Contract:
    """One pipeline: `queue` -> `event` -> `columns` of `table`.

    Attributes:
        name: also the DAG id and part of every token's associated data; renaming it breaks old tokens
        queue: name of the SQS queue
        table: schema-qualified Postgres table
        event: msgspec struct of str fields; its annotations (required, None allowed, lengths) are the rules
        columns: in the order of the table's columns
        sns_envelope: bodies are SNS notifications whose "Message" holds the event
    """

    name: str
    queue: str
    table: str
    event: type[msgspec.Struct]
    columns: tuple[Column, ...]
    sns_envelope: bool = False

    def __post_init__(self) -> None:
        known = set(self.event.__struct_fields__)
        used = {column.field for column in self.columns if not isinstance(column, SentDay)}
        if unknown := used - known:
            raise ValueError(f"contract {self.name}: no such event field: {', '.join(sorted(unknown))}")

    @property
    def personal(self) -> tuple[Personal, ...]:
        """The personal columns, in table order."""
        return tuple(column for column in self.columns if isinstance(column, Personal))

    @property
    def dead_letter_queue(self) -> str:
        """Name of the queue's dead-letter queue."""
        return f"{self.queue}-dlq"
