"""Signs requests to SQS: AWS Signature Version 4, of JSON that is posted to an endpoint.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html

A request says the second it was signed in. So a receive call, whose JSON is that of the one before, is signed
once a second, and the key is derived once a day.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
_CONTENT_TYPE = "application/x-amz-json-1.0"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Signer:
    """Makes the headers of requests.

    Args:
        url: of the endpoint, with its path
        region: for the signature
        clock: Unix seconds
    """

    def __init__(self, url: str, region: str, clock: Callable[[], float] = time.time) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc.rpartition("@")[2].removesuffix(_DEFAULT_PORTS.get(parts.scheme, ""))
        self._path = quote(parts.path, safe="/~") or "/"
        self._region = region
        self._clock = clock
        self._second = -1
        self._credentials: Any = None
        self._key_of: tuple[str, str] = ("", "")
        self._last: tuple[str, bytes] = ("", b"")
        self._headers: list[bytes] = []

    def headers(self, action: str, body: bytes, credentials: Any) -> list[bytes]:
        """All headers of a request that a client does not add by itself, Host among them.

        The same list as before where nothing has changed: same action, body and credentials, same second.

        Args:
            action: of the SQS API
            body: JSON
            credentials: frozen ones of botocore, or Credentials
        """
        second = int(self._clock())
        if second != self._second or credentials is not self._credentials:
            self._begin(second, credentials)
        elif action == self._last[0] and body is self._last[1]:
            return self._headers
        self._last = action, body
        self._headers = self._signed(action, body)
        return self._headers

    def _begin(self, second: int, credentials: Any) -> None:
        """Make what all requests of this second have in common."""
        self._second, self._credentials = second, credentials
        self._moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        day = self._moment[:8]
        self._scope = f"{day}/{self._region}/sqs/aws4_request"
        if self._key_of != (day, credentials.secret_key):
            self._key_of = day, credentials.secret_key
            self._key = _derived(f"AWS4{credentials.secret_key}".encode(), self._scope.split("/"))
        sent = {"content-type": _CONTENT_TYPE, "host": self._host, "x-amz-date": self._moment}
        if credentials.token:
            sent["x-amz-security-token"] = credentials.token
        self._sent = [f"{name}: {value}".encode() for name, value in sent.items()]
        self._canonical = "".join(f"{name}:{value}\n" for name, value in sent.items())
        self._names = ";".join([*sent, "x-amz-target"])  # in the order of the alphabet

    def _signed(self, action: str, body: bytes) -> list[bytes]:
        target = f"AmazonSQS.{action}"
        request = (
            f"POST\n{self._path}\n\n{self._canonical}x-amz-target:{target}\n\n{self._names}\n"
            f"{hashlib.sha256(body).hexdigest()}"
        )
        text = f"{_ALGORITHM}\n{self._moment}\n{self._scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        credential = f"{self._credentials.access_key}/{self._scope}"
        authorization = (
            f"Authorization: {_ALGORITHM} Credential={credential}, SignedHeaders={self._names}, "
            f"Signature={signature}"
        )
        return [*self._sent, f"X-Amz-Target: {target}".encode(), authorization.encode()]


def _derived(key: bytes, scope: list[str]) -> bytes:
    """The key for a scope: day, region, service, end."""
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    return key
