"""Requests to SQS are signed as botocore signs them, and no more often than need be."""

from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.sqs.credentials import Credentials
from include.queue_etl.sqs.signature import Signer

NOON = 1_769_947_200
DAY = 86_400
USUAL = Credentials("id", "secret", None)
URL = "https://sqs.eu-west-1.amazonaws.com/"
# What HTTP carries without a change: no blanks at the ends, no line breaks.
secrets = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1, max_size=60)
tokens = st.none() | st.text("abcXYZ019+/=", min_size=1, max_size=900)


class Clock:
    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


def as_text(headers: list[bytes]) -> dict[str, str]:
    return {name.lower(): value for name, value in (line.decode().split(": ", 1) for line in headers)}


def signature_of_botocore(sent: dict[str, str], url: str, body: bytes, credentials: Any) -> str:
    """The Authorization header for these headers, its own of course left out."""
    names = {name: value for name, value in sent.items() if name != "authorization"}
    request = AWSRequest("POST", url, names, body)
    request.context["timestamp"] = sent["x-amz-date"]
    signer = SigV4Auth(credentials, "sqs", "eu-west-1")
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    return (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={';'.join(sorted(names))}, "
        f"Signature={signature}"
    )


@given(secrets, tokens, st.binary(max_size=5_000), st.integers(0, 2**32))
def test_a_signature_is_that_of_botocore(secret, token, body, second):
    credentials = Credentials("AKIAEXAMPLE", secret, token)
    sent = as_text(Signer(URL, "eu-west-1", lambda: second).headers("DeleteMessageBatch", body, credentials))
    assert sent["authorization"] == signature_of_botocore(sent, URL, body, credentials)
    assert sent["x-amz-target"] == "AmazonSQS.DeleteMessageBatch"
    assert sent.get("x-amz-security-token") == token


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:4566/", "127.0.0.1:4566"),
        ("https://sqs.eu-west-1.amazonaws.com:443/", "sqs.eu-west-1.amazonaws.com"),
        ("http://sqs.test:80/", "sqs.test"),
        ("http://sqs.test:443/", "sqs.test:443"),
        ("http://[::1]:9324/a path/of~it/", "[::1]:9324"),
    ],
)
def test_host_and_path_are_those_of_the_endpoint(url, host):
    credentials = Credentials("id", "secret", None)
    sent = as_text(Signer(url, "eu-west-1", Clock()).headers("ReceiveMessage", b"{}", credentials))
    assert sent["host"] == host
    assert sent["authorization"] == signature_of_botocore(sent, url, b"{}", credentials)


def test_the_same_request_within_a_second_is_signed_once():
    clock, credentials, body = Clock(), Credentials("id", "secret", None), b'{"a": 1}'
    signer = Signer(URL, "eu-west-1", clock)
    first = signer.headers("ReceiveMessage", body, credentials)
    clock.now += 0.9
    assert signer.headers("ReceiveMessage", body, credentials) is first
    clock.now += 0.2
    assert signer.headers("ReceiveMessage", body, credentials) != first


@pytest.mark.parametrize(
    ("action", "body", "credentials", "seconds"),
    [
        ("DeleteMessageBatch", b"{}", USUAL, 0),
        ("ReceiveMessage", b"[]", USUAL, 0),
        ("ReceiveMessage", b"{}", Credentials("id", "another", None), 0),
        ("ReceiveMessage", b"{}", Credentials("id", "secret", "token"), 0),
        ("ReceiveMessage", b"{}", USUAL, DAY),
    ],
    ids=["action", "body", "secret", "token", "day"],
)
def test_a_request_that_differs_is_signed_anew(action, body, credentials, seconds):
    clock = Clock()
    signer = Signer(URL, "eu-west-1", clock)
    before = as_text(signer.headers("ReceiveMessage", b"{}", USUAL))
    clock.now += seconds
    sent = as_text(signer.headers(action, body, credentials))
    assert sent["authorization"] == signature_of_botocore(sent, URL, body, credentials)
    assert sent["authorization"] != before["authorization"]
