"""SQS refuses, throttles, does half of what it is asked, or acts and never says so."""

import random
import secrets
from collections.abc import Iterator

import pytest

from tests.bench import sqs_stub
from tests.bench.sqs_stub import Fault, Stub
from tests.faults import canaries, worker
from tests.faults.bodies import Sent, some, texts
from tests.faults.reconciliation import GOOD, balance
from tests.faults.servers import QueueUnderTest
from tests.support.wait import wait_until

ACTIONS = (
    "GetQueueUrl",
    "GetQueueAttributes",
    "ReceiveMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibilityBatch",
)
FAULTS = {
    "500": sqs_stub.SERVER_ERROR,
    "503": sqs_stub.UNAVAILABLE,
    "throttled": sqs_stub.THROTTLED,
    "three entries failed": Fault(fail_entries=3, code="InternalError"),
    "three receipts invalid": Fault(fail_entries=3, code="ReceiptHandleIsInvalid", sender_fault=True),
    "reset": sqs_stub.RESET,
    "acted, answer lost": Fault(reset="after"),
    "acted after the time-out": Fault(seconds=1.5),
}
OPTIONS = {"QUEUE_ETL_REQUEST_TIMEOUT_SECONDS": "1", "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "2"}
MOST_RUNS = 25
CALLS = 8  # of each action, of which half go wrong


@pytest.fixture
def sent(tested: QueueUnderTest) -> list[Sent]:
    """On the stub, not on the tested's own queue."""
    return some(tested.tag, 60)


@pytest.fixture
def stub(tested: QueueUnderTest, sent: list[Sent]) -> Iterator[Stub]:
    """A queue of the tested's name that holds the messages."""
    with sqs_stub.serving(texts(sent), name=tested.queue_name) as stub:
        stub.queue.seed = secrets.randbits(40)
        yield stub


def plan(stub: Stub, faults: list[Fault]) -> None:
    """About half of the next calls of every action go wrong."""
    dice = random.Random(len(faults))
    for action in ACTIONS:
        stub.plan(action, *[dice.choice([*faults, *[Fault()] * len(faults)]) for _ in range(CALLS)])


def left(stub: Stub) -> int:
    return stub.queue.visible + len(stub.queue.in_flight)


def run_until_empty(tested: QueueUnderTest, stub: Stub) -> int:
    """How many runs it took; each succeeds, or fails in order."""
    for number in range(1, MOST_RUNS):
        ended = worker.run(tested, "drain", **OPTIONS, AWS_ENDPOINT_URL_SQS=stub.url)
        assert ended.code in (0, 1), ended.errors[-2000:]
        assert "Traceback" not in ended.errors
        assert not canaries.hits(ended.errors.encode())
        if not left(stub):
            return number
        wait_until(lambda: _expired(stub))
    raise AssertionError(f"{left(stub)} messages are left after {MOST_RUNS} runs")


def _expired(stub: Stub) -> bool:
    """Looks as a receive would, but takes nothing."""
    stub.queue.return_expired()
    return bool(stub.queue.visible)


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_sqs_answers_every_message_is_in_one_place_once(
    tested: QueueUnderTest, sent: list[Sent], stub: Stub, fault: str
) -> None:
    plan(stub, [FAULTS[fault]])

    run_until_empty(tested, stub)

    assert len(stub.faults["DeleteMessageBatch"]) < CALLS, "nothing went wrong"
    assert len(stub.faults["ReceiveMessage"]) < CALLS, "nothing went wrong"
    assert balance(tested, sent) == GOOD


def test_all_that_sqs_may_answer_together_loses_nothing(
    tested: QueueUnderTest, sent: list[Sent], stub: Stub
) -> None:
    plan(stub, list(FAULTS.values()))

    run_until_empty(tested, stub)

    assert balance(tested, sent) == GOOD
