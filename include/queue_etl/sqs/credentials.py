"""Where SQS answers and who asks, from the environment alone: for cron, Lambda and the command line.

boto3 knows many more sources. To import it and to make a client takes 0.2 s of CPU, as much as to receive
40,000 messages, so where the environment says all there is to say, it is not asked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import certifi

# With any of these set, or one of the files there, more than the environment has a say.
OTHER_SOURCES = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
)
FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
# Of the partition `aws`; others have domains of their own.
_REGION = re.compile(r"(af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-[0-9]")
_ENDPOINT = re.compile(r"https?://[^/\s]+/?")


class Credentials(NamedTuple):
    """Credentials that stay what they are."""

    access_key: str
    secret_key: str
    token: str | None

    def get_frozen_credentials(self) -> Self:
        """Themselves; botocore's credentials, in whose place these stand, refresh here."""
        return self


@dataclass(frozen=True, slots=True)
class Access:
    """What a request to SQS needs.

    Attributes:
        endpoint: URL
        region: for the signature
        credentials: botocore's, or Credentials
        ca_bundle: file of the certificates to trust
    """

    endpoint: str
    region: str
    credentials: Any
    ca_bundle: str


def from_environment(environment: Mapping[str, str]) -> Access | None:
    """What boto3 would use too, or None where only boto3 can tell."""
    files = (Path(environment.get(name) or usual).expanduser() for name, usual in FILES.items())
    if any(environment.get(name) for name in OTHER_SOURCES) or any(file.exists() for file in files):
        return None
    key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    region = environment.get("AWS_DEFAULT_REGION") or ""
    endpoint = _endpoint(environment, region)
    if not (key and secret and region and endpoint):
        return None
    token = environment.get("AWS_SECURITY_TOKEN") or environment.get("AWS_SESSION_TOKEN") or None
    return Access(endpoint, region, Credentials(key, secret, token), ca_bundle(environment))


def ca_bundle(environment: Mapping[str, str]) -> str:
    """The certificates boto3 would trust, as far as the environment says."""
    return environment.get("AWS_CA_BUNDLE") or environment.get("REQUESTS_CA_BUNDLE") or certifi.where()


def _endpoint(environment: Mapping[str, str], region: str) -> str | None:
    given = environment.get("AWS_ENDPOINT_URL_SQS") or environment.get("AWS_ENDPOINT_URL")
    if given:
        return given if _ENDPOINT.fullmatch(given) else None
    return f"https://sqs.{region}.amazonaws.com" if _REGION.fullmatch(region) else None
