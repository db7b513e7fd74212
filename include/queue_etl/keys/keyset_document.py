"""The keyset as it is stored: Tink's JSON, in the clear or wrapped. Which keys it holds, and how they change.

In production it is wrapped: encrypted under a key that never leaves AWS KMS, in Tink's own form. Keys and
form are Tink's, so that Tink in any language opens the result.

A rotation is: `add_key`, `promote_key`, everything moved to the new primary key (privacy/rotation.py),
`remove_key`.
"""

import json
from collections.abc import Callable
from typing import Any, Self

import tink
from tink import aead, daead, secret_key_access

from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset import Keyset

WRAP_CONTEXT = b"queue_etl/keyset"  # associated data of a wrapped keyset
# First byte of the ids of keys made for development. The mark travels with the key wherever it is copied, and
# with everything it masks. `new` gives it to no other key; a keyset made with another tool begins so once in
# 256 times, and production refuses it then.
DEVELOPMENT = 0xDE

MasterKey = Callable[[], aead.Aead]


class KeysetDocument:
    """A keyset as text. Immutable: what changes it returns another document.

    Attributes:
        text: the JSON
    """

    def __init__(self, text: str) -> None:
        """Take any text; `open` reports what is wrong with it, without quoting it."""
        self.text = text

    @classmethod
    def new(cls, *, development: bool = False) -> Self:
        """A fresh keyset with one key, in the clear; production refuses a key marked for `development`."""
        daead.register()
        handle = tink.new_keyset_handle(daead.deterministic_aead_key_templates.AES256_SIV)
        made = json.loads(tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN))
        first, rest = divmod(made["primaryKeyId"], 2**24)
        if development:
            first = DEVELOPMENT
        elif first == DEVELOPMENT:
            first -= 1
        made["primaryKeyId"] = made["key"][0]["keyId"] = first * 2**24 + rest
        return cls(json.dumps(made, indent=2))

    @property
    def is_wrapped(self) -> bool:
        """Whether it is encrypted under a key of KMS."""
        try:
            return "encryptedKeyset" in json.loads(self.text)
        except (ValueError, TypeError, RecursionError):
            return False

    @property
    def key_ids(self) -> list[int]:
        """Ids of the keys, the primary key first. A wrapped keyset names its keys in the clear.

        Raises:
            KeysetError: it is no keyset
        """
        try:
            document = json.loads(self.text)
            if "encryptedKeyset" in document:
                keys, primary = document["keysetInfo"]["keyInfo"], document["keysetInfo"]["primaryKeyId"]
            else:
                keys, primary = document["key"], document["primaryKeyId"]
            return sorted([key["keyId"] for key in keys], key=lambda key_id: key_id != primary)
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise KeysetError("the keyset cannot be read: it is no Tink JSON keyset")

    def open(self) -> Keyset:
        """The keyset itself; raises KeysetError where it does not open, or is wrapped."""
        return Keyset.from_json(self.text)

    def unwrap(self, master_key: MasterKey | None) -> Self:
        """The keyset in the clear; itself, when it was never wrapped.

        Args:
            master_key: makes the key that unwraps; called only for a wrapped keyset

        Raises:
            KeysetError: it is wrapped with another key, changed, or there is no key to unwrap it
            KeyServiceUnavailable: KMS did not answer
        """
        if not self.is_wrapped:
            return self
        if master_key is None:
            raise KeysetError("the keyset is wrapped: set QUEUE_ETL_KMS_KEY_URI to the key that wraps it")
        daead.register()
        try:
            handle = tink.json_proto_keyset_format.parse_encrypted(self.text, master_key(), WRAP_CONTEXT)
            return type(self)(tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN))
        except (tink.TinkError, ValueError):
            pass
        # Out here, so that not even its __context__ holds the error of Tink, which quotes what it read.
        raise KeysetError("the keyset does not unwrap: it was wrapped with another key, or changed since")

    def wrap(self, master_key: MasterKey) -> Self:
        """The keyset, encrypted under the master key.

        Raises:
            KeysetError, KeyServiceUnavailable: KMS refused, or did not answer
        """
        daead.register()
        handle = tink.json_proto_keyset_format.parse(self.text, secret_key_access.TOKEN)
        return type(self)(
            tink.json_proto_keyset_format.serialize_encrypted(handle, master_key(), WRAP_CONTEXT)
        )

    def add_key(self) -> tuple[Self, int]:
        """The keyset with one more key, which opens what it encrypted but encrypts nothing yet, and its id.

        Every process must have this keyset before the key is promoted; otherwise some meet tokens that they
        cannot open.
        """
        document = self._document()
        used = {key["keyId"] for key in document["key"]}
        new = self.new()._document()
        while new["primaryKeyId"] in used:
            new = self.new()._document()
        return self._changed(document, key=[*document["key"], *new["key"]]), new["primaryKeyId"]

    def promote_key(self, key_id: int) -> Self:
        """The keyset with this key as the one that encrypts; raises KeysetError where it has no such key."""
        document = self._document()
        self._require(key_id)
        return self._changed(document, primaryKeyId=key_id)

    def remove_key(self, key_id: int) -> Self:
        """The keyset without this key: what is encrypted with it does not open any more.

        Raises:
            KeysetError: there is no such key, or it is the primary one
        """
        document = self._document()
        self._require(key_id)
        if key_id == document["primaryKeyId"]:
            raise KeysetError(f"key {key_id} is the primary key: promote another one first")
        return self._changed(document, key=[key for key in document["key"] if key["keyId"] != key_id])

    def only_key(self, key_id: int) -> Keyset:
        """The keyset with this key alone: its tokens are those that it ever made."""
        document = self._document()
        self._require(key_id)
        keys = [key for key in document["key"] if key["keyId"] == key_id]
        return self._changed(document, primaryKeyId=key_id, key=keys).open()

    def _document(self) -> dict[str, Any]:
        self.open()  # says what is wrong without quoting the secret
        document: dict[str, Any] = json.loads(self.text)
        return document

    def _require(self, key_id: int) -> None:
        if key_id not in self.key_ids:
            there_are = ", ".join(map(str, self.key_ids))
            raise KeysetError(f"the keyset has no key {key_id}; it has {there_are}")

    def _changed(self, document: dict[str, Any], **changes: object) -> Self:
        return type(self)(json.dumps({**document, **changes}, indent=2))


def is_development(key_id: int) -> bool:
    """Whether a key of this id was made for development."""
    return key_id >> 24 == DEVELOPMENT
