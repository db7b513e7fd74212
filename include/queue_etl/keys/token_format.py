"""How a token is written, and which key made it. Pure; needs no key.

Every ciphertext of Tink begins with five bytes: the version byte 0x01, then the id of its key in four bytes,
big-endian. https://developers.google.com/tink/wire-format. A token is the ciphertext in base64url, without
padding.
"""

import binascii
import re

PREFIX_BYTES = 5
# Five bytes are six characters of base64 and two thirds of the seventh.
TOKEN_PREFIX_CHARS = 7
# b64encode plus urlsafe translation for a whole column in one call: binascii per value, then this table.
TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE = str.maketrans("-_", "+/")
_TOKEN = re.compile("A[Q-Za-f]")  # the byte 1 in base64, whatever follows


def ciphertext_prefix(key_id: int) -> bytes:
    """What every ciphertext of a key begins with."""
    return b"\x01" + key_id.to_bytes(PREFIX_BYTES - 1, "big")


def key_id(ciphertext: bytes) -> int:
    """Id of the key that made this ciphertext."""
    return int.from_bytes(ciphertext[1:PREFIX_BYTES], "big")


def token_prefixes(key_id: int) -> list[str]:
    """What every token of a key begins with: one of these texts of TOKEN_PREFIX_CHARS characters."""
    prefix = ciphertext_prefix(key_id)
    return [to_token(prefix + bytes([rest << 6]))[:TOKEN_PREFIX_CHARS] for rest in range(4)]


def to_token(ciphertext: bytes) -> str:
    """The text of a token."""
    return binascii.b2a_base64(ciphertext, newline=False).translate(TO_URLSAFE, b"=").decode("ascii")


def from_token(token: str) -> bytes:
    """The ciphertext of a token; raises ValueError where the text is no base64url."""
    return binascii.a2b_base64(token.translate(_FROM_URLSAFE) + "=" * (-len(token) % 4))


def is_token(text: str) -> bool:
    """Whether the text begins as every token does."""
    return _TOKEN.match(text) is not None


def token_chars(ciphertext_bytes: int) -> int:
    """Characters of a token of so many bytes."""
    return -(-ciphertext_bytes * 4 // 3)
