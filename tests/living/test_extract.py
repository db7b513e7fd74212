"""The first step while messages arrive: when it ends, what it costs, what it does when SQS fails.

The queue is the stub, which counts calls and misbehaves when told to.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import pytest

from include.queue_etl import steps
from include.queue_etl.errors import QueueEtlError, QueueRefused, QueueUnavailable
from tests.bench.sqs_stub import DENIED, THROTTLED, UNAVAILABLE, Fault, Stub
from tests.faults.bodies import login
from tests.faults.servers import Servers
from tests.living.flow import ALL_LOADED, Flow, on_stub

RECEIVE, RELEASE = "ReceiveMessage", "ChangeMessageVisibilityBatch"
MARGIN_SECONDS = 10.0  # other work may keep the machine busy
TRICKLE_SECONDS = 8
MANY_SECONDS = 5
ROUND_TRIP_SECONDS = 0.1
SETTINGS = {
    "receive_seconds": 3,
    "visibility_timeout_seconds": 300,
    "wait_seconds": 2,
    "batch_messages": 1_000,
}


@dataclass(frozen=True)
class Extracted:
    """What an extract brought, how long it took, what the stub counted, and what was sent until it ended."""

    batches: list[dict[str, Any]]
    seconds: float
    calls: int
    empty: int
    busiest: int
    waiting: int
    sent: int = 0

    @property
    def messages(self) -> int:
        return sum(batch["messages"] for batch in self.batches)

    @property
    def names(self) -> list[str]:
        return [batch["batch"] for batch in self.batches]


def extracted(flow: Flow, stub: Stub, name: str = "run", caught_up_seconds: float = inf) -> Extracted:
    with flow.open_run(name) as context:
        context.preflight()
        started = time.monotonic()
        batches = steps.extract(context, caught_up_seconds=caught_up_seconds)
        seconds, waiting = time.monotonic() - started, stub.queue.visible
    return Extracted(batches, seconds, stub.calls[RECEIVE], stub.empty, stub.busiest[RECEIVE], waiting)


def finished(flow: Flow, names: list[str], name: str = "run") -> dict[str, Any]:
    with flow.open_run(name) as context:
        return flow.go_on(context, names)


# How long, and how many calls: flows side by side, since most of their time is waiting ----------------------


def at_pace(servers: Servers, rate: float, seconds: int, round_trip_seconds: float = 0.0) -> Extracted:
    with on_stub(servers, **{**SETTINGS, "receive_seconds": seconds}) as (flow, stub):
        stub.always[RECEIVE] = Fault(seconds=round_trip_seconds)
        with flow.sender(rate=rate) as sent:
            taken = extracted(flow, stub)
            return replace(taken, sent=sent.count)


def after_silence(servers: Servers) -> Extracted:
    """Long polls of 5 s, in the first of which the sender begins."""
    with on_stub(servers, **{**SETTINGS, "wait_seconds": 5}) as (flow, stub), ThreadPoolExecutor(1) as thread:
        extracting = thread.submit(extracted, flow, stub)
        time.sleep(3)
        with flow.sender(rate=5):
            return extracting.result()


def caught_up(servers: Servers) -> Extracted:
    """It could receive for a minute, and has to end soon after it takes messages as they come."""
    with on_stub(servers, **{**SETTINGS, "receive_seconds": 60}) as (flow, stub), flow.sender(rate=5) as sent:
        return replace(extracted(flow, stub, caught_up_seconds=2), sent=sent.count)


@pytest.fixture(scope="module")
def paced(servers: Servers) -> Iterator[dict[str, Extracted]]:
    with ThreadPoolExecutor() as side_by_side:
        started = {
            "1 a second": side_by_side.submit(at_pace, servers, 1, TRICKLE_SECONDS),
            "3 a second": side_by_side.submit(at_pace, servers, 3, TRICKLE_SECONDS),
            "300 a second": side_by_side.submit(at_pace, servers, 300, MANY_SECONDS, ROUND_TRIP_SECONDS),
            "after silence": side_by_side.submit(after_silence, servers),
            "caught up": side_by_side.submit(caught_up, servers),
        }
        yield {name: future.result() for name, future in started.items()}


def test_the_bound_counts_from_the_first_message(paced: dict[str, Extracted]) -> None:
    late = paced["after silence"]
    assert 3 + 3 - 1.2 <= late.seconds <= 3 + 3 + MARGIN_SECONDS
    assert late.messages >= 7


def test_who_has_caught_up_ends_long_before_the_bound(paced: dict[str, Extracted]) -> None:
    early = paced["caught up"]
    assert 2 <= early.seconds <= 2 + MARGIN_SECONDS
    assert early.messages >= 5


@pytest.mark.parametrize("rate", [1, 3])
def test_a_trickle_costs_about_two_calls_a_second(paced: dict[str, Extracted], rate: int) -> None:
    trickle = paced[f"{rate} a second"]
    assert TRICKLE_SECONDS - 1.2 <= trickle.seconds <= TRICKLE_SECONDS + MARGIN_SECONDS
    # The first pauses are shorter, and the last second has short polls, few of which find nothing.
    assert trickle.calls <= 2 * trickle.seconds + 5
    assert trickle.empty <= 2 * trickle.seconds
    assert trickle.busiest <= 2


def test_a_trickle_is_received_as_it_comes(paced: dict[str, Extracted]) -> None:
    assert paced["3 a second"].messages >= 3 * (TRICKLE_SECONDS - 1.5)
    assert paced["3 a second"].waiting <= 3


def test_many_messages_far_away_take_calls_at_once_and_keep_up(paced: dict[str, Extracted]) -> None:
    many = paced["300 a second"]
    assert many.busiest > 1
    after_the_bound = many.seconds - MANY_SECONDS  # what comes then is for the next run
    assert many.waiting <= (after_the_bound + 0.5) * 300
    assert many.messages + many.waiting >= 0.8 * many.sent


# What ends it earlier ---------------------------------------------------------------------------------------


def test_a_run_takes_no_more_than_its_most_and_ends_then(servers: Servers) -> None:
    settings = {**SETTINGS, "receive_seconds": 60, "max_messages": 50}
    with on_stub(servers, **settings) as (flow, stub), flow.sender(rate=100):
        taken = extracted(flow, stub)
    assert taken.messages == 50
    assert taken.seconds < 30


def test_an_empty_queue_ends_extract_after_one_long_poll(servers: Servers) -> None:
    with on_stub(servers, **{**SETTINGS, "wait_seconds": 1, "receive_seconds": 30}) as (flow, stub):
        taken = extracted(flow, stub)
    assert (taken.batches, taken.calls) == ([], 1)
    assert taken.seconds < 1 + MARGIN_SECONDS


def test_steps_in_one_process_load_what_arrives_once(servers: Servers) -> None:
    with on_stub(servers, **{**SETTINGS, "receive_seconds": 2}) as (flow, stub):
        with flow.sender(rate=50) as sent:
            during = finished(flow, extracted(flow, stub, "one").names, "one")
        after = finished(flow, extracted(flow, stub, "two").names, "two")
        assert flow.account(sent) == ALL_LOADED
        assert during["loaded"] >= 50
        assert during["loaded"] + after["loaded"] == sent.count


# SQS fails after the first message, or before it ------------------------------------------------------------


def send(flow: Flow, stub: Stub, count: int) -> None:
    for number in range(count):
        stub.queue.send(login(flow.tested.tag, number).body)


@pytest.mark.parametrize("fault", [UNAVAILABLE, THROTTLED, DENIED], ids=lambda fault: fault.code)
def test_a_queue_that_fails_in_the_middle_ends_extract(
    servers: Servers, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    with on_stub(servers, **{**SETTINGS, "transfers": 1}) as (flow, stub):
        send(flow, stub, 100)
        stub.plan(RECEIVE, *[Fault()] * 5)
        stub.always[RECEIVE] = fault
        taken = extracted(flow, stub)
        assert taken.messages == 50
        assert taken.seconds <= 3 + MARGIN_SECONDS
        assert f"go on with what has come: queue '{flow.tested.queue_name}'" in caplog.text
        stub.always.clear()
        summary = finished(flow, taken.names)
        assert (summary["state"], summary["loaded"], summary["deleted"]) == ("succeeded", 50, 50)
        assert (stub.calls[RELEASE], stub.queue.visible, len(stub.queue.in_flight)) == (0, 50, 0)


@pytest.mark.parametrize(
    ("fault", "error"), [(UNAVAILABLE, QueueUnavailable), (DENIED, QueueRefused)], ids=["outage", "refusal"]
)
def test_a_queue_that_fails_before_the_first_message_fails_extract(
    servers: Servers, fault: Fault, error: type[QueueEtlError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.queue_etl.sqs.transport.FIRST_PAUSE_SECONDS", 0.01)
    with on_stub(servers, **SETTINGS) as (flow, stub):
        send(flow, stub, 10)
        stub.always[RECEIVE] = fault
        with pytest.raises(error):
            extracted(flow, stub)
        assert (stub.queue.visible, len(stub.queue.in_flight)) == (10, 0)


def test_an_sqs_that_falls_silent_is_waited_for_in_bounded_time(servers: Servers) -> None:
    settings = {**SETTINGS, "receive_seconds": 2, "wait_seconds": 1, "request_timeout_seconds": 1}
    with on_stub(servers, **settings) as (flow, stub):
        send(flow, stub, 20)
        stub.plan(RECEIVE, Fault(), Fault())
        stub.always[RECEIVE] = Fault(seconds=600)
        taken = extracted(flow, stub)
        assert taken.messages == 20
        assert taken.seconds <= 2 + 1 + 1 + MARGIN_SECONDS
        assert finished(flow, taken.names)["loaded"] == 20
