"""The pipeline as a DAG, beside others as DAGs under the same scheduler, and beside itself without Airflow.

    ./dev bench --airflow [--messages N] [--rounds N] [--baseline PATH] [--json]
    ./dev bench --freshness [--rates 1,30] [--seconds N]      # airflow_living.py
    ./dev bench --backlog N
    ./dev bench --idle SECONDS [--contracts 1,25]             # airflow_idle.py
    ./dev bench --observability [--apart] [--rounds N]        # airflow_observability.py

A stack as `./dev up` makes it: scheduler, LocalExecutor, DAG processor, triggerer, api-server. But the queue
is the SQS stub of this folder, since the emulator takes longer the deeper its queue is; and the scheduler
makes no runs of its own (`[scheduler] use_job_schedule`). Sends 100 messages and then N, triggers a run as
the UI does, and drains as many by `./dev drain`. Then the other contenders get their share (airflow_race.py).
Nothing is printed on standard output before the rows of every run of ours have been found right; what the
others lost or doubled is a figure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psycopg

from devstack import engine, environment, ports, processes, settings, stack
from devstack.bench import add_arguments
from devstack.console import Console
from devstack.errors import StackError
from devstack.settings import DEFAULT_PORTS, Settings
from tests.bench import (
    airflow_idle,
    airflow_living,
    airflow_observability,
    airflow_race,
    airflow_servers,
)
from tests.bench.airflow_race import DAGS, DagRun, share
from tests.bench.airflow_runs import RunFailed
from tests.bench.airflow_servers import AirflowServers
from tests.bench.checks import problems_of_bookkeeping, problems_of_rows
from tests.bench.contenders import ROOT
from tests.bench.feed import Feed, feed
from tests.bench.scratch import Database

FEW = 100
MOST = 100_000  # what a run takes
PARSED_WITHIN_SECONDS = 120
RUN_WITHIN_SECONDS = 600
# Until Airflow has waited for the last task's process, whose time is nowhere in between: its supervisor looks
# once a second.
SETTLED_SECONDS = 2


class WrongRows(RuntimeError):
    """What came of the messages is not what was sent."""


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
    base = settings.from_environment(os.environ)
    try:
        shown = (
            _idle(options, base, console)
            or _living(options, base, console)
            or _observability(options, base, console)
            or _race(options, base, console)
        )
    except (StackError, RunFailed, WrongRows, OSError, psycopg.Error) as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    print(shown)
    return 0


def _idle(options: argparse.Namespace, base: Settings, console: Console) -> str:
    """What `--idle` found; empty where it is not asked for."""
    if not options.idle:
        return ""
    found = airflow_idle.measure(options.idle, options.contracts, base, console)
    return json.dumps(found, indent=2) if options.json else airflow_idle.table(found)


def _living(options: argparse.Namespace, base: Settings, console: Console) -> str:
    """What `--freshness` or `--backlog` found, as it is printed; empty where neither is asked for."""
    if not options.freshness and not options.backlog:
        return ""
    found = {}
    for name, own in _checkouts(options, base).items():
        with console.step(f"{name}: {own.root}"), _removed(own, base, console):
            found[name] = airflow_living.measure(options, own, console)
    return json.dumps(found, indent=2) if options.json else airflow_living.table(found)


def _observability(options: argparse.Namespace, base: Settings, console: Console) -> str:
    """What `--observability` found, as it is printed; empty where it is not asked for."""
    if not options.observability:
        return ""
    stands: dict[str, AirflowServers] = {}
    most = min(options.messages, MOST)
    with ExitStack() as ends:
        arms = airflow_observability.arms(base.state, apart=options.apart)
        for arm, variables in ends.enter_context(arms).items():
            own = _beside(base, arm) if stands else base
            ends.enter_context(_removed(own, base, console))
            stands[arm] = ends.enter_context(airflow_servers.running(own, console, more=variables))
            _wait_for(stands[arm], DAGS["ours"])
        found = airflow_observability.measure(
            lambda arm, count: _dag_run("ours", stands[arm], feed(count)),
            [*stands], sorted({min(FEW, most), most}), options.rounds, console,
        )  # fmt: skip
    return json.dumps(found.as_json(), indent=2) if options.json else found.table()


def _race(options: argparse.Namespace, base: Settings, console: Console) -> str:
    most = min(options.messages, MOST)
    with ExitStack() as ends:
        stands = {}
        for name, own in _checkouts(options, base).items():
            ends.enter_context(_removed(own, base, console))
            batches = -(-share("stock", most) // 10)
            stands[name] = ends.enter_context(
                airflow_servers.running(own, console, latency_ms=options.latency, stock_batches=batches)
            )
        found = measure(stands, most, options.rounds, console)
    if options.json:
        return json.dumps({**asdict(found), "race": airflow_race.as_json(found.runs)}, indent=2)
    return table(found)


def _checkouts(options: argparse.Namespace, base: Settings) -> dict[str, Settings]:
    """Our own code, and that of `--baseline` with a stack and virtualenvs of its own."""
    found = {"ours": base}
    if options.baseline:
        found["before"] = _beside(replace(base, root=options.baseline), "before")
    return found


def _beside(base: Settings, name: str) -> Settings:
    """Another stack, in a folder of that name and on ports of its own."""
    other = replace(base, state=base.state / name)
    return other.with_ports(ports.free_ports(list(DEFAULT_PORTS)))


@contextmanager
def _removed(own: Settings, base: Settings, console: Console) -> Iterator[None]:
    """The stack is removed at the end; that of `base` by who started this."""
    try:
        yield
    finally:
        stack.reset(own, console) if own.state != base.state else stack.down(own, console)


def measure(stands: Mapping[str, AirflowServers], most: int, rounds: int, console: Console) -> Found:
    """Everything, `rounds` times: `FEW` messages and `most` by our code, `most` by the others.

    Raises:
        RunFailed, WrongRows: a run did not do what it should
    """
    for name, servers in stands.items():
        for dag in [DAGS[name]] if name == "before" else [*DAGS.values()]:
            _wait_for(servers, dag)
    load = round(os.getloadavg()[0], 2)
    servers = stands["ours"]
    with console.step("each task outside Airflow"):
        own_code = _own_code(servers, feed(min(FEW, most)))
    runs, drains = [], []
    for count in sorted({min(FEW, most), most}) * rounds:
        names = [name for name in DAGS if name in stands or (name != "before" and count == most)]
        for name in names:
            messages = feed(share(name, count))
            with console.step(f"{name}: DAG run of {messages.count:,} messages"):
                runs.append(_dag_run(name, stands.get(name, servers), messages))
        with console.step(f"drain of {count:,} messages"):
            drains.append(_drain(servers, feed(count)))
    return Found(os.cpu_count() or 1, load, own_code, runs, drains)


def _wait_for(servers: AirflowServers, dag: str) -> None:
    if not processes.wait_until(lambda: servers.airflow.knows(dag), PARSED_WITHIN_SECONDS, every=0.5):
        raise RunFailed(f"Airflow has not parsed {dag} within {PARSED_WITHIN_SECONDS} s")


def _dag_run(name: str, servers: AirflowServers, messages: Feed) -> DagRun:
    _send(servers, messages)
    before, calls = servers.cpu_seconds(), servers.stub.statistics()["calls"]
    run = servers.airflow.trigger(DAGS[name])
    seconds = run.seconds(RUN_WITHIN_SECONDS)
    time.sleep(SETTLED_SECONDS)
    used = {part: round(now - before[part], 2) for part, now in servers.cpu_seconds().items()}
    requests = airflow_living.requests(calls, servers.stub.statistics()["calls"])
    outcome = airflow_race.outcome(servers.database, messages, servers.stub.messages_left())
    if name in ("ours", "before"):
        _check(servers, messages)
    servers.empty()
    return DagRun(name, messages.count, round(seconds, 1), used, requests, outcome, run.tasks())


def _drain(servers: AirflowServers, messages: Feed) -> Drain:
    _send(servers, messages)
    started = time.perf_counter()
    engine.output(servers.settings, "drain", "--json")
    seconds = time.perf_counter() - started
    _check(servers, messages)
    servers.empty()
    return Drain(messages.count, round(seconds, 1))


def _own_code(servers: AirflowServers, messages: Feed) -> dict[str, dict[str, int]]:
    _send(servers, messages)
    command = [sys.executable, "-m", "tests.bench.airflow_own_code"]
    env = environment.for_child(servers.settings)
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RunFailed(f"a task failed outside Airflow: {run.stderr.strip()[-2000:]}")
    _check(servers, messages)
    servers.empty()
    return dict(json.loads(run.stdout.splitlines()[-1]))


def _send(servers: AirflowServers, messages: Feed) -> None:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(messages.bodies) + b"\n")
        file.flush()
        engine.output(servers.settings, "send", file.name)


def _check(servers: AirflowServers, messages: Feed) -> None:
    left = servers.stub.messages_left()
    check(servers.database, environment.keyset_file(servers.settings), left, messages)


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
            *[_run_table(run) for run in found.runs if run.contender == "ours"],
            "\n".join(_comparison(count, found) for count in sorted({run.messages for run in found.drains})),
            airflow_race.table(found.runs),
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
    ours = [run for run in found.runs if run.contender == "ours"]
    airflow = sorted(run.seconds for run in ours if run.messages == count)
    drain = sorted(run.seconds for run in found.drains if run.messages == count)
    with_dag, without = airflow[len(airflow) // 2], drain[len(drain) // 2]
    more = with_dag - without
    return f"{count:,} messages: DAG {with_dag:.1f} s, drain {without:.1f} s, Airflow {more:.1f} s more"


if __name__ == "__main__":
    sys.exit(main())
