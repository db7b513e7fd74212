"""Settings of the engine, read from environment variables that begin with QUEUE_ETL_."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from include.queue_etl.errors import SettingsError

PREFIX = "QUEUE_ETL_"
_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/\S*)?")
_KMS = re.compile(r"(aws-kms://arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/\S+)?")
# Settings that are text of a form: how it looks, and what to say when it does not.
FORMS = {
    "staging": (re.compile(rf"/.*|{_S3.pattern}"), "give an absolute folder or s3://bucket/prefix"),
    "kms_key_uri": (_KMS, "give aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID, or nothing"),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Smallest and largest allowed value of a number."""

    least: int
    most: int

    @property
    def allowed(self) -> range:
        """Every allowed value."""
        return range(self.least, self.most + 1)


# Where AWS sets the limit, it is named. Sources: "Amazon SQS quotas", "ReceiveMessage" (API reference).
LIMITS = {
    "max_messages": Limits(1, 100_000),  # about 120,000 may be in flight on a standard queue
    "batch_messages": Limits(10, 50_000),
    "batch_bytes": Limits(1_048_576, 268_435_456),
    "receive_seconds": Limits(1, 300),  # well below the time limit of a task, 900 s
    "visibility_timeout_seconds": Limits(2, 43_200),  # SQS: at most 12 hours; see RECEIVE_SHARE
    "wait_seconds": Limits(0, 20),
    "transfers": Limits(1, 128),
    "request_timeout_seconds": Limits(1, 120),
    "max_receives": Limits(1, 1_000),
    "body_limit_bytes": Limits(1, 1_048_576),  # SQS: a message has at most 1 MiB
    "retain_days": Limits(0, 14),  # SQS keeps a message 14 days at most
    "quarantine_days": Limits(1, 3_650),
    "ledger_days": Limits(35, 3_650),  # sqs/wire.py counts on 35: ORIGIN_REACH_MS
    "orphan_margin_seconds": Limits(0, 86_400),
    "unmask_per_hour": Limits(1, 1_000_000),
}
# Messages must not come back before their batch is loaded: of the time that they are hidden, receiving takes
# a half at most.
RECEIVE_SHARE = 2
CHOICES = {"env": ("development", "production"), "sqs_client": ("pycurl", "boto3")}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run behaves. Each field is the environment variable QUEUE_ETL_<FIELD IN CAPITALS>.

    Attributes:
        staging: where batch files are kept between tasks: an absolute folder or s3://bucket/prefix
        env: `production` refuses everything that is only fit for development
        max_messages: a run takes at most this many messages
        batch_messages: messages in one batch file
        batch_bytes: a batch is closed early when its bodies reach this size, which bounds memory
        receive_seconds: extract receives for at most so long, from the first message on
        visibility_timeout_seconds: how long received messages stay hidden; should cover a run with retries
        wait_seconds: a queue is taken for empty when long polls bring nothing for this long; 0: short polls
        transfers: requests to SQS under way at once
        request_timeout_seconds: longest wait for an answer of SQS, on top of the long poll
        max_receives: a message received more often is quarantined unparsed
        body_limit_bytes: a longer body is quarantined unparsed
        retain_days: how long masked batch files of closed runs are kept for `reconcile`
        quarantine_days: how long a quarantined message waits for a redrive; then maintenance deletes it
        ledger_days: how long the ids of messages are remembered, from the day they were sent
        orphan_margin_seconds: a run without progress for the visibility timeout and this long is given up
        unmask_per_hour: most tokens that one officer may unmask within an hour, counted from the audit
        kms_key_uri: the AWS KMS key that wraps the keyset: aws-kms://arn:...; nothing: it is not wrapped
        sqs_client: `pycurl`, or `boto3` where libcurl is not wanted (about ten times the CPU)
    """

    staging: str
    env: str = "development"
    max_messages: int = 100_000
    batch_messages: int = 10_000
    batch_bytes: int = 16_777_216
    receive_seconds: int = 30
    visibility_timeout_seconds: int = 3_600
    wait_seconds: int = 2
    transfers: int = 32
    request_timeout_seconds: int = 10
    max_receives: int = 20
    body_limit_bytes: int = 1_048_576
    retain_days: int = 7
    quarantine_days: int = 30
    ledger_days: int = 35
    orphan_margin_seconds: int = 900
    unmask_per_hour: int = 1_000
    kms_key_uri: str = ""
    sqs_client: str = "pycurl"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **overrides: int | str) -> "Settings":
        """Settings from `environment`; `overrides` (a DAG run's params) win.

        Raises:
            SettingsError: names every missing or wrong value at once, and the variable that sets it
        """
        given = {
            field.name: environment[PREFIX + field.name.upper()]
            for field in fields(cls)
            if PREFIX + field.name.upper() in environment
        }
        values = {**given, **overrides}
        problems = [problem for name in cls._names() if (problem := _problem(name, values))]
        problems += _contradictions({field.name: field.default for field in fields(cls)} | values)
        if problems:
            raise SettingsError(problems)
        return cls(**{name: _value(name, text) for name, text in values.items()})

    @classmethod
    def _names(cls) -> list[str]:
        return [field.name for field in fields(cls)]


def read_all(*readers: Callable[[], Any]) -> list[Any]:
    """What each reader returns, in order.

    Raises:
        SettingsError: the problems of all readers that raised one
    """
    found, problems = [], list[str]()
    for read in readers:
        try:
            found.append(read())
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    return found


def _problem(name: str, values: Mapping[str, int | str]) -> str | None:
    """What is wrong with one setting, and how to fix it; None where nothing is."""
    given = values.get(name)
    if given is None:
        return f"{PREFIX}STAGING is not set: {_rule(name)}" if name == "staging" else None
    if _is_valid(name, str(given)):
        return None
    return f"{PREFIX}{name.upper()}={str(given)!r}: {_rule(name)}"


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """What no single value is to blame for, and how to fix it."""
    names = ("receive_seconds", "visibility_timeout_seconds")
    if not all(_is_valid(name, str(values[name])) for name in names):
        return []
    receive, hidden = (int(values[name]) for name in names)
    if RECEIVE_SHARE * receive <= hidden:
        return []
    return [
        f"{PREFIX}RECEIVE_SECONDS={receive} is too long for {PREFIX}VISIBILITY_TIMEOUT_SECONDS={hidden}: "
        f"set the first to at most {hidden // RECEIVE_SHARE}, or the second to at least "
        f"{RECEIVE_SHARE * receive}, else messages come back before they are loaded"
    ]


def _is_valid(name: str, text: str) -> bool:
    if name in FORMS:
        return FORMS[name][0].fullmatch(text) is not None
    if name in CHOICES:
        return text in CHOICES[name]
    return re.fullmatch(r"[0-9]{1,9}", text) is not None and int(text) in LIMITS[name].allowed


def _rule(name: str) -> str:
    if name in FORMS:
        return FORMS[name][1]
    if name in CHOICES:
        return f"must be one of {', '.join(CHOICES[name])}"
    return f"must be a whole number from {LIMITS[name].least} to {LIMITS[name].most}"


def _value(name: str, text: int | str) -> Any:
    return int(text) if name in LIMITS else text
