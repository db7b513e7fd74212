"""Settings of the engine, read from environment variables that begin with QUEUE_ETL_."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from include.queue_etl.errors import SettingsError

PREFIX = "QUEUE_ETL_"


@dataclass(frozen=True, slots=True)
class Limits:
    """Smallest and largest allowed value of a number."""

    least: int
    most: int


# Where AWS sets the limit, it is named. Sources: "Amazon SQS quotas", "ReceiveMessage" (API reference).
LIMITS = {
    "max_messages": Limits(1, 100_000),  # about 120,000 may be in flight on a standard queue
    "batch_messages": Limits(10, 50_000),
    "visibility_timeout_seconds": Limits(1, 43_200),  # SQS: at most 12 hours
    "wait_seconds": Limits(0, 20),  # SQS: long poll of at most 20 s
    "transfers": Limits(1, 128),
    "request_timeout_seconds": Limits(1, 120),
    "max_receives": Limits(1, 1_000),
    "body_limit_bytes": Limits(1, 1_048_576),  # SQS: a message has at most 1 MiB
    "retain_days": Limits(0, 14),  # SQS keeps a message 14 days at most
}
CHOICES = {"env": ("development", "production"), "sqs_client": ("pycurl", "boto3")}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run behaves. Each field is the environment variable QUEUE_ETL_<FIELD IN CAPITALS>.

    Attributes:
        staging: where batch files are kept between tasks: an absolute folder or s3://bucket/prefix
        env: `production` refuses everything that is only fit for development
        max_messages: a run takes at most this many messages
        batch_messages: messages in one batch file
        visibility_timeout_seconds: how long received messages stay hidden; should cover a run with its retries
        wait_seconds: long poll of a receive call; a queue is taken for empty after one empty long poll
        transfers: requests to SQS under way at once
        request_timeout_seconds: longest wait for an answer of SQS, on top of the long poll
        max_receives: a message received more often is quarantined unparsed
        body_limit_bytes: a longer body is quarantined unparsed
        retain_days: how long masked batch files of closed runs are kept for `reconcile`
        sqs_client: `pycurl`, or `boto3` where libcurl is not wanted (about ten times the CPU)
    """

    staging: str
    env: str = "development"
    max_messages: int = 100_000
    batch_messages: int = 10_000
    visibility_timeout_seconds: int = 3_600
    wait_seconds: int = 2
    transfers: int = 32
    request_timeout_seconds: int = 10
    max_receives: int = 20
    body_limit_bytes: int = 1_048_576
    retain_days: int = 7
    sqs_client: str = "pycurl"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **overrides: int | str) -> "Settings":
        """Settings from `environment`; `overrides` (a DAG run's params) win.

        Raises:
            SettingsError: names every missing or wrong value at once, and the variable that mends it
        """
        given = {
            field.name: environment[PREFIX + field.name.upper()]
            for field in fields(cls)
            if PREFIX + field.name.upper() in environment
        }
        values = {**given, **overrides}
        problems = [problem for name in cls._names() if (problem := _problem(name, values))]
        if problems:
            raise SettingsError(problems)
        return cls(**{name: _value(name, text) for name, text in values.items()})

    @classmethod
    def _names(cls) -> list[str]:
        return [field.name for field in fields(cls)]


def _problem(name: str, values: Mapping[str, int | str]) -> str | None:
    """What is wrong with one setting, or None."""
    variable = PREFIX + name.upper()
    if name not in values:
        return (
            None
            if name != "staging"
            else f"{variable} is not set: give an absolute folder or s3://bucket/prefix"
        )
    text = str(values[name])
    if name == "staging":
        return _staging_problem(variable, text)
    if name in CHOICES:
        return (
            None
            if text in CHOICES[name]
            else f"{variable}={text!r}: must be one of {', '.join(CHOICES[name])}"
        )
    limits = LIMITS[name]
    if re.fullmatch(r"[0-9]{1,9}", text) and limits.least <= int(text) <= limits.most:
        return None
    return f"{variable}={text!r}: must be a whole number from {limits.least} to {limits.most}"


def _staging_problem(variable: str, text: str) -> str | None:
    if re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?", text) or text.startswith("/"):
        return None
    return f"{variable}={text!r}: must be an absolute folder or s3://bucket/prefix"


def _value(name: str, text: int | str) -> Any:
    return int(text) if name in LIMITS else text
