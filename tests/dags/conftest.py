"""Airflow for the tests of this folder, as `./dev test dags` sets it up; a real queue and real tables."""
# ruff: noqa: E402 - the environment is set before the first import of Airflow

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NEEDED = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AWS_ENDPOINT_URL", "QUEUE_ETL_OWNER_DSN")
if missing := [name for name in NEEDED if not os.environ.get(name)]:
    raise pytest.UsageError(f"{', '.join(missing)} not set: run these tests with ./dev test dags")

# Airflow reads them once, at its first import: before any test module is imported.
os.environ["AIRFLOW_HOME"] = str(PROJECT)
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(PROJECT / "dags")
os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(PROJECT / "plugins")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

import boto3
import psycopg
from airflow.dag_processing.dagbag import DagBag

from tests.dags.runs import Outcome, run_dag
from tests.support.wait import wait_until

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
REGION = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(scope="session")
def dags() -> Mapping[str, Any]:
    """Every DAG of dags/, by id."""
    bag = DagBag(str(PROJECT / "dags"))
    assert not bag.import_errors, bag.import_errors
    return bag.dags


@pytest.fixture(scope="session")
def sqs() -> Any:
    return boto3.client("sqs", endpoint_url=ENDPOINT, region_name=REGION)


@pytest.fixture
def queue(sqs: Any) -> Iterator[str]:
    """Name of an empty queue, gone after the test."""
    name = f"sense-{secrets.token_hex(4)}"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    yield name
    sqs.delete_queue(QueueUrl=url)


@pytest.fixture
def send(sqs: Any) -> Callable[[str, int], None]:
    """Put so many messages on a queue and wait until it says that it has them."""

    def put(name: str, count: int) -> None:
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        for number in range(count):
            sqs.send_message(QueueUrl=url, MessageBody=f"{number}")
        wait_until(lambda: visible(sqs, name) >= count)

    return put


@pytest.fixture
def login_queue(sqs: Any) -> Iterator[str]:
    """URL of the queue of `user_logins`, emptied."""
    url: str = sqs.get_queue_url(QueueName="login-queue")["QueueUrl"]
    empty(sqs, url)
    yield url
    empty(sqs, url)


@pytest.fixture
def warehouse() -> Iterator[psycopg.Connection[Any]]:
    """The warehouse as its owner, autocommit."""
    with psycopg.connect(os.environ["QUEUE_ETL_OWNER_DSN"], autocommit=True) as connection:
        yield connection


@pytest.fixture
def run_user_logins(dags: Mapping[str, Any]) -> Callable[..., Outcome]:
    """Run the DAG `user_logins` in this process, with params; retries wait almost nothing."""
    return lambda **params: run_dag(dags["user_logins"], {"wait_seconds": 1, **params})


def state_of(warehouse: psycopg.Connection[Any], run_id: str) -> str:
    """Of a run in etl.runs; empty where it was never opened."""
    found = warehouse.execute("SELECT state FROM etl.runs WHERE airflow_run_id = %s", [run_id]).fetchone()
    return str(found[0]) if found else ""


def visible(sqs: Any, name: str) -> int:
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    names = ["ApproximateNumberOfMessages"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return int(attributes["ApproximateNumberOfMessages"])


def empty(sqs: Any, url: str) -> None:
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
