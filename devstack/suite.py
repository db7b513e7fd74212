"""`./dev test`: style, types and tests, against stacks of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

from devstack import checks as static_checks
from devstack import environment, locks, ports, stack
from devstack.console import Console
from devstack.settings import DEFAULT_PORTS, Settings, remembered_ports

# A file stays with its worker: the suite with the longest file begins, and the one of many short files ends.
SIDE_BY_SIDE = ("faults", "dags", "platform", "bench", "model", "integration")
# Its tests bound the seconds that a run takes, which other work on the machine would exceed.
ALONE = ("living",)
SERVER_SUITES = (*SIDE_BY_SIDE, *ALONE)
SUITES = ("unit", *SERVER_SUITES)
QUICK = "quick"
QUICK_SUITES = ("integration", "model")
# Of these suites; see the marker in pyproject.toml.
QUICK_PART = ["-m", "not slow"]
TARGETS = (QUICK, *SUITES)
CORES = os.cpu_count() or 1
# Tests wait for servers and processes more than they compute: three for each core keep the cores busy.
WORKERS = min(3 * CORES, 8)
STACKS_VARIABLE = "DEV_TEST_STACKS"  # folders of the workers' stacks, for tests/conftest.py
# The kill run's own arguments: with one of them, `./dev test faults` is that run instead of pytest.
KILL_RUN_ARGUMENTS = ("--kills", "--messages", "--restarts", "--seed", "--staging", "--json")
SOAK_ARGUMENT = "--live"  # with it, it is the soak
LONG_RUN_ARGUMENTS = (SOAK_ARGUMENT, *KILL_RUN_ARGUMENTS)


@dataclass(frozen=True)
class Check:
    """One program to run; its exit code decides. `stacks` are those of its workers; unit tests need none."""

    title: str
    command: list[str]
    stacks: Sequence[Settings] = ()


def run(settings: Settings, console: Console, target: str | None, arguments: list[str]) -> int:
    """Run the checks and tests of the target; return the exit code of the first that failed.

    Without a target: the static checks and every suite. `quick`: those without what takes long.
    `unit` starts no server. With pytest arguments the tests run in one process: `-s` and `--pdb` work.
    """
    own = own_settings(settings)
    with locks.held(own.state / "test.lock", console):
        if target == "faults" and any(argument.startswith(LONG_RUN_ARGUMENTS) for argument in arguments):
            return _long_run(own, arguments)
        stack.install(own, console)
        if target == "unit":
            return _first_failure(run_in_turn(own, console, _tests(own, [], target, arguments)))
        stacks = _stacks(own, 1 if arguments else CORES if target in ALONE else WORKERS)
        with ExitStack() as ends, ThreadPoolExecutor(1) as beside:
            starting = beside.submit(_start, stacks, console, ends, airflow_database=target != QUICK)
            codes = run_side_by_side(own, console, _static_checks(own, target))
            starting.result()
            codes += run_in_turn(stacks[0], console, _tests(own, stacks, target, arguments))
            return _first_failure(codes)


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


def _static_checks(settings: Settings, target: str | None) -> list[Check]:
    if target in SUITES:
        return []
    return [Check(title, command) for title, command in static_checks.commands(settings.venv)]


def _tests(
    settings: Settings, stacks: Sequence[Settings], target: str | None, arguments: list[str]
) -> list[Check]:
    """The tests of the target: unit first, then all that may run side by side, then those that may not."""
    suites = SUITES if target is None else ("unit", *QUICK_SUITES) if target == QUICK else (target,)
    if arguments:
        return [_pytest(settings, "pytest", suites, arguments, stacks)]
    together = [suite for suite in SIDE_BY_SIDE if suite in suites]
    alone = [suite for suite in suites if suite in ALONE]
    workers = [*_workers(len(stacks)), *(QUICK_PART if target == QUICK else [])]
    few = min(CORES, len(stacks))
    return [
        *([_covered_unit_tests(settings)] if "unit" in suites else []),
        *([_pytest(settings, f"pytest {' '.join(together)}", together, workers, stacks)] if together else []),
        *([_pytest(settings, f"pytest {' '.join(alone)}", alone, _workers(few), stacks)] if alone else []),
    ]


def _workers(count: int) -> list[str]:
    return [f"--numprocesses={count}", "--dist=loadfile", "--no-loadscope-reorder"] if count > 1 else []


def _covered_unit_tests(settings: Settings) -> Check:
    """The unit tests with the gate on coverage; with arguments a part may run, which cannot cover all.

    They compute all the while: one worker for each core.
    """
    gate = ["--cov", "--cov-config=tests/unit/coverage.ini", "--cov-report=term-missing:skip-covered"]
    title = "pytest unit, with coverage of the pure modules"
    return _pytest(settings, title, ["unit"], [*gate, *_workers(CORES)])


def _pytest(
    settings: Settings,
    title: str,
    suites: Sequence[str],
    arguments: list[str],
    stacks: Sequence[Settings] = (),
) -> Check:
    folders = [f"tests/{suite}" for suite in suites if (settings.root / "tests" / suite).is_dir()]
    if any((settings.root / argument.partition("::")[0]).exists() for argument in arguments):
        folders = []  # the arguments say which files
    return Check(title, [str(settings.python), "-m", "pytest", *folders, *arguments], stacks)


def run_side_by_side(settings: Settings, console: Console, checks: list[Check]) -> list[int]:
    """Run checks that need no server, one for each core; what a check says comes in one piece at its end."""

    def run_one(check: Check) -> int:
        started = time.monotonic()
        done = subprocess.run(
            check.command,
            cwd=settings.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        outcome = "failed after " if done.returncode else ""
        console.note(f"{done.stdout}  {check.title}: {outcome}{time.monotonic() - started:.1f} s")
        return done.returncode

    with ThreadPoolExecutor(CORES) as side_by_side:
        return list(side_by_side.map(run_one, checks))


def run_in_turn(settings: Settings, console: Console, checks: list[Check]) -> list[int]:
    """Run every check, even after a failure: one run shows all there is to correct."""
    codes = []
    for check in checks:
        folders = os.pathsep.join(str(one.state) for one in check.stacks)
        env = {**environment.for_child(settings), STACKS_VARIABLE: folders}
        with console.step(check.title):
            console.note("")
            codes.append(subprocess.run(check.command, cwd=settings.root, env=env, check=False).returncode)
    return codes


def _first_failure(codes: list[int]) -> int:
    return next((code for code in codes if code), 0)
