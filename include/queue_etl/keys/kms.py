"""AWS KMS as the key that wraps the keyset: Tink's own client, whose errors become ours."""

from typing import TYPE_CHECKING, Any

import tink
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tink import aead
from tink.integration import awskms

from include.queue_etl.errors import KeyServiceUnavailable, KeysetError

if TYPE_CHECKING:
    from boto3 import Session

THROTTLED = (
    "ThrottlingException",
    "KMSInternalException",
    "DependencyTimeoutException",
    "KeyUnavailableException",
)


class KmsKey(aead.Aead):  # type: ignore[misc]
    """A key that never leaves KMS. Each call is one request."""

    def __init__(self, key_uri: str, session: "Session", endpoint_url: str | None) -> None:
        config = Config(
            connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 4}
        )
        client = session.client("kms", endpoint_url=endpoint_url, config=config)
        try:
            self._aead = awskms.new_client(boto3_client=client, key_uri=key_uri).get_aead(key_uri)
        except tink.TinkError:
            raise KeysetError(f"not the address of a KMS key: {key_uri}") from None

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """Raises KeysetError when KMS refuses, KeyServiceUnavailable when it does not answer."""
        return self._asked(self._aead.encrypt, plaintext, associated_data)

    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        """Raises KeysetError when KMS refuses, KeyServiceUnavailable when it does not answer."""
        return self._asked(self._aead.decrypt, ciphertext, associated_data)

    def _asked(self, call: Any, text: bytes, associated_data: bytes) -> bytes:
        try:
            answer: bytes = call(text, associated_data)
        except BotoCoreError as error:
            raise KeyServiceUnavailable(f"KMS did not answer: {type(error).__name__}") from None
        except tink.TinkError as error:
            code = _code(error)
            if code in THROTTLED:
                raise KeyServiceUnavailable(f"KMS asks to try again: {code}") from None
            raise KeysetError(f"KMS refused: {code}") from None
        return answer


def _code(error: tink.TinkError) -> str:
    """AWS's error code; Tink hands the ClientError on as its argument."""
    told = error.args[0] if error.args else None
    return str(told.response["Error"].get("Code")) if isinstance(told, ClientError) else "unknown"
