"""A whole stack, as `./dev up` makes it, but with the SQS stub of this folder as its queue."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from devstack import environment, orchestrator, postgres, processes, stack
from devstack.console import Console
from devstack.credentials import secret
from devstack.settings import ROOT, Settings
from tests.bench import stub_process
from tests.bench.airflow_runs import Airflow
from tests.bench.feed import Feed
from tests.bench.scratch import PARTITIONS, Database, process_stat
from tests.bench.stub_process import StubProcess

# `seen` is the sensible baseline's.
EMPTY = """
    TRUNCATE etl.runs, etl.batches, etl.ledger, etl.quarantine, public.user_logins CASCADE;
    DROP TABLE IF EXISTS public.seen
"""
COMMIT_TIMES = "ALTER SYSTEM SET track_commit_timestamp = on"
BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"
NOTHING = Feed([], 0)


@dataclass(frozen=True)
class AirflowServers:
    """A running stack.

    Attributes:
        settings: of the stack, with the stub as its queue
    """

    settings: Settings
    airflow: Airflow
    database: Database
    stub: StubProcess

    def cpu_seconds(self) -> dict[str, float]:
        """As the function of that name."""
        return cpu_seconds(self.settings)

    def empty(self) -> None:
        """Forgets what was loaded, and makes the partitions for baselines, which make none."""
        postgres.query(self.settings, f"{EMPTY};{PARTITIONS}")


@contextmanager
def running(
    base: Settings,
    console: Console,
    *,
    held: Feed = NOTHING,
    latency_ms: float = 0,
    schedule: bool = False,
    stock_batches: int = 1,
    more: Mapping[str, str] | None = None,
) -> Iterator[AirflowServers]:
    """A stack in the folder of `base`; its queue ends with it, its processes are left to the caller.

    The emulator answers for all other queues while the stack is made; then the stub takes its place.

    Args:
        held: messages that the stub shows when it is told to
        latency_ms: of each call of the stub
        schedule: the scheduler makes runs by itself, and rows tell when they were committed
        stock_batches: how often the DAG with the stock sensor receives
        more: variables of this stack alone
    """
    stack.ensure(base, console, airflow_database=True)
    if schedule:
        postgres.query(base, COMMIT_TIMES)
        processes.stop([postgres.part(base)], signal.SIGINT)
        postgres.start(base, console)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        stub_process.serving(held, Path(folder), latency_ms, held=True) as stub,
    ):
        variables = {**_variables(base, schedule, stock_batches), **(more or {})}
        settings = replace(base, sqs_endpoint=stub.url, variables=variables)
        environment.write(settings)
        postgres.query(settings, PARTITIONS)
        stack.ensure_airflow(settings, console)
        yield AirflowServers(settings, airflow(settings), _database(settings), stub)


def airflow(settings: Settings) -> Airflow:
    """The stack's Airflow."""
    variables = environment.build(settings)
    return Airflow(
        variables["AIRFLOW__API__BASE_URL"],
        environment.UI_USER,
        secret(settings.state / "secrets", "ui_password"),
        postgres.superuser(settings).url(postgres.AIRFLOW),
    )


def _variables(base: Settings, schedule: bool, stock_batches: int) -> dict[str, str]:
    """With our own code the DAGs of the other contenders are there too, in a bundle of their own."""
    bundles: list[dict[str, object]] = [{"name": "dags-folder", "classpath": BUNDLE, "kwargs": {}}]
    if base.root == ROOT and not schedule:
        folder = str(ROOT / "tests" / "bench" / "airflow_dags")
        bundles.append({"name": "bench", "classpath": BUNDLE, "kwargs": {"path": folder}})
    return {
        # Runs of the schedule would take the messages of a run that is started here.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": str(schedule),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "BENCH_DSN": environment.build(base)["QUEUE_ETL_OWNER_DSN"],
        "BENCH_STOCK_BATCHES": str(stock_batches),
    }


def _database(settings: Settings) -> Database:
    variables = environment.build(settings)
    return Database(variables["QUEUE_ETL_OWNER_DSN"], variables["QUEUE_ETL_WAREHOUSE_DSN"])


def cpu_seconds(settings: Settings) -> dict[str, float]:
    """User and system time so far, of children that ended too: Airflow's processes by part, and Postgres.

    Tasks are children of the scheduler. Postgres holds the warehouse and Airflow's metadata.
    """
    parts = [*orchestrator.parts(settings), postgres.part(settings)]
    return {part.name: sum(map(_cpu_seconds, processes.members(part))) for part in parts}


def _cpu_seconds(pid: int) -> float:
    try:
        fields = process_stat(pid)  # its own times, and its children's
    except OSError:
        return 0.0  # ended just now: its parent has its time, or was read before and misses it
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
