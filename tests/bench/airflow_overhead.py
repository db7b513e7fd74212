"""Airflow's share: what the pipeline takes as a DAG, above what it takes without Airflow.

    ./dev bench --airflow [--messages N] [--rounds N] [--json]

A stack as `./dev up` makes it: scheduler, LocalExecutor, DAG processor, triggerer, api-server. But the queue
is the SQS stub of this folder, since the emulator takes longer the deeper its queue is; and the scheduler
makes no runs of its own (`[scheduler] use_job_schedule`). Sends 100 messages and then N, triggers a run as
the UI does, and drains as many by `./dev drain`. Nothing is printed on standard output before the rows of
every run have been found right.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

from devstack import engine, environment, processes, settings
from devstack.bench import add_arguments
from devstack.console import Console
from devstack.errors import StackError
from tests.bench import airflow_servers
from tests.bench.airflow_runs import RunFailed, TaskTimes
from tests.bench.airflow_servers import AirflowServers
from tests.bench.checks import problems_of_bookkeeping, problems_of_rows
from tests.bench.contenders import ROOT
from tests.bench.feed import Feed, feed
from tests.bench.scratch import Database

FEW = 100
MOST = 100_000  # what a run takes
PARSED_WITHIN_SECONDS = 120
RUN_WITHIN_SECONDS = 600


class WrongRows(RuntimeError):
    """What came of the messages is not what was sent."""


@dataclass(frozen=True)
class DagRun:
    """One run of the DAG.

    Attributes:
        seconds: from trigger to success
        cpu_seconds: of Airflow's processes until then, by part; tasks are the scheduler's
        tasks: in order of their start
    """

    messages: int
    seconds: float
    cpu_seconds: dict[str, float]
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
            code, "imports" in it; all above bare Airflow
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
        with airflow_servers.running(settings.from_environment(os.environ), console) as servers:
            found = measure(servers, min(options.messages, MOST), options.rounds, console)
    except (StackError, RunFailed, WrongRows, OSError, psycopg.Error) as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(found), indent=2) if options.json else table(found))
    return 0


def measure(servers: AirflowServers, most: int, rounds: int, console: Console) -> Found:
    """Everything, `rounds` times; the figures of `FEW` messages and of `most`.

    Raises:
        RunFailed, WrongRows: a run did not do what it should
    """
    if not processes.wait_until(servers.airflow.knows_the_dag, PARSED_WITHIN_SECONDS, every=0.5):
        raise RunFailed(f"Airflow has not parsed the DAG within {PARSED_WITHIN_SECONDS} s")
    load = round(os.getloadavg()[0], 2)
    with console.step("each task outside Airflow"):
        own_code = _own_code(servers, feed(min(FEW, most)))
    runs, drains = [], []
    for count in sorted({min(FEW, most), most}) * rounds:
        messages = feed(count)
        with console.step(f"DAG run of {count:,} messages"):
            runs.append(_dag_run(servers, messages))
        with console.step(f"drain of {count:,} messages"):
            drains.append(_drain(servers, messages))
    return Found(os.cpu_count() or 1, load, own_code, runs, drains)


def _dag_run(servers: AirflowServers, messages: Feed) -> DagRun:
    _send(servers, messages)
    before = servers.cpu_seconds()
    run = servers.airflow.trigger()
    seconds = run.seconds(RUN_WITHIN_SECONDS)
    used = {part: round(now - before[part], 1) for part, now in servers.cpu_seconds().items()}
    _check(servers, messages)
    return DagRun(messages.count, round(seconds, 1), used, run.tasks())


def _drain(servers: AirflowServers, messages: Feed) -> Drain:
    _send(servers, messages)
    started = time.perf_counter()
    engine.output(servers.settings, "drain", "--json")
    seconds = time.perf_counter() - started
    _check(servers, messages)
    return Drain(messages.count, round(seconds, 1))


def _own_code(servers: AirflowServers, messages: Feed) -> dict[str, dict[str, int]]:
    _send(servers, messages)
    command = [sys.executable, "-m", "tests.bench.airflow_own_code"]
    env = environment.for_child(servers.settings)
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RunFailed(f"a task failed outside Airflow: {run.stderr.strip()[-2000:]}")
    _check(servers, messages)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def _send(servers: AirflowServers, messages: Feed) -> None:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(messages.bodies) + b"\n")
        file.flush()
        engine.output(servers.settings, "send", file.name)


def _check(servers: AirflowServers, messages: Feed) -> None:
    check(servers.database, environment.keyset_file(servers.settings), servers.messages_left(), messages)
    servers.empty()


def check(database: Database, keyset_file: Path, left: int, messages: Feed) -> None:
    """Are the rows right, and is nothing left on the queue?

    Raises:
        WrongRows: they are not
    """
    problems = problems_of_rows(database, messages)
    problems += problems_of_bookkeeping(database, messages, keyset_file)
    if left:
        problems.append(f"{left} messages are left on the queue")
    if problems:
        raise WrongRows("; ".join(problems))


def table(found: Found) -> str:
    """The figures, for people."""
    return "\n\n".join(
        [
            f"{found.cores} cores, load {found.load} before the first run; the DAG active, its schedule off",
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
    cpu = ", ".join(f"{part} {seconds:.1f}" for part, seconds in run.cpu_seconds.items())
    title = f"{run.messages:,} messages: {run.seconds:.1f} s from trigger to success; CPU s: {cpu}"
    return "\n".join([title, line("seconds", "n", "from", "to", "queued", "each", "tries"), *rows])


def _comparison(count: int, found: Found) -> str:
    airflow = sorted(run.seconds for run in found.runs if run.messages == count)
    drain = sorted(run.seconds for run in found.drains if run.messages == count)
    with_dag, without = airflow[len(airflow) // 2], drain[len(drain) // 2]
    more = with_dag - without
    return f"{count:,} messages: DAG {with_dag:.1f} s, drain {without:.1f} s, Airflow {more:.1f} s more"


if __name__ == "__main__":
    sys.exit(main())
