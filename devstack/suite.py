"""`./dev test`: style, types and tests, against stacks of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

from devstack import checks as static_checks
from devstack import environment, locks, ports, stack
from devstack.console import Console
from devstack.settings import DEFAULT_PORTS, Settings, remembered_ports

# Of those side by side, the one with the longest tests begins, and the one with many short ones ends.
SIDE_BY_SIDE = ("platform", "dags", "faults", "bench", "integration", "model")
# Its tests bound the seconds that a run takes, which other work on the machine would exceed.
ALONE = ("living",)
SERVER_SUITES = (*SIDE_BY_SIDE, *ALONE)
SUITES = ("unit", *SERVER_SUITES)
QUICK = "quick"
QUICK_SUITES = ("integration", "model")
TARGETS = (QUICK, *SUITES)
# Tests wait for servers and processes more than they compute: two for each core keep the cores busy.
WORKERS = min(2 * (os.cpu_count() or 1), 8)
STACKS_VARIABLE = "DEV_TEST_STACKS"  # folders of the workers' stacks, for tests/conftest.py
# The kill run's own arguments: with one of them, `./dev test faults` is that run instead of pytest.
KILL_RUN_ARGUMENTS = ("--kills", "--messages", "--restarts", "--seed", "--staging", "--json")
SOAK_ARGUMENT = "--live"  # with it, it is the soak
LONG_RUN_ARGUMENTS = (SOAK_ARGUMENT, *KILL_RUN_ARGUMENTS)


@dataclass(frozen=True)
class Check:
    """One program to run; its exit code decides."""

    title: str
    command: list[str]


def run(settings: Settings, console: Console, target: str | None, arguments: list[str]) -> int:
    """Run the checks and tests of the target; return the exit code of the first that failed.

    Without a target: the static checks and every suite. `quick`: those without the suites that take long.
    `unit` starts no server. With pytest arguments the tests run in one process: `-s` and `--pdb` work.
    """
    own = own_settings(settings)
    with locks.held(own.state / "test.lock", console):
        if target == "faults" and any(argument.startswith(LONG_RUN_ARGUMENTS) for argument in arguments):
            return _long_run(own, arguments)
        stack.install(own, console)
        if target == "unit":
            return run_checks(own, console, _checks(own, [own], target, arguments))
        stacks = _stacks(own, 1 if arguments or target in ALONE else WORKERS)
        with ExitStack() as ends:
            _start(stacks, console, ends, airflow_database=target != QUICK)
            return run_checks(stacks[0], console, _checks(own, stacks, target, arguments), stacks)


def _long_run(settings: Settings, arguments: list[str]) -> int:
    """Run the kill run or the soak on the stack that it starts for itself; stdout is its result."""
    stack.install(settings, Console(sys.stderr))
    is_soak = any(argument.startswith(SOAK_ARGUMENT) for argument in arguments)
    module = "tests.faults.live" if is_soak else "tests.faults.run"
    command = [str(settings.python), "-m", module, *arguments]
    return subprocess.run(command, cwd=settings.root, check=False).returncode


def own_settings(settings: Settings) -> Settings:
    """Return the stack for the tests: a second one on free ports, beside the one a person may be using.

    DEV_STATE, where given, is used instead, with its DEV_*_PORT; without it those are the person's stack's.
    """
    free = ports.free_ports(list(DEFAULT_PORTS))
    if not os.environ.get("DEV_STATE"):
        return replace(settings, state=settings.root / ".dev" / "test").with_ports(free)
    chosen = {name: int(os.environ[name]) for name in DEFAULT_PORTS if os.environ.get(name)}
    return settings.with_ports({**free, **remembered_ports(settings.state), **chosen})


def _stacks(own: Settings, count: int) -> list[Settings]:
    """Return that many stacks; only one where it is given, or on servers that all of them would share."""
    if count == 1 or os.environ.get("DEV_STATE") or own.sqs_endpoint or own.postgres_dsn:
        return [own]
    states = [own.state, *(own.state / f"worker{number}" for number in range(1, count))]
    # In one call, so that no two stacks are given the same port.
    free = ports.free_ports([f"{state} {name}" for state in states for name in DEFAULT_PORTS])
    return [
        replace(own, state=state).with_ports({name: free[f"{state} {name}"] for name in DEFAULT_PORTS})
        for state in states
    ]


def _start(stacks: list[Settings], console: Console, ends: ExitStack, airflow_database: bool) -> None:
    """Start fresh stacks, or that of DEV_STATE as it is; at the end stop them unless they were running."""
    own = stacks[0]
    if os.environ.get("DEV_STATE"):
        if not any(part.pid() for part in stack.all_parts(own)):
            ends.callback(stack.down, own, console)
        return stack.ensure(own, console, airflow_database)
    with console.step(f"start {len(stacks)} stacks"), ThreadPoolExecutor(len(stacks)) as side_by_side:
        # Also what a killed ./dev test left running.
        for left in own.state.glob("worker*"):
            stack.reset(replace(own, state=left), console)
        list(side_by_side.map(lambda one: _start_fresh(one, ends, airflow_database), stacks))


def _start_fresh(settings: Settings, ends: ExitStack, airflow_database: bool) -> None:
    """Start a stack without data; what it says goes to a log beside it, since several start at once."""
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    console = Console(ends.enter_context((settings.state / "start.log").open("w")))
    stack.reset(settings, console)
    ends.callback(stack.down, settings, console)
    stack.ensure(settings, console, airflow_database)


def _checks(
    settings: Settings, stacks: list[Settings], target: str | None, arguments: list[str]
) -> list[Check]:
    if target in SUITES:
        return _tests(settings, stacks, [target], arguments)
    suites = ["unit", *(QUICK_SUITES if target == QUICK else SERVER_SUITES)]
    static = [Check(title, command) for title, command in static_checks.commands(settings.venv)]
    return [*static, *_tests(settings, stacks, suites, arguments)]


def _tests(
    settings: Settings, stacks: list[Settings], suites: list[str], arguments: list[str]
) -> list[Check]:
    """The tests of these suites: unit first, then all that may run side by side, then those that may not."""
    if arguments:
        return [_pytest(settings, "pytest", suites, arguments)]
    together = [suite for suite in suites if suite in SIDE_BY_SIDE]
    alone = [suite for suite in suites if suite in ALONE]
    count = len(stacks)
    workers = [f"--numprocesses={count}", "--dist=loadfile", "--no-loadscope-reorder"] if count > 1 else []
    return [
        *([_covered_unit_tests(settings)] if "unit" in suites else []),
        *([_pytest(settings, f"pytest {' '.join(together)}", together, workers)] if together else []),
        *([_pytest(settings, f"pytest {' '.join(alone)}", alone, [])] if alone else []),
    ]


def _covered_unit_tests(settings: Settings) -> Check:
    """The unit tests with the gate on coverage; with arguments a part may run, which cannot cover all."""
    gate = ["--cov", "--cov-config=tests/unit/coverage.ini", "--cov-report=term-missing:skip-covered"]
    return _pytest(settings, "pytest unit, with coverage of the pure modules", ["unit"], gate)


def _pytest(settings: Settings, title: str, suites: list[str], arguments: list[str]) -> Check:
    folders = [f"tests/{suite}" for suite in suites if (settings.root / "tests" / suite).is_dir()]
    if any((settings.root / argument.partition("::")[0]).exists() for argument in arguments):
        folders = []  # the arguments say which files
    return Check(title, [str(settings.python), "-m", "pytest", *folders, *arguments])


def run_checks(
    settings: Settings, console: Console, checks: list[Check], stacks: Sequence[Settings] = ()
) -> int:
    """Run every check, even after a failure: one run shows all there is to correct."""
    folders = os.pathsep.join(str(one.state) for one in stacks)
    env = {**environment.for_child(settings), STACKS_VARIABLE: folders}
    codes = []
    for check in checks:
        with console.step(check.title):
            console.note("")
            codes.append(subprocess.run(check.command, cwd=settings.root, env=env, check=False).returncode)
    return next((code for code in codes if code), 0)
