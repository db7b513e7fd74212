"""`./dev bench`: the benchmark of tests/bench, on a Postgres that does nothing else."""

import argparse
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from devstack import locks, ports, postgres, stack
from devstack.console import Console
from devstack.settings import DEFAULT_PORTS, Settings

# Options that ask for something else, with an Airflow of its own.
WITH_AIRFLOW = ("airflow", "freshness", "backlog", "idle", "observability")
CONTENDERS = ("ours", "sensible", "naive", "by-batch", "drain", "at-least-once")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options; tests/bench takes the same."""
    add = parser.add_argument
    add("--messages", type=positive, default=200_000, metavar="N", help="default: 200000")
    add("--json", action="store_true", help="one JSON object on stdout, progress on stderr")
    add(
        "--only",
        type=_contenders,
        default=["ours", "sensible", "naive"],
        metavar="A,B",
        help="who runs, in that order: ours, sensible, naive; also by-batch (ours, mask and load one process "
        "a batch), drain (ours in one process) and at-least-once (sensible, remembering no message ids)",
    )
    add(
        "--airflow",
        action="store_true",
        help="instead: as a DAG under the scheduler, beside drain, and other pipelines as DAGs",
    )
    add(
        "--freshness",
        action="store_true",
        help="instead: seconds from sending to the row, with the DAG's default settings and its schedule",
    )
    add(
        "--backlog",
        type=positive,
        metavar="N",
        help="instead: how fast so many waiting messages become rows by themselves, in the same way",
    )
    add(
        "--idle",
        type=positive,
        metavar="SECONDS",
        help="instead: CPU of Airflow's processes while no message comes, beside bare Airflow",
    )
    add(
        "--contracts",
        type=_counts,
        default=[1],
        metavar="A,B",
        help="of --idle: one Airflow each with so many contracts, such as 1,25; default: 1",
    )
    add(
        "--observability",
        action="store_true",
        help="instead: CPU of DAG runs with metrics, alerts, JSON logs, lineage and the page, against none",
    )
    add("--apart", action="store_true", help="with --observability: also metrics, logs and lineage alone")
    add(
        "--rates",
        type=_rates,
        metavar="A,B",
        help="messages a second of a sender: of --freshness, one after another (default: 1); of --backlog, "
        "the first of them beside it (default: nobody sends)",
    )
    add("--seconds", type=positive, default=120, metavar="N", help="of each sender; default: 120")
    add(
        "--drains",
        type=_counts,
        metavar="A,B",
        help="instead: messages a second of so many drains at once, such as 1,2,4; see --latency",
    )
    add(
        "--partitions",
        type=_counts,
        metavar="A,B",
        help="instead: what a load costs into a table of so many partitions, such as 1,24,400",
    )
    add(
        "--baseline",
        type=_checkout,
        metavar="PATH",
        help="another checkout of this project: its code runs in the same call, as `before`",
    )
    add("--latency", type=float, default=0.0, metavar="MS", help="added to each call of the SQS stub")
    add("--rounds", type=positive, default=1, metavar="N", help="everybody runs so often, in turn")
    add(
        "--preload",
        type=int,
        default=0,
        metavar="N",
        help="messages of earlier days that are in the table and the ledger before",
    )
    add(
        "--preload-today",
        type=int,
        default=0,
        metavar="N",
        help="messages of today that are there before: the ledger's index of the day is what grows",
    )


def positive(text: str) -> int:
    """A whole number above 0, as the type of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return int(text)


def _counts(text: str) -> list[int]:
    return [positive(count) for count in text.split(",")]


def _rates(text: str) -> list[float]:
    return [float(positive(rate)) for rate in text.split(",")]


def _contenders(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(CONTENDERS):
        raise argparse.ArgumentTypeError(f"no such contender: {', '.join(sorted(unknown))}")
    return names


def _checkout(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "include" / "queue_etl" / "__main__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of this project")
    return path


def run(settings: Settings, console: Console, options: argparse.Namespace) -> int:
    """Run it and return its exit code.

    The server is started for it and removed at the end: its CPU time is measured, so nobody else may use it.
    """
    own = replace(settings, state=settings.state / "bench", postgres_dsn=None)
    chosen = ports.free_ports(list(DEFAULT_PORTS))
    own = own.with_ports(chosen)
    stack.install(own, console)
    own.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locks.held(own.state / "bench.lock", console):
        try:
            if any(getattr(options, name) for name in WITH_AIRFLOW):
                return _airflow(own, chosen, options)
            postgres.start(own, console)
            return _bench(own, options)
        finally:
            stack.reset(own, console)


def _airflow(settings: Settings, chosen: Mapping[str, int], options: argparse.Namespace) -> int:
    """It starts the rest of the stack itself."""
    names = ("messages", "rounds", "latency", "seconds")
    arguments = [f"--{name}={getattr(options, name)}" for name in names]
    flags = ("freshness", "observability", "apart", "json")
    arguments += [f"--{name}" for name in flags if getattr(options, name)]
    arguments += [
        f"--{name}={getattr(options, name)}"
        for name in ("backlog", "idle", "baseline")
        if getattr(options, name)
    ]
    arguments += [f"--rates={','.join(f'{rate:g}' for rate in options.rates)}"] if options.rates else []
    arguments += [f"--contracts={','.join(map(str, options.contracts))}"]
    command = [str(settings.python), "-m", "tests.bench.airflow_overhead", *arguments]
    # Without DEV_*: where a person works with another SQS or Postgres, it measures on its own all the same.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DEV_")}
    own = {"DEV_STATE": str(settings.state), **{name: str(port) for name, port in chosen.items()}}
    return subprocess.run(command, cwd=settings.root, env={**inherited, **own}, check=False).returncode


def _bench(settings: Settings, options: argparse.Namespace) -> int:
    numbers = ("messages", "latency", "rounds", "preload", "preload_today")
    arguments = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in numbers]
    arguments += [f"--only={','.join(options.only)}", *(["--json"] if options.json else [])]
    arguments += [f"--baseline={options.baseline}"] if options.baseline else []
    for name in ("partitions", "drains"):
        counts = getattr(options, name)
        arguments += [f"--{name}={','.join(map(str, counts))}"] if counts else []
    command = [str(settings.python), "-m", "tests.bench", *arguments]
    login = postgres.superuser(settings)
    env = {**postgres.psql_environment(login), "QUEUE_ETL_OWNER_DSN": login.url("postgres")}
    return subprocess.run(command, cwd=settings.root, env=env, check=False).returncode
