"""Tokens for personal values. Pure, given the keyset.

A token is the base64url text, without padding, of the deterministic ciphertext of the normalized value
(`normalization.py`), bound to contract and field: equal values of one field get equal tokens, a token moved
to another column does not open, and tokens of two fields cannot be joined.

A one-way field's token holds an HMAC-SHA256 of the normalized value behind the id of its key; the two schemes
without a key hash the value as it came, as the scripts did whose tables they are to be joined with.
"""

import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence

from include.queue_etl.contract import Contract, MaskedField, Personal
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.token_format import TO_URLSAFE, from_token, to_token
from include.queue_etl.transform.normalization import Normalizer, readable


class Masker:
    """Turns the values of a contract's personal fields into tokens, and back.

    Attributes:
        anomalies: distinct values, counted a batch, that load although they are unusual: those that are
            `not_an_address`, `not_an_email` or `not_a_phone` are masked as text, `blank` becomes NULL
    """

    def __init__(self, contract: Contract, keyset: Keyset) -> None:
        self._keyset = keyset
        self._contract = contract.name
        self._normalizer = Normalizer()
        self.anomalies = self._normalizer.anomalies

    def mask(self, masked: MaskedField, values: Sequence[str | None], nothing: str) -> list[str]:
        """One token for each value, in the same order; `nothing` for None and for blank text.

        Args:
            masked: what they are; tokens are bound to its path in the event
            values: as they came
            nothing: stands for what has no token
        """
        if not values:  # every message of the batch was rejected; an empty join would split into one token
            return []
        distinct = dict.fromkeys(values)  # repeated users are common; each costs one encryption a batch
        texts = self._ciphertexts(masked, distinct, nothing.encode())
        # Newlines separate, so one translate and one decode serve the whole column.
        column = b"\n".join(texts).translate(TO_URLSAFE, b"=").decode("ascii").split("\n")
        return list(map(dict(zip(distinct, column, strict=True)).__getitem__, values))

    def unmask(self, masked: MaskedField, token: str) -> str:
        """The normalized value behind a token: "::ffff:10.0.0.1" comes back as "10.0.0.1".

        Raises:
            KeysetError: not a token of this field under any key of the keyset, or the field is one-way
        """
        return readable(self._normalized(masked, token))

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

    def _ciphertexts(self, masked: MaskedField, values: Iterable[str | None], nothing: bytes) -> list[bytes]:
        if not masked.mark.is_recoverable:
            return self._digests(masked, values, nothing)
        context, normalize = self._context(masked), self._normalizer.of(masked.mark)
        encrypt, to_base64 = self._keyset.encrypt, binascii.b2a_base64
        return [
            to_base64(encrypt(plain, context), newline=False)
            if value is not None and (plain := normalize(value))
            else nothing
            for value in values
        ]

    def _digests(self, masked: MaskedField, values: Iterable[str | None], nothing: bytes) -> list[bytes]:
        normalize = self._normalizer.of(masked.mark)
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


def _unkeyed_digest(personal: Personal) -> Callable[[str, bytes], bytes]:
    name = personal.scheme.value
    return lambda value, plain: hashlib.new(name, value.encode(), usedforsecurity=False).hexdigest().encode()
