r"""Tokens for personal values. Pure, given the keyset.

A token is the base64url text, without padding, of the deterministic ciphertext of the normalized value,
bound to contract and field: equal values of one field get equal tokens, a token moved to another column does
not open, and tokens of two fields cannot be joined.

Normalized values (one kind byte, then the value, padded because the ciphertext shows the length):

    b"\4" + 4 bytes   + 12 zero bytes      an IPv4 address, also when written ::ffff:a.b.c.d
    b"\6" + 16 bytes                       an IPv6 address
    b"\1" + UTF-8 + b"\x80" + zero bytes   text, to a multiple of 16 bytes after the kind byte
    b"\0" + UTF-8 + b"\x80" + zero bytes   text found where an address was expected: kept, and counted

A one-way field's token holds an HMAC-SHA256 of the normalized value behind the id of its key; the two schemes
without a key hash the value as it came, as the scripts did whose tables they are to be joined with.
"""

import binascii
import hashlib
import hmac
import unicodedata
from collections.abc import Callable, Sequence
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from include.queue_etl.contract import Contract, MaskedField, Normalization, Personal
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.token_format import TO_URLSAFE, from_token, to_token

IPV4, IPV6, TEXT, OPAQUE = b"\x04", b"\x06", b"\x01", b"\x00"
_V4_IN_V6 = b"\x00" * 10 + b"\xff" * 2
_PAD_V4 = b"\x00" * 12


class Masker:
    """Turns the values of a contract's personal fields into tokens, and back.

    Attributes:
        anomalies: distinct values, counted a batch, that load although they are unusual: `not_an_address`
            is masked as text, `blank` becomes NULL
    """

    def __init__(self, contract: Contract, keyset: Keyset) -> None:
        self._keyset = keyset
        self._contract = contract.name
        self.anomalies = {"not_an_address": 0, "blank": 0}

    def mask(self, masked: MaskedField, values: Sequence[str | None], nothing: str) -> list[str]:
        """One token for each value, in the same order; `nothing` for None and for blank text.

        Args:
            masked: what they are; tokens are bound to its path in the event
            values: as they came
            nothing: stands for what has no token
        """
        if not values:  # every message of the batch was rejected; an empty join would split into one token
            return []
        distinct = list(set(values))  # repeated users are common; each costs one encryption a batch
        texts = self._ciphertexts(masked, distinct, nothing.encode())
        # Newlines separate, so one translate and one decode serve the whole column.
        column = b"\n".join(texts).translate(TO_URLSAFE, b"=").decode("ascii").split("\n")
        return list(map(dict(zip(distinct, column, strict=True)).__getitem__, values))

    def unmask(self, masked: MaskedField, token: str) -> str:
        """The normalized value behind a token: "::ffff:10.0.0.1" comes back as "10.0.0.1".

        Raises:
            KeysetError: not a token of this field under any key of the keyset, or the field is one-way
        """
        return _readable(self._normalized(masked, token))

    def reencrypt(self, masked: MaskedField, token: str) -> str:
        """The token of the same value under the primary key.

        Raises:
            KeysetError: as `unmask` does
        """
        normalized = self._normalized(masked, token)
        return to_token(self._keyset.encrypt(normalized, self._context(masked)))

    def _normalized(self, masked: MaskedField, token: str) -> bytes:
        if not masked.mark.is_recoverable:
            raise KeysetError(
                f"field {masked.field} is masked one-way ({masked.mark.scheme}): nothing opens it"
            )
        try:
            ciphertext = from_token(token)
        except ValueError:
            raise KeysetError("not a token: it is no base64url text") from None
        return self._keyset.decrypt(ciphertext, self._context(masked))

    def _context(self, masked: MaskedField) -> bytes:
        return f"queue_etl/{self._contract}/{masked.field}".encode()

    def _ciphertexts(self, masked: MaskedField, values: Sequence[str | None], nothing: bytes) -> list[bytes]:
        if not masked.mark.is_recoverable:
            return self._digests(masked, values, nothing)
        context, normalize = self._context(masked), self._normalizer(masked.mark)
        encrypt, to_base64 = self._keyset.encrypt, binascii.b2a_base64
        return [
            to_base64(encrypt(plain, context), newline=False)
            if value is not None and (plain := normalize(value))
            else nothing
            for value in values
        ]

    def _digests(self, masked: MaskedField, values: Sequence[str | None], nothing: bytes) -> list[bytes]:
        normalize = self._normalizer(masked.mark)
        digest = _unkeyed_digest(masked.mark) if masked.mark.is_weak else self._keyed_digest(masked)
        return [
            digest(value, plain) if value is not None and (plain := normalize(value)) else nothing
            for value in values
        ]

    def _keyed_digest(self, masked: MaskedField) -> Callable[[str, bytes], bytes]:
        prefix, key = self._keyset.one_way_key(self._context(masked))
        return lambda value, plain: binascii.b2a_base64(
            prefix + hmac.digest(key, plain, "sha256"), newline=False
        )

    def _normalizer(self, personal: Personal) -> Callable[[str], bytes]:
        is_address = personal.normalization is Normalization.IP
        return self._normalize_address if is_address else self._normalize_text

    def _normalize_address(self, value: str) -> bytes:
        try:
            return IPV4 + inet_pton(AF_INET, value) + _PAD_V4
        except (OSError, ValueError):
            return self._normalize_rare_address(value.strip())

    def _normalize_rare_address(self, value: str) -> bytes:
        for family, kind in ((AF_INET, IPV4), (AF_INET6, IPV6)):
            try:
                packed = inet_pton(family, value)
            except (OSError, ValueError):
                continue
            if packed.startswith(_V4_IN_V6):
                kind, packed = IPV4, packed[12:]
            return (kind + packed).ljust(17, b"\x00")
        if value:
            self.anomalies["not_an_address"] += 1
        return self._padded(OPAQUE, value)

    def _normalize_text(self, value: str) -> bytes:
        return self._padded(TEXT, value)

    def _padded(self, kind: bytes, value: str) -> bytes:
        text = value.strip()
        if not text:
            self.anomalies["blank"] += 1
            return b""
        # An ASCII text is in NFC already, and the check costs a tenth of the call.
        encoded = (text if text.isascii() else unicodedata.normalize("NFC", text)).encode() + b"\x80"
        return kind + encoded.ljust(-(-len(encoded) // 16) * 16, b"\x00")


def _unkeyed_digest(personal: Personal) -> Callable[[str, bytes], bytes]:
    name = personal.scheme.value
    return lambda value, plain: hashlib.new(name, value.encode(), usedforsecurity=False).hexdigest().encode()


def _readable(plain: bytes) -> str:
    kind, value = plain[:1], plain[1:]
    if kind == IPV4:
        return inet_ntop(AF_INET, value[:4])
    if kind == IPV6:
        return inet_ntop(AF_INET6, value)
    return value[: value.rindex(b"\x80")].decode()
