"""A network that is slow, resets connections or swallows what is sent, before SQS, S3 and Postgres."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import botocore.config
import pytest
from psycopg.conninfo import make_conninfo

from include.queue_etl import steps
from include.queue_etl.errors import PreflightError, RunFailed, StagingUnavailable, WarehouseUnavailable
from tests.faults import canaries, proxy, runs, worker
from tests.faults.bodies import Sent, some, texts
from tests.faults.proxy import Proxy
from tests.faults.reconciliation import GOOD, balance
from tests.faults.servers import QueueUnderTest
from tests.faults.worker import Ended

MESSAGES = 30  # three batches
# An answer that SQS does not give within a second is asked for again, Postgres has two seconds to accept.
HASTE = {
    "QUEUE_ETL_REQUEST_TIMEOUT_SECONDS": "1",
    "QUEUE_ETL_RECEIVE_SECONDS": "30",
    "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "300",
}
# What a lost answer of ReceiveMessage held is hidden until its time is over.
SOON = {"QUEUE_ETL_RECEIVE_SECONDS": "3", "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "6"}
PARTS = ("sqs", "s3", "postgres")


@contextlib.contextmanager
def bad_network(tested: QueueUnderTest, part: str, **how: Any) -> Iterator[tuple[Proxy, dict[str, str]]]:
    """A proxy before one part, and the variables that lead there."""
    settings = tested.servers.settings
    with proxy.serving(settings.postgres_port if part == "postgres" else settings.sqs_port, **how) as between:
        yield between, {**HASTE, **_places(tested, part, between)}


def _places(tested: QueueUnderTest, part: str, between: Proxy) -> dict[str, str]:
    if part == "postgres":
        dsn = make_conninfo(tested.servers.warehouse_dsn, port=between.port, connect_timeout=2)
        return {"QUEUE_ETL_WAREHOUSE_DSN": dsn}
    if part == "sqs":
        return {"AWS_ENDPOINT_URL_SQS": between.url}
    return {"AWS_ENDPOINT_URL_S3": between.url, "QUEUE_ETL_STAGING": tested.in_bucket().staging_url}


@pytest.fixture
def sent(tested: QueueUnderTest) -> list[Sent]:
    messages = some(tested.tag, MESSAGES)
    tested.send(texts(messages))
    return messages


def drain(tested: QueueUnderTest, environment: dict[str, str], seconds: float) -> Ended:
    """A run that must end in that time, and say why in one line if it fails."""
    started = time.monotonic()
    ended = worker.run(tested, "drain", **environment)
    took = time.monotonic() - started
    assert took < seconds, f"{took:.1f} s: {ended.last_line}"
    assert ended.code in (0, 1), ended.errors[-2000:]
    assert "Traceback" not in ended.errors
    assert not canaries.hits(f"{ended.output}{ended.errors}".encode())
    return ended


def drain_the_rest(tested: QueueUnderTest, sent: list[Sent]) -> None:
    """Without faults: then every message must be in its place."""
    while tested.on_queue():
        worker.wait_until_visible(tested)
        assert worker.run(tested, "drain").code == 0
    assert balance(tested, sent) == GOOD


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "how", [{"latency_seconds": 0.02}, {"bytes_a_second": 100_000}], ids=["late", "trickling"]
)
def test_a_slow_network_costs_time_and_nothing_else(
    tested: QueueUnderTest, sent: list[Sent], part: str, how: dict[str, Any]
) -> None:
    with bad_network(tested, part, **how) as (between, places):
        ended = drain(tested, places, seconds=90)
        assert between.opened

    assert ended.code == 0, ended.last_line
    assert balance(tested, sent) == GOOD


@pytest.mark.parametrize("part", ["sqs", "s3"])
def test_connections_that_are_reset_are_opened_again_by_the_run_itself(
    tested: QueueUnderTest, sent: list[Sent], part: str
) -> None:
    with bad_network(tested, part, reset_after_bytes=900, resets=3) as (between, places):
        ended = drain(tested, {**places, **SOON}, seconds=90)

    assert between.harmed == 3
    assert ended.code == 0, ended.last_line
    drain_the_rest(tested, sent)


@pytest.mark.parametrize("after_bytes", [0, 1_000, 3_000, 4_000])
def test_a_reset_postgres_connection_fails_a_run_and_releases_its_messages(
    tested: QueueUnderTest, sent: list[Sent], after_bytes: int
) -> None:
    with bad_network(tested, "postgres", reset_after_bytes=after_bytes, resets=1) as (between, places):
        ended = drain(tested, places, seconds=90)

    assert between.harmed == 1
    assert ended.code == 1
    assert "Postgres" in ended.last_line
    assert tested.queue().depth().in_flight == 0
    drain_the_rest(tested, sent)


def test_a_dead_network_before_sqs_ends_the_run_in_bounded_time(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    with bad_network(tested, "sqs", mute_after_bytes=0) as (between, places):
        ended = drain(tested, places, seconds=90)

    assert between.harmed
    assert ended.code == 1
    drain_the_rest(tested, sent)


def test_answers_of_sqs_that_never_come_are_asked_for_again(tested: QueueUnderTest, sent: list[Sent]) -> None:
    with bad_network(tested, "sqs", mute_after_bytes=3_000, mutes=3) as (between, places):
        ended = drain(tested, {**places, **SOON}, seconds=90)

    assert between.harmed == 3
    assert ended.code == 0, ended.last_line
    drain_the_rest(tested, sent)


def test_if_sqs_is_silent_finish_waits_for_it_once_and_messages_come_back(
    tested: QueueUnderTest,
    sent: list[Sent],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("include.queue_etl.sqs.transport.ATTEMPTS", 2)
    with bad_network(tested, "sqs") as (between, _):
        options: Any = {"endpoint_url": between.url, "request_timeout_seconds": 1}
        runs.up_to_load(tested, **options)
        between.mute_after_bytes = 0
        started = time.monotonic()
        with pytest.raises(RunFailed):
            runs.finish(tested, **options)
        # Two attempts of 1 s each and the pauses between; the rest is for other work on the machine.
        assert time.monotonic() - started < 30

    assert "and 2 after it" in caplog.text
    drain_the_rest(tested, sent)


def test_a_postgres_that_never_answers_stops_a_run_before_it_receives(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    with bad_network(tested, "postgres", mute_after_bytes=0) as (_, places):
        ended = drain(tested, places, seconds=90)

    assert "nothing received" in ended.errors
    assert tested.queue().depth().visible == len(sent)
    drain_the_rest(tested, sent)


@pytest.mark.parametrize("silent", ["for one connection", "for good"])
def test_if_postgres_falls_silent_runs_end_in_time_and_messages_come_back(
    tested: QueueUnderTest,
    sent: list[Sent],
    silent: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The network says that all is well, so no time-out of TCP ends it: a stopped pooler looks so.
    monkeypatch.setattr("include.queue_etl.resources.BATCH_SILENCE_SECONDS", 1.0)  # in place of two minutes
    with bad_network(tested, "postgres", mute_after_bytes=3_000, mutes=1) as (between, places):
        options: Any = {"dsn": places["QUEUE_ETL_WAREHOUSE_DSN"], "visibility_timeout_seconds": 300}
        started = time.monotonic()
        with pytest.raises(WarehouseUnavailable, match="has not answered for 1 s"):
            all_in_one(tested, **options)
        assert between.harmed == 1
        if silent == "for good":
            between.mute_after_bytes, between.mutes = 0, 1_000_000
        with pytest.raises(RunFailed if between.mutes == 0 else WarehouseUnavailable):
            runs.finish(tested, upstream_failed=True, **options)
        assert time.monotonic() - started < 60

    assert tested.queue().depth().in_flight == 0
    assert "released" in caplog.text
    drain_the_rest(tested, sent)


def all_in_one(tested: QueueUnderTest, **options: Any) -> None:
    """Every step but the last over the same connections, as `drain` does it."""
    with tested.open_run(runs.NAME, **options) as context:
        for batch in steps.extract(context):
            steps.load(context, steps.mask(context, batch["batch"])["batch"])


def test_a_bucket_that_never_answers_stops_a_run_before_it_receives(
    tested: QueueUnderTest, sent: list[Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    with bad_network(tested, "s3", mute_after_bytes=0) as (between, places):
        _hurry(monkeypatch, places, attempts=4)
        started = time.monotonic()
        run = tested.open_run(staging=places["QUEUE_ETL_STAGING"])
        with run as context, pytest.raises(PreflightError, match="ReadTimeoutError"):
            context.preflight()
        assert time.monotonic() - started < 60
        assert between.harmed == 4

    assert tested.queue().depth().visible == len(sent)
    drain_the_rest(tested, sent)


# In the second batch, but for finish, which then cannot even say which batches there are.
IN_STEP = {
    "extract": ("_seal", 2),
    "mask": ("mask_batch", 2),
    "load": ("_rejected", 2),
    "finish": ("_settle", 1),
}


@pytest.mark.parametrize("step", IN_STEP)
def test_if_a_bucket_falls_silent_runs_end_in_time_and_messages_come_back(
    tested: QueueUnderTest,
    sent: list[Sent],
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with bad_network(tested, "s3") as (between, places):
        _hurry(monkeypatch, places, attempts=2)
        _silence_at(*IN_STEP[step], between, monkeypatch)
        options: Any = {"staging": places["QUEUE_ETL_STAGING"], "visibility_timeout_seconds": 300}
        started = time.monotonic()
        with pytest.raises(StagingUnavailable, match="ReadTimeoutError"):
            runs.whole(tested, runs.NAME, **options)
        with pytest.raises(StagingUnavailable):
            runs.finish(tested, upstream_failed=True, **options)
        assert time.monotonic() - started < 60
        assert "its messages come back by 20" in caplog.text

        between.mute_after_bytes = None
        with pytest.raises(RunFailed):  # somebody clears it, or maintenance does
            runs.finish(tested, upstream_failed=True, **options)

    assert tested.queue().depth().in_flight == 0
    drain_the_rest(tested, sent)


def _silence_at(name: str, call: int, between: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy falls silent when that function of the steps is called for that time."""
    original, calls = getattr(steps, name), itertools.count(1)

    def called(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            between.mute_after_bytes = 0
        return original(*arguments, **named)

    monkeypatch.setattr(steps, name, called)


def _hurry(monkeypatch: pytest.MonkeyPatch, places: dict[str, str], attempts: int) -> None:
    """S3 where the proxy is, with 0.3 s in place of 30 for each of so many attempts, for this process."""
    patience = {"read_timeout": 0.3, "retries": {"mode": "standard", "total_max_attempts": attempts}}
    original = botocore.config.Config
    monkeypatch.setattr(botocore.config, "Config", lambda **given: original(**{**given, **patience}))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", places["AWS_ENDPOINT_URL_S3"])
