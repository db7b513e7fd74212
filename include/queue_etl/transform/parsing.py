"""One message body -> one event, or Rejected with a reason. Pure; no input raises.

Reasons without a field: too_large, bad_json, too_deep, not_object, unknown_field, too_many_receives. All
others name the field behind a blank, as in `too_long customer.name`: missing_field, no_value (null, or an
empty text where more is needed), bad_type, bad_value, out_of_range, too_long, nul_char, and the codes of
derived columns. The personal data check has personal_data.
"""

import unicodedata
from collections.abc import Callable, Sequence
from decimal import Context, Decimal, InvalidOperation
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any

import msgspec

from include.queue_etl.contract import Column, Contract, Form, Rejected
from include.queue_etl.contract.event_types import decoding_type
from include.queue_etl.transform import json_values
from include.queue_etl.transform.explanation import explain

TOO_LARGE = Rejected("too_large")
BAD_JSON = Rejected("bad_json")
TOO_DEEP = Rejected("too_deep")
UNKNOWN_FIELD = Rejected("unknown_field")
TOO_MANY_RECEIVES = Rejected("too_many_receives")

Value = Any  # of a column, as msgspec decodes it
Check = Callable[[Value], str | None]  # the code of what is wrong with it
Checks = list[
    tuple[Callable[[msgspec.Struct], Value], Check, str]
]  # how the value is got, the check, the field


# There is a parser for each batch, and to make these types takes 0.3 ms.
_decoding_type = lru_cache(maxsize=64)(decoding_type)


class _Notification(msgspec.Struct):
    """An SNS notification, as SQS delivers it without raw message delivery."""

    type: str = msgspec.field(name="Type")
    message: str = msgspec.field(name="Message")


class Parser:
    """Parses bodies by one contract."""

    def __init__(self, contract: Contract, body_limit_bytes: int) -> None:
        self._strict = _decoding_type(contract.event, strict=True)
        self._lenient = _decoding_type(contract.event, strict=False)
        self._decode_strict = msgspec.json.Decoder(self._strict).decode
        self._decode = msgspec.json.Decoder(self._lenient).decode
        self._decode_notification = msgspec.json.Decoder(_Notification).decode
        self._derived = [_derivation(column) for column in contract.columns if column.convert]
        self._checks = _checks(contract.columns, _value_check)
        self._all_checks = [*self._checks, *_checks(contract.columns, character_check)]
        self._limit = body_limit_bytes
        self._has_envelope = contract.sns_envelope
        self._rejects_unknown = contract.unknown_fields == "reject"
        self._saw_unknown = False

    def parse(self, body: bytes) -> msgspec.Struct | Rejected:
        """The event of one body, or why there is none."""
        if len(body) > self._limit:
            return TOO_LARGE
        if not (body.isascii() or _is_utf8(body)):
            return BAD_JSON  # msgspec does not look into the strings it skips
        try:
            return self._event(self._unwrapped(body) if self._has_envelope else body)
        except RecursionError:
            return TOO_DEEP
        except (msgspec.DecodeError, UnicodeDecodeError):
            return BAD_JSON

    def with_unknown_fields(
        self, bodies: Sequence[bytes], verdicts: Sequence[msgspec.Struct | Rejected]
    ) -> dict[int, bytes]:
        """Number -> the accepted body with fields that no struct declares, without its SNS envelope.

        Args:
            bodies: as they were parsed
            verdicts: of `parse`, in the order of the bodies
        """
        if not self._saw_unknown:  # as usual: then nobody has to look at each
            return {}
        usual = (self._strict, Rejected)
        return {
            number: self.event_body(bodies[number])
            for number, verdict in enumerate(verdicts)
            if verdict.__class__ not in usual
        }

    def event_body(self, body: bytes) -> bytes:
        """The body of an event, without its SNS envelope where the contract expects one."""
        return self._unwrapped(body) if self._has_envelope else body

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
                return explain(body, self._lenient)
            if self._rejects_unknown:
                return UNKNOWN_FIELD
            self._saw_unknown = True
        for value_of, convert in self._derived:
            converted = convert(value_of(event))
            if converted.__class__ is Rejected:
                return converted
        # Without a backslash there is no NUL (RFC 8259, section 7: control characters must be escaped), and
        # characters are bytes, so the lengths in the event struct say all. Nearly every body ends here.
        checks = self._checks if b"\\" not in body and body.isascii() else self._all_checks
        return (_problem(event, checks) or event) if checks else event


def value_getter(column: Column) -> Callable[[msgspec.Struct], Value]:
    """Gets the value of a column of the event; None where a struct above it is null."""
    if len(column.attributes) == 1:
        return attrgetter(*column.attributes)
    return partial(_value_below, names=column.attributes)


def _value_below(event: Any, names: Sequence[str]) -> Value:
    for name in names:
        if event is None:
            return None
        event = getattr(event, name)
    return event


def _problem(event: msgspec.Struct, checks: Checks) -> Rejected | None:
    for value_of, check, field in checks:
        value = value_of(event)
        if value is not None and (code := check(value)):
            return Rejected(f"{code} {field}")
    return None


def _derivation(
    column: Column,
) -> tuple[Callable[[msgspec.Struct], Value], Callable[[str | None], int | str | Rejected | None]]:
    """How a derived column is computed: it answers Rejected with the field's path."""
    convert, field = column.convert, column.field

    # A few hundred app versions occur in millions of messages. Bounded: a hostile queue has no repeats.
    @lru_cache(maxsize=4096)
    def converted(value: str | None) -> int | str | Rejected | None:
        found = convert(value) if convert else None
        return Rejected(f"{found.reason} {field}") if isinstance(found, Rejected) else found

    return value_getter(column), converted


def _checks(columns: Sequence[Column], check_of: Callable[[Column], Check | None]) -> Checks:
    """The checks that columns of the event need."""
    found = [(column, check_of(column)) for column in columns if column.attributes]
    return [(value_getter(column), check, column.field) for column, check in found if check]


# What msgspec does not look at --------------------------------------------------------------------


def _value_check(column: Column) -> Check | None:
    if column.form is Form.DECIMAL:
        return _decimal_check(column)
    if column.form is Form.JSON:
        return partial(json_values.problem, personal=tuple(masked.path for masked in column.masked))
    return None


def _decimal_check(column: Column) -> Check:
    numeric = column.numeric
    context = Context(prec=numeric.precision if numeric else 1, traps=[InvalidOperation])
    unit = Decimal(1).scaleb(-numeric.scale) if numeric else None

    def check(value: Decimal) -> str | None:
        if not value.is_finite():
            return "bad_value"
        if unit is None:
            return None if abs(value.adjusted()) < json_values.MAX_EXPONENT else "out_of_range"
        try:
            return None if context.quantize(value, unit) == value else "out_of_range"
        except InvalidOperation:  # more digits before the point than the column has
            return "out_of_range"

    return check


def character_check(column: Column) -> Check | None:
    """What escapes, or other characters than ASCII, may break."""
    if column.form is Form.JSON:
        return json_values.nul_problem
    if column.form not in (Form.TEXT, Form.DERIVED):
        return None
    max_bytes = min((masked.mark.max_bytes for masked in column.masked), default=float("inf"))

    def check(value: str) -> str | None:
        if "\x00" in value:
            return "nul_char"
        if len(value) * 4 > max_bytes and len(unicodedata.normalize("NFC", value).encode()) > max_bytes:
            return "too_long"
        return None

    return check


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
