"""The keyset: the one secret that masks, seals and recovers.

A Tink keyset of type AES256_SIV (deterministic authenticated encryption, RFC 5297): the same value under the
same associated data always gives the same bytes, each ciphertext begins with the id of its key, and a keyset
holds the old keys beside the primary one. https://developers.google.com/tink/deterministic-aead

In production the keyset is wrapped: encrypted under a key that never leaves AWS KMS, in Tink's own form.
"""

import json
from collections.abc import Callable

import tink
from tink import aead, daead, secret_key_access
from tink.proto import tink_pb2

from include.queue_etl.errors import KeysetError

PREFIX_BYTES = 5  # Tink output prefix: version byte 0x01, then the key id in four bytes, big-endian
CHECK_CONTEXT = b"queue_etl/key check"
CHECK_TEXT = b"this key masked data"
WRAPPED = b"queue_etl/keyset"  # associated data of a wrapped keyset
# First byte of the ids of keys made for development. The mark travels with the key wherever it is copied, and
# with everything it masks; other keys never bear it.
DEVELOPMENT = 0xDE

MasterKey = Callable[[], aead.Aead]


class Keyset:
    """An opened keyset. Deterministic: sealing the same bytes in the same context gives the same result."""

    def __init__(self, handle: tink.KeysetHandle) -> None:
        self._primitive = handle.primitive(daead.DeterministicAead)
        self.primary_key_id: int = handle.keyset_info().primary_key_id
        # The bound method itself: it is called for every personal value.
        self.encrypt: Callable[[bytes, bytes], bytes] = self._primitive.encrypt_deterministically

    @classmethod
    def from_json(cls, text: str, master_key: MasterKey | None = None) -> "Keyset":
        """Open a Tink JSON keyset.

        Args:
            text: in the clear, or wrapped
            master_key: makes what unwraps; called only for a wrapped keyset

        Raises:
            KeysetError: it is no AES256_SIV keyset in Tink's JSON form, or does not unwrap
            KeyServiceUnavailable: KMS did not answer
        """
        text = unwrapped(text, master_key)
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
            "with output prefix TINK (make one with `python -m include.queue_etl create-keyset FILE`)"
        )

    @staticmethod
    def new_json(development: bool = False) -> str:
        """A fresh keyset with one key, in Tink's JSON form, in the clear."""
        daead.register()
        handle = tink.new_keyset_handle(daead.deterministic_aead_key_templates.AES256_SIV)
        made = json.loads(tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN))
        first, rest = divmod(made["primaryKeyId"], 2**24)
        if development:
            first = DEVELOPMENT
        elif first == DEVELOPMENT:
            first -= 1
        made["primaryKeyId"] = made["key"][0]["keyId"] = first * 2**24 + rest
        return json.dumps(made, indent=2)

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
        """A constant sealed with the primary key: whoever holds the same key can open it."""
        return self.encrypt(CHECK_TEXT, CHECK_CONTEXT).hex()

    def opens(self, check_value: str) -> bool:
        """Whether this keyset holds the key that made the check value."""
        try:
            return self.decrypt(bytes.fromhex(check_value), CHECK_CONTEXT) == CHECK_TEXT
        except (KeysetError, ValueError):  # ValueError: it is no hex text
            return False


def key_id(sealed: bytes) -> int:
    """Id of the key that sealed these bytes; needs no key."""
    return int.from_bytes(sealed[1:PREFIX_BYTES], "big")


def is_development(key_id: int) -> bool:
    """Whether a key of this id was made for development."""
    return key_id >> 24 == DEVELOPMENT


def is_wrapped(text: str) -> bool:
    """Whether this is the JSON of a wrapped keyset."""
    try:
        return "encryptedKeyset" in json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return False


def unwrapped(text: str, master_key: MasterKey | None) -> str:
    """The keyset in the clear; as it is, when it was never wrapped.

    Raises:
        KeysetError: it is wrapped with another key, changed, or there is no key to unwrap it
        KeyServiceUnavailable: KMS did not answer
    """
    if not is_wrapped(text):
        return text
    if master_key is None:
        raise KeysetError("the keyset is wrapped: set QUEUE_ETL_KMS_KEY_URI to the key that wraps it")
    daead.register()
    try:
        handle = tink.json_proto_keyset_format.parse_encrypted(text, master_key(), WRAPPED)
        clear: str = tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
        return clear
    except (tink.TinkError, ValueError):
        pass
    raise KeysetError("the keyset does not unwrap: it was wrapped with another key, or changed since")


def wrapped(text: str, master_key: MasterKey) -> str:
    """The keyset, encrypted under the master key, in Tink's JSON form.

    Raises:
        KeysetError, KeyServiceUnavailable: KMS refused, or did not answer
    """
    handle = tink.json_proto_keyset_format.parse(text, secret_key_access.TOKEN)
    sealed: str = tink.json_proto_keyset_format.serialize_encrypted(handle, master_key(), WRAPPED)
    return sealed
