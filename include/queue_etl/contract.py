"""What a pipeline is: which queue, which fields, which of them are personal, which table."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, get_type_hints

import msgspec
from msgspec.inspect import NoneType, StrType, Type, UnionType, type_info

from include.queue_etl.keys.token_format import PREFIX_BYTES, token_chars


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that cannot become a row; `reason` is a short code that is shown and counted."""

    reason: str


class Normalization(StrEnum):
    """How a personal value is normalized before it is masked, so that equal things get equal tokens."""

    IP = "ip"  # 10.0.0.1 and ::ffff:10.0.0.1 are one address
    TEXT = "text"  # surrounding blanks stripped, Unicode NFC, case kept


class Scheme(StrEnum):
    """What stands in the table in place of a personal value."""

    RECOVERABLE = "recoverable"  # AES-SIV: the holder of the key gets the value back
    ONE_WAY = "one_way"  # HMAC-SHA256 with a key of the keyset: its holder can try values
    # No key: everybody can try values, and one core tries every IPv4 address in minutes (docs/privacy.md).
    SHA256 = "sha256"
    MD5 = "md5"


WEAK = (Scheme.SHA256, Scheme.MD5)
# Characters of a token: of a key's prefix and a SHA-256 HMAC; hexadecimal digests.
DIGEST_CHARS = {Scheme.ONE_WAY: token_chars(PREFIX_BYTES + 32), Scheme.SHA256: 64, Scheme.MD5: 32}


@dataclass(frozen=True, slots=True)
class Text:
    """A column that holds the field as it came. Its length limit stands in the event struct."""

    column: str
    field: str


@dataclass(frozen=True, slots=True)
class Personal:
    """A column that holds a token in place of the field's value. It must allow NULL.

    Attributes:
        token_chars: length of the column; the longest value is the one whose token just fits
        scheme: a recoverable field unless told otherwise
        allow_weak: without it, the schemes without a key are refused; production refuses them always
    """

    column: str
    field: str
    normalization: Normalization = Normalization.TEXT
    token_chars: int = 256
    scheme: Scheme = Scheme.RECOVERABLE
    allow_weak: bool = False

    def __post_init__(self) -> None:
        if self.is_weak and not self.allow_weak:
            raise ValueError(
                f"{self.column}: {self.scheme} has no key, so that anybody can find the values by trying "
                "(docs/privacy.md); only to join with tables masked so before, say allow_weak=True"
            )
        if self.token_chars < DIGEST_CHARS.get(self.scheme, 0):
            raise ValueError(f"{self.column}: {self.scheme} takes {DIGEST_CHARS[self.scheme]} characters")

    @property
    def is_weak(self) -> bool:
        """Masked without a key."""
        return self.scheme in WEAK

    @property
    def max_bytes(self) -> float:
        """Longest value, in UTF-8 bytes, whose token fits: 159 for a column of 256 characters."""
        if self.scheme in DIGEST_CHARS:
            return float("inf")
        # A token is of: the key's prefix, 16 bytes tag, 1 kind byte, the text and one end mark, padded to 16.
        return (self.token_chars * 3 // 4 - PREFIX_BYTES - 17) // 16 * 16 - 1


@dataclass(frozen=True, slots=True)
class Derived:
    """A column computed from one text field.

    `convert` must be pure, for its answers are remembered within a batch. It returns what Postgres should
    read, None for NULL, or Rejected.
    """

    column: str
    field: str
    convert: Callable[[str | None], int | str | Rejected | None]


@dataclass(frozen=True, slots=True)
class SentDay:
    """A column that holds the UTC date on which the message was sent: the same on every redelivery."""

    column: str


Column = Text | Personal | Derived | SentDay


@dataclass(frozen=True, slots=True)
class Month:
    """A table with one partition for each month of this column, which is never null."""

    column: str
    kind: ClassVar = "month"


@dataclass(frozen=True, slots=True)
class Day:
    """A table with one partition for each day of this column, which is never null."""

    column: str
    kind: ClassVar = "day"


@dataclass(frozen=True, slots=True)
class Contract:
    """One pipeline: `queue` -> `event` -> `columns` of `table`.

    Attributes:
        name: also the DAG id and part of every token's associated data; renaming it breaks old tokens
        queue: name of the SQS queue
        table: schema-qualified Postgres table
        event: msgspec struct of str fields; its annotations (required, None allowed, lengths) are the rules
        columns: in the order of the table's columns
        partition_by: the table's partitions; None: it has none that the engine makes
        retain_days: maintenance drops partitions whose last day is longer ago; None: it drops none
        sns_envelope: bodies are SNS notifications whose "Message" holds the event
    """

    name: str
    queue: str
    table: str
    event: type[msgspec.Struct]
    columns: tuple[Column, ...]
    partition_by: Month | Day | None = None
    retain_days: int | None = None
    sns_envelope: bool = False

    def __post_init__(self) -> None:
        known = set(self.event.__struct_fields__)
        used = {column.field for column in self.columns if not isinstance(column, SentDay)}
        if self.queue.endswith(".fifo"):
            raise ValueError(
                f"contract {self.name}: {self.queue} is a FIFO queue, which is not supported: "
                "give it a standard queue"
            )
        if unknown := used - known:
            raise ValueError(
                f"contract {self.name}: no such event field: {', '.join(sorted(unknown))}: give a field of "
                f"{self.event.__name__}: {', '.join(self.event.__struct_fields__)}"
            )
        if not_text := [field for field in sorted(used) if not self._is_text(field)]:
            raise ValueError(f"contract {self.name}: declare as str, or str | None: {', '.join(not_text)}")
        self._check_partitions()
        for column in self.personal:
            if self.max_length(column.field) > column.max_bytes:
                raise ValueError(
                    f"contract {self.name}: give {column.field} a Meta(max_length) of at most "
                    f"{column.max_bytes}, so that its token fits {column.column}"
                )

    def _check_partitions(self) -> None:
        days = [column.column for column in self.columns if isinstance(column, SentDay)]
        if self.partition_by is not None and self.partition_by.column not in days:
            raise ValueError(
                f"contract {self.name}: partition_by {self.partition_by.column}, which is no SentDay column: "
                f"give one of {', '.join(days) or 'them'}"
            )
        if self.retain_days is not None and (self.partition_by is None or self.retain_days < 1):
            raise ValueError(
                f"contract {self.name}: retain_days is a number of days, 1 at least, and needs partition_by"
            )

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns, in table order."""
        return tuple(column.column for column in self.columns)

    @property
    def personal(self) -> tuple[Personal, ...]:
        """The personal columns, in table order."""
        return tuple(column for column in self.columns if isinstance(column, Personal))

    @property
    def recoverable(self) -> tuple[Personal, ...]:
        """The personal columns whose values can be recovered."""
        return tuple(column for column in self.personal if column.scheme is Scheme.RECOVERABLE)

    def max_length(self, field: str) -> float:
        """Longest text the event struct allows for a field, in characters; infinite without a limit."""
        texts = [member for member in self._types(field) if isinstance(member, StrType)]
        return min((t.max_length for t in texts if t.max_length is not None), default=float("inf"))

    def _is_text(self, field: str) -> bool:
        return all(isinstance(member, StrType | NoneType) for member in self._types(field))

    def _types(self, field: str) -> tuple[Type, ...]:
        info = type_info(get_type_hints(self.event, include_extras=True)[field])
        return info.types if isinstance(info, UnionType) else (info,)

    @property
    def dead_letter_queue(self) -> str:
        """Name of the queue's dead-letter queue."""
        return f"{self.queue}-dlq"
