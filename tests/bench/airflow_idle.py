"""What the DAGs cost while nothing comes: shares of a core, by Airflow's processes and Postgres.

    ./dev bench --idle 3600 [--json]

One stack as `./dev up` makes it, on its emulator, three times for a while: with all DAGs paused, which is
bare Airflow; with those of the contracts, whose runs wait for messages; and with all, of which
`queue_etl_watch` runs every few minutes. The first and the third time are ten minutes at most, for their cost
is steady.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil

from devstack import orchestrator, processes, stack
from devstack.console import Console
from devstack.settings import Settings
from include.contracts import load_contracts
from tests.bench import airflow_servers
from tests.bench.airflow_runs import Airflow, RunFailed
from tests.bench.airflow_servers import cpu_seconds

PAUSED = {"AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True"}
WATCH = "queue_etl_watch"
TIMES = ("bare", "contracts", "all")
READY_WITHIN_SECONDS = 300
BESIDE_SECONDS = 600
SETTLED_SECONDS = 20  # after DAGs were paused or not: the scheduler and the triggerer have done what follows
RUNS = "SELECT dag_id FROM dag_run WHERE start_date >= to_timestamp(%s)"
WAITING = "SELECT count(*) FROM task_instance WHERE task_id = 'sense' AND state = 'deferred'"


@dataclass(frozen=True)
class Idle:
    """A time in which no message came.

    Attributes:
        cpu_percent: of a core, by part of the stack
        triggerer_mb: resident memory of the triggerer's processes
        runs: DAG runs that began meanwhile, by DAG
    """

    seconds: float
    cpu_percent: dict[str, float]
    triggerer_mb: int
    runs: dict[str, int]


def measure(seconds: int, settings: Settings, console: Console) -> dict[str, Any]:
    """JSON of the three times, in their order.

    Raises:
        RunFailed: Airflow does not know the DAGs in time, or they do not wait
    """
    stack.ensure(settings, console, airflow_database=True)
    settings = replace(settings, variables={**settings.variables, **PAUSED})
    stack.ensure_airflow(settings, console)
    airflow, contracts = airflow_servers.airflow(settings), _scheduled_contracts()
    _wait(lambda: {*contracts, WATCH} <= {*airflow.dags()}, "Airflow has not parsed the DAGs")
    every = airflow.dags()
    found: dict[str, Any] = {"scheduled": len(contracts), "cores": os.cpu_count()}
    beside = min(seconds, BESIDE_SECONDS)
    for name, dags, lasts in zip(TIMES, ([], contracts, every), (beside, seconds, beside), strict=True):
        airflow.pause(dags, is_paused=False)
        if dags:
            _wait(lambda: _waiting(airflow) >= len(contracts), "not every contract has a run that waits")
        time.sleep(SETTLED_SECONDS)
        with console.step(f"{name}: {lasts} s"):
            found[name] = asdict(_over(lasts, airflow, settings))
    return found


def table(found: Mapping[str, Any]) -> str:
    """For people."""
    times = {name: found[name] for name in TIMES}
    lines = [f"{'% of a core':<14}" + "".join(f"{name:>11}" for name in times)]
    for part in found["bare"]["cpu_percent"]:
        lines.append(f"{part:<14}" + "".join(f"{one['cpu_percent'][part]:11.2f}" for one in times.values()))
    sums = [sum(one["cpu_percent"].values()) for one in times.values()]
    lines.append(f"{'together':<14}" + "".join(f"{percent:11.2f}" for percent in sums))
    lines += [_line(name, one) for name, one in times.items()]
    return "\n".join([f"{found['scheduled']} contracts with a schedule, {found['cores']} cores", *lines])


def _line(name: str, one: Mapping[str, Any]) -> str:
    runs = ", ".join(f"{count} of {dag}" for dag, count in one["runs"].items()) or "none"
    return f"{name}: {one['seconds']:.0f} s, triggerer {one['triggerer_mb']} MB, DAG runs that began: {runs}"


def _over(seconds: float, airflow: Airflow, settings: Settings) -> Idle:
    began, before = time.time(), cpu_seconds(settings)
    time.sleep(seconds)
    lasted, after = time.time() - began, cpu_seconds(settings)
    runs = Counter(dag for (dag,) in airflow.rows(RUNS, began))
    return Idle(
        seconds=round(lasted, 1),
        cpu_percent={part: round(100 * (after[part] - before[part]) / lasted, 2) for part in after},
        triggerer_mb=_memory_mb(settings, "triggerer"),
        runs=dict(sorted(runs.items())),
    )


def _scheduled_contracts() -> list[str]:
    """DAGs of contracts that run without being asked to."""
    return [name for name, contract in load_contracts().good.items() if contract.schedule]


def _waiting(airflow: Airflow) -> int:
    return int(airflow.rows(WAITING)[0][0])


def _wait(is_so: Callable[[], bool], otherwise: str) -> None:
    if not processes.wait_until(is_so, READY_WITHIN_SECONDS, every=0.5):
        raise RunFailed(f"{otherwise} after {READY_WITHIN_SECONDS} s")


def _memory_mb(settings: Settings, name: str) -> int:
    (part,) = [part for part in orchestrator.parts(settings) if part.name == name]
    return sum(psutil.Process(pid).memory_info().rss for pid in processes.members(part)) // 2**20
