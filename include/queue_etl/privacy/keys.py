"""The keys of a keyset: made, added, made primary, removed. Pure, on Tink's JSON form in the clear.

A rotation is: `added`, `promoted`, everything moved to the new primary key (rotation.py), `without`. Keys and
form are Tink's own, so that Tink in any language opens the result.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from include.queue_etl.errors import KeysetError
from include.queue_etl.keyset import Keyset, MasterKey, unwrapped, wrapped


def key_ids(text: str) -> list[int]:
    """Ids of the keys, the primary key first.

    Raises:
        KeysetError: as Keyset.from_json does
    """
    found = _parsed(text)
    ids = [key["keyId"] for key in found["key"]]
    return sorted(ids, key=lambda key_id: key_id != found["primaryKeyId"])


def added(text: str) -> tuple[str, int]:
    """The keyset with one more key, which opens what it sealed but seals nothing yet, and its id.

    Every process must have this keyset before the key is promoted: else some meet tokens they cannot open.
    """
    found = _parsed(text)
    used = {key["keyId"] for key in found["key"]}
    new = json.loads(Keyset.new_json())
    while new["primaryKeyId"] in used:
        new = json.loads(Keyset.new_json())
    return _text({**found, "key": [*found["key"], *new["key"]]}), new["primaryKeyId"]


def promoted(text: str, key_id: int) -> str:
    """The keyset with this key as the one that seals from now on."""
    found = _parsed(text)
    _require(found, key_id)
    return _text({**found, "primaryKeyId": key_id})


def without(text: str, key_id: int) -> str:
    """The keyset without this key: what bears it does not open any more.

    Raises:
        KeysetError: there is no such key, or it is the primary one
    """
    found = _parsed(text)
    _require(found, key_id)
    if key_id == found["primaryKeyId"]:
        raise KeysetError(f"key {key_id} is the primary key: promote another one first")
    return _text({**found, "key": [key for key in found["key"] if key["keyId"] != key_id]})


def single(text: str, key_id: int) -> Keyset:
    """The keyset with this key alone: its tokens are those that it ever made."""
    found = _parsed(text)
    _require(found, key_id)
    keys = [key for key in found["key"] if key["keyId"] == key_id]
    return Keyset.from_json(_text({"primaryKeyId": key_id, "key": keys}))


class KeyFile:
    """A keyset in a file of its owner's own, wrapped where there is a master key."""

    def __init__(self, path: Path, master_key: MasterKey | None) -> None:
        self._path = path
        self._master_key = master_key

    def read(self) -> str:
        """The keyset in the clear; raises OSError and KeysetError."""
        return unwrapped(self._path.read_text(encoding="utf-8"), self._master_key)

    def sealed(self, text: str) -> str:
        """What stands in the file, or in a secrets backend, for this keyset."""
        return wrapped(text, self._master_key) if self._master_key else text

    def create(self, text: str) -> None:
        """Write a new file; FileExistsError where there is one."""
        self._write(text, self._path)

    def replace(self, text: str) -> None:
        """Write the file anew, whole or not at all."""
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(6)}")
        try:
            self._write(text, temporary)
            temporary.rename(self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def _write(self, text: str, path: Path) -> None:
        sealed = self.sealed(text)  # before the file: KMS may refuse
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(sealed)
            file.flush()
            os.fsync(descriptor)


def _parsed(text: str) -> dict[str, Any]:
    Keyset.from_json(text)  # says what is wrong without quoting the secret
    found: dict[str, Any] = json.loads(text)
    return found


def _require(found: dict[str, Any], key_id: int) -> None:
    ids = [key["keyId"] for key in found["key"]]
    if key_id not in ids:
        raise KeysetError(f"the keyset has no key {key_id}, but {', '.join(map(str, ids))}")


def _text(keyset: dict[str, Any]) -> str:
    return json.dumps(keyset, indent=2)
