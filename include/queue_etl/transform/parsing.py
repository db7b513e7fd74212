"""One message body -> one event, or Rejected with a reason. Pure; no input raises.

Reasons: too_large, bad_json, too_deep, not_object, missing_field, no_<field>, bad_type, too_long, bad_value,
nul_char, and those of the contract's derived columns.
"""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from include.queue_etl.contract import Contract, Derived, Rejected

TOO_LARGE = Rejected("too_large")
BAD_JSON = Rejected("bad_json")
TOO_DEEP = Rejected("too_deep")
NOT_OBJECT = Rejected("not_object")
MISSING_FIELD = Rejected("missing_field")
BAD_TYPE = Rejected("bad_type")
TOO_LONG = Rejected("too_long")
BAD_VALUE = Rejected("bad_value")
NUL_CHAR = Rejected("nul_char")
TOO_MANY_RECEIVES = Rejected("too_many_receives")


class _Notification(msgspec.Struct):
    """An SNS notification, as SQS delivers it without raw message delivery."""

    type: str = msgspec.field(name="Type")
    message: str = msgspec.field(name="Message")


class Parser:
    """Parses bodies by one contract.

    Attributes:
        unknown_fields: accepted messages so far that had fields the contract does not name
    """

    def __init__(self, contract: Contract, body_limit_bytes: int) -> None:
        strict = msgspec.defstruct("Strict", [], bases=(contract.event,), forbid_unknown_fields=True)
        self._decode_strict = msgspec.json.Decoder(strict).decode
        self._decode = msgspec.json.Decoder(contract.event).decode
        self._decode_notification = msgspec.json.Decoder(_Notification).decode
        self._fields = msgspec.structs.fields(contract.event)
        # A few hundred app versions occur in millions of messages. Bounded: a hostile queue has no repeats.
        remembering = lru_cache(maxsize=4096)
        self._derived = [
            (c.field, remembering(c.convert)) for c in contract.columns if isinstance(c, Derived)
        ]
        self._limit = body_limit_bytes
        self._contract = contract
        self.unknown_fields = 0

    def parse(self, body: bytes) -> msgspec.Struct | Rejected:
        """The event of one body, or why there is none."""
        if len(body) > self._limit:
            return TOO_LARGE
        if not (body.isascii() or _is_utf8(body)):
            return BAD_JSON  # msgspec does not look into the strings it skips
        try:
            return self._event(self._unwrapped(body) if self._contract.sns_envelope else body)
        except RecursionError:
            return TOO_DEEP
        except (msgspec.DecodeError, UnicodeDecodeError):
            return BAD_JSON

    def _unwrapped(self, body: bytes) -> bytes:
        """The inner body of an SNS notification; any other body as it is (raw message delivery)."""
        try:
            notification = self._decode_notification(body)
        except msgspec.ValidationError:
            return body
        return notification.message.encode() if notification.type == "Notification" else body

    def _event(self, body: bytes) -> msgspec.Struct | Rejected:
        try:
            event = self._decode_strict(body)
        except msgspec.ValidationError:
            try:
                event = self._decode(body)
            except msgspec.ValidationError:
                return self._explanation(body)
            self.unknown_fields += 1
        for field, convert in self._derived:
            converted = convert(getattr(event, field))
            if converted.__class__ is Rejected:
                return converted
        # Without a backslash there is no NUL (RFC 8259, section 7: control characters must be escaped), and
        # characters are bytes, so the lengths in the event struct say all. Nearly every body ends here.
        if b"\\" not in body and body.isascii():
            return event
        return self._character_problem(event) or event

    def _character_problem(self, event: msgspec.Struct) -> Rejected | None:
        if _has_nul(event):
            return NUL_CHAR
        for column in self._contract.personal:
            value = getattr(event, column.field)
            if value is not None and len(unicodedata.normalize("NFC", value).encode()) > column.max_bytes:
                return TOO_LONG
        return None

    def _explanation(self, body: bytes) -> Rejected:
        """Why a body that is refused by the event's types is refused. Slow: only for rejected messages."""
        try:
            fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        except msgspec.ValidationError:
            msgspec.json.decode(body, type=msgspec.Raw)  # raises where it is no JSON at all, or too deep
            return NOT_OBJECT
        if any(field.required and field.encode_name not in fields for field in self._fields):
            return MISSING_FIELD
        return next(self._field_problems(fields), BAD_VALUE)

    def _field_problems(self, fields: dict[str, msgspec.Raw]) -> Iterator[Rejected]:
        given = [field for field in self._fields if field.encode_name in fields]  # others may be left out
        for field in given:
            raw = fields[field.encode_name]
            try:
                msgspec.json.decode(raw, type=field.type)
            except msgspec.ValidationError:
                yield self._value_problem(field.name, msgspec.json.decode(raw))

    def _value_problem(self, field: str, value: object) -> Rejected:
        if value is None or value == "":
            return Rejected(f"no_{field}")
        if not isinstance(value, str):
            return BAD_TYPE
        return TOO_LONG if len(value) > self._contract.max_length(field) else BAD_VALUE


def _has_nul(event: msgspec.Struct) -> bool:
    return any(isinstance(value, str) and "\x00" in value for value in msgspec.structs.astuple(event))


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
