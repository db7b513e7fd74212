"""The age of a queue's oldest message, asked for on the wire: of the emulator, and of an odd CloudWatch."""

import json
import logging
import math
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import boto3
import pytest

from include.queue_etl.sqs import age
from include.queue_etl.sqs.age import oldest_age_seconds

NAMESPACE, METRIC = "AWS/SQS", "ApproximateAgeOfOldestMessage"
AT = 1_769_900_000.0


def answered(*points: dict[str, object]) -> bytes:
    """JSON, as boto3 talks with CloudWatch."""
    return json.dumps({"Label": METRIC, "Datapoints": points}).encode()


@pytest.fixture
def queue() -> str:
    return f"aged-{secrets.token_hex(4)}"


def put(queue: str, minutes_ago: float, seconds: float, metric: str = METRIC) -> None:
    """As SQS does; AWS itself lets nobody else write into its namespace."""
    at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    dimensions = [{"Name": "QueueName", "Value": queue}]
    data: Any = {"MetricName": metric, "Dimensions": dimensions, "Timestamp": at, "Value": seconds}
    boto3.client("cloudwatch").put_metric_data(Namespace=NAMESPACE, MetricData=[data])


def test_the_newest_point_of_the_queue_is_its_age(queue: str) -> None:
    for minutes_ago, seconds in ((9, 900), (2, 120.7), (5, 500)):
        put(queue, minutes_ago, seconds)
    assert oldest_age_seconds(boto3.Session(), queue) == 120


def test_what_is_of_another_queue_or_metric_or_too_old_is_no_age(queue: str) -> None:
    put(f"{queue}-dlq", 2, 7)
    put(queue, 2, 7, "ApproximateNumberOfMessagesVisible")
    put(queue, 20, 7)
    assert oldest_age_seconds(boto3.Session(), queue) is None


class CloudWatch:
    """Answers each request in the same way; it keeps what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body = answered({"Timestamp": AT, "Maximum": 7.0})
        self.seconds = 0.0
        self.asked: list[bytes] = []
        self.url = ""

    def age(self) -> int | None:
        return oldest_age_seconds(boto3.Session(), "login-queue", self.url)


@pytest.fixture
def cloudwatch() -> Iterator[CloudWatch]:
    made = CloudWatch()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(made.seconds)
            self.send_response(made.status)
            for name, value in (
                ("Content-Type", "application/x-amz-json-1.0"),
                ("Content-Length", str(len(made.body))),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(made.body)

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


def test_one_question_names_the_queue_and_the_metric(cloudwatch: CloudWatch) -> None:
    assert cloudwatch.age() == 7
    (asked,) = cloudwatch.asked
    for said in (NAMESPACE, METRIC, "QueueName", "login-queue", "Maximum"):
        assert said.encode() in asked


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        answered(),
        answered({"Timestamp": AT}),
        answered({"Maximum": 7.0}),
        answered({"Timestamp": AT, "Maximum": math.nan}),
        answered({"Timestamp": AT, "Maximum": math.inf}),
        answered({"Timestamp": AT, "Maximum": None}),
        answered({"Timestamp": AT, "Maximum": "canary"}),
        answered({"Timestamp": "canary", "Maximum": 7.0}),
        b"no JSON canary",
        b"\xff\xfe",
        b"",
    ],
)
def test_an_odd_answer_is_no_age(
    cloudwatch: CloudWatch, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    cloudwatch.body = body
    with caplog.at_level(logging.INFO, age.__name__):
        assert cloudwatch.age() is None
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, b'{"__type": "AccessDenied", "message": "canary"}', "AccessDenied"),
        (400, b'{"__type": "Throttling", "message": "canary"}', "Throttling"),
        (503, b"canary", ""),
    ],
)
def test_an_error_is_logged_by_its_code_and_asked_once(
    cloudwatch: CloudWatch, caplog: pytest.LogCaptureFixture, status: int, body: bytes, said: str
) -> None:
    cloudwatch.status, cloudwatch.body = status, body
    with caplog.at_level(logging.INFO, age.__name__):
        assert cloudwatch.age() is None
    assert len(cloudwatch.asked) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.name == age.__name__]
    assert line.startswith("age of the oldest message on login-queue: ")
    assert said in line
    assert "canary" not in line


def test_nobody_waits_long_for_an_age(cloudwatch: CloudWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(age, "SECONDS", 0.2)
    cloudwatch.seconds = 30
    started = time.monotonic()
    assert cloudwatch.age() is None
    assert time.monotonic() - started < 15
    assert len(cloudwatch.asked) == 1


def test_a_cloudwatch_that_is_not_there_is_no_age() -> None:
    session = boto3.Session()
    assert oldest_age_seconds(session, "login-queue", "http://127.0.0.1:9") is None
    assert oldest_age_seconds(session, "login-queue", "no URL") is None
