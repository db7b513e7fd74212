"""The soak: `python -m tests.faults.live --live 600 --rate 10`.

Messages are sent all the while, and Airflow's real scheduler runs the DAG on a stack of its own, one run
after another; `extract` is killed now and then, and messages are sent for longer where a kill met no task.
Runs go on until the queue is empty. The soak then counts where each message is, and how long each took from
the sender to its row. Exit code 0 when no message is lost, loaded twice, quarantined or left on the queue and
no run has failed; 1 otherwise.

    --live 300 --rate 67 --sqs stub --worker-kills 30 --scheduler-kills 30 --clears 30 [--executor celery]

also kills workers and the scheduler, and clears tasks. A run may fail then, but all has to end by itself.

The stack has a history of cron, as a deployment of an earlier version has.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from devstack import environment, orchestrator, ports, postgres, processes, stack
from devstack.bench import positive
from devstack.console import Console
from devstack.postgres import AIRFLOW
from devstack.settings import Settings as StackSettings
from include.contracts.user_logins import CONTRACT
from tests.bench import stub_process
from tests.bench.feed import Feed
from tests.faults import live_kills
from tests.faults.servers import Servers, running
from tests.support import celery_stack
from tests.support.celery_stack import Celery
from tests.support.traffic import Sent, traffic

DAG = orchestrator.DAG
TAG = "live"
# What a killed extract had not sealed comes back after this in place of an hour; the caller's value wins.
VISIBILITY = ("QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS", "120")
DRAIN_SECONDS = 1_800  # from the last message sent to an empty queue
LATE_SECONDS = 300  # for what the plan asks for and has not happened in its time
RECEIVING_SECONDS = 1  # a process is killed when it has run for so long: a scheduled one receives for 2 s
REPORT_SECONDS = 15
# In which part of the time until the next one each comes: a new scheduler needs most of that time.
FIRST = {"kills": 0.5, "worker_kills": 0.75, "scheduler_kills": 0.1, "clears": 0.6}
WRONG = ("lost", "twice", "quarantined", "left_on_queue", "unfinished_runs")
WRONG_IN_PEACE = ("failed_dag_runs", "failed_runs")  # where neither worker nor scheduler is killed

TIMES = """
    SELECT user_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::double precision * 1000
    FROM public.user_logins WHERE user_id LIKE %s
"""
DAG_RUNS = "SELECT state, count(*) FROM dag_run WHERE dag_id = %s GROUP BY state"
# The last run of a five-minute schedule, as Airflow keeps it; so long ago that a run of the clock is due.
CRON_RUN = """
    INSERT INTO dag_run (dag_id, run_id, run_type, triggered_by, state, logical_date, data_interval_start,
                         data_interval_end, run_after, queued_at, start_date, end_date)
    SELECT %s, 'scheduled__by_cron', 'scheduled', 'TIMETABLE', 'success', at, at, at, at, at, at, at
    FROM date_bin('5 minutes', now() - interval '61 minutes', '2025-01-01') AS at
"""
WORKING = "SELECT count(*) FROM dag_run WHERE dag_id = %s AND state IN ('queued', 'running')"
RUNS = """
    SELECT count(*) FILTER (WHERE received > 0), count(*) FILTER (WHERE received = 0),
           count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'running'),
           coalesce(max(extract_seconds), 0),
           coalesce(max(oldest_age_seconds), 0)
    FROM etl.runs
"""
# Long enough under way to hold messages; `pid` is that of the task's own process.
RECEIVING = """
    SELECT pid FROM task_instance
    WHERE dag_id = %s AND task_id = 'extract' AND state = 'running' AND pid IS NOT NULL
      AND start_date < now() - make_interval(secs => %s)
"""


@dataclass(frozen=True)
class Plan:
    """What is to happen.

    Attributes:
        seconds: how long messages are sent, at least
        rate: messages a second
        kills: times that the process of an extract is killed, spread over the time
        sqs: `emulator`, or `stub`, for rates that the emulator cannot serve
        executor: `local` or `celery`, which also has its staging in a bucket
        worker_kills: times that what runs a task is killed, with the task
        scheduler_kills: times that the scheduler is killed
        clears: times that a task is cleared, drawn with `seed`
    """

    seconds: int
    rate: float
    kills: int = 0
    sqs: str = "emulator"
    executor: str = "local"
    worker_kills: int = 0
    scheduler_kills: int = 0
    clears: int = 0
    seed: int = 1

    @property
    def is_peaceful(self) -> bool:
        """Whether no run has a reason to fail."""
        return not (self.worker_kills or self.scheduler_kills or self.clears)


@dataclass(frozen=True)
class Result:
    """What a soak came to; those in WRONG should be 0. Seconds are from sending to the commit of the row."""

    sent: int
    lost: int
    twice: int
    quarantined: int
    left_on_queue: int
    failed_dag_runs: int
    failed_runs: int
    unfinished_runs: int
    dag_runs: int
    loading_runs: int
    empty_runs: int
    kills: int
    worker_kills: int
    scheduler_kills: int
    clears: int
    p50_seconds: float
    p95_seconds: float
    max_seconds: float
    longest_extract_seconds: float
    oldest_age_seconds: int
    drained_after_seconds: float

    def wrong(self, plan: Plan) -> list[str]:
        """Names of what should be 0 and is not."""
        names = (*WRONG, *(WRONG_IN_PEACE if plan.is_peaceful else ()))
        return [name for name in names if getattr(self, name)]


@dataclass
class Soak:
    """A running stack with Airflow, and what is done to it.

    Attributes:
        settings: of the stack, as Airflow's processes were started with them
        celery: the workers, where Airflow has some
        done: how often each thing was done to it
    """

    plan: Plan
    servers: Servers
    settings: StackSettings
    queue_url: str
    sqs: Any
    celery: Celery | None = None
    done: Counter[str] = field(default_factory=Counter)
    _api: httpx.Client | None = None

    def __post_init__(self) -> None:
        self.dice = random.Random(self.plan.seed)

    def works(self) -> bool:
        """Whether a run is under way."""
        return bool(self.airflow_rows(WORKING, DAG)[0][0])

    def run(self) -> Result:
        started = time.monotonic()
        with traffic(self.sqs, self.queue_url, TAG, rate=self.plan.rate) as sent:
            while (passed := time.monotonic() - started) < self.plan.seconds or self._is_owed(passed):
                self._turn(passed, sent)
        ended = time.monotonic()
        while self._depth() or self.works() or self._open_runs():
            waited = time.monotonic() - ended
            assert waited < DRAIN_SECONDS, f"the queue is not empty after {DRAIN_SECONDS} s: {self._depth()}"
            self._turn(waited, sent)
        return self._result(sent, time.monotonic() - ended)

    def _turn(self, passed: float, sent: Sent) -> None:
        for name, act in self._mischief().items():
            if self.done[name] < getattr(self.plan, name) and passed > self._next(name) and act():
                self.done[name] += 1
                _say(f"{passed:5.0f} s: {name.replace('_', ' ')} {self.done[name]}")
        if int(passed) % REPORT_SECONDS == 0:
            rows = self.servers.rows("SELECT count(*) FROM public.user_logins")[0][0]
            queued = f"{self._depth():,} on the queue"
            _say(f"{passed:5.0f} s: {sent.count:,} sent, {rows:,} rows, {queued}, DAG runs {self._states()}")
        time.sleep(1 - time.monotonic() % 1)

    def trigger(self, dag: str = DAG, **fields: Any) -> bool:
        """Start a run as the UI does; False as long as Airflow has not parsed the DAG."""
        reply = self.request("POST", f"/dags/{dag}/dagRuns", json={"logical_date": None, **fields})
        return reply.is_success

    def _mischief(self) -> dict[str, Callable[[], bool]]:
        """By the name of its number in the plan; an action tells whether it could be done."""
        return {
            "kills": self._kill_extract,
            "worker_kills": lambda: live_kills.kill_worker(self),
            "scheduler_kills": lambda: live_kills.kill_scheduler(self),
            "clears": lambda: live_kills.clear_task(self, self.dice),
        }

    def _is_owed(self, passed: float) -> bool:
        """Whether to send on, as not all has happened that the plan asks for: a kill has to meet a task."""
        owed = any(self.done[name] < getattr(self.plan, name) for name in self._mischief())
        return owed and passed < self.plan.seconds + LATE_SECONDS

    def _next(self, name: str) -> float:
        """Second at which the next one of that name is due: evenly spread, and not all at once."""
        return self.plan.seconds * (self.done[name] + FIRST[name]) / getattr(self.plan, name)

    def _kill_extract(self) -> bool:
        """Kill the process of an extract that is receiving; whether there was one."""
        parts = orchestrator.parts(self.settings)
        (scheduler,) = [part.pid() for part in parts if part.name == "scheduler"]
        assert scheduler, "the scheduler is gone"
        for (pid,) in self.airflow_rows(RECEIVING, DAG, RECEIVING_SECONDS):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if scheduler in {parent.pid for parent in process.parents()}:
                    process.send_signal(signal.SIGKILL)
                    return True
        return False

    def _open_runs(self) -> int:
        """Runs that nobody has closed; where the DAG run failed, `queue_etl_recovery` closes them."""
        return int(self.servers.rows("SELECT count(*) FROM etl.runs WHERE state = 'running'")[0][0])

    def _states(self) -> dict[str, int]:
        return dict(self.airflow_rows(DAG_RUNS, DAG))

    def _depth(self) -> int:
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        reply = self.sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=names)
        return sum(int(count) for count in reply["Attributes"].values())

    def airflow_rows(self, statement: str, *values: object) -> list[tuple]:
        """Of Airflow's metadata database."""
        with psycopg.connect(postgres.superuser(self.servers.settings).url(AIRFLOW)) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask Airflow's REST API."""
        base = f"http://{ports.HOST}:{self.servers.settings.ui_port}"
        if self._api is None:
            passwords = json.loads(environment.password_file(self.servers.settings).read_text())
            who = {"username": environment.UI_USER, "password": passwords[environment.UI_USER]}
            token = httpx.post(f"{base}/auth/token", json=who, timeout=60).raise_for_status().json()
            bearer = {"Authorization": f"Bearer {token['access_token']}"}
            self._api = httpx.Client(base_url=f"{base}/api/v2", headers=bearer, timeout=60)
        return self._api.request(method, path, **options)

    def _result(self, sent: Sent, drained_after: float) -> Result:
        found = self.servers.rows(TIMES, f"{TAG}-%")
        rows = dict(found)
        waits = sorted(
            (rows[user] - sent_ms) / 1000 for user, sent_ms in sent.messages.items() if user in rows
        )
        loading, empty, failed, running, extract_seconds, oldest = self.servers.rows(RUNS)[0]
        states = self._states()
        return Result(
            sent=sent.count,
            lost=len(sent.messages.keys() - rows.keys()),
            twice=len(found) - len(rows),
            quarantined=self.servers.rows("SELECT count(*) FROM etl.quarantine")[0][0],
            left_on_queue=self._depth(),
            failed_dag_runs=states.get("failed", 0),
            failed_runs=failed,
            unfinished_runs=running,
            dag_runs=sum(states.values()),
            loading_runs=loading,
            empty_runs=empty,
            **{name: self.done[name] for name in self._mischief()},
            p50_seconds=_quantile(waits, 0.5),
            p95_seconds=_quantile(waits, 0.95),
            max_seconds=_quantile(waits, 1),
            longest_extract_seconds=round(extract_seconds, 1),
            oldest_age_seconds=oldest,
            drained_after_seconds=round(drained_after, 1),
        )


@contextlib.contextmanager
def soaking(plan: Plan, folder: Path) -> Iterator[Soak]:
    """A stack with Airflow in this folder, on free ports; stopped and removed at the end."""
    os.environ.setdefault(*VISIBILITY)
    if not plan.is_peaceful:
        for name, value in live_kills.SOON.items():
            os.environ.setdefault(name, value)
    console = Console(sys.stderr)
    with contextlib.ExitStack() as ends:
        servers = ends.enter_context(running(folder))
        _record_commit_times(servers)
        settings, endpoint = servers.settings, servers.environment["AWS_ENDPOINT_URL"]
        stack.ensure(settings, console, airflow_database=True)
        with psycopg.connect(postgres.superuser(settings).url(AIRFLOW)) as airflow:
            airflow.execute(CRON_RUN, [DAG])
        if plan.sqs == "stub":
            stub = stub_process.serving(Feed([], 0), folder, latency_ms=0.0)
            endpoint = ends.enter_context(stub).url
            settings = replace(settings, sqs_endpoint=endpoint)
        celery = ends.enter_context(_celery(servers, settings)) if plan.executor == "celery" else None
        settings = celery.settings if celery else settings
        stack.ensure_airflow(settings, console)
        sqs = servers.session().client("sqs", endpoint_url=endpoint)
        url = sqs.get_queue_url(QueueName=CONTRACT.queue)["QueueUrl"]
        soak = Soak(plan, servers, settings, url, sqs, celery)
        # A run finds an empty queue; when it is there, the scheduler knows the DAG.
        assert processes.wait_until(soak.trigger, 300, every=1.0), "Airflow does not know the DAG"
        yield soak


@contextlib.contextmanager
def _celery(servers: Servers, settings: StackSettings) -> Iterator[Celery]:
    """Workers whose staged files are in a bucket of the emulator."""
    servers.client("s3").create_bucket(Bucket=celery_stack.BUCKET)
    with celery_stack.running(settings, servers.environment["AWS_ENDPOINT_URL"]) as celery:
        yield celery


def _record_commit_times(servers: Servers) -> None:
    """The server keeps the time of each commit from now on: exactly when a row was there."""
    with servers.owner() as connection:
        connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    servers.restart_postgres()


def _quantile(ordered: list[float], share: float) -> float:
    """Of ordered values: the least that is no less than such a share of them; 0 of none."""
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else 0.0


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> int:
    options = _options()
    if options.executor == "celery" and (missing := celery_stack.missing()):
        print(f"no Celery here: {missing}", file=sys.stderr)
        return 2
    given = {name: getattr(options, name) for name in Plan.__dataclass_fields__ if name != "seconds"}
    plan = Plan(options.live, **given)
    with (
        tempfile.TemporaryDirectory(prefix="queue-etl-live-") as folder,
        soaking(plan, Path(folder, "s")) as soak,
    ):
        result = soak.run()
    if options.json:
        print(json.dumps({**asdict(plan), **asdict(result)}))
    else:
        wrong = result.wrong(plan)
        for name, value in asdict(result).items():
            print(f"{name:<25}{value:>10}{'   <- should be 0' if name in wrong else ''}")
    return 1 if result.wrong(plan) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev test faults", description=__doc__)
    parser.add_argument("--live", type=positive, required=True, help="seconds in which messages are sent")
    parser.add_argument("--rate", type=float, default=10.0, help="messages a second (default: 10)")
    parser.add_argument("--kills", type=int, default=0, help="extracts to kill (default: 0)")
    parser.add_argument(
        "--sqs", choices=("emulator", "stub"), default="emulator", help="which queue (default: emulator)"
    )
    parser.add_argument(
        "--executor", choices=("local", "celery"), default="local", help="Airflow's (default: local)"
    )
    for name, what in (
        ("worker-kills", "workers to kill, each with the task in it"),
        ("scheduler-kills", "schedulers to kill"),
        ("clears", "tasks to clear"),
    ):
        parser.add_argument(f"--{name}", type=int, default=0, help=f"{what} (default: 0)")
    parser.add_argument("--seed", type=int, default=1, help="of the dice (default: 1)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
