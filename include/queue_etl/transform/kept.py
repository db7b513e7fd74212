"""Fields that nobody declared, kept beside their row, encrypted. Pure, given the keyset."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self
from uuid import UUID

import msgspec

from include.queue_etl.contract import Contract
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.transform.batches import RawBatch
from include.queue_etl.transform.json_values import to_json
from include.queue_etl.transform.parsing import value_getter
from include.queue_etl.transform.payloads import MessageCipher, bytea_of, bytea_text
from include.queue_etl.transform.shapes import Shapes
from include.queue_etl.transform.undeclared import Undeclared

_decode = msgspec.json.Decoder(tuple[msgspec.Raw, msgspec.Raw]).decode


class KeptLine(NamedTuple):
    """One line of etl.kept_fields as COPY text has it; the fields are the columns, in this order.

    None of them can hold a character that COPY text would have to escape.

    Attributes:
        sent_day: ISO text
        shape: of the fields (shapes.Shapes)
        payload: a Document, encrypted
    """

    queue_id: int
    sent_day: str
    message_id: str
    run_id: UUID
    shape: str
    payload: bytes

    def encode(self) -> bytes:
        """The line, with its newline."""
        fields = self._asdict() | {"payload": bytea_text(self.payload)}
        return ("\t".join(map(str, fields.values())) + "\n").encode()

    @classmethod
    def decode(cls, line: str) -> Self:
        """The inverse of `encode`, given the line without its newline."""
        queue_id, sent_day, message_id, run_id, shape, payload = line.split("\t")
        return cls(int(queue_id), sent_day, message_id, UUID(run_id), shape, bytea_of(payload))


def encode_lines(lines: Iterable[KeptLine]) -> bytes:
    """All lines of a batch."""
    return b"".join([line.encode() for line in lines])


def decode_lines(lines: bytes) -> list[KeptLine]:
    """The inverse of `encode_lines`."""
    return [KeptLine.decode(line) for line in lines.decode().split("\n")[:-1]]


class Document(NamedTuple):
    """What is kept of a message.

    Attributes:
        subject: JSON of the field that says whose row it is; null without one
        fields: JSON of the undeclared fields, each where it stands in the message
    """

    subject: bytes
    fields: bytes

    def pack(self) -> bytes:
        """Both as a JSON list: it has no names, which `erase` would take for values."""
        return b"[%b,%b]" % self

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """The inverse of `pack`."""
        return cls(*map(bytes, _decode(packed)))

    @property
    def named(self) -> bytes:
        """Both as a JSON object, for people."""
        return b'{"subject":%b,"fields":%b}' % self


def cipher(keyset: Keyset, contract_name: str) -> MessageCipher:
    """Encrypts and opens the packed documents of a contract."""
    return MessageCipher(keyset, contract_name, "kept")


class Keeper:
    """Makes of a contract's message what is kept of it."""

    def __init__(self, contract: Contract, keyset: Keyset) -> None:
        self._undeclared = Undeclared(contract.event)
        self._subject = contract.subject
        in_event = self._subject if self._subject and self._subject.attributes else None
        self._of_event = in_event and value_getter(in_event)
        self._shapes = Shapes(replace(contract, sns_envelope=False))
        self._cipher = cipher(keyset, contract.name)

    def keep(self, message_id: str, body: bytes, event: Any, facts: Mapping[str, Any]) -> tuple[str, bytes]:
        """The shape of the undeclared fields, and the payload.

        Args:
            message_id: to which the payload is bound
            body: without its SNS envelope
            event: what the contract's parser made of it
            facts: of the message (RawBatch.facts_of)
        """
        document = Document(to_json(self._whose(event, facts)).encode(), self._undeclared.of(body))
        return self._shapes.of(document.fields), self._cipher.encrypt(message_id, document.pack())

    def _whose(self, event: Any, facts: Mapping[str, Any]) -> Any:
        """The value of the field, or of the attribute, that says whose row it is; None without one."""
        if self._subject is None:
            return None
        return self._of_event(event) if self._of_event else facts.get(self._subject.field)


def lines(
    raw: RawBatch,
    days: Sequence[str],
    unusual: Iterable[tuple[int, bytes, Any]],
    keeper: Keeper,
    run_id: UUID,
) -> bytes:
    """COPY text of etl.kept_fields: a line for each accepted message with undeclared fields.

    Args:
        raw: the batch
        days: on which its messages were sent, ISO text
        unusual: of these messages the number in the batch, the body without SNS envelope, and the event
        keeper: of the batch's contract
        run_id: of the batch
    """
    return encode_lines(
        KeptLine(
            raw.queue_id,
            days[number],
            raw.ids[number],
            run_id,
            *keeper.keep(raw.ids[number], body, event, raw.facts_of(number)),
        )
        for number, body, event in unusual
        if not _is_repeated(raw, days, number)
    )


def _is_repeated(raw: RawBatch, days: Sequence[str], number: int) -> bool:
    """Whether the message before has the same id and day: then only the first of them becomes a row."""
    before = number - 1
    return number > 0 and (raw.ids[before], days[before]) == (raw.ids[number], days[number])
