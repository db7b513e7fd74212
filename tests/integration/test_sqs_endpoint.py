"""The client against a real SQS endpoint: the one AWS_ENDPOINT_URL names, whichever it is."""

import os
import secrets
import time
from typing import Any

import boto3
import pytest

from include.queue_etl.errors import QueueRefused
from include.queue_etl.settings import Settings
from include.queue_etl.sqs.client import SqsQueue

CLIENTS = ("pycurl", "boto3")
SECONDS = 60  # longer than any test receives


@pytest.fixture(scope="module")
def endpoint():
    if not os.environ.get("AWS_ENDPOINT_URL"):
        pytest.fail("AWS_ENDPOINT_URL is not set: run the tests through ./dev test")
    return os.environ["AWS_ENDPOINT_URL"]


@pytest.fixture
def name(endpoint):
    """Of a queue of our own, removed afterwards."""
    name = f"test-{secrets.token_hex(6)}"
    client = boto3.client("sqs", endpoint_url=endpoint)
    url = client.create_queue(QueueName=name)["QueueUrl"]
    yield name
    client.delete_queue(QueueUrl=url)


def connect(name, client="pycurl", **changes):
    settings = Settings(**({"staging": "/nowhere", "wait_seconds": 1, "sqs_client": client} | changes))
    return SqsQueue.connect(boto3.Session(), name, settings)


def received(queue, most=1_000):
    return [message for messages in queue.receive(most, SECONDS) for message in messages]


def wait_for_depth(queue, visible):
    until = time.monotonic() + 60
    while queue.depth().visible != visible and time.monotonic() < until:
        time.sleep(0.1)
    return queue.depth().visible


BODIES = [b"{}", b'{"ip": "203.0.113.7"}', "ключ \N{GRINNING FACE} \n\t".encode(), b"x" * 100_000]


@pytest.mark.parametrize("client", CLIENTS)
def test_what_was_sent_is_received_as_it_was(name, client):
    queue = connect(name, client)
    bodies = [*BODIES, *(b"%d" % number for number in range(60))]
    before_ms = time.time_ns() // 1_000_000
    assert queue.send(bodies) == 64
    messages = received(queue)
    assert sorted(message.body for message in messages) == sorted(bodies)
    assert len({message.message_id for message in messages}) == 64
    assert all(abs(message.sent_ms - before_ms) < 60_000 for message in messages)
    assert {message.receive_count for message in messages} == {1}
    assert queue.depth().in_flight == 64
    assert queue.delete([message.receipt_handle for message in messages]).done == 64
    assert queue.depth().total == 0


def test_both_clients_read_the_same_message_alike(name, endpoint):
    client = boto3.client("sqs", endpoint_url=endpoint)
    yesterday_ms = int(time.time() - 86_400) * 1000
    attributes = {"dedup-id": "order-7", "x-origin-sent-timestamp": str(yesterday_ms), "other": "1"}
    client.send_message(
        QueueUrl=client.get_queue_url(QueueName=name)["QueueUrl"],
        MessageBody='{"ip": "203.0.113.7"}',
        MessageAttributes={
            key: {"DataType": "String", "StringValue": text} for key, text in attributes.items()
        },
    )
    seen: list[Any] = []
    for kind in CLIENTS:
        queue = connect(name, kind)
        (message,) = received(queue, 1)
        seen.append((message.message_id, message.body, message.sent_ms, message.receive_count - len(seen)))
        assert queue.release([message.receipt_handle]).done == 1
    assert seen[0] == seen[1]
    assert seen[0][2] == yesterday_ms


@pytest.mark.parametrize("client", CLIENTS)
def test_an_empty_queue_gives_nothing(name, client):
    assert received(connect(name, client)) == []
    assert received(connect(name, client, wait_seconds=0)) == []


@pytest.mark.parametrize("client", CLIENTS)
def test_no_more_are_taken_than_allowed(name, client):
    queue = connect(name, client)
    queue.send([b"{}"] * 40)
    assert len(received(queue, 17)) == 17
    assert (queue.depth().visible, queue.depth().in_flight) == (23, 17)


@pytest.mark.parametrize("client", CLIENTS)
def test_closed_early_every_message_not_handed_out_is_visible(name, client):
    queue = connect(name, client)
    queue.send([b"{}"] * 200)
    arriving = queue.receive(200, SECONDS)
    taken = [message for _ in range(5) for message in next(arriving)]
    arriving.close()
    assert wait_for_depth(queue, 200 - len(taken)) == 200 - len(taken)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_hidden_message_comes_back_when_its_time_is_over(name, client):
    queue = connect(name, client, visibility_timeout_seconds=2)
    queue.send([b"{}"])
    (first,) = received(queue, 1)
    assert wait_for_depth(queue, 1) == 1
    (second,) = received(queue, 1)
    assert (second.message_id, second.receive_count) == (first.message_id, 2)


def refusal(name, endpoint, kind, action):
    """What the client says of a queue that is removed under its hands."""
    sqs = boto3.client("sqs", endpoint_url=endpoint)
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue = connect(name, kind)
    sqs.delete_queue(QueueUrl=url)
    with pytest.raises(QueueRefused) as error:
        action(queue)
    return str(error.value)


@pytest.mark.parametrize(
    "action",
    [received, lambda queue: queue.delete(["x"]), lambda queue: queue.release(["x"]), SqsQueue.depth],
    ids=["receive", "delete", "release", "depth"],
)
def test_both_clients_say_the_same_of_a_missing_queue(endpoint, action):
    name = f"test-{secrets.token_hex(6)}"
    said = {refusal(name, endpoint, kind, action) for kind in CLIENTS}
    assert len(said) == 1
    assert name in (text := said.pop())
    assert text.endswith(": QueueDoesNotExist")


def test_both_clients_say_the_same_of_receipt_handles_that_are_none(name):
    outcomes = []
    for kind in CLIENTS:
        queue = connect(name, kind)
        queue.send([b"{}"] * 3)
        good = [message.receipt_handle for message in received(queue, 3)]
        outcomes += [(queue.release(["none", *good]), queue.delete(["none", *good, "nor this"]))]
    assert outcomes[0] == outcomes[1]
    assert all(deleted.done >= 3 for _, deleted in outcomes)


@pytest.mark.parametrize("client", CLIENTS)
def test_deleting_twice_is_no_error(name, client):
    queue = connect(name, client)
    queue.send([b"{}"] * 12)
    receipts = [message.receipt_handle for message in received(queue, 12)]
    assert queue.delete(receipts).done == 12
    again = queue.delete(receipts)  # AWS: done again; others may say that the receipts are void.
    assert again.done + sum(again.failed.values()) == 12
