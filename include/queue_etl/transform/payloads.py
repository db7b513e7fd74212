"""What is encrypted message by message: in quarantine, or kept beside a row. Pure, given the keyset."""

from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset import Keyset

_BYTEA = r"\\x"  # bytea in hex form, `\x`, as COPY text escapes it


class MessageCipher:
    """Encrypts what belongs to one message.

    A payload is bound to contract, kind and message id: it opens only as what it is, of its own message.
    """

    def __init__(self, keyset: Keyset, contract_name: str, kind: str) -> None:
        self._keyset = keyset
        self._contract_name = contract_name
        self._kind = kind

    def encrypt(self, message_id: str, plain: bytes) -> bytes:
        """The payload, under the primary key."""
        return self._keyset.encrypt(plain, self._context(message_id))

    def decrypt(self, message_id: str, payload: bytes) -> bytes:
        """The inverse; raises KeysetError where the keyset lacks the key, or the payload is another's."""
        return self._keyset.decrypt(payload, self._context(message_id))

    def decrypt_or_none(self, message_id: str, payload: bytes) -> bytes | None:
        """The inverse; None where the keyset does not open it."""
        try:
            return self.decrypt(message_id, payload)
        except KeysetError:
            return None

    def reencrypt(self, message_id: str, payload: bytes) -> bytes | None:
        """The payload under the primary key; None where the keyset does not open it."""
        plain = self.decrypt_or_none(message_id, payload)
        return None if plain is None else self.encrypt(message_id, plain)

    def _context(self, message_id: str) -> bytes:
        return f"queue_etl/{self._contract_name}/{self._kind}/{message_id}".encode()


def bytea_text(payload: bytes) -> str:
    """A payload as COPY text has it."""
    return _BYTEA + payload.hex()


def bytea_of(text: str) -> bytes:
    """The inverse of `bytea_text`."""
    return bytes.fromhex(text.removeprefix(_BYTEA))
