"""What a pipeline is: which queue, which events, which of their fields are personal, which table."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import msgspec

from include.queue_etl.contract.columns import Column, Form, MaskedField, columns_of
from include.queue_etl.contract.marks import ATTRIBUTE_PATH, Day, MessageColumn, Month
from include.queue_etl.settings import pipeline_problems

# Longest name that Postgres keeps: https://www.postgresql.org/docs/current/limits.html
_LONGEST_NAME = 63
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# In lower case: the warehouse's functions look the name up as text, whose capitals Postgres lowers.
_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,62}\.[a-z_][a-z0-9_]{0,62}")
_NOT_OURS = re.compile(r"(etl|pii|information_schema|pg_.*)\..*")  # Postgres keeps pg_ for itself
# Shapes have `: ` and `, ` between what they hold.
_UNUSABLE = re.compile(r"[^\S ]|^ | $|  |: |, |[\"\\`]")

# Of SQS, less the four characters that name the dead-letter queue:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html
_QUEUE = re.compile(r"[A-Za-z0-9_-]{1,76}")
_AWS = re.compile(r"[A-Za-z0-9_.:/-]{1,200}")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]+")
_ACCOUNT = re.compile(r"[0-9]{12}")
# It becomes the end of variables and of ids of connections, and a folder of staging that is no UUID.
_WAREHOUSE = re.compile(r"[a-z]([a-z0-9]|_(?!_)){0,29}(?<!_)")

CONTINUOUS = "@continuous"
# Of SQS, for standard queues; see settings.Settings.max_messages.
_IN_FLIGHT = 120_000
# Smallest and largest value. An attempt of extract may receive for 440 s.
_NUMBERS = {
    "retries": (0, 100),
    "runs_at_once": (1, 100),
    "task_seconds": (900, 43_200),
    "run_seconds": (900, 86_400),
}

UnknownFields = Literal["ignore", "reject", "keep"]
PersonalDataCheck = Literal["count", "quarantine", "off"]


class QueuePlace(NamedTuple):
    """Where a contract's two queues are; what is empty is the deployment's own.

    Attributes:
        aws: Airflow connection, outside Airflow a profile of boto3: credentials, region, endpoint
        region: wins over that of `aws`
        account: of AWS, which owns the queues
    """

    aws: str = ""
    region: str = ""
    account: str = ""


def table_problem(table: str) -> str:
    """What is wrong with the name of a contract's table, and how to mend it; "" where nothing is."""
    if not _TABLE.fullmatch(table):
        return f"{table!r}: give its schema and its name in lower case, such as public.orders"
    if _NOT_OURS.fullmatch(table):
        return f"{table!r}: its schema is not for contracts: give another, such as public"
    return ""


@dataclass(frozen=True)
class Contract:
    """One pipeline: `queue` -> `event` -> columns of `table`.

    Attributes:
        name: also the DAG id and part of every token's associated data; renaming it breaks old tokens
        queue: name of the SQS queue
        table: schema-qualified Postgres table
        event: msgspec struct; its annotations are the rules: type, bounds, what may be null or missing, and
            the marks of this package. A nested struct becomes a column for each of its fields
        message: columns from the message itself; they follow those of the event
        key: name of a column: a row with the same key is replaced by one that was sent later
        partition_by: the table has a partition for each month or day
        indexes: names of the columns of each index
        retain_days: maintenance drops partitions whose last day is longer ago; None: it drops none
        replay_tables: further tables like `table`, which `replay` fills; whatever reaches one reaches all
        unknown_fields: what becomes of a message with fields that no struct declares: they are counted by
            name and left out ("ignore"), or kept encrypted beside the row ("keep"), or the message goes to
            quarantine ("reject")
        personal_data_check: what becomes of a message with a personal value in a field that is not Personal:
            a sample of the messages is looked at, and such fields are counted ("count"); every message is
            looked at, and such a message goes to quarantine ("quarantine"); or none is looked at ("off")
        sns_envelope: bodies are SNS notifications whose "Message" holds the event
        schedule: of the DAG, as Airflow takes it; "@continuous": a run begins when messages wait; None: it
            runs when somebody starts it
        runs_at_once: most runs of the DAG at the same time
        task_seconds: longest time of an attempt of a task
        run_seconds: longest time of a run
        owner: of the DAG's tasks
        tags: of the DAG, behind those that all have
        retries: how often a task is tried again
        settings: of this pipeline alone; they win over the environment, and a run's form wins over them
        aws: Airflow connection with the credentials for the queue, outside Airflow a profile of boto3; "":
            those of the deployment
        region: of the queue; "": that of the credentials
        queue_account: number of the AWS account that owns the queue; "": that of the credentials
        warehouse: name of a warehouse that has connections of its own; "": that of the deployment
    """

    name: str
    queue: str
    table: str
    event: type[msgspec.Struct]
    message: tuple[MessageColumn, ...] = ()
    key: str = ""
    partition_by: Month | Day | None = None
    indexes: tuple[tuple[str, ...], ...] = ()
    retain_days: int | None = None
    replay_tables: tuple[str, ...] = ()
    unknown_fields: UnknownFields = "ignore"
    personal_data_check: PersonalDataCheck = "count"
    sns_envelope: bool = False
    schedule: str | None = CONTINUOUS
    runs_at_once: int = 1
    task_seconds: int = 900
    run_seconds: int = 3_600
    owner: str = "data-platform"
    tags: tuple[str, ...] = ()
    retries: int = 4
    settings: Mapping[str, int] = field(default_factory=dict, hash=False)
    aws: str = ""
    region: str = ""
    queue_account: str = ""
    warehouse: str = ""

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ValueError(f"contract {self.name}: {'; '.join(problems)}")

    def each_table(self) -> tuple["Contract", ...]:
        """The contract as it is, then for each of its replay tables as if that were its own."""
        others = (replace(self, table=table, replay_tables=()) for table in self.replay_tables)
        return (self, *others)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns that a load writes, in the order in which it writes them."""
        return columns_of(self.event, self.message)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns, in their order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)

    @cached_property
    def personal(self) -> tuple[MaskedField, ...]:
        """Everything that is masked, in the order of the columns."""
        return tuple(masked for column in self.columns for masked in column.masked)

    @property
    def recoverable(self) -> tuple[MaskedField, ...]:
        """What is masked so that its value can be recovered."""
        return tuple(masked for masked in self.personal if masked.mark.is_recoverable)

    @cached_property
    def subject(self) -> Column | None:
        """The column that says whose row it is."""
        return next((column for column in self.columns if column.is_subject), None)

    @property
    def sent_at(self) -> Column | None:
        """The column of when the message was sent, to the millisecond."""
        return next((column for column in self.columns if column.form is Form.SENT_AT), None)

    @cached_property
    def asked_for(self) -> tuple[Column, ...]:
        """The columns of what SQS sends beside the body only where it is asked for; usually none."""
        return tuple(column for column in self.columns if column.is_asked_for)

    @property
    def dead_letter_queue(self) -> str:
        """Name of the queue's dead-letter queue."""
        return f"{self.queue}-dlq"

    @property
    def place(self) -> QueuePlace:
        """Where both queues are."""
        return QueuePlace(self.aws, self.region, self.queue_account)

    @property
    def elsewhere(self) -> str:
        """In words, what of queue and warehouse is not the deployment's own; "" where everything is."""
        given = {
            "warehouse": self.warehouse,
            "AWS connection": self.aws,
            "region": self.region,
            "account": self.queue_account,
        }
        return ", ".join(f"{name} {value}" for name, value in given.items() if value)

    @property
    def asset(self) -> str:
        """The table, told from one of the same name in another warehouse."""
        return f"{self.warehouse}.{self.table}" if self.warehouse else self.table

    # Is it sound?

    def _problems(self) -> Iterator[str]:
        yield from self._queue_problems()
        yield from self._connection_problems()
        yield from pipeline_problems(self.settings)
        yield from self._choice_problems()
        yield from self._number_problems()
        yield from self._table_problems()
        try:
            columns = self.columns
        except ValueError as error:
            yield str(error)
            return
        yield from self._name_problems(columns)
        yield from self._field_problems()
        yield from self._token_problems()
        yield from self._key_problems()
        yield from self._partition_problems()
        yield from self._kept_problems()
        for name in {name for index in self.indexes for name in index}:
            if not self.column(name):
                yield f"indexes: there is no column {name}: one of {', '.join(self.column_names)}"

    def _choice_problems(self) -> Iterator[str]:
        for name, given, choices in (
            ("unknown_fields", self.unknown_fields, get_args(UnknownFields)),
            ("personal_data_check", self.personal_data_check, get_args(PersonalDataCheck)),
        ):
            if given not in choices:
                yield f"{name}={given!r}: give one of {', '.join(choices)}"

    def _number_problems(self) -> Iterator[str]:
        for name, (least, most) in _NUMBERS.items():
            if not least <= (given := getattr(self, name)) <= most:
                yield f"{name}={given}: give a whole number from {least} to {most}"
        most = _IN_FLIGHT // max(self.runs_at_once, 1)
        if self.runs_at_once > 1 and self.settings.get("max_messages", _IN_FLIGHT) > most:
            yield (
                f"runs_at_once={self.runs_at_once}: give settings a max_messages of at most {most}, "
                f"because SQS lets about {_IN_FLIGHT} messages of a queue be in flight"
            )

    def _table_problems(self) -> Iterator[str]:
        for table, times in Counter([self.table, *self.replay_tables]).items():
            if problem := table_problem(table):
                yield f"table {problem}"
            if times > 1:
                yield f"table {table!r} is named {times} times: each is another one"

    def _queue_problems(self) -> Iterator[str]:
        if self.queue.endswith(".fifo"):
            yield f"{self.queue} is a FIFO queue, which is not supported: give it a standard queue"
        elif not _QUEUE.fullmatch(self.queue):
            yield (
                f"queue {self.queue!r}: give letters, digits, - and _, at most 76 with "
                "QUEUE_ETL_QUEUE_SUFFIX: SQS takes 80, and the dead-letter queue ends in -dlq"
            )

    def _connection_problems(self) -> Iterator[str]:
        if self.aws and not _AWS.fullmatch(self.aws):
            yield f"aws={self.aws!r}: give the id of an Airflow connection, such as orders_aws"
        if self.region and not _REGION.fullmatch(self.region):
            yield f"region={self.region!r}: give one such as eu-west-1"
        if self.queue_account and not _ACCOUNT.fullmatch(self.queue_account):
            yield f"queue_account={self.queue_account!r}: give the 12 digits of an AWS account, as text"
        if self.warehouse and not _WAREHOUSE.fullmatch(self.warehouse):
            yield (
                f"warehouse={self.warehouse!r}: give lower-case letters, digits and single _, "
                "at most 30, such as orders"
            )

    def _name_problems(self, columns: tuple[Column, ...]) -> Iterator[str]:
        for name, times in Counter(column.name for column in columns).items():
            if times > 1:
                yield f'{times} columns have the name {name}: give one another, with Name("...")'
            if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
                yield (
                    f"{name!r} is no name of a column: letters, digits and _, at most "
                    f'{_LONGEST_NAME} characters; give another with Name("..."), or Attribute(column="...")'
                )
        if sum(column.is_subject for column in columns) > 1:
            yield "several fields say whose row it is: mark one with Subject()"

    def _field_problems(self) -> Iterator[str]:
        for column in self.columns:
            if _UNUSABLE.search(column.field):
                yield (
                    f"{column.name}: names in the JSON may not have double quotes, backticks, backslashes, "
                    '": ", ", ", blanks at their ends, or other white space than single blanks'
                )
            if column.attributes and column.field.startswith(ATTRIBUTE_PATH):
                yield f"{column.name}: names in the JSON may not begin with {ATTRIBUTE_PATH}"
        for name, times in Counter(column.message_attribute for column in self.columns).items():
            if name and times > 1:
                yield f"{times} columns hold the attribute {name}: leave one of them"

    def _token_problems(self) -> Iterator[str]:
        for column in self.columns:
            most = min((masked.mark.max_bytes for masked in column.masked), default=float("inf"))
            if column.is_token and column.form is Form.TEXT and column.max_length > most:
                bound = "Meta(max_length)" if column.attributes else "max_length"
                yield f"give {column.field} a {bound} of at most {most}, so that its token fits {column.name}"

    def _key_problems(self) -> Iterator[str]:
        if not self.key:
            return
        column = self.column(self.key)
        if column is None:
            yield f"key: there is no column {self.key}: one of {', '.join(self.column_names)}"
        elif column.is_token or column.form is Form.JSON:
            yield f"key: {self.key} holds tokens or jsonb, which change: give another column"
        elif column.nullable:
            instead = (
                "declare its field without None and without default" if column.attributes else "give another"
            )
            yield f"key: {self.key} may be NULL: {instead}"
        if not self.sent_at:
            yield 'key: add SentAt("sent_at") to message, which tells the newer of two messages'
        if self.partition_by:
            yield "key: a table with partition_by cannot be unique by another column: leave one of them out"

    def _kept_problems(self) -> Iterator[str]:
        masked = self.subject.masked if self.subject and self.unknown_fields == "keep" else ()
        if any(not one.mark.is_recoverable for one in masked):
            yield (
                "unknown_fields: with what is kept stands whose it is, and who opens it reads a one-way "
                f"{masked[0].field}: mark another field with Subject(), or ignore unknown fields"
            )

    def _partition_problems(self) -> Iterator[str]:
        if self.retain_days is not None and not self.partition_by:
            yield "retain_days: rows are dropped with their partition: give partition_by"
        if self.retain_days is not None and self.retain_days < 1:
            yield "retain_days: give at least 1"
        if not self.partition_by:
            return
        name = self.partition_by.column
        column = self.column(name)
        if column is None:
            yield f"partition_by: there is no column {name}: one of {', '.join(self.column_names)}"
        elif column.sql_type not in ("date", "timestamptz") or column.nullable:
            yield f"partition_by: {name} is to be a date or a datetime that is never null"
