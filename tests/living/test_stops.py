"""An extract that is killed or stopped while messages trickle in: what is older than seconds is sealed.

It would receive for 30 s, and is ended two seconds after it sealed its second batch. Kill and stop are under
way side by side.
"""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM, Signals

import pytest

from include.queue_etl.staging.area import BatchFile, Kind
from include.queue_etl.steps import SEAL_SECONDS
from include.queue_etl.transform.batches import ReceiptHandles
from tests.bench.sqs_stub import Stub
from tests.faults.servers import Servers
from tests.faults.worker import Ended
from tests.living.flow import ALL_LOADED, Account, Flow, on_stub
from tests.support.wait import wait_until

RATE = 10
SEALED_BATCHES, OPEN_SECONDS = 2, 2
LATE_SECONDS = 3  # of the machine: how old a batch is, is asked once in TURN_SECONDS
RELEASE = "ChangeMessageVisibilityBatch"
# No batch gets full: it is sealed for its age.
SETTINGS = {
    "receive_seconds": 30,
    "visibility_timeout_seconds": 60,
    "wait_seconds": 2,
    "batch_messages": 1_000,
}


@dataclass(frozen=True)
class Moment:
    """How a run stands when its extract has just been ended.

    Attributes:
        sealed: messages in sealed batches
        hidden: in flight: the sealed ones, and those that were lost with the process
        hidden_seconds: until the last of them comes back
        visible: released, or not received yet
    """

    sealed: int
    hidden: int
    hidden_seconds: float
    visible: int


@dataclass(frozen=True)
class Story:
    """A run whose extract was ended from outside.

    Attributes:
        ended: the first attempt
        moment: after it
        retried: messages in the batches of the second
        releases: calls of the second that gave messages back
        loaded: by the run
        left: on the queue after it
        account: after another run, when what was hidden had come back
    """

    ended: Ended
    moment: Moment
    retried: int
    releases: int
    loaded: int
    left: int
    account: Account


def receive_and_end(flow: Flow, how: Signals) -> Ended:
    extract = flow.extract("run")
    with flow.open_run("run") as context:
        wait_until(lambda: len(context.staging.batches(Kind.RAW)) == SEALED_BATCHES)
    time.sleep(OPEN_SECONDS)
    assert extract.process.pid
    os.kill(extract.process.pid, how)
    return extract.wait()


def look(flow: Flow, stub: Stub) -> Moment:
    queue = stub.queue
    hidden_seconds = max(queue.in_flight.values()) - time.monotonic()
    with flow.open_run("run") as context:
        files = [BatchFile(batch, Kind.RECEIPT_HANDLES) for batch in context.staging.batches(Kind.RAW)]
        receipts = [context.staging.open(file, ReceiptHandles) for file in files]
    sealed = sum(len(one.ids) for one in receipts if one)
    return Moment(sealed, len(queue.in_flight), hidden_seconds, queue.visible)


def go_on(flow: Flow) -> tuple[int, int]:
    """The second attempt and all that follows: messages in its batches, and how many the run loaded."""
    ended = flow.extract("run").wait()
    batches = json.loads(ended.output)
    with flow.open_run("run") as context:
        summary = flow.go_on(context, [batch["batch"] for batch in batches])
    return sum(batch["messages"] for batch in batches), summary["loaded"]


def story(servers: Servers, how: Signals) -> Story:
    with on_stub(servers, **SETTINGS) as (flow, stub):
        with flow.sender(rate=RATE) as sent:
            ended = receive_and_end(flow, how)
        moment, releases = look(flow, stub), stub.calls[RELEASE]
        retried, loaded = go_on(flow)
        releases = stub.calls[RELEASE] - releases
        left = flow.depth().total
        for number in list(stub.queue.in_flight):  # the time of what was lost with the process is over
            stub.queue.release(number)
        flow.drain()
        return Story(ended, moment, retried, releases, loaded, left, flow.account(sent))


@pytest.fixture(scope="module")
def stories(servers: Servers) -> dict[Signals, Story]:
    with ThreadPoolExecutor(2) as side_by_side:
        signals = (SIGKILL, SIGTERM)
        return dict(zip(signals, side_by_side.map(lambda how: story(servers, how), signals), strict=True))


@pytest.fixture
def killed(stories: dict[Signals, Story]) -> Story:
    assert stories[SIGKILL].ended.was_killed
    return stories[SIGKILL]


@pytest.fixture
def stopped(stories: dict[Signals, Story]) -> Story:
    assert stories[SIGTERM].ended.code == 128 + SIGTERM
    return stories[SIGTERM]


def test_what_a_killed_extract_had_not_sealed_is_of_its_last_seconds(killed: Story) -> None:
    moment = killed.moment
    assert moment.sealed >= RATE * (SEALED_BATCHES * SEAL_SECONDS - LATE_SECONDS)
    assert 0 < moment.hidden - moment.sealed <= RATE * (SEAL_SECONDS + LATE_SECONDS)


def test_the_retry_adopts_what_was_sealed_before_the_kill(killed: Story) -> None:
    assert killed.retried == killed.loaded == killed.moment.sealed + killed.moment.visible


def test_what_was_not_sealed_comes_back_by_itself_and_is_loaded(killed: Story) -> None:
    assert 0 < killed.moment.hidden_seconds <= SETTINGS["visibility_timeout_seconds"]
    assert killed.left == killed.moment.hidden - killed.moment.sealed
    assert killed.account == ALL_LOADED


@pytest.mark.parametrize("how", [SIGKILL, SIGTERM], ids=lambda how: how.name)
def test_a_retry_gives_no_sealed_batch_back(stories: dict[Signals, Story], how: Signals) -> None:
    assert stories[how].releases == 0
    assert stories[how].moment.sealed > 0


def test_a_stopped_extract_makes_visible_at_once_what_is_not_sealed(stopped: Story) -> None:
    assert stopped.moment.hidden == stopped.moment.sealed
    assert stopped.moment.sealed >= RATE * (SEALED_BATCHES * SEAL_SECONDS - LATE_SECONDS)


def test_a_stopped_extract_says_what_it_gave_back_and_what_stays(stopped: Story) -> None:
    (given,) = re.findall(r"released (\d+) of \1 messages: extract did not get", stopped.ended.errors)
    assert 0 < int(given) <= stopped.moment.visible
    assert f"{stopped.moment.sealed} sealed messages stay staged" in stopped.ended.errors


def test_the_retry_of_a_stopped_extract_takes_all_there_is(stopped: Story) -> None:
    assert stopped.loaded == stopped.moment.sealed + stopped.moment.visible
    assert stopped.left == 0
    assert stopped.account == ALL_LOADED
