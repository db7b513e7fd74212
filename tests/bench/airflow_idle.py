"""What the DAGs cost while no message comes: shares of a core, by Airflow's processes and Postgres.

    ./dev bench --idle 3600 [--contracts 1,25] [--json]

Airflows of the same configuration idle at the same time, each with a Postgres and an emulator of its own:
`bare` has an empty folder of DAGs, the others have the project's DAGs with so many contracts. Their time
begins when every contract's queue is watched and no run is left.

In that time only the DAGs of the contracts run by themselves. All others are parsed as always, but paused:
five runs each of `queue_etl_watch` and `queue_etl_recovery`, which run every five minutes, are measured
afterwards, as CPU above that of the idle time. `queue_etl_maintenance`, one run a day, is left out.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from devstack import orchestrator, ports, processes, stack
from devstack.console import Console
from devstack.settings import DEFAULT_PORTS, Settings
from tests.bench import airflow_servers, contract_copies
from tests.bench.airflow_runs import Airflow, RunFailed
from tests.bench.airflow_servers import cpu_seconds

BARE = "bare"
BESIDE = ("queue_etl_watch", "queue_etl_recovery")
READY_WITHIN_SECONDS = 300
RUN_WITHIN_SECONDS = 120
SETTLED_SECONDS = 15  # at most, after a start: the scheduler and the triggerer have done what follows it
# The cost of a run is a difference: it drowns in that of idling where the runs are few and the pauses long.
MOST_RUNS, SECONDS_FOR_A_RUN = 5, 20  # five runs after idling for 100 seconds
SETTLED_AFTER_RUNS_SECONDS = 3
WATCHED = "SELECT count(*) FROM asset_watcher JOIN trigger ON trigger.id = trigger_id WHERE triggerer_id > 0"
AT_WORK = "SELECT count(*) FROM dag_run WHERE state IN ('queued', 'running')"
# Of a contract's run: whether messages came in time is the state of `sense`.
ENDED = """
    SELECT task.state, count(*) FROM dag_run AS run JOIN task_instance AS task USING (dag_id, run_id)
    WHERE task.task_id = 'sense' AND run.end_date >= to_timestamp(%s) GROUP BY task.state
"""
RUNS = "SELECT count(*) FROM dag_run WHERE dag_id = %s AND end_date >= to_timestamp(%s)"


@dataclass(frozen=True)
class Idle:
    """A time in which no message came.

    Attributes:
        cpu_percent: of a core, by part of the stack
        triggerer_mb: resident memory of the triggerer's two processes; what they share counts twice
        runs_ended: runs of contracts that ended meanwhile, by the state of their `sense`
        cpu_seconds_a_run: CPU of one run of each DAG that was paused, above the idle time's
    """

    cpu_percent: dict[str, float]
    triggerer_mb: int
    runs_ended: dict[str, int]
    cpu_seconds_a_run: dict[str, float]


@dataclass(frozen=True)
class Stand:
    """A running stack."""

    settings: Settings
    airflow: Airflow

    def cpu_seconds(self) -> dict[str, float]:
        """So far, by part."""
        return cpu_seconds(self.settings)

    def rates(self, before: Mapping[str, float], seconds: float) -> dict[str, float]:
        """CPU seconds a second, by part, since they were `before` so many seconds ago."""
        return {part: (now - before[part]) / seconds for part, now in self.cpu_seconds().items()}

    def memory_mb(self, name: str) -> int:
        """Resident memory of a part, its children included."""
        (part,) = [part for part in orchestrator.parts(self.settings) if part.name == name]
        return sum(psutil.Process(pid).memory_info().rss for pid in processes.members(part)) // 2**20


def measure(seconds: int, counts: Sequence[int], base: Settings, console: Console) -> dict[str, Any]:
    """JSON of each Airflow; their stacks are removed at the end.

    Raises:
        RunFailed: Airflow does not know the DAGs in time, or their queues are not watched
    """
    with ExitStack() as ends:
        return compared(_stands(base, counts, console, ends), seconds, console)


def compared(stands: Mapping[int, Stand], seconds: int, console: Console) -> dict[str, Any]:
    """JSON of running Airflows by their number of contracts; all other DAGs are paused afterwards.

    Raises:
        RunFailed: as for `measure`
    """
    for count, stand in stands.items():
        if count:
            _settle(stand.airflow, count)
    time.sleep(min(SETTLED_SECONDS, seconds))
    with console.step(f"{len(stands)} Airflows idle for {seconds} s"):
        began, before = time.time(), {count: stand.cpu_seconds() for count, stand in stands.items()}
        time.sleep(seconds)
        lasted = time.time() - began
        rates = {count: stand.rates(before[count], lasted) for count, stand in stands.items()}
    with console.step("runs of the other DAGs"):
        runs = min(MOST_RUNS, 1 + seconds // SECONDS_FOR_A_RUN)
        idle = {_name(count): _idle(stands[count], rates[count], began, runs) for count in stands}
    return {"seconds": round(lasted, 1), "cores": os.cpu_count(), "idle": idle}


def _idle(stand: Stand, rates: Mapping[str, float], began: float, runs: int) -> dict[str, Any]:
    dags, together = [dag for dag in BESIDE if stand.airflow.knows(dag)], sum(rates.values())
    found = Idle(
        cpu_percent={part: round(100 * rate, 2) for part, rate in rates.items()},
        triggerer_mb=stand.memory_mb("triggerer"),
        runs_ended={str(state): number for state, number in stand.airflow.rows(ENDED, began)},
        cpu_seconds_a_run={dag: _of_a_run(dag, stand, together, runs) for dag in dags},
    )
    return asdict(found)


def _stands(base: Settings, counts: Sequence[int], console: Console, ends: ExitStack) -> dict[int, Stand]:
    """Running stacks by their number of contracts; that of bare Airflow has 0."""
    stands: dict[int, Stand] = {}
    for count in (0, *counts):
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        copy = contract_copies.settings(base, folder, count or 1)
        own: Settings = replace(copy, state=base.state / f"contracts-{count}")
        own = own.with_ports(ports.free_ports(list(DEFAULT_PORTS)))
        if not count:
            (folder / "empty").mkdir()
            own = replace(own, variables={"AIRFLOW__CORE__DAGS_FOLDER": str(folder / "empty")})
        ends.callback(stack.reset, own, console)
        with console.step(f"start Airflow: {_name(count)}"):
            stack.ensure(own, console, airflow_database=True)
            stack.ensure_airflow(own, console)
        stands[count] = Stand(own, airflow_servers.airflow(own))
    return stands


def _settle(airflow: Airflow, count: int) -> None:
    """Pause all DAGs but the contracts', and wait until their queues are watched and no run is left."""
    contracts = contract_copies.names(count)
    wanted = [*contracts, *BESIDE]
    _wait(lambda: all(map(airflow.knows, wanted)), "Airflow has not parsed the DAGs")
    _wait(lambda: _number(airflow, WATCHED) == count, "not every contract's queue is watched")
    # First: a run of a DAG that is paused does not go on.
    _wait(lambda: _number(airflow, AT_WORK) == 0, "runs have not ended")
    airflow.pause(dag for dag in airflow.dags() if dag not in contracts)


def _of_a_run(dag: str, stand: Stand, idle_rate: float, runs: int) -> float:
    """CPU seconds of all parts, above `idle_rate` a second. The schedule may make one run more."""
    airflow, began, before = stand.airflow, time.time(), sum(stand.cpu_seconds().values())
    airflow.pause([dag], is_paused=False)
    for _ in range(runs):
        airflow.trigger(dag).seconds(RUN_WITHIN_SECONDS)
    airflow.pause([dag])
    time.sleep(SETTLED_AFTER_RUNS_SECONDS)
    used, lasted = sum(stand.cpu_seconds().values()) - before, time.time() - began
    return round((used - idle_rate * lasted) / _number(airflow, RUNS, dag, began), 2)


def table(found: Mapping[str, Any]) -> str:
    """For people."""
    idle = found["idle"]
    line = ("{:<16}" + "{:>14}" * len(idle)).format
    sums = {name: sum(one["cpu_percent"].values()) for name, one in idle.items()}
    parts = [
        line(part, *(f"{one['cpu_percent'][part]:.2f}" for one in idle.values()))
        for part in idle[BARE]["cpu_percent"]
    ]
    return "\n".join(
        [
            f"{found['cores']} cores, {found['seconds']:.0f} s without messages",
            line("% of a core", *idle),
            *parts,
            line("together", *(f"{percent:.2f}" for percent in sums.values())),
            line("above bare", *(f"{percent - sums[BARE]:.2f}" for percent in sums.values())),
            *(_line(name, one) for name, one in idle.items()),
        ]
    )


def _line(name: str, one: Mapping[str, Any]) -> str:
    ended = ", ".join(f"{count} {state}" for state, count in one["runs_ended"].items()) or "none"
    beside = "".join(f"; a run of {dag} {cpu} CPU s" for dag, cpu in one["cpu_seconds_a_run"].items())
    return f"{name}: triggerer {one['triggerer_mb']} MB, runs that ended: {ended}{beside}"


def _name(count: int) -> str:
    return {0: BARE, 1: "1 contract"}.get(count, f"{count} contracts")


def _number(airflow: Airflow, question: str, *values: object) -> int:
    return int(airflow.rows(question, *values)[0][0])


def _wait(is_so: Callable[[], bool], otherwise: str) -> None:
    if not processes.wait_until(is_so, READY_WITHIN_SECONDS, every=0.5):
        raise RunFailed(f"{otherwise} after {READY_WITHIN_SECONDS} s")
