"""What a contract says of a field beyond its type: marks that stand in `Annotated`, and facts of the message.

email: Annotated[str, Personal(Normalization.EMAIL)]
total: Annotated[Decimal, Numeric(12, 2)]

They are structs of msgspec: to define a dataclass takes 0.5 ms, and every process of a task defines them all.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import ClassVar
from zoneinfo import ZoneInfo

from msgspec import Struct

from include.queue_etl.keys.token_format import PREFIX_BYTES, token_chars


class Rejected(Struct, frozen=True):
    """A message that cannot become a row.

    Attributes:
        reason: a short code, and behind a blank the path of the field where there is one: `too_long ip`. It
            is shown and counted, so it never holds a value
    """

    reason: str


class Normalization(StrEnum):
    """How a personal value is normalized before it is masked, so that equal things get equal tokens."""

    IP = "ip"  # 10.0.0.1 and ::ffff:10.0.0.1 are one address
    TEXT = "text"  # surrounding blanks stripped, Unicode NFC, case kept
    EMAIL = "email"  # the domain in lower case and A-labels, the local part as it came
    EMAIL_FOLDED = "email_folded"  # the local part without its capitals too
    PHONE = "phone"  # E.164: 030 123456 in Germany and +49 30 123456 are one number

    @property
    def kind(self) -> str:
        """The kind of value: the word before `_`, so that `email` and `email_folded` are one."""
        return self.value.partition("_")[0]


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


class Personal(Struct, frozen=True):
    """The table holds a token in place of the value, or NULL where erased: the column must allow NULL.

    A number, list or object is masked as its JSON text; a date or UUID as the text that the JSON has.

    Attributes:
        normalization: makes equal things equal before they are masked
        column: its name, where it is not the path joined with `_`
        token_chars: length of the column; the longest value is the one whose token just fits. Without it the
            column has no limit
        scheme: a recoverable token unless told otherwise
        allow_weak: without it, the schemes without a key are refused; production refuses them always
        region: of a PHONE, the country of numbers without +, such as "DE" (ISO 3166); without it, only
            numbers with + are numbers
    """

    normalization: Normalization = Normalization.TEXT
    column: str = ""
    token_chars: int | None = None
    scheme: Scheme = Scheme.RECOVERABLE
    allow_weak: bool = False
    region: str = ""

    def __post_init__(self) -> None:
        if self.is_weak and not self.allow_weak:
            raise ValueError(
                f"{self.scheme} has no key, so that anybody can find the values by trying "
                "(docs/privacy.md); only to join with tables masked so before, say allow_weak=True"
            )
        if self.token_chars is not None and self.token_chars < DIGEST_CHARS.get(self.scheme, 0):
            raise ValueError(f"token_chars: {self.scheme} takes {DIGEST_CHARS[self.scheme]} characters")
        if self.region:
            self._check_region()

    def _check_region(self) -> None:
        if self.normalization is not Normalization.PHONE:
            raise ValueError(f"only a PHONE has a region; leave out region={self.region!r}")
        import phonenumbers  # 25 ms of CPU, which no other contract has to pay

        if self.region not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError(
                f"no country {self.region!r}: give its two capital letters of ISO 3166, such as DE, or GB "
                "for the United Kingdom"
            )

    @property
    def is_weak(self) -> bool:
        """Masked without a key."""
        return self.scheme in WEAK

    @property
    def is_recoverable(self) -> bool:
        """The holder of the key gets the value back."""
        return self.scheme is Scheme.RECOVERABLE

    @property
    def max_bytes(self) -> float:
        """Longest value, in UTF-8 bytes, whose token fits: 159 for a column of 256 characters."""
        if self.token_chars is None or self.scheme in DIGEST_CHARS:
            return float("inf")
        # A token is of: the key's prefix, 16 bytes tag, 1 kind byte, the text and one end mark, padded to 16.
        return (self.token_chars * 3 // 4 - PREFIX_BYTES - 17) // 16 * 16 - 1


class NotPersonal(Struct, frozen=True):
    """Somebody decided that nothing in the field is personal: the personal data check leaves it out."""


class Subject(Struct, frozen=True):
    """The field says whose row it is, such as a user id; without this mark a field `user_id` does."""


class Name(Struct, frozen=True):
    """The column's name, where it is not the path joined with `_`."""

    column: str


class Numeric(Struct, frozen=True):
    """A Decimal's column: `numeric(precision, scale)`. More digits are rejected, never rounded."""

    precision: int
    scale: int

    def __post_init__(self) -> None:
        # 1,000 digits: https://www.postgresql.org/docs/current/datatype-numeric.html
        if not 0 <= self.scale <= self.precision <= 1000 or self.precision == 0:
            raise ValueError(f"Numeric({self.precision}, {self.scale}): give 0 <= scale <= precision <= 1000")


class Zone(Struct, frozen=True):
    """The zone of a datetime without offset, as "Europe/Berlin"; without this mark it is rejected.

    Of the hour that a change to winter time repeats, the first one is meant.
    """

    key: str

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.key)
        except (KeyError, OSError, ValueError):
            raise ValueError(f"Zone({self.key!r}): no such zone; give one such as 'Europe/Berlin'") from None


class Jsonb(Struct, frozen=True):
    """The field is kept whole, as jsonb; without this mark a struct becomes a column for each of its fields.

    Attributes:
        personal: path inside -> mark, such as {"items[*].phone": Personal()}, for what is declared as `Any`
            or `dict`. Declared structs have the mark at their own fields
    """

    personal: Mapping[str, Personal] = {}

    def __hash__(self) -> int:
        return hash(Jsonb)  # a mapping has no hash, and those of `Annotated` are asked for one


class Derived(Struct, frozen=True):
    """A column computed from a text field.

    Attributes:
        convert: must be pure, for its answers are remembered within a batch. It returns what Postgres should
            read, None for NULL, or Rejected with a code
        type: of what it returns: `int`, `str` or `bool`
    """

    convert: Callable[[str | None], int | str | bool | Rejected | None]
    type: type[int] | type[str] | type[bool]


# Facts of the message -----------------------------------------------------------------------------


class SentDay(Struct, frozen=True):
    """A date: the UTC day on which the message was sent, the same on every redelivery."""

    column: str


class SentAt(Struct, frozen=True):
    """A timestamptz: when the message was sent, in milliseconds, the same on every redelivery."""

    column: str


class MessageId(Struct, frozen=True):
    """A uuid: the key by which the ledger knows the message."""

    column: str


class ReceiveCount(Struct, frozen=True):
    """An integer: how often the message had been received when it was loaded, 1 the first time."""

    column: str


# Where the value of an attribute stands, as `attribute:trace-id`. Tokens are bound to it, so never change it.
ATTRIBUTE_PATH = "attribute:"
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
_ATTRIBUTE = re.compile(r"(?!(?i:aws|amazon)\.)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_LONGEST_ATTRIBUTE = 256


class Attribute(Struct, frozen=True):
    """A text: the message attribute of that name, of type String or Number; NULL where a message has none.

    Attributes:
        name: as senders write it; capitals count
        column: its name; without it, the attribute's in small letters, with `_` for `-` and `.`
        max_length: in characters; a message with a longer value is rejected
        personal: the table holds a token in place of the value
        not_personal: somebody decided that nothing in it is personal: the personal data check leaves it out
        subject: it says whose row it is
        description: begins the column's comment
    """

    name: str
    column: str = ""
    max_length: int | None = None
    personal: Personal | None = None
    not_personal: bool = False
    subject: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        if not _ATTRIBUTE.fullmatch(self.name) or len(self.name) > _LONGEST_ATTRIBUTE:
            raise ValueError(
                f"Attribute({self.name!r}): SQS has no such name; it has letters, digits, _, - and periods "
                f"inside, at most {_LONGEST_ATTRIBUTE} characters, and does not begin with AWS. or Amazon."
            )
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"Attribute({self.name!r}): give a max_length of at least 1")

    @property
    def path(self) -> str:
        """Where its value stands: no field of an event is called so."""
        return f"{ATTRIBUTE_PATH}{self.name}"


class MessageGroupId(Struct, frozen=True):
    """A varchar(128): the group a sender put the message in, on fair queues; NULL where it named none."""

    column: str


class SequenceNumber(Struct, frozen=True):
    """A numeric: the place of the message in a FIFO queue; NULL on standard queues."""

    column: str


MessageColumn = SentDay | SentAt | MessageId | ReceiveCount | Attribute | MessageGroupId | SequenceNumber


class Month(Struct, frozen=True):
    """A partition of the table for each month of a date or timestamptz column that is never null; in UTC."""

    column: str
    kind: ClassVar[str] = "month"


class Day(Struct, frozen=True):
    """A partition of the table for each day of a date or timestamptz column that is never null; in UTC."""

    column: str
    kind: ClassVar[str] = "day"
