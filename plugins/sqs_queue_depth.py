"""Waits until an SQS queue is worth draining: asks how many messages wait, and receives none of them.

The sensor of the amazon provider receives the messages it senses, deletes them by default and puts their
bodies into XCom. This one asks `GetQueueAttributes` and, when the depth alone does not decide, CloudWatch for
the age of the oldest message.

A continuous DAG has no run while there is nothing to do: its schedule is an asset, whose watcher asks the
queue and begins a run by an event. The watcher sees by itself how long messages have waited.

The triggerer loads no DAG bundle, so this file imports nothing of the project; boto3 is imported by the
methods that ask, because every DAG parse pays for what stands at the top.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)
from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
    from airflow.sdk import Context

# A refused connection must be an error after seconds: botocore's own defaults are 60 s and five attempts.
CONNECT_TIMEOUT_SECONDS = 3
READ_TIMEOUT_SECONDS = 10
ATTEMPTS = 2
# CloudWatch has one point a minute, some minutes late.
METRIC_WINDOW = timedelta(minutes=15)
# The trigger keeps the deadline; this much later the scheduler concludes that no triggerer runs.
TRIGGERER_GRACE = timedelta(seconds=60)
# A continuous DAG would else fail again and again, as fast as Airflow can start runs.
PAUSE_AFTER_FAILURE_SECONDS = 60
# From an event until its run has received what the event was about: there is no use in a second one.
BEGINNING_SECONDS = 3

ATTRIBUTES = {
    "visible": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}
HINTS = {
    "QueueDoesNotExist": "the queue does not exist there: create it, or correct name, region or account",
    "NonExistentQueue": "the queue does not exist there: create it, or correct name, region or account",
    "AccessDenied": "access denied: allow sqs:GetQueueUrl and sqs:GetQueueAttributes on it",
    "AccessDeniedException": "access denied: allow sqs:GetQueueUrl and sqs:GetQueueAttributes on it",
    "InvalidClientTokenId": "AWS does not know the access key",
    "UnrecognizedClientException": "AWS does not know the access key",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the session token has expired",
    "NoCredentialsError": "no credentials: give the connection a login and password, or the machine a role",
    "PartialCredentialsError": "half of the credentials is missing",
    "NoRegionError": 'no region: set "region_name" in the extra of the connection',
}


# Clients of boto3 with what they are made of, by service, connection and region.
CLIENTS: dict[tuple[str, str | None, str | None], tuple[tuple[Any, ...], Any]] = {}


class QueueProblem(Exception):
    """The queue could not be asked; the text names queue, region and endpoint.

    Attributes:
        retry: the same question may be answered later
    """

    def __init__(self, text: str, *, retry: bool) -> None:
        super().__init__(text)
        self.retry = retry


@dataclass(frozen=True)
class QueueWatch:
    """A queue and the condition that is waited for. Also what a trigger is stored as, so it holds no secret.

    Attributes:
        queue: name of the queue, not its URL
        aws_conn_id: Airflow connection that gives credentials, region and endpoint
        region_name: wins over the connection's region
        min_messages: met when at least so many messages are visible
        max_age_seconds: met too when the oldest of the visible messages is older; None: never asked
        account: number of the AWS account that owns the queue; None: that of the credentials
    """

    queue: str
    aws_conn_id: str | None
    region_name: str | None
    min_messages: int
    max_age_seconds: float | None
    account: str | None = None  # a trigger that an earlier version stored has none

    def ask(self) -> PokeReturnValue:
        """Ask once: whether the condition holds, and the depth ("oldest_age_seconds" where it was needed).

        Raises:
            QueueProblem: there was no answer
        """
        return self._answered(self._condition)

    def _condition(self) -> PokeReturnValue:
        depth = self._depth()
        enough = depth["visible"] >= self.min_messages
        if enough or not depth["visible"] or self.max_age_seconds is None:
            return PokeReturnValue(enough, depth)
        age = self._oldest_age_seconds()
        if age is None:
            return PokeReturnValue(False, depth)
        return PokeReturnValue(age > self.max_age_seconds, {**depth, "oldest_age_seconds": age})

    def _depth(self) -> dict[str, int]:
        # Approximate by nature: SQS is distributed. A late message is seen by the next poll.
        answer = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=[*ATTRIBUTES.values()])
        return {name: int(answer["Attributes"].get(key, 0)) for name, key in ATTRIBUTES.items()}

    def _oldest_age_seconds(self) -> int | None:
        """Newest point of the metric; None where there is none: a queue idle for hours, most emulators."""
        now = datetime.now(UTC)
        answer = self._client("cloudwatch").get_metric_statistics(
            Namespace="AWS/SQS",
            MetricName="ApproximateAgeOfOldestMessage",
            Dimensions=[{"Name": "QueueName", "Value": self.queue}],
            StartTime=now - METRIC_WINDOW,
            EndTime=now,
            Period=60,
            Statistics=["Maximum"],
        )
        points = answer.get("Datapoints", [])
        return int(max(points, key=lambda point: point["Timestamp"])["Maximum"]) if points else None

    @cached_property
    def _url(self) -> str:
        owner = {"QueueOwnerAWSAccountId": self.account} if self.account else {}
        return str(self._sqs.get_queue_url(QueueName=self.queue, **owner)["QueueUrl"])

    @cached_property
    def _sqs(self) -> Any:
        return self._client("sqs")

    @cached_property
    def _hook(self) -> "AwsGenericHook[Any]":
        from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

        return AwsGenericHook(aws_conn_id=self.aws_conn_id, client_type="sqs", region_name=self.region_name)

    def _client(self, service: str) -> Any:
        """Shared by all that ask with the same connection: a client of its own takes 9 MB."""
        config = self._hook.conn_config
        made_of = (config.login, config.password, json.dumps(config.extra_config, sort_keys=True))
        key = (service, self.aws_conn_id, self.region_name)
        if CLIENTS.get(key, (None, None))[0] != made_of:
            CLIENTS[key] = (made_of, self._new_client(service))
        return CLIENTS[key][1]

    def _new_client(self, service: str) -> Any:
        from botocore.config import Config

        bounded = Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        endpoint = self._hook.conn_config.get_service_endpoint_url(service)
        config = bounded.merge(self._hook.config)
        session = self._hook.get_session()
        with suppress(ValueError):
            return session.client(service, endpoint_url=endpoint, config=config, verify=self._hook.verify)
        raise self._problem("the endpoint is no URL", retry=False)

    def _answered(self, question: Callable[[], PokeReturnValue]) -> PokeReturnValue:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return question()
        except ClientError as error:
            code = error.response["Error"]["Code"].rpartition(".")[2]
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            problem = self._problem(code, retry=status >= 500 or status == 429 or "Throttl" in code)
        except BotoCoreError as error:
            problem = self._problem(type(error).__name__, retry=_is_transport(error))
        # Outside the handlers: the message of a foreign error is not chained into the log.
        raise problem

    def _problem(self, code: str, *, retry: bool) -> QueueProblem:
        config = self._hook.conn_config
        region = self.region_name or config.region_name or "not set"
        # boto3 takes these variables too, the first one first.
        variables = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"))
        endpoint = config.get_service_endpoint_url("sqs") or next(filter(None, variables), "AWS")
        why = HINTS.get(code, code)
        return QueueProblem(f"queue {self.queue!r}, region {region}, endpoint {endpoint}: {why}", retry=retry)


def _is_transport(error: Exception) -> bool:
    from botocore.exceptions import ConnectionError, CredentialRetrievalError, HTTPClientError

    return isinstance(error, ConnectionError | HTTPClientError | CredentialRetrievalError)


class SqsQueueDepthSensor(BaseSensorOperator):
    """Waits until enough messages wait on a queue, or one has waited for long enough. Receives nothing.

    Pushes {"visible": n, "in_flight": n, "delayed": n} and, where CloudWatch was asked, "oldest_age_seconds".
    It asks once before anything else and defers only when the condition does not hold. A queue that cannot be
    asked fails the task: at once and for good where a retry cannot help, else with the task's retries.

    Args:
        sqs_queue: name of the queue. Not `queue`: that is the executor's, in every operator
        aws_conn_id: Airflow connection that gives credentials, region, endpoint; None: those of the machine
        region_name: wins over the connection's region
        queue_account: number of the AWS account that owns the queue; None: that of the credentials
        min_messages: at least so many visible messages
        max_age_seconds: or a visible message, and CloudWatch says that the oldest is older; None: not asked
        timeout: seconds until the sensor gives up; 0: it asks once and never defers
        poke_interval: seconds between two questions
        deferrable: wait in the triggerer; False: wait in the worker (`mode` as in every sensor)
        soft_fail: when the sensor gives up the task is skipped, else failed. Unlike Airflow's own `soft_fail`
            it never turns an error into a skip: a missing queue would look like an empty one for ever.
    """

    template_fields = (
        "sqs_queue",
        "aws_conn_id",
        "region_name",
        "queue_account",
        "min_messages",
        "max_age_seconds",
        "timeout",
    )

    def __init__(
        self,
        *,
        sqs_queue: str,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        queue_account: str | None = None,
        min_messages: int | str = 1,
        max_age_seconds: float | str | None = None,
        timeout: float | str = 60,
        poke_interval: float = 5,
        deferrable: bool = True,
        soft_fail: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.sqs_queue = sqs_queue
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.queue_account = queue_account
        self.min_messages = min_messages
        self.max_age_seconds = max_age_seconds
        self.timeout = timeout  # type: ignore[assignment]  # a template until the task runs
        self.deferrable = deferrable
        self.skip_at_deadline = soft_fail

    @cached_property
    def watch(self) -> QueueWatch:
        """The queue and the condition, with templates rendered."""
        return QueueWatch(
            self.sqs_queue,
            self.aws_conn_id,
            self.region_name,
            int(self.min_messages),
            None if self.max_age_seconds is None else float(self.max_age_seconds),
            self.queue_account,
        )

    def poke(self, context: "Context") -> PokeReturnValue:
        """Ask once.

        Raises:
            AirflowFailException: there was no answer, and a retry cannot help
            AirflowException: there was no answer, a retry may help
        """
        try:
            found = self.watch.ask()
        except QueueProblem as problem:
            failure = _failure(str(problem), retry=problem.retry)
        else:
            self.log.info(_said(self.watch, found))
            return found
        raise failure

    def execute(self, context: "Context") -> dict[str, int]:
        """Wait for the condition; the depth, as pushed to XCom.

        Raises:
            AirflowSkipException: it did not come to hold within `timeout` seconds
        """
        self.timeout = float(self.timeout)
        if self.deferrable:
            if found := self.poke(context):
                return dict(found.xcom_value or {})
            self._wait() if self.timeout else self._give_up()
        try:
            return dict(super().execute(context))
        except AirflowSensorTimeout:
            self._give_up()

    def execute_complete(self, context: "Context", event: Mapping[str, Any]) -> dict[str, int]:
        """What the trigger's event means: the depth, a skip, or a failure."""
        if event["status"] == "met":
            return dict(event["depth"])
        if event["status"] == "timeout":
            self._give_up()
        raise _failure(event["message"], retry=event["retry"])

    def _wait(self) -> NoReturn:
        """The worker has asked just now."""
        now, pause = time.time(), self.poke_interval
        deadline = now + float(self.timeout)
        trigger = SqsQueueDepthTrigger(
            **asdict(self.watch), poke_interval=pause, deadline=deadline, first_poke=now + pause
        )
        left = timedelta(seconds=deadline - time.time())
        self.defer(trigger=trigger, method_name="execute_complete", timeout=left + TRIGGERER_GRACE)

    def _give_up(self) -> NoReturn:
        text = f"queue {self.sqs_queue!r} was not worth draining in time"
        raise AirflowSkipException(text) if self.skip_at_deadline else AirflowSensorTimeout(text)


class SqsQueueDepthTrigger(BaseTrigger):
    """Asks a queue every `poke_interval` seconds until the condition holds or the deadline has passed.

    Yields one event: {"status": "met", "depth": {...}}, {"status": "timeout"} or
    {"status": "failed", "message": text, "retry": bool}.

    Args:
        poke_interval: seconds between two questions
        deadline: seconds since the epoch; absolute: it survives a restart of the triggerer. The trigger keeps
            it itself: `airflow dags test` ignores a deferral's timeout, the scheduler looks every 15 s.
        first_poke: seconds since the epoch: nothing is asked before
        freshness_seconds, makes_way_in: of a run of an earlier version, which waited for messages. It ends at
            once: the next run begins by an event
        **watch: the fields of QueueWatch
    """

    def __init__(
        self,
        *,
        poke_interval: float,
        deadline: float,
        first_poke: float = 0.0,
        freshness_seconds: float | None = None,
        makes_way_in: str | None = None,
        **watch: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.poke_interval = poke_interval
        self.deadline = 0.0 if makes_way_in else deadline
        self.first_poke = 0.0 if makes_way_in else first_poke
        self.watch = QueueWatch(**watch)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, as the metadata database keeps them."""
        own = ("poke_interval", "deadline", "first_poke")
        return _path(self), {**asdict(self.watch), **{name: getattr(self, name) for name in own}}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask until one event can be said."""
        try:
            yield _event(await self._wait())
        except QueueProblem as problem:
            yield _event({"status": "failed", "message": str(problem), "retry": problem.retry})

    async def _wait(self) -> dict[str, Any]:
        await asyncio.sleep(max(self.first_poke - time.time(), 0))
        while True:
            found = await asyncio.to_thread(self.watch.ask)
            self.log.info(_said(self.watch, found))
            if found:
                return {"status": "met", "depth": dict(found.xcom_value or {})}
            now = time.time()
            if now >= self.deadline:
                return {"status": "timeout"}
            await asyncio.sleep(min(self.poke_interval, self.deadline - now))


class SqsMessagesTrigger(BaseEventTrigger):
    """Watches a queue for an asset: an event says that a run is worth it. It goes on for ever.

    It says so again as long as messages wait, so that an event that is lost, or whose run fails, delays them
    by `freshness_seconds` at most. What comes while the most runs are at work begins the next run when one of
    them has ended: Airflow 3.2 and 3.3 keep one event for it. A queue that cannot be asked is an event too:
    the run's sensor fails then, and tells why.

    Args:
        dag_id: of the DAG whose runs the events begin
        min_messages: an event when at least so many messages are visible
        freshness_seconds: and when messages have been seen for so long. A restart of the triggerer forgets
            since when
        **watch: the other fields of QueueWatch
    """

    def __init__(self, *, dag_id: str, min_messages: int, freshness_seconds: float, **watch: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dag_id = dag_id
        self.min_messages = min_messages
        self.freshness_seconds = freshness_seconds
        # That any message is visible: how many are worth a run is known here.
        self.watch = QueueWatch(**watch, min_messages=1, max_age_seconds=None)
        self._seen_since: float | None = None
        self._failed_runs = 0

    @property
    def poke_interval(self) -> float:
        """Seconds between two questions: a twelfth of what may pass anyway, within bounds."""
        return min(max(self.freshness_seconds / 12, 1), 30)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, as the metadata database keeps them."""
        watch = asdict(self.watch)
        del watch["max_age_seconds"]
        own = ("dag_id", "min_messages", "freshness_seconds")
        return _path(self), {**watch, **{name: getattr(self, name) for name in own}}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask for ever; an event whenever a run is worth it."""
        self._failed_runs = await _failed_runs(self.dag_id)
        while True:
            try:
                found = await asyncio.to_thread(self.watch.ask)
            except QueueProblem as problem:
                self.log.warning("%s", problem)
                yield _event({"problem": str(problem)})
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)
                continue
            depth, now = dict(found.xcom_value or {}), time.time()
            if self._is_worth_a_run(depth["visible"], now):
                await self._pause_after_failure()
                self._seen_since = None
                yield _event(depth)
                await asyncio.sleep(max(self.poke_interval, BEGINNING_SECONDS))
            else:
                await asyncio.sleep(self._until_next(now))

    def _is_worth_a_run(self, visible: int, now: float) -> bool:
        if not visible:
            return False
        self._seen_since = self._seen_since or now
        return visible >= self.min_messages or now >= self._seen_since + self.freshness_seconds

    def _until_next(self, now: float) -> float:
        if self._seen_since is None:
            return self.poke_interval
        due = self._seen_since + self.freshness_seconds
        return min(self.poke_interval, due - now) if due > now else self.poke_interval

    async def _pause_after_failure(self) -> None:
        """Where a run has failed since the last event."""
        failed = await _failed_runs(self.dag_id)
        if failed > self._failed_runs:
            self.log.info("a run of %s has failed: the next one waits", self.dag_id)
            await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)
        self._failed_runs = failed


async def _failed_runs(dag_id: str) -> int:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    from asgiref.sync import sync_to_async

    return int(await sync_to_async(RuntimeTaskInstance.get_dr_count)(dag_id, states=["failed"]))


def _path(trigger: BaseTrigger) -> str:
    return f"{type(trigger).__module__}.{type(trigger).__qualname__}"


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]


def _failure(text: str, *, retry: bool) -> AirflowException:
    return AirflowException(text) if retry else AirflowFailException(text)


def _said(watch: QueueWatch, found: PokeReturnValue) -> str:
    depth = found.xcom_value or {}
    said = f"queue {watch.queue!r}: {depth}, condition {'met' if found else 'not met'}"
    if watch.max_age_seconds is None or found or not depth.get("visible") or "oldest_age_seconds" in depth:
        return said
    return f"{said}; CloudWatch has no ApproximateAgeOfOldestMessage, so max_age_seconds cannot be met"
