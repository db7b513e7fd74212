"""Whole runs while messages arrive, from one a second to bursts of thousands: they end, and lose nothing.

All flows of one kind of queue are under way side by side, since most of their time is waiting.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.faults.servers import Servers
from tests.living.flow import ALL_LOADED, Account, Drain, Flow, on_fast_stub
from tests.support.wait import wait_until

RECEIVE_SECONDS = 3
LONG_POLL_SECONDS = 2
# Beside the receiving: the processes share two cores with servers, senders and each other.
EXTRACT_MARGIN_SECONDS, DRAIN_MARGIN_SECONDS = 10.0, 30.0
PACES: dict[str, dict[str, Any]] = {
    "1 a second": {"rate": 1},
    "10 a second": {"rate": 10},
    "100 a second": {"rate": 100},
    "1,000 a second": {"rate": 1_000},
    "bursts": {"burst": (3_000, 3.0)},
}
SLOW = ("1 a second", "10 a second", "100 a second")
FAST = ("1,000 a second", "bursts")
POLLS = {"long polls": LONG_POLL_SECONDS, "short polls": 0}
KINDS = [(pace, polls) for pace in PACES for polls in POLLS]


@dataclass(frozen=True)
class Result:
    """What became of a flow.

    Attributes:
        during: runs while messages were sent
        arrived: messages sent from the start of the first of them to the end of the last
        after: the one run after the last message
        sent: messages in all
        account: after it
    """

    during: list[Drain]
    arrived: int
    after: Drain
    sent: int
    account: Account

    @property
    def drains(self) -> list[Drain]:
        return [*self.during, self.after]


def flow_through(flow: Flow, pace: dict[str, Any]) -> Result:
    with flow.sender(**pace) as sent:
        wait_until(lambda: sent.count > 0)
        before = sent.count
        during = [flow.drain(), flow.drain()]
        arrived = sent.count - before
    after = flow.drain()
    return Result(during, arrived, after, sent.count, flow.account(sent))


@contextmanager
def open_flow(servers: Servers, pace: str, wait_seconds: int) -> Iterator[Flow]:
    """On the stack's SQS, or on the stub for what is too fast for an emulator."""
    chosen = {
        "receive_seconds": RECEIVE_SECONDS,
        "wait_seconds": wait_seconds,
        "visibility_timeout_seconds": 300,
        "batch_messages": 1_000,
    }
    if pace in FAST:
        with on_fast_stub(servers, **chosen) as flow:
            yield flow
    else:
        yield Flow(servers.new_queue(), servers.environment["AWS_ENDPOINT_URL"], chosen)


@pytest.fixture(scope="module")
def results(servers: Servers) -> dict[tuple[str, str], Result]:
    """By pace and kind of poll."""

    def one(kind: tuple[str, str]) -> Result:
        pace, polls = kind
        with open_flow(servers, pace, POLLS[polls]) as flow:
            return flow_through(flow, PACES[pace])

    found: dict[tuple[str, str], Result] = {}
    for paces in (SLOW, FAST):
        kinds = [kind for kind in KINDS if kind[0] in paces]
        with ThreadPoolExecutor(len(kinds)) as side_by_side:
            found |= zip(kinds, side_by_side.map(one, kinds), strict=True)
    return found


@pytest.fixture(params=KINDS, ids=lambda kind: ", ".join(kind))
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def result(results: dict[tuple[str, str], Result], kind: tuple[str, str]) -> Result:
    return results[kind]


def test_extract_ends_in_its_time_while_messages_arrive(result: Result, kind: tuple[str, str]) -> None:
    longest = RECEIVE_SECONDS + POLLS[kind[1]] + EXTRACT_MARGIN_SECONDS
    # A run that found nothing is not recorded, and has no such figure.
    assert max(drain.summary.get("extract_seconds", 0) for drain in result.drains) <= longest


def test_a_whole_run_ends_in_its_time_while_messages_arrive(result: Result, kind: tuple[str, str]) -> None:
    longest = RECEIVE_SECONDS + POLLS[kind[1]] + DRAIN_MARGIN_SECONDS
    assert max(drain.seconds for drain in result.drains) <= longest


def test_messages_did_arrive_all_the_while(result: Result, kind: tuple[str, str]) -> None:
    if kind == ("1 a second", "short polls"):  # a short poll finds the queue empty and ends the run
        return
    assert result.arrived >= 3
    assert all(drain.summary["received"] for drain in result.during)


def test_runs_under_way_and_one_after_load_every_message_once(result: Result) -> None:
    assert result.account == ALL_LOADED
    assert sum(drain.summary["loaded"] for drain in result.drains) == result.sent


def test_what_a_run_received_it_loaded_and_deleted(result: Result) -> None:
    for drain in result.drains:
        counts = {name: drain.summary[name] for name in ("received", "loaded", "deleted")}
        assert counts == dict.fromkeys(counts, drain.summary["received"])
        assert drain.summary["duplicates"] == 0


@pytest.mark.parametrize("pace", ["10 a second", "100 a second", "1,000 a second"])
def test_long_polls_receive_to_the_bound(results: dict[tuple[str, str], Result], pace: str) -> None:
    # The last second has short polls only, which may find the queue empty.
    for drain in results[pace, "long polls"].during:
        assert drain.summary["extract_seconds"] >= RECEIVE_SECONDS - 1.2
