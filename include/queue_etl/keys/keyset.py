"""The keyset: the one secret that masks, seals and recovers.

A Tink keyset of type AES256_SIV (deterministic authenticated encryption, RFC 5297): the same value under the
same associated data always gives the same bytes, each ciphertext begins with the id of its key, and a keyset
holds the old keys beside the primary one. https://developers.google.com/tink/deterministic-aead
How it is stored, and which keys are in it: keyset_document.py.
"""

from collections.abc import Callable

import tink
from tink import daead, secret_key_access
from tink.proto import tink_pb2

from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.token_format import PREFIX_BYTES, key_id

CHECK_CONTEXT = b"queue_etl/key check"
CHECK_TEXT = b"this key masked data"


class Keyset:
    """An opened keyset. Deterministic: sealing the same bytes in the same context gives the same result."""

    def __init__(self, handle: tink.KeysetHandle) -> None:
        self._primitive = handle.primitive(daead.DeterministicAead)
        self.primary_key_id: int = handle.keyset_info().primary_key_id
        # The bound method itself: it is called for every personal value.
        self.encrypt: Callable[[bytes, bytes], bytes] = self._primitive.encrypt_deterministically

    @classmethod
    def from_json(cls, text: str) -> "Keyset":
        """Open a Tink JSON keyset that is in the clear.

        Raises:
            KeysetError: it is no AES256_SIV keyset in Tink's JSON form
        """
        daead.register()
        try:
            handle = tink.json_proto_keyset_format.parse(text, secret_key_access.TOKEN)
            keyset = cls(handle)
            # Without Tink's prefix nothing would tell which key sealed a token, and no key could be retired.
            if all(key.output_prefix_type == tink_pb2.TINK for key in handle.keyset_info().key_info):
                return keyset
        except (tink.TinkError, ValueError):
            pass
        # Out here, so that not even its __context__ holds the parse error: that quotes what it choked on,
        # and what it choked on is the secret.
        raise KeysetError(
            "the keyset cannot be read: expected a Tink JSON keyset of type AES256_SIV "
            "with output prefix TINK (make one with `python -m include.queue_etl keys create`)"
        )

    def decrypt(self, sealed: bytes, context: bytes) -> bytes:
        """What `encrypt(plain, context)` was given.

        Raises:
            KeysetError: sealed under a key this keyset lacks, in another context, or changed since
        """
        try:
            plain: bytes = self._primitive.decrypt_deterministically(sealed, context)
        except tink.TinkError:
            raise KeysetError(
                f"cannot be opened with this keyset (key id {key_id(sealed)}): "
                "wrong key, wrong context, or changed since it was sealed"
            ) from None
        return plain

    def one_way_key(self, context: bytes) -> tuple[bytes, bytes]:
        """The primary key's prefix, and a key for HMAC that follows from the primary key and the context.

        48 bytes of AES-SIV ciphertext: without the key they cannot be told from random (RFC 5297, section 1).
        """
        sealed = self.encrypt(bytes(32), context + b"/one way")
        return sealed[:PREFIX_BYTES], sealed[PREFIX_BYTES:]

    def check_value(self) -> str:
        """A constant sealed with the primary key: a holder of the same key can open it."""
        return self.encrypt(CHECK_TEXT, CHECK_CONTEXT).hex()

    def opens(self, check_value: str) -> bool:
        """Whether this keyset holds the key that made the check value."""
        try:
            return self.decrypt(bytes.fromhex(check_value), CHECK_CONTEXT) == CHECK_TEXT
        except (KeysetError, ValueError):  # ValueError: it is no hex text
            return False
