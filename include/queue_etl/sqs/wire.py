"""What SQS writes on the wire, and the `Message` made of it."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID, uuid5

import msgspec

# Attributes that make a message the same one although SQS gave it a new id, best first.
ORIGIN_ATTRIBUTE = "x-origin-message-id"
KEY_ATTRIBUTES = ("dedup-id", ORIGIN_ATTRIBUTE)
SENT_ATTRIBUTE = "x-origin-sent-timestamp"
# Any sender can write it. The ledger keeps a day for 35 days at least, and a message may wait on the queue
# for 14 of them: an older origin counts as sent when SQS says, lest its day be forgotten before it is.
ORIGIN_REACH_MS = (35 - 14 - 1) * 86_400_000
# Never change it: the keys of messages loaded earlier were made with it.
KEY_NAMESPACE = UUID("b8a6e6d2-4c38-4b7e-9a55-0d6f0f3f3a51")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MILLISECONDS = re.compile(r"[0-9]{1,15}")


class Asked(NamedTuple):
    """What SQS sends with each message beside its body: what nobody asks for it leaves out.

    Attributes:
        attributes: names of message attributes, or All
        system: names of what SQS itself knows of a message
    """

    attributes: tuple[str, ...] = (*KEY_ATTRIBUTES, SENT_ATTRIBUTE)
    system: tuple[str, ...] = ("SentTimestamp", "ApproximateReceiveCount")

    def also(self, attributes: Iterable[str], system: Iterable[str]) -> "Asked":
        """The same and these, each name once."""
        return Asked(
            tuple(dict.fromkeys([*self.attributes, *attributes])),
            tuple(dict.fromkeys([*self.system, *system])),
        )


USUAL = Asked()  # what every message needs
EVERYTHING = Asked(("All",), (*USUAL.system, "MessageGroupId"))  # to send the message once more


class AttributeValue(msgspec.Struct, gc=False, rename="pascal", omit_defaults=True):
    """A message attribute; binary ones have no text."""

    data_type: str = ""
    string_value: str | None = None
    binary_value: bytes | None = None

    @property
    def content(self) -> str | bytes | None:
        """Its text; bytes where it is binary, or no UTF-8 (a lone surrogate as three bytes)."""
        return self.binary_value if self.string_value is None else _encodable(self.string_value)


class Beside(msgspec.Struct, gc=False):
    """What SQS says of a message beside its body: seldom anything.

    Attributes:
        attributes: message attributes by name, of those that were asked for
        system: what SQS itself knows, by name, the same
    """

    attributes: dict[str, AttributeValue]
    system: dict[str, str | None]


class Message(msgspec.Struct, gc=False):
    """A message as received.

    Attributes:
        message_id: key of the ledger, a lower-case UUID: attribute `dedup-id`, else `x-origin-message-id`,
            else the id SQS gave; what is no UUID is turned into one, always the same
        receipt_handle: for delete and release; good until the message is received again
        body: UTF-8 (a lone surrogate as three bytes)
        sent_ms: Unix milliseconds of sending; of the first sending if `x-origin-sent-timestamp` says so,
            for a message redriven from a dead-letter queue keeps its day
        receive_count: 1 the first time
        beside: what else SQS said of it; None, as usual, where it said nothing
    """

    message_id: str
    receipt_handle: str
    body: bytes
    sent_ms: int
    receive_count: int
    beside: Beside | None = None

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        """Its message attributes, of those that were asked for."""
        return self.beside.attributes if self.beside else {}

    @property
    def group_id(self) -> str | None:
        """Its group; None where nobody asked, or it has none."""
        return self.beside.system.get("MessageGroupId") if self.beside else None

    def attribute(self, name: str) -> str | bytes | None:
        """The content of a message attribute; None where it has none, or nobody asked."""
        found = self.attributes.get(name)
        return found.content if found else None

    def system(self, name: str) -> str | bytes | None:
        """What SQS itself knows of the message under that name; None as for `attribute`."""
        found = self.beside.system.get(name) if self.beside else None
        return found and _encodable(found)


class _Attributes(msgspec.Struct, gc=False, rename="pascal"):
    sent_timestamp: int = 0
    approximate_receive_count: int = 1


class Received(msgspec.Struct, gc=False, rename="pascal"):
    """A message in the answer to ReceiveMessage."""

    message_id: str
    receipt_handle: str
    attributes: _Attributes
    body: str = ""
    md5_of_body: str = msgspec.field(name="MD5OfBody", default="")
    message_attributes: dict[str, AttributeValue] | None = None


class _ReceiveReply(msgspec.Struct, gc=False, rename="pascal"):
    messages: list[Received] = []


# Structs of their own: two fields more in the usual ones cost a tenth of the time of reading an answer.
class _MoreAttributes(_Attributes, gc=False, rename="pascal"):
    message_group_id: str | None = None
    sequence_number: str | None = None


class _MoreReceived(Received, gc=False, rename="pascal"):
    attributes: _MoreAttributes


class _MoreReply(msgspec.Struct, gc=False, rename="pascal"):
    messages: list[_MoreReceived] = []


class _Done(msgspec.Struct, gc=False, rename="pascal"):
    id: str


class Failed(msgspec.Struct, gc=False, rename="pascal"):
    """An entry of a batch that was not done; `sender_fault` false means that SQS takes the blame."""

    id: str
    code: str = ""
    sender_fault: bool = False


class BatchReply(msgspec.Struct, gc=False, rename="pascal"):
    """The answer to a batch action."""

    successful: list[_Done] = []
    failed: list[Failed] = []


class UrlReply(msgspec.Struct, rename="pascal"):
    """The answer to GetQueueUrl."""

    queue_url: str


class AttributesReply(msgspec.Struct, rename="pascal"):
    """The answer to GetQueueAttributes."""

    attributes: dict[str, str] = {}


class Entry(msgspec.Struct, gc=False, rename="pascal", omit_defaults=True):
    """One message in a batch action."""

    id: str
    receipt_handle: str
    visibility_timeout: int | None = None


class BatchRequest(msgspec.Struct, gc=False, rename="pascal"):
    """A batch action."""

    queue_url: str
    entries: list[Entry]


class ReceiveRequest(msgspec.Struct, gc=False, rename="pascal"):
    """ReceiveMessage, with everything a `Message` is made of; the names are those of an `Asked`."""

    queue_url: str
    max_number_of_messages: int
    visibility_timeout: int
    wait_time_seconds: int
    message_system_attribute_names: tuple[str, ...] = USUAL.system
    message_attribute_names: tuple[str, ...] = USUAL.attributes


# strict=False: SQS writes numbers as strings.
_receive_reply = msgspec.json.Decoder(_ReceiveReply, strict=False)
_more_reply = msgspec.json.Decoder(_MoreReply, strict=False)
_batch_reply = msgspec.json.Decoder(BatchReply)
_encoder = msgspec.json.Encoder()


def encode(request: ReceiveRequest | BatchRequest) -> bytes:
    """The request's JSON."""
    return _encoder.encode(request)


def received(body: bytes, asked: Asked = USUAL) -> Sequence[Received]:
    """The messages in an answer to ReceiveMessage; SQS leaves "Messages" out when there are none.

    Args:
        body: of the answer
        asked: in the request

    Raises:
        ValueError: it is no answer of SQS; may hold parts of it, so never chain it
    """
    reply: msgspec.json.Decoder[_ReceiveReply] | msgspec.json.Decoder[_MoreReply]
    reply = _receive_reply if asked.system == USUAL.system else _more_reply
    try:
        return reply.decode(body).messages
    except ValueError:
        # msgspec refuses lone surrogates, which json lets pass.
        found = json.loads(body.decode("utf-8", "replace"))
        return msgspec.convert(found, reply.type, strict=False).messages


def batch_reply(body: bytes) -> BatchReply:
    """The answer to a batch action.

    Raises:
        ValueError: it is no answer of SQS
    """
    return _batch_reply.decode(body)


def message(one: Received) -> Message | None:
    """The message, or None if its body is not the one whose MD5 SQS tells (boto3 does not look)."""
    try:
        body = one.body.encode()
        # Not for security: it is what SQS sends along.
        if hashlib.md5(body, usedforsecurity=False).hexdigest() != one.md5_of_body and one.md5_of_body:
            return None
    except UnicodeEncodeError:  # A lone surrogate: nobody says which bytes its MD5 is made of.
        body = one.body.encode("utf-8", "surrogatepass")
    key, sent_ms = one.message_id, one.attributes.sent_timestamp
    if one.message_attributes:
        key = _key(one.message_attributes) or key
        sent_ms = _first_sent_ms(one.message_attributes, sent_ms)
    if not _UUID.fullmatch(key):
        key = _as_uuid(key)
    return Message(
        key,
        one.receipt_handle,
        body,
        sent_ms,
        one.attributes.approximate_receive_count,
        _beside(one) if one.message_attributes or one.__class__ is not Received else None,
    )


def _beside(one: Received) -> Beside:
    system: dict[str, str | None] = {}
    if isinstance(one.attributes, _MoreAttributes):
        found = one.attributes
        system = {"MessageGroupId": found.message_group_id, "SequenceNumber": found.sequence_number}
    return Beside(one.message_attributes or {}, system)


def _encodable(text: str) -> str | bytes:
    """The text; bytes where it has a lone surrogate, which no file and no table takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _key(attributes: Mapping[str, AttributeValue]) -> str | None:
    found = (attributes[name].string_value for name in KEY_ATTRIBUTES if name in attributes)
    return next((value for value in found if value), None)


def _as_uuid(key: str) -> str:
    lower = key.lower()
    if _UUID.fullmatch(lower):
        return lower
    # Lone surrogates, which AWS refuses, are no UTF-8.
    return str(uuid5(KEY_NAMESPACE, key.encode("utf-8", "replace").decode()))


def _first_sent_ms(attributes: Mapping[str, AttributeValue], sent_ms: int) -> int:
    """When the origin sent it, if that can be true."""
    value = attributes[SENT_ATTRIBUTE].string_value if SENT_ATTRIBUTE in attributes else None
    if value and _MILLISECONDS.fullmatch(value) and sent_ms - ORIGIN_REACH_MS <= int(value) <= sent_ms:
        return int(value)
    return sent_ms
