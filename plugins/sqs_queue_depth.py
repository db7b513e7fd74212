"""Waits until an SQS queue is worth draining: asks how many messages wait, and receives none of them.

The sensor of the amazon provider receives the messages it senses, deletes them by default and puts their
bodies into XCom. This one asks `GetQueueAttributes` and, when the depth alone does not decide, CloudWatch for
the age of the oldest message.

A continuous DAG has one run that waits, deferred, until the next one follows it. Its trigger sees by itself
how long messages have waited.

The triggerer loads no DAG bundle, so this file imports nothing of the project; boto3 is imported by the
methods that ask, because every DAG parse pays for what stands at the top.
"""

import asyncio
import json
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
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
from airflow.triggers.base import BaseTrigger, TriggerEvent

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
PAUSE_AFTER_FAILURE = timedelta(seconds=60)

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


@dataclass(frozen=True)
class Continuous:
    """What the scheduled runs of a DAG wait for whose next run begins when one has ended.

    Attributes:
        min_messages: met when at least so many messages are visible
        freshness_seconds: met too when the trigger has seen messages for so long
        timeout: seconds until the run is skipped
    """

    min_messages: int
    freshness_seconds: float
    timeout: float

    @property
    def poke_interval(self) -> float:
        """Seconds between two questions: a twelfth of what may pass anyway, within bounds."""
        return min(max(self.freshness_seconds / 12, 1), 30)


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
        continuous: tells what scheduled runs wait for instead, when one begins. They ask nothing in the
            worker and wait in the triggerer, pause after a failed run, and make way for one that is queued
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
        continuous: Callable[[], Continuous] | None = None,
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
        self.continuous = continuous

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
        if self.continuous and context["dag_run"].run_type == "scheduled":
            self._wait_for(self.continuous(), context)
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
        if event["status"] == "made_way":
            raise AirflowSkipException("it makes way for a run that is queued; messages wait on the queue")
        raise _failure(event["message"], retry=event["retry"])

    def _wait(self) -> NoReturn:
        """The worker has asked just now."""
        now, pause = time.time(), self.poke_interval
        self._defer(
            SqsQueueDepthTrigger(
                **asdict(self.watch),
                poke_interval=pause,
                deadline=now + float(self.timeout),
                first_poke=now + pause,
            )
        )

    def _wait_for(self, continuous: Continuous, context: "Context") -> NoReturn:
        now = time.time()
        first_poke = max(now, _end_of_pause(context))
        watch = replace(self.watch, min_messages=continuous.min_messages, max_age_seconds=None)
        self._defer(
            SqsQueueDepthTrigger(
                **asdict(watch),
                poke_interval=continuous.poke_interval,
                deadline=first_poke + continuous.timeout,
                first_poke=first_poke,
                freshness_seconds=continuous.freshness_seconds,
                makes_way_in=context["dag_run"].dag_id,
            )
        )

    def _defer(self, trigger: "SqsQueueDepthTrigger") -> NoReturn:
        left = timedelta(seconds=trigger.deadline - time.time())
        self.defer(trigger=trigger, method_name="execute_complete", timeout=left + TRIGGERER_GRACE)

    def _give_up(self) -> NoReturn:
        text = f"queue {self.sqs_queue!r} was not worth draining in time"
        raise AirflowSkipException(text) if self.skip_at_deadline else AirflowSensorTimeout(text)


def _end_of_pause(context: "Context") -> float:
    """Seconds since the epoch until which a run waits because the one before it failed; 0: it need not."""
    previous = context["ti"].get_previous_dagrun()
    if previous is None or previous.state != "failed" or previous.end_date is None:
        return 0.0
    return float((previous.end_date + PAUSE_AFTER_FAILURE).timestamp())


class SqsQueueDepthTrigger(BaseTrigger):
    """Asks a queue every `poke_interval` seconds until the condition holds or the deadline has passed.

    Yields one event: {"status": "met", "depth": {...}}, {"status": "timeout"}, {"status": "made_way"} or
    {"status": "failed", "message": text, "retry": bool}.

    Args:
        poke_interval: seconds between two questions
        deadline: seconds since the epoch; absolute: it survives a restart of the triggerer. The trigger keeps
            it itself: `airflow dags test` ignores a deferral's timeout, the scheduler looks every 15 s.
        first_poke: seconds since the epoch: nothing is asked before
        freshness_seconds: the condition also holds when messages have been seen for so long, and for any
            message at the deadline. A restart of the triggerer forgets since when
        makes_way_in: id of a DAG: as soon as one of its runs is queued, the trigger ends. With
            `max_active_runs` a waiting run would keep a run from starting that somebody wants now
        **watch: the fields of QueueWatch
    """

    # The last three have defaults, because a trigger that an earlier version stored has none of them.
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
        self.deadline = deadline
        self.first_poke = first_poke
        self.freshness_seconds = freshness_seconds
        self.makes_way_in = makes_way_in
        self.watch = QueueWatch(**watch)
        self._last_said = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, as the metadata database keeps them."""
        own = ("poke_interval", "deadline", "first_poke", "freshness_seconds", "makes_way_in")
        kwargs = {**asdict(self.watch), **{name: getattr(self, name) for name in own}}
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask until one event can be said."""
        try:
            yield _event(await self._wait())
        except QueueProblem as problem:
            yield _event({"status": "failed", "message": str(problem), "retry": problem.retry})

    async def _wait(self) -> dict[str, Any]:
        await asyncio.sleep(max(self.first_poke - time.time(), 0))
        seen_since = None
        while True:
            found = await asyncio.to_thread(self.watch.ask)
            depth, now = dict(found.xcom_value or {}), time.time()
            if depth["visible"] and self.freshness_seconds is not None:
                seen_since = seen_since or now
            self._say(found)
            over = now >= self.deadline
            if found or (seen_since and depth["visible"] and (over or self._due(seen_since) <= now)):
                return {"status": "met", "depth": depth}
            if over:
                return {"status": "timeout"}
            if self.makes_way_in and await _has_queued_runs(self.makes_way_in):
                return {"status": "made_way"}
            wake = min(now + self.poke_interval, self.deadline, self._due(seen_since))
            await asyncio.sleep(max(wake - now, 0))

    def _due(self, seen_since: float | None) -> float:
        """When messages that have been seen since then have waited for long enough."""
        return math.inf if seen_since is None else seen_since + (self.freshness_seconds or 0)

    def _say(self, found: PokeReturnValue) -> None:
        """Say what was found, but not once more the same: an idle queue is asked for an hour."""
        if (said := _said(self.watch, found)) != self._last_said:
            self._last_said = said
            self.log.info(said)


async def _has_queued_runs(dag_id: str) -> bool:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    from asgiref.sync import sync_to_async

    return bool(await sync_to_async(RuntimeTaskInstance.get_dr_count)(dag_id, states=["queued"]))


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
