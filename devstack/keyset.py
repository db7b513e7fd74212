"""A keyset for development, made without Tink: no virtualenv has to be built for it."""

import base64
import json
import secrets

TYPE_URL = "type.googleapis.com/google.crypto.tink.AesSivKey"
KEY_BYTES = 64  # AES256_SIV: two keys of 256 bits (RFC 5297)
KEY_VALUE_FIELD = b"\x12"  # of the protobuf message AesSivKey: field 2, bytes; version 0 is left out
# First byte of a key's id, as include/queue_etl/keys/keyset_document.py marks keys for development.
DEVELOPMENT = 0xDE


def new_json() -> str:
    """Return a fresh keyset with one AES256_SIV key, in Tink's JSON form, marked as made for development."""
    key_id = DEVELOPMENT << 24 | secrets.randbits(24)
    message = KEY_VALUE_FIELD + bytes([KEY_BYTES]) + secrets.token_bytes(KEY_BYTES)
    key = {
        "keyData": {
            "typeUrl": TYPE_URL,
            "value": base64.b64encode(message).decode(),
            "keyMaterialType": "SYMMETRIC",
        },
        "status": "ENABLED",
        "keyId": key_id,
        "outputPrefixType": "TINK",
    }
    return json.dumps({"primaryKeyId": key_id, "key": [key]}, indent=2)
