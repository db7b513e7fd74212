r"""Messages in quarantine: the line that COPY reads, and the encrypted payload. Pure, given the keyset."""

from collections.abc import Iterable
from datetime import date
from typing import Any, NamedTuple, Self
from uuid import UUID

import msgspec

from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.transform.payloads import MessageCipher, bytea_of, bytea_text

# Before what is packed; an SQS message cannot begin with it, so that a body alone is told from an original.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
_PACKED = b"\0"
_NULL = r"\N"


class QuarantineLine(NamedTuple):
    """One line of etl.quarantine as COPY text has it; the fields are the columns, in this order.

    None of them can hold a character that COPY text would have to escape.

    Attributes:
        sent_day: ISO text
        payload: the encrypted body
        payload_bytes: length of the body
        shape: of the body (shapes.Shapes); None where nobody made one, as in lines of earlier versions
    """

    queue_id: int
    sent_day: str
    message_id: str
    run_id: UUID
    reason: str
    payload: bytes
    payload_bytes: int
    receive_count: int
    shape: str | None = None

    def encode(self) -> bytes:
        """The line, with its newline."""
        shape = _NULL if self.shape is None else self.shape
        fields = self._asdict() | {"payload": bytea_text(self.payload), "shape": shape}
        return ("\t".join(map(str, fields.values())) + "\n").encode()

    @classmethod
    def decode(cls, line: str) -> Self:
        """The inverse of `encode`, given the line without its newline; older ones have no shape."""
        queue_id, sent_day, message_id, run_id, reason, payload, size, receives, *rest = line.split("\t")
        body = bytea_of(payload)
        (shape,) = rest or [_NULL]
        return cls(
            int(queue_id), sent_day, message_id, UUID(run_id), reason, body, int(size), int(receives),
            None if shape == _NULL else shape,
        )  # fmt: skip


def encode_lines(lines: Iterable[QuarantineLine]) -> bytes:
    """All lines of a batch."""
    return b"".join([line.encode() for line in lines])


def decode_lines(lines: bytes) -> list[QuarantineLine]:
    """The inverse of `encode_lines`."""
    # Not splitlines: it also splits at characters other than a newline.
    return [QuarantineLine.decode(line) for line in lines.decode().split("\n")[:-1]]


def columns_of(lines: bytes) -> tuple[str, ...]:
    """The columns that the lines of a batch fill; those of an earlier version have no shape."""
    first = lines.partition(b"\n")[0]
    return QuarantineLine._fields[: first.count(b"\t") + 1]


class QuarantinedMessage(NamedTuple):
    """A message as it is stored in etl.quarantine; the table's key is (queue_id, sent_day, message_id).

    Attributes:
        reason: empty where it is not asked for; role etl_remasker may not read it
    """

    queue_id: int
    sent_day: date
    message_id: str
    payload: bytes
    reason: str = ""


class Original(msgspec.Struct, frozen=True):
    """A message as it was received, so that a redrive makes of it what the first attempt would have made.

    Attributes:
        body: UTF-8
        sent_ms: SQS SentTimestamp; None where it was quarantined by a version that kept the body alone
        facts: field -> what the message said, of what SQS was asked for; bytes where it is no text
    """

    body: bytes
    sent_ms: int | None = None
    facts: dict[str, Any] = {}  # msgspec has no union of str and bytes

    def facts_as_json(self) -> list[bytes]:
        """Each fact as a JSON text, to be searched as a body is; bytes are read as UTF-8."""
        texts = (
            value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for value in self.facts.values()
        )
        return [msgspec.json.encode(text) for text in texts]


class PayloadCipher:
    """Encrypts and opens a contract's quarantined messages.

    A payload is bound to contract and message id: it opens only as the payload of its own message.
    """

    def __init__(self, keyset: Keyset, contract_name: str) -> None:
        self._cipher = MessageCipher(keyset, contract_name, "quarantine")

    def encrypt(self, message_id: str, original: Original) -> bytes:
        """The payload of a message, under the primary key."""
        return self._cipher.encrypt(message_id, _PACKED + msgspec.msgpack.encode(original))

    def decrypt(self, message_id: str, payload: bytes) -> Original:
        """The message; raises KeysetError where the keyset lacks the key, or it is another message's."""
        plain = self._cipher.decrypt(message_id, payload)
        if not plain.startswith(_PACKED):
            return Original(plain)
        return msgspec.msgpack.decode(plain[len(_PACKED) :], type=Original)

    def decrypt_or_none(self, message_id: str, payload: bytes) -> Original | None:
        """The message; None where the keyset does not open it."""
        try:
            return self.decrypt(message_id, payload)
        except KeysetError:
            return None

    def reencrypt(self, message_id: str, payload: bytes) -> bytes | None:
        """The payload under the primary key; None where the keyset does not open it."""
        return self._cipher.reencrypt(message_id, payload)
