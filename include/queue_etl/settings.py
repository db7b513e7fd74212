"""Settings of the engine, read from environment variables that begin with QUEUE_ETL_."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from include.queue_etl.errors import SettingsError

PREFIX = "QUEUE_ETL_"
_S3 = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/\S*)?"
_KMS = r"aws-kms://arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/\S+"
# Messages must not come back before their batch is loaded: of the time that they are hidden, receiving takes
# a half at most.
RECEIVE_SHARE = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run behaves. Each field is the environment variable QUEUE_ETL_<FIELD IN CAPITALS>.

    The annotations are the rules. Where AWS sets a limit, it is named; sources: "Amazon SQS quotas" and
    "ReceiveMessage" (API reference).

    Attributes:
        staging: where batch files are kept between tasks: an absolute folder or s3://bucket/prefix
        env: `production` refuses everything that is only fit for development
        max_messages: a run takes at most this many messages
        freshness_seconds: a continuous pipeline begins a run when messages have waited for so long
        min_messages: or at once when so many wait
        batch_messages: messages in one batch file
        batch_bytes: a batch is closed early when its bodies reach this size, which bounds memory
        groups: most mask tasks of a run, and load tasks, each for a group of batches; 0: as many as the
            machine has cores, at most four
        receive_seconds: extract receives for at most so long, from the first message on
        visibility_timeout_seconds: how long received messages stay hidden; should cover a run with retries
        wait_seconds: a queue is taken for empty when long polls bring nothing for this long; 0: short polls
        transfers: most requests to SQS under way at once: 32 at first, more where its answers take longer
        request_timeout_seconds: longest wait for an answer of SQS, on top of the long poll
        max_receives: a message received more often is quarantined unparsed
        personal_data_sample: the personal data check looks at one in so many messages, 0: at none. A contract
            that asks for quarantine has all of its messages looked at, whatever this says
        body_limit_bytes: a longer body is quarantined unparsed
        retain_days: how long masked batch files of closed runs are kept for `reconcile`
        archive_days: how long raw batches of closed runs are kept for `replay`; 0: they go with the run
        quarantine_days: how long a quarantined message waits for a redrive; then maintenance deletes it
        ledger_days: how long the ids of messages are remembered, from the day they were sent
        orphan_margin_seconds: a run without progress for the visibility timeout and this long is given up
        unmask_per_hour: most tokens that one officer may unmask, values to mask and messages to look at,
            together within an hour; counted from the audit
        kms_key_uri: the AWS KMS key that wraps the keyset: aws-kms://arn:...; nothing: it is not wrapped
        alert_quarantined_percent: an alert is raised where more of a day's messages wait in quarantine
        alert_stalled_minutes: an alert is raised where messages wait and no run succeeded for so long
        alert_key_days: an alert is raised where the primary key has masked for longer; 0: never
        sqs_client: `pycurl`, or `boto3` where libcurl is not wanted (about ten times the CPU)
        queue_suffix: ends the name of every contract's queue, as in `-staging`: one for each environment
    """

    staging: Annotated[
        str, Meta(pattern=rf"^(/.*|{_S3})\Z", description="give an absolute folder or s3://bucket/prefix")
    ]
    env: Literal["development", "production"] = "development"
    # About 120,000 may be in flight on a standard queue.
    max_messages: Annotated[int, Meta(ge=1, le=100_000)] = 100_000
    freshness_seconds: Annotated[int, Meta(ge=0, le=3_600)] = 60
    min_messages: Annotated[int, Meta(ge=1, le=100_000)] = 10_000
    batch_messages: Annotated[int, Meta(ge=10, le=50_000)] = 10_000
    batch_bytes: Annotated[int, Meta(ge=1_048_576, le=268_435_456)] = 16_777_216
    groups: Annotated[int, Meta(ge=0, le=64)] = 0
    receive_seconds: Annotated[int, Meta(ge=1, le=300)] = 30  # well below the time limit of a task, 900 s
    # SQS: at most 12 hours. See RECEIVE_SHARE.
    visibility_timeout_seconds: Annotated[int, Meta(ge=2, le=43_200)] = 3_600
    wait_seconds: Annotated[int, Meta(ge=0, le=20)] = 2
    transfers: Annotated[int, Meta(ge=1, le=128)] = 128
    request_timeout_seconds: Annotated[int, Meta(ge=1, le=120)] = 10
    max_receives: Annotated[int, Meta(ge=1, le=1_000)] = 20
    body_limit_bytes: Annotated[int, Meta(ge=1, le=1_048_576)] = 1_048_576  # SQS: at most 1 MiB
    personal_data_sample: Annotated[int, Meta(ge=0, le=1_000_000)] = 100
    retain_days: Annotated[int, Meta(ge=0, le=14)] = 7  # SQS keeps a message 14 days at most
    archive_days: Annotated[int, Meta(ge=0, le=3_650)] = 0
    quarantine_days: Annotated[int, Meta(ge=1, le=3_650)] = 30
    ledger_days: Annotated[int, Meta(ge=35, le=3_650)] = 35  # ORIGIN_REACH_MS of sqs/wire.py counts on 35
    orphan_margin_seconds: Annotated[int, Meta(ge=0, le=86_400)] = 900
    unmask_per_hour: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    alert_quarantined_percent: Annotated[int, Meta(ge=0, le=100)] = 5
    alert_stalled_minutes: Annotated[int, Meta(ge=5, le=100_000)] = 30
    alert_key_days: Annotated[int, Meta(ge=0, le=3_650)] = 365
    kms_key_uri: Annotated[
        str,
        Meta(
            pattern=rf"^({_KMS})?\Z",
            description="give aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID, or nothing",
        ),
    ] = ""
    sqs_client: Literal["pycurl", "boto3"] = "pycurl"
    # `-dlq` ends the names of dead-letter queues: another environment's could have the same name.
    queue_suffix: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9_-]*(?<!-dlq))\Z",
            description="give letters, digits, - and _, not ending in -dlq, or nothing",
        ),
    ] = ""

    @property
    def group_count(self) -> int:
        """`groups`, as this machine has it where nobody set it."""
        return self.groups or min(os.cpu_count() or 1, 4)

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
        problems = [problem for name in RULES if (problem := _problem(name, values))]
        problems += _contradictions({field.name: field.default for field in fields(cls)} | values)
        if problems:
            raise SettingsError(problems)
        return cls(**{name: _converted(name, value) for name, value in values.items()})


# Field -> its annotation, in the order of the fields.
RULES: dict[str, Any] = get_type_hints(Settings, include_extras=True)


def limits(name: str) -> tuple[int, int]:
    """Smallest and largest allowed value of a setting that is a number."""
    (meta,) = RULES[name].__metadata__
    return meta.ge, meta.le


def queue_suffix(environment: Mapping[str, str]) -> str:
    """The setting of that name alone; raises SettingsError."""
    return str(read_some(environment, {}, "queue_suffix")["queue_suffix"])


def read_some(environment: Mapping[str, str], given: Mapping[str, int], *names: str) -> dict[str, Any]:
    """Settings of these names alone, where the others are not needed; what is given wins.

    Raises:
        SettingsError: names every wrong value of them
    """
    defaults: dict[str, Any] = {field.name: field.default for field in fields(Settings)}
    values = {name: given.get(name, environment.get(PREFIX + name.upper(), defaults[name])) for name in names}
    if problems := [problem for name in names if (problem := _problem(name, values))]:
        raise SettingsError(problems)
    return {name: _converted(name, value) for name, value in values.items()}


# What a contract may set for its own pipeline.
OF_A_PIPELINE = (
    "max_messages",
    "freshness_seconds",
    "min_messages",
    "batch_messages",
    "batch_bytes",
    "groups",
    "receive_seconds",
    "visibility_timeout_seconds",
    "wait_seconds",
    "transfers",
    "request_timeout_seconds",
    "max_receives",
    "body_limit_bytes",
    "personal_data_sample",
    "archive_days",
    "alert_quarantined_percent",
    "alert_stalled_minutes",
)


def pipeline_problems(given: Mapping[str, int]) -> list[str]:
    """What is wrong with the settings of a contract, a sentence each."""
    unknown = [name for name in given if name not in OF_A_PIPELINE]
    problems = [f"no setting {name} of a pipeline: one of {', '.join(OF_A_PIPELINE)}" for name in unknown]
    known = {name: value for name, value in given.items() if name in OF_A_PIPELINE}
    return problems + [
        f"{name}={value!r}: {_rule(name)}" for name, value in known.items() if not _is_valid(name, value)
    ]


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
    if _is_valid(name, given):
        return None
    return f"{PREFIX}{name.upper()}={str(given)!r}: {_rule(name)}"


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """What no single value is to blame for, and how to fix it."""
    names = ("receive_seconds", "visibility_timeout_seconds")
    if not all(_is_valid(name, values[name]) for name in names):
        return []
    receive, hidden = (int(values[name]) for name in names)
    if RECEIVE_SHARE * receive <= hidden:
        return []
    return [
        f"{PREFIX}RECEIVE_SECONDS={receive} is too long for {PREFIX}VISIBILITY_TIMEOUT_SECONDS={hidden}: "
        f"set the first to at most {hidden // RECEIVE_SHARE}, or the second to at least "
        f"{RECEIVE_SHARE * receive}, else messages come back before they are loaded"
    ]


def _is_valid(name: str, value: int | str) -> bool:
    try:
        _converted(name, value)
    except msgspec.ValidationError:
        return False
    return True


def _converted(name: str, value: int | str) -> Any:
    return msgspec.convert(value, RULES[name], strict=False)


def _rule(name: str) -> str:
    rule = RULES[name]
    if not hasattr(rule, "__metadata__"):
        return f"must be one of {', '.join(get_args(rule))}"
    (meta,) = rule.__metadata__
    return meta.description or f"must be a whole number from {meta.ge} to {meta.le}"
