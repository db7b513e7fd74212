"""What jobs work with, made for tests: one way to build a run and its resources."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import boto3

from include.queue_etl import resources
from include.queue_etl.contract import Contract
from include.queue_etl.postgres.connection import Database
from include.queue_etl.postgres.runs import RunStore
from include.queue_etl.resources import Aws, Resources
from include.queue_etl.run_context import RunContext
from include.queue_etl.settings import Settings


def make_resources(
    settings: Settings, dsn: str, keyset_json: str | Callable[[], str], aws: Aws | None = None
) -> Resources:
    """Resources; boto3 reads AWS_ENDPOINT_URL, where `aws` says nothing else."""
    return Resources(
        settings,
        aws or Aws(boto3.Session),
        warehouse_dsn=dsn,
        keyset_json=keyset_json,
        silence_seconds=resources.BATCH_SILENCE_SECONDS,
    )


@contextmanager
def open_run(
    contract: Contract,
    name: str,
    settings: Settings,
    dsn: str,
    keyset_json: str | Callable[[], str],
    aws: Aws | None = None,
) -> Iterator[RunContext]:
    """A run of this name, closed at the end."""
    with make_resources(settings, dsn, keyset_json, aws) as opened:
        yield RunContext(opened, contract, name)


@contextmanager
def open_store(dsn: str, silence_seconds: float | None = None) -> Iterator[RunStore]:
    """Runs and batches of a database, closed at the end."""
    with Database(dsn, silence_seconds) as database:
        yield RunStore(database)
