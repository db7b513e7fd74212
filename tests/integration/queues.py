"""Queues and pipelines of the tests' own, on the endpoint that AWS_ENDPOINT_URL names."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import boto3

from include.queue_etl.contract import Contract
from include.queue_etl.settings import Settings
from include.queue_etl.sqs.client import Depth, SqsQueue


def settings(staging: str | Path, **values: int | str) -> Settings:
    """Settings for small runs: an empty queue is noticed after a second."""
    return Settings(staging=str(staging), **{"wait_seconds": 1, "transfers": 4, **values})  # type: ignore[arg-type]


@contextmanager
def own_queue(contract: Contract) -> Iterator[Contract]:
    """The contract with a new, empty queue of its own; the queue is deleted at the end."""
    client = boto3.client("sqs")
    name = f"{contract.queue}-{secrets.token_hex(4)}"
    url = client.create_queue(QueueName=name)["QueueUrl"]
    try:
        yield replace(contract, queue=name)
    finally:
        client.delete_queue(QueueUrl=url)
        client.close()


@contextmanager
def connected(contract: Contract) -> Iterator[SqsQueue]:
    queue = SqsQueue.connect(boto3.Session(), contract.queue, settings("/"))
    try:
        yield queue
    finally:
        queue.close()


def send(contract: Contract, bodies: Sequence[bytes]) -> None:
    with connected(contract) as queue:
        assert queue.send(bodies) == len(bodies)


def depth(contract: Contract) -> Depth:
    with connected(contract) as queue:
        return queue.depth()
