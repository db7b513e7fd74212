"""A whole stack of the fault tests' own, which they may stop, restart and search, and queues on it."""

import contextlib
import itertools
import os
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import psycopg

from devstack import environment, postgres, processes, stack
from devstack.console import Console
from devstack.settings import DEFAULT_PORTS, ROOT
from devstack.settings import Settings as StackSettings
from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract import Contract
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.resources import Aws
from include.queue_etl.run_context import Run, RunContext
from include.queue_etl.settings import Settings
from include.queue_etl.sqs.client import SqsQueue
from tests.support.ports import lasting_ports
from tests.support.resources import open_run

# Small and hasty, so that a fault that takes an hour in production takes a second here.
HASTE = {
    "QUEUE_ETL_BATCH_MESSAGES": "10",
    "QUEUE_ETL_RECEIVE_SECONDS": "1",
    "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "3",
    "QUEUE_ETL_WAIT_SECONDS": "0",
    # Killed runs receive a message far more often than a sound queue does.
    "QUEUE_ETL_MAX_RECEIVES": "1000",
}


@dataclass(frozen=True)
class Servers:
    """A running stack.

    Attributes:
        settings: of the stack
        environment: for the engine's processes, with HASTE
        folder: of everything the stack keeps
    """

    settings: StackSettings
    environment: dict[str, str]
    _restarting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> Path:
        return self.settings.state

    @property
    def staging(self) -> Path:
        return self.folder / "staging"

    @property
    def output(self) -> Path:
        """Where processes of the engine write what they say."""
        return self.folder / "output"

    @property
    def keyset_json(self) -> str:
        return environment.keyset_file(self.settings).read_text()

    @property
    def warehouse_dsn(self) -> str:
        return self.environment["QUEUE_ETL_WAREHOUSE_DSN"]

    def session(self) -> boto3.Session:
        return boto3.Session(
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
        )

    def client(self, service: str) -> Any:
        """Of boto3, for what the engine never does."""
        return self.session().client(service, endpoint_url=self.environment["AWS_ENDPOINT_URL"])

    def owner(self) -> psycopg.Connection:
        return psycopg.connect(self.environment["QUEUE_ETL_OWNER_DSN"], autocommit=True)

    def rows(self, statement: str, *values: object) -> list[tuple]:
        with self.owner() as connection:
            return connection.execute(statement, values).fetchall()

    def stop_postgres(self) -> None:
        """As `pg_ctl stop -m immediate`: no checkpoint, sessions cut off, recovery at the next start."""
        processes.stop([postgres.part(self.settings)], signal.SIGQUIT)

    def start_postgres(self) -> None:
        with (self.folder / "servers.log").open("a") as log:
            postgres.start(self.settings, Console(log))

    def restart_postgres(self) -> None:
        with self._restarting:
            self.stop_postgres()
            self.start_postgres()

    @contextlib.contextmanager
    def without_postgres(self) -> Iterator[None]:
        self.stop_postgres()
        try:
            yield
        finally:
            self.start_postgres()

    def new_queue(self, queue: str | None = None, contract: Contract = CONTRACT) -> "QueueUnderTest":
        """A queue of its own, empty, or the one of that name; its messages are of that contract."""
        tag = f"f{secrets.token_hex(4)}"
        tested = QueueUnderTest(self, tag, queue or f"faults-{tag}", contract)
        if queue is None:
            tested.client().create_queue(QueueName=tested.queue_name)
        return tested


@dataclass(frozen=True)
class QueueUnderTest:
    """A queue, the runs on it, and their share of the warehouse.

    Attributes:
        tag: every user id on this queue begins with it
        queue_name: of the queue
        of_contract: whose messages are on it, and whose own queue it replaces
        staging_url: of a bucket, where staging is not a folder
    """

    servers: Servers
    tag: str
    queue_name: str
    of_contract: Contract = CONTRACT
    staging_url: str = ""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def contract(self) -> Contract:
        """The contract, from a queue of its own."""
        return replace(self.of_contract, queue=self.queue_name)

    @property
    def staging(self) -> Path:
        return self.servers.staging / self.tag

    @property
    def environment(self) -> dict[str, str]:
        return {**self.servers.environment, "QUEUE_ETL_STAGING": self.staging_url or str(self.staging)}

    def session(self) -> boto3.Session:
        return self.servers.session()

    def client(self) -> Any:
        """Of boto3, for what the engine never does with the queue."""
        return self.servers.client("sqs")

    def in_bucket(self) -> "QueueUnderTest":
        """The same queue with its staging in a bucket of its own, which is made."""
        self.servers.client("s3").create_bucket(Bucket=self.queue_name)
        return replace(self, staging_url=f"s3://{self.queue_name}/staging")

    def settings(self, **overrides: int | str) -> Settings:
        return Settings.from_environment(self.environment, **overrides)

    def run(self, name: str | None = None) -> Run:
        """A run on this queue; a fresh one without a name."""
        return Run(self.contract.name, f"{self.tag} {name or f'run {next(self._numbers)}'}")

    @contextlib.contextmanager
    def open_run(
        self,
        name: str | None = None,
        *,
        endpoint_url: str | None = None,
        queue: str | None = None,
        dsn: str | None = None,
        **overrides: int | str,
    ) -> Iterator[RunContext]:
        """A run in this process; a fresh one without a name."""
        contract = self.contract if queue is None else replace(self.contract, queue=queue)
        aws = Aws(self.session, {"sqs": endpoint_url or self.servers.environment["AWS_ENDPOINT_URL"]})
        dsn, settings = dsn or self.servers.warehouse_dsn, self.settings(**overrides)
        with open_run(contract, self.run(name).name, settings, dsn, self.servers.keyset_json, aws) as context:
            yield context

    def queue(self, **overrides: int | str) -> SqsQueue:
        return SqsQueue.connect(
            self.session(),
            self.contract.queue,
            self.settings(**overrides),
            self.servers.environment["AWS_ENDPOINT_URL"],
        )

    def send(self, bodies: Iterable[bytes]) -> None:
        with contextlib.closing(self.queue()) as queue:
            queue.send(bodies)

    def on_queue(self) -> int:
        with contextlib.closing(self.queue()) as queue:
            return queue.depth().total

    def keyset(self) -> Keyset:
        return Keyset.from_json(self.servers.keyset_json)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Servers]:
    """A stack in this folder, on free ports; stopped and removed at the end."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = StackSettings(ROOT, folder, 0, 0, 0).with_ports(lasting_ports(DEFAULT_PORTS))
    with (folder / "servers.log").open("a") as log:
        console = Console(log)
        try:
            stack.ensure(settings, console)
            servers = Servers(settings, {**os.environ, **environment.for_child(settings), **HASTE})
            servers.output.mkdir(exist_ok=True)
            yield servers
        finally:
            stack.reset(settings, console)
