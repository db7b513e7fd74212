"""A whole stack, as `./dev up` makes it, but with the SQS stub of this folder as its queue."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from devstack import environment, orchestrator, postgres, processes, stack
from devstack.console import Console
from devstack.credentials import secret
from devstack.settings import Settings
from tests.bench import stub_process
from tests.bench.airflow_runs import Airflow
from tests.bench.feed import Feed
from tests.bench.scratch import Database

EMPTY = "TRUNCATE etl.runs, etl.batches, etl.ledger, etl.quarantine, public.user_logins CASCADE"


@dataclass(frozen=True)
class AirflowServers:
    """A running stack.

    Attributes:
        settings: of the stack, with the stub as its queue
        messages_left: on the queue, visible or in flight
    """

    settings: Settings
    airflow: Airflow
    database: Database
    messages_left: Callable[[], int]

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time of Airflow's processes so far, of children that ended too; by part.

        Tasks are children of the scheduler.
        """
        parts = orchestrator.parts(self.settings)
        return {part.name: sum(map(_cpu_seconds, processes.members(part))) for part in parts}

    def empty(self) -> None:
        """Forgets what was loaded."""
        postgres.query(self.settings, EMPTY)


@contextmanager
def running(base: Settings, console: Console) -> Iterator[AirflowServers]:
    """A stack in the folder of `base`; its queue ends with it, its processes are left to the caller.

    The emulator answers for all other queues while the stack is made; then the stub takes its place.
    """
    # Inherited by the scheduler. Its own runs, one every five minutes, would take the messages.
    os.environ["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"] = "False"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else changed files are compiled anew for each task
    stack.ensure(base, console, airflow_database=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        stub_process.serving(Feed([], 0), Path(folder), latency_ms=0) as stub,
    ):
        settings = replace(base, sqs_endpoint=stub.url)
        environment.write(settings)
        stack.ensure_airflow(settings, console)
        yield AirflowServers(settings, airflow(settings), _database(settings), stub.messages_left)


def airflow(settings: Settings) -> Airflow:
    """The stack's Airflow."""
    variables = environment.build(settings)
    return Airflow(
        variables["AIRFLOW__API__BASE_URL"],
        environment.UI_USER,
        secret(settings.state / "secrets", "ui_password"),
        postgres.superuser(settings).url(postgres.AIRFLOW),
    )


def _database(settings: Settings) -> Database:
    variables = environment.build(settings)
    return Database(variables["QUEUE_ETL_OWNER_DSN"], variables["QUEUE_ETL_WAREHOUSE_DSN"])


def _cpu_seconds(pid: int) -> float:
    try:
        # After the name in brackets; fields 14 to 17 of proc(5): its own times, and its children's.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # ended just now: its parent has its time
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
