"""Airflow's share: what the pipeline takes as a DAG, above what it takes without Airflow.

    ./dev bench --airflow [--messages N] [--rounds N] [--json]

A stack as `./dev up` makes it: scheduler, LocalExecutor, triggerer, the DAG not paused and with its schedule.
Only the queue is the SQS stub of this folder, since the emulator takes longer the deeper its queue is. Sends
100 messages and then N, triggers a run as the UI does, and drains as many by `./dev drain`. A run starts when
no other is under way and the schedule has none for half a minute. Nothing is printed on standard output
before the rows of every run have been found right.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from devstack import engine, environment, settings
from devstack.bench import add_arguments
from devstack.console import Console
from devstack.errors import StackError
from tests.bench import airflow_ground
from tests.bench.airflow_ground import Ground
from tests.bench.airflow_own_code import TASKS
from tests.bench.airflow_runs import RunFailed, TaskTimes, wait_until
from tests.bench.checks import problems_of_bookkeeping, problems_of_rows
from tests.bench.feed import Feed, feed

FEW = 100
MOST = 100_000  # what a run takes
CLEAR_SECONDS = 30  # enough to send and to start; should one start meanwhile, it waits for ours
QUIET_WITHIN_SECONDS = 420  # the schedule has a run every 300, which waits for messages for 30
RUN_WITHIN_SECONDS = 600


class WrongRows(RuntimeError):
    """What came of the messages is not what was sent."""


@dataclass(frozen=True)
class DagRun:
    """One run of the DAG.

    Attributes:
        seconds: from trigger to success
        airflow_cpu_seconds: of all Airflow's processes, tasks included, from before the trigger until then
        tasks: in order of their start
    """

    messages: int
    seconds: float
    airflow_cpu_seconds: float
    tasks: dict[str, TaskTimes]


@dataclass(frozen=True)
class Drain:
    """`./dev drain`: seconds of the whole command's work, start of Python included."""

    messages: int
    seconds: float


@dataclass(frozen=True)
class Found:
    """What is printed.

    Attributes:
        cores: of the machine
        load: its load average of a minute, before the first run
        own_code: CPU milliseconds by task, with 100 messages: "parse" of the DAG file, "cpu" of the task's
            code, "imports" of that; all above bare Airflow
    """

    cores: int
    load: float
    own_code: dict[str, dict[str, int]]
    runs: list[DagRun]
    drains: list[Drain]


def main() -> int:
    """Runs it; 0 the rows are right, 1 they are not or something failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="./dev bench --airflow", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args()
    console = Console(sys.stderr)
    try:
        with airflow_ground.running(settings.from_environment(os.environ), console) as ground:
            found = measure(ground, min(options.messages, MOST), options.rounds, console)
    except (StackError, RunFailed, WrongRows, OSError, psycopg.Error) as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(found), indent=2) if options.json else table(found))
    return 0


def measure(ground: Ground, most: int, rounds: int, console: Console) -> Found:
    """Everything, `rounds` times; the figures of `FEW` messages and of `most`.

    Raises:
        RunFailed, WrongRows: a run did not do what it should
    """
    load = round(os.getloadavg()[0], 2)
    own_code = _own_code(ground, feed(min(FEW, most)))
    runs, drains = [], []
    for count in sorted({min(FEW, most), most}) * rounds:
        messages = feed(count)
        with console.step(f"DAG run of {count:,} messages"):
            runs.append(_dag_run(ground, messages))
        with console.step(f"drain of {count:,} messages"):
            drains.append(_drain(ground, messages))
    return Found(os.cpu_count() or 1, load, own_code, runs, drains)


def _dag_run(ground: Ground, messages: Feed) -> DagRun:
    _send(ground, messages)
    before = ground.cpu_seconds()
    run = ground.airflow.trigger()
    seconds = run.seconds(RUN_WITHIN_SECONDS)
    used = ground.cpu_seconds() - before
    _check(ground, messages)
    return DagRun(messages.count, round(seconds, 1), round(used, 1), run.tasks())


def _drain(ground: Ground, messages: Feed) -> Drain:
    _send(ground, messages)
    started = time.perf_counter()
    engine.output(ground.settings, "drain", "--json")
    seconds = time.perf_counter() - started
    _check(ground, messages)
    return Drain(messages.count, round(seconds, 1))


def _own_code(ground: Ground, messages: Feed) -> dict[str, dict[str, int]]:
    """Each task once, as a process of its own, outside Airflow's scheduler."""
    _send(ground, messages)
    found, batch = {}, None
    for task in TASKS:
        given = {"extract": {"depth": {}}, "mask": {"batch": batch}, "load": {"batch": batch}}.get(task, {})
        found[task] = _in_own_process(ground, task, given)
        result = found[task].pop("result")
        batch = result[0] if task == "extract" else batch
    _check(ground, messages)
    return found


def _in_own_process(ground: Ground, task: str, given: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.airflow_own_code", task, "own-code", json.dumps(given)]
    env = environment.for_child(ground.settings)
    run = subprocess.run(
        command, cwd=ground.settings.root, env=env, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise RunFailed(f"{task} failed outside Airflow: {run.stderr.strip()[-2000:]}")
    return dict(json.loads(run.stdout.splitlines()[-1]))


def _send(ground: Ground, messages: Feed) -> None:
    """When no run of the schedule could take them."""
    if not wait_until(lambda: ground.airflow.is_quiet(CLEAR_SECONDS), QUIET_WITHIN_SECONDS, every=0.5):
        raise RunFailed("Airflow does not come to rest")
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(messages.bodies) + b"\n")
        file.flush()
        engine.output(ground.settings, "send", file.name)


def _check(ground: Ground, messages: Feed) -> None:
    keyset = environment.keyset_file(ground.settings)
    problems = problems_of_rows(ground.database, messages)
    problems += problems_of_bookkeeping(ground.database, messages, keyset)
    if left := ground.messages_left():
        problems.append(f"{left} messages are left on the queue")
    if problems:
        raise WrongRows("; ".join(problems))
    ground.empty()


def table(found: Found) -> str:
    """The figures, for people."""
    return "\n\n".join(
        [
            f"{found.cores} cores, load {found.load} before the first run; DAG active, on its schedule",
            _own_code_table(found),
            *[_run_table(run) for run in found.runs],
            "\n".join(_comparison(count, found) for count in sorted({run.messages for run in found.runs})),
        ]
    )


def _own_code_table(found: Found) -> str:
    line = "{:<10}{:>8}{:>12}{:>16}".format
    rows = [line(task, ms["parse"], ms["cpu"], ms["imports"]) for task, ms in found.own_code.items()]
    head = line("CPU ms", "parse", "own code", "of it imports")
    return "\n".join(["Above bare Airflow, with 100 messages", head, *rows])


def _run_table(run: DagRun) -> str:
    line = "{:<10}{:>5}{:>10}{:>10}{:>10}{:>10}{:>7}".format
    rows = [
        line(name, task.instances, task.started, task.ended, task.waited, task.lasted, task.tries)
        for name, task in run.tasks.items()
    ]
    title = f"{run.messages:,} messages: {run.seconds:.1f} s from trigger to success, "
    title += f"{run.airflow_cpu_seconds:.1f} s of CPU in Airflow's processes"
    return "\n".join([title, line("seconds", "n", "from", "to", "queued", "each", "tries"), *rows])


def _comparison(count: int, found: Found) -> str:
    airflow = sorted(run.seconds for run in found.runs if run.messages == count)
    drain = sorted(run.seconds for run in found.drains if run.messages == count)
    with_dag, without = airflow[len(airflow) // 2], drain[len(drain) // 2]
    more = with_dag - without
    return f"{count:,} messages: DAG {with_dag:.1f} s, drain {without:.1f} s, Airflow {more:.1f} s more"


if __name__ == "__main__":
    sys.exit(main())
