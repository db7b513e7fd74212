"""The sensor and its trigger, against a real SQS endpoint."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqs_queue_depth
from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.serialization.serialized_objects import BaseSerialization
from sqs_queue_depth import SqsMessagesTrigger, SqsQueueDepthSensor, SqsQueueDepthTrigger

from tests.dags.conftest import ENDPOINT, REGION

NOBODY = "http://127.0.0.1:9"  # the discard port: connection refused


def sensor(queue: str, **arguments: Any) -> SqsQueueDepthSensor:
    return SqsQueueDepthSensor(
        task_id="sense", sqs_queue=queue, **{"timeout": 1, "poke_interval": 0.2, **arguments}
    )


def deferred(waiting: SqsQueueDepthSensor) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        waiting.execute({})
    return caught.value


def first_event(trigger: Any) -> dict[str, Any]:
    async def run() -> Any:
        return [event async for event in trigger.run()]

    (event,) = asyncio.run(run())
    payload: dict[str, Any] = event.payload
    return payload


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make `aws_default` another connection."""

    def make(login: str | None = "test", password: str | None = "test", **extra: Any) -> None:
        content = {"conn_type": "aws", "login": login, "password": password, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(content))

    return make


# The condition ------------------------------------------------------------------------------------


def test_waiting_messages_end_it_at_once_and_none_is_received(
    queue: str, send: Callable[[str, int], None]
) -> None:
    send(queue, 3)
    for _ in range(2):
        assert sensor(queue).execute({}) == {"visible": 3, "in_flight": 0, "delayed": 0}


def test_too_few_messages_do_not_hold(queue: str, send: Callable[[str, int], None]) -> None:
    send(queue, 2)
    assert not sensor(queue, min_messages="3").poke({})
    assert sensor(queue, min_messages="2").poke({})


def test_an_empty_queue_never_holds_whatever_its_age(queue: str) -> None:
    assert not sensor(queue, max_age_seconds=0).poke({})


def test_an_absent_age_metric_is_not_met_and_said_in_the_log(
    queue: str,
    send: Callable[[str, int], None],
    connection: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    send(queue, 1)
    with http_server(cloudwatch_answer([])) as url:
        service = {"cloudwatch": {"endpoint_url": url}}
        connection(region_name=REGION, endpoint_url=ENDPOINT, service_config=service)
        found = sensor(queue, min_messages=5, max_age_seconds=60).poke({})
    assert not found
    assert found.xcom_value == {"visible": 1, "in_flight": 0, "delayed": 0}
    assert "CloudWatch has no ApproximateAgeOfOldestMessage" in capfd.readouterr().out


@pytest.mark.parametrize(("limit", "met"), [(60, True), (600, False)])
def test_an_old_message_starts_a_run_below_min_messages(
    queue: str, send: Callable[[str, int], None], connection: Callable[..., None], limit: int, met: bool
) -> None:
    send(queue, 1)
    now = int(time.time())
    with http_server(cloudwatch_answer([(now - 120, 5.0), (now - 60, 300.0)])) as url:
        service = {"cloudwatch": {"endpoint_url": url}}
        connection(region_name=REGION, endpoint_url=ENDPOINT, service_config=service)
        found = sensor(queue, min_messages=5, max_age_seconds=limit).poke({})
    assert bool(found) is met
    assert found.xcom_value == {"visible": 1, "in_flight": 0, "delayed": 0, "oldest_age_seconds": 300}


def test_all_who_ask_with_one_connection_share_a_client(queue: str, connection: Callable[..., None]) -> None:
    connection(region_name=REGION, endpoint_url=ENDPOINT)
    one, other = sensor(queue).watch, sensor(queue).watch
    assert one is not other
    assert one._sqs is other._sqs
    assert sensor(queue, region_name="eu-west-3").watch._sqs is not one._sqs
    connection(login="another", region_name=REGION, endpoint_url=ENDPOINT)
    changed = sensor(queue).watch
    assert changed._sqs is not one._sqs
    assert changed.ask().xcom_value == {"visible": 0, "in_flight": 0, "delayed": 0}


# The deferral -------------------------------------------------------------------------------------


def test_an_unmet_condition_defers_and_the_trigger_brings_the_depth(
    queue: str, send: Callable[[str, int], None]
) -> None:
    waiting = sensor(queue, timeout=120)
    deferral = deferred(waiting)
    late = threading.Timer(0.5, send, (queue, 1))
    late.start()
    event = first_event(deferral.trigger)
    late.join()
    assert event == {"status": "met", "depth": {"visible": 1, "in_flight": 0, "delayed": 0}}
    assert waiting.execute_complete({}, event) == event["depth"]


def test_the_trigger_keeps_its_own_deadline_and_the_task_is_skipped(queue: str) -> None:
    waiting = sensor(queue, timeout="1")
    started = time.monotonic()
    event = first_event(deferred(waiting).trigger)
    assert event == {"status": "timeout"}
    assert 0.8 <= time.monotonic() - started < 30
    with pytest.raises(AirflowSkipException, match=queue):
        waiting.execute_complete({}, event)


def test_a_dead_triggerer_is_noticed_after_the_deadline(queue: str) -> None:
    assert 80 < deferred(sensor(queue, timeout=30)).timeout.total_seconds() <= 90


def test_the_trigger_survives_storage_with_its_deadline(queue: str) -> None:
    trigger = deferred(sensor(queue, min_messages="7", max_age_seconds="900")).trigger
    path, arguments = trigger.serialize()
    stored = json.loads(json.dumps(BaseSerialization.serialize(arguments)))
    again = SqsQueueDepthTrigger(**BaseSerialization.deserialize(stored))
    assert path == "sqs_queue_depth.SqsQueueDepthTrigger"
    assert again.serialize() == (path, arguments)
    assert arguments.keys() == {
        "queue", "account", "aws_conn_id", "region_name", "min_messages", "max_age_seconds", "poke_interval",
        "deadline", "first_poke",
    }  # fmt: skip
    assert (arguments["min_messages"], arguments["max_age_seconds"]) == (7, 900.0)


@pytest.mark.parametrize("deferrable", [True, False])
def test_without_a_time_to_wait_it_looks_once_and_is_skipped(
    queue: str, send: Callable[[str, int], None], deferrable: bool
) -> None:
    started = time.monotonic()
    with pytest.raises(AirflowSkipException):
        sensor(queue, timeout="0", poke_interval=60, deferrable=deferrable).execute({})
    assert time.monotonic() - started < 30
    send(queue, 1)
    assert sensor(queue, timeout="0", deferrable=deferrable).execute({})["visible"] == 1


def test_poke_mode_is_skipped_at_the_deadline_too(queue: str) -> None:
    with pytest.raises(AirflowSkipException):
        sensor(queue, deferrable=False).execute({})


@pytest.mark.parametrize("deferrable", [True, False])
def test_without_soft_fail_the_deadline_is_a_failure(queue: str, deferrable: bool) -> None:
    waiting = sensor(queue, deferrable=deferrable, soft_fail=False)
    with pytest.raises(AirflowSensorTimeout):
        waiting.execute_complete({}, {"status": "timeout"}) if deferrable else waiting.execute({})


def test_poke_mode_sees_a_late_message(queue: str, send: Callable[[str, int], None]) -> None:
    late = threading.Timer(0.5, send, (queue, 1))
    late.start()
    depth = sensor(queue, deferrable=False, timeout=120).execute({})
    late.join()
    assert depth["visible"] == 1


# The watcher of a continuous DAG -------------------------------------------------------------------


@pytest.fixture
def failed_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs of the DAG have failed; a test may change its only number."""
    found = [0]

    def count(dag_id: str, *, states: list[str]) -> int:
        assert (dag_id, states) == ("a_dag", ["failed"])
        return found[0]

    monkeypatch.setattr(RuntimeTaskInstance, "get_dr_count", count)
    return found


def watcher(queue: str, min_messages: int, freshness: float) -> SqsMessagesTrigger:
    return SqsMessagesTrigger(
        dag_id="a_dag",
        queue=queue,
        aws_conn_id="aws_default",
        region_name=None,
        min_messages=min_messages,
        freshness_seconds=freshness,
    )


def events(
    trigger: SqsMessagesTrigger, seconds: float, most: int = 100
) -> list[tuple[float, dict[str, Any]]]:
    """What the watcher says in this time, each with the second in which it says it."""
    found: list[tuple[float, dict[str, Any]]] = []
    started = time.monotonic()

    async def listen() -> None:
        async for event in trigger.run():
            found.append((time.monotonic() - started, dict(event.payload)))
            if len(found) == most:
                return

    async def run() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(listen(), seconds)

    asyncio.run(run())
    return found


@pytest.mark.parametrize(("freshness", "seconds"), [(0, 1), (1, 1), (60, 5), (120, 10), (3600, 30)])
def test_the_queue_is_asked_more_often_the_fresher_rows_are_to_be(freshness: int, seconds: float) -> None:
    assert watcher("any", 1, freshness).poke_interval == seconds


@pytest.mark.usefixtures("failed_runs")
def test_an_idle_queue_is_no_event(queue: str) -> None:
    assert events(watcher(queue, 1, 0), 2.5) == []


@pytest.mark.usefixtures("failed_runs")
def test_enough_messages_are_an_event_at_once(queue: str, send: Callable[[str, int], None]) -> None:
    send(queue, 3)
    ((_, depth),) = events(watcher(queue, 3, 600), 60, most=1)
    assert depth == {"visible": 3, "in_flight": 0, "delayed": 0}


@pytest.mark.usefixtures("failed_runs")
def test_fewer_messages_are_an_event_when_they_have_waited(
    queue: str, send: Callable[[str, int], None]
) -> None:
    send(queue, 1)
    ((second, depth),) = events(watcher(queue, 3, 1.5), 60, most=1)
    assert 1.5 <= second < 60
    assert depth["visible"] == 1


@pytest.mark.usefixtures("failed_runs")
def test_freshness_0_makes_an_event_of_the_first_message(
    queue: str, send: Callable[[str, int], None]
) -> None:
    late = threading.Timer(0.5, send, (queue, 1))
    late.start()
    ((_, depth),) = events(watcher(queue, 10_000, 0), 60, most=1)
    late.join()
    assert depth["visible"] == 1


@pytest.mark.usefixtures("failed_runs")
def test_as_long_as_messages_wait_there_are_more_events(queue: str, send: Callable[[str, int], None]) -> None:
    """One may be lost, and the run of another may have failed."""
    send(queue, 1)
    first, second = events(watcher(queue, 10_000, 0), 60, most=2)
    assert second[0] - first[0] >= 3


def test_the_event_after_a_failed_run_waits(
    queue: str, send: Callable[[str, int], None], failed_runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(queue, 1)
    monkeypatch.setattr(sqs_queue_depth, "PAUSE_AFTER_FAILURE_SECONDS", 4)
    failed_runs[0] = 7  # long ago
    trigger = watcher(queue, 1, 600)
    monkeypatch.setattr(SqsMessagesTrigger, "poke_interval", 0.1)
    monkeypatch.setattr(sqs_queue_depth, "BEGINNING_SECONDS", 0.1)
    found = []

    async def run() -> None:
        async for _ in trigger.run():
            found.append(time.monotonic())
            failed_runs[0] += len(found) == 2
            if len(found) == 4:
                return

    asyncio.run(run())
    waits = [after - before for before, after in itertools.pairwise(found)]
    assert waits[1] >= 4
    assert max(waits[0], waits[2]) < 4


@pytest.mark.usefixtures("failed_runs")
def test_a_queue_that_cannot_be_asked_is_an_event_whose_run_tells_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqs_queue_depth, "PAUSE_AFTER_FAILURE_SECONDS", 1)
    found = events(watcher("no-such-queue", 1, 0), 60, most=2)
    assert found[1][0] - found[0][0] >= 1
    assert all("'no-such-queue'" in payload["problem"] for _, payload in found)
    with pytest.raises(AirflowFailException, match="no-such-queue"):
        sensor("no-such-queue", timeout=0).execute({})


def test_the_watcher_survives_storage() -> None:
    path, arguments = watcher("a-queue", 7, 30).serialize()
    stored = json.loads(json.dumps(BaseSerialization.serialize(arguments)))
    again = SqsMessagesTrigger(**BaseSerialization.deserialize(stored))
    assert path == "sqs_queue_depth.SqsMessagesTrigger"
    assert again.serialize() == (path, arguments)
    assert (arguments["min_messages"], arguments["freshness_seconds"]) == (7, 30)


def test_a_waiting_run_of_an_earlier_version_ends_at_once(queue: str) -> None:
    stored = {
        **deferred(sensor(queue, timeout=3_600)).trigger.serialize()[1],
        "first_poke": time.time() + 3_600,
        "freshness_seconds": 60.0,
        "makes_way_in": "a_dag",
    }
    event = first_event(SqsQueueDepthTrigger(**stored))
    assert event == {"status": "timeout"}
    with pytest.raises(AirflowSkipException):
        sensor(queue).execute_complete({}, event)


# Failures -----------------------------------------------------------------------------------------


def failure(waiting: SqsQueueDepthSensor, within: float = 90) -> Exception:
    """What the sensor raises, deferrable or not: never a skip, never late."""
    started = time.monotonic()
    with pytest.raises(AirflowException) as caught:
        waiting.execute({})
    assert time.monotonic() - started < within
    assert not isinstance(caught.value, AirflowSkipException | AirflowSensorTimeout)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_missing_queue_fails_for_good_naming_queue_region_and_endpoint(deferrable: bool) -> None:
    error = failure(sensor("no-such-queue", deferrable=deferrable))
    assert isinstance(error, AirflowFailException)
    for part in ("'no-such-queue'", REGION, ENDPOINT, "does not exist"):
        assert part in str(error)


def test_a_refused_connection_fails_in_seconds_and_may_be_retried(connection: Callable[..., None]) -> None:
    connection(region_name=REGION, endpoint_url=NOBODY)
    error = failure(sensor("any"), within=60)
    assert not isinstance(error, AirflowFailException)
    assert NOBODY in str(error)
    assert "EndpointConnectionError" in str(error)


def test_an_endpoint_that_is_no_url_fails_for_good(connection: Callable[..., None]) -> None:
    connection(region_name=REGION, endpoint_url="localhost")
    error = failure(sensor("any"))
    assert isinstance(error, AirflowFailException)
    assert "endpoint localhost: the endpoint is no URL" in str(error)


def test_missing_credentials_fail_for_good(
    connection: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    connection(None, None, region_name=REGION, endpoint_url=ENDPOINT)
    error = failure(sensor("any"))
    assert isinstance(error, AirflowFailException)
    assert "no credentials" in str(error)


def test_a_missing_region_fails_for_good(
    connection: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    connection(endpoint_url=ENDPOINT)
    error = failure(sensor("any"))
    assert isinstance(error, AirflowFailException)
    assert "region_name" in str(error)


@pytest.mark.parametrize(
    ("status", "code", "for_good", "said"),
    [
        (403, "AccessDeniedException", True, "access denied"),
        (403, "InvalidClientTokenId", True, "does not know the access key"),
        (400, "RequestThrottled", False, "RequestThrottled"),
        (500, "InternalFailure", False, "InternalFailure"),
    ],
)
def test_an_answer_that_is_an_error_is_one_clear_line(
    connection: Callable[..., None], status: int, code: str, for_good: bool, said: str
) -> None:
    body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "secret detail"}).encode()
    with http_server((status, {"Content-Type": "application/x-amz-json-1.0"}, body)) as url:
        connection(region_name=REGION, endpoint_url=url)
        error = failure(sensor("login-queue"))
    assert isinstance(error, AirflowFailException) is for_good
    assert said in str(error)
    assert "secret detail" not in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [(ENDPOINT, AirflowFailException), (NOBODY, AirflowException)],
    ids=["the queue is missing", "nobody answers"],
)
def test_a_failure_while_waiting_leaves_the_trigger_as_the_same_failure(
    connection: Callable[..., None], endpoint: str, kind: type[Exception]
) -> None:
    connection(region_name=REGION, endpoint_url=endpoint)
    trigger = SqsQueueDepthTrigger(
        queue="no-such-queue",
        aws_conn_id="aws_default",
        region_name=None,
        min_messages=1,
        max_age_seconds=None,
        poke_interval=0.1,
        deadline=time.time() + 60,
    )
    event = first_event(trigger)
    assert event["status"] == "failed"
    assert endpoint in event["message"]
    with pytest.raises(kind) as caught:
        sensor("no-such-queue").execute_complete({}, event)
    assert type(caught.value) is kind


def test_an_error_names_the_endpoint_that_the_environment_gives(connection: Callable[..., None]) -> None:
    connection(region_name=REGION)
    with pytest.raises(AirflowFailException, match=f"endpoint {ENDPOINT}"):
        sensor("no-such-queue").poke({})


def test_the_sensor_leaves_the_field_of_the_executors_queue_alone() -> None:
    assert sensor("x").queue == BaseSensorOperator(task_id="plain").queue


# Stand-ins for what an emulator does not do -------------------------------------------------------

Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def http_server(answer: Answer) -> Iterator[str]:
    """A server that gives every request the same answer."""
    status, headers, body = answer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def cloudwatch_answer(points: list[tuple[int, float]]) -> Answer:
    """GetMetricStatistics in the JSON protocol, which botocore speaks with CloudWatch."""
    content = {"Datapoints": [{"Timestamp": when, "Maximum": maximum} for when, maximum in points]}
    return 200, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(content).encode()
