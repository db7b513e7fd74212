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
from collections.abc import Callable, Sequence

from include.queue_etl.contract import Contract, Personal, Scheme
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

    def mask(self, personal: Personal, values: Sequence[str | None], nothing: str) -> list[str]:
        """One token for each value, in the same order; `nothing` for None and for blank text."""
        if not values:  # every message of the batch was rejected; an empty join would split into one token
            return []
        distinct = list(set(values))  # repeated users are common; each costs one encryption a batch
        texts = self._ciphertexts(personal, distinct, nothing.encode())
        # Newlines separate, so one translate and one decode serve the whole column.
        column = b"\n".join(texts).translate(TO_URLSAFE, b"=").decode("ascii").split("\n")
        return list(map(dict(zip(distinct, column, strict=True)).__getitem__, values))

    def unmask(self, personal: Personal, token: str) -> str:
        """The normalized value behind a token: "::ffff:10.0.0.1" comes back as "10.0.0.1".

        Raises:
            KeysetError: not a token of this field under any key of the keyset, or the field is one-way
        """
        return readable(self._normalized(personal, token))

    def reencrypt(self, personal: Personal, token: str) -> str:
        """The token of the same value under the primary key.

        Raises:
            KeysetError: as `unmask` does
        """
        return to_token(self._keyset.encrypt(self._normalized(personal, token), self._context(personal)))

    def _normalized(self, personal: Personal, token: str) -> bytes:
        if personal.scheme is not Scheme.RECOVERABLE:
            raise KeysetError(
                f"field {personal.field} is masked one-way ({personal.scheme}): nothing opens it"
            )
        try:
            ciphertext = from_token(token)
        except ValueError:
            raise KeysetError("not a token: it is no base64url text") from None
        return self._keyset.decrypt(ciphertext, self._context(personal))

    def _context(self, personal: Personal) -> bytes:
        return f"queue_etl/{self._contract}/{personal.field}".encode()

    def _ciphertexts(self, personal: Personal, values: Sequence[str | None], nothing: bytes) -> list[bytes]:
        if personal.scheme is not Scheme.RECOVERABLE:
            return self._digests(personal, values, nothing)
        context, normalize = self._context(personal), self._normalizer.of(personal)
        encrypt, to_base64 = self._keyset.encrypt, binascii.b2a_base64
        return [
            to_base64(encrypt(plain, context), newline=False)
            if value is not None and (plain := normalize(value))
            else nothing
            for value in values
        ]

    def _digests(self, personal: Personal, values: Sequence[str | None], nothing: bytes) -> list[bytes]:
        normalize = self._normalizer.of(personal)
        digest = _unkeyed_digest(personal) if personal.is_weak else self._keyed_digest(personal)
        return [
            digest(value, plain) if value is not None and (plain := normalize(value)) else nothing
            for value in values
        ]

    def _keyed_digest(self, personal: Personal) -> Callable[[str, bytes], bytes]:
        prefix, key = self._keyset.one_way_key(self._context(personal))
        return lambda value, plain: binascii.b2a_base64(
            prefix + hmac.digest(key, plain, "sha256"), newline=False
        )


def _unkeyed_digest(personal: Personal) -> Callable[[str, bytes], bytes]:
    name = personal.scheme.value
    return lambda value, plain: hashlib.new(name, value.encode(), usedforsecurity=False).hexdigest().encode()
