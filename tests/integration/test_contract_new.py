"""`contract new --peek`: it looks at a real queue and leaves it as it was."""

import json
import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest

from include.queue_etl.cli import app as cli
from include.queue_etl.cli import contract
from include.queue_etl.sqs.client import Message, SqsQueue
from tests.support.wait import wait_until

EVENTS = [
    {"orderId": f"ord-{number}", "email": f"zoe{number}@corp.test", "total": number + 0.25}
    for number in range(40)
]


@pytest.fixture
def queue() -> Iterator[Any]:
    """A queue of our own with the events."""
    made = boto3.resource("sqs").create_queue(QueueName=f"test-{secrets.token_hex(6)}")
    for start in range(0, len(EVENTS), 10):
        made.send_messages(
            Entries=[
                {"Id": str(number), "MessageBody": json.dumps(event)}
                for number, event in enumerate(EVENTS[start : start + 10])
            ]
        )
    yield made
    made.delete()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that takes the place of the project's."""
    monkeypatch.setattr(contract, "PROJECT", tmp_path)
    return tmp_path


def visible(queue: Any) -> int:
    queue.reload()
    return int(queue.attributes["ApproximateNumberOfMessages"])


def peek(queue: Any, most: int) -> int:
    name = queue.url.rpartition("/")[2]
    return cli.main(["contract", "new", "orders", "--queue", name, "--peek", str(most), "--force"])


@pytest.mark.parametrize("client", ["pycurl", "boto3"])
def test_all_messages_are_visible_after_a_peek(queue, client, project, monkeypatch, capsys):
    monkeypatch.setenv("QUEUE_ETL_SQS_CLIENT", client)
    assert peek(queue, 25) == 0
    said = capsys.readouterr()
    assert "peek: received 25, highest receive count 1; released 25\n" in said.out
    assert "25 events in 25 messages\n" in said.out
    assert "raises their receive count by one" in said.err
    wait_until(lambda: visible(queue) == len(EVENTS))
    assert "zoe" not in said.out + said.err
    text = (project / "include/contracts/orders.py").read_text(encoding="utf-8")
    assert "Personal(Normalization.EMAIL)" in text
    assert "zoe" not in text


def test_a_second_peek_tells_the_raised_receive_count(queue, capsys):
    assert peek(queue, len(EVENTS)) == 0
    assert peek(queue, len(EVENTS)) == 0
    assert "highest receive count 2; released 40\n" in capsys.readouterr().out


def test_an_empty_queue_writes_nothing_and_says_so(queue, project, capsys):
    queue.purge()
    wait_until(lambda: visible(queue) == 0)
    assert peek(queue, 5) == 1
    assert capsys.readouterr().err.endswith(": no JSON object among 0 messages: there is no message\n")
    assert not (project / "include").exists()


def test_a_queue_that_is_not_there_is_named(capsys):
    name = f"test-{secrets.token_hex(6)}"
    assert cli.main(["contract", "new", "orders", "--queue", name, "--peek", "5"]) == 1
    assert capsys.readouterr().err.endswith("GetQueueUrl: QueueDoesNotExist\n")


def test_messages_are_released_when_a_peek_is_interrupted(queue, monkeypatch):
    receive = SqsQueue.receive

    def interrupted(self: SqsQueue, most: int, seconds: float) -> Iterator[list[Message]]:
        with closing(receive(self, most, seconds)) as arriving:
            yield next(arriving)
        raise KeyboardInterrupt

    monkeypatch.setattr(SqsQueue, "receive", interrupted)
    assert peek(queue, len(EVENTS)) == 130
    wait_until(lambda: visible(queue) == len(EVENTS), seconds=contract.PEEK_HIDDEN_SECONDS / 2)
