"""`./dev test`: style, types and tests, against a stack of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from devstack import checks as static_checks
from devstack import environment, locks, ports, stack
from devstack.console import Console
from devstack.settings import DEFAULT_PORTS, Settings, remembered_ports

SERVER_SUITES = ("platform", "integration", "model", "dags", "bench", "faults", "living")
SUITES = ("unit", *SERVER_SUITES)
# The kill run's own arguments: with one of them, `./dev test faults` is that run instead of pytest.
KILL_RUN_ARGUMENTS = ("--kills", "--messages", "--restarts", "--seed", "--staging", "--json")
SOAK_ARGUMENT = "--live"  # with it, it is the soak
LONG_RUN_ARGUMENTS = (SOAK_ARGUMENT, *KILL_RUN_ARGUMENTS)


@dataclass(frozen=True)
class Check:
    """One program to run; its exit code decides."""

    title: str
    command: list[str]


def run(settings: Settings, console: Console, suite: str | None, arguments: list[str]) -> int:
    """Run the checks and the tests of one suite, or all; return the exit code of the first that failed.

    Without a suite: the static checks and every suite. `unit` starts no server.
    """
    own = own_settings(settings)
    with locks.held(own.state / "test.lock", console):
        if suite == "faults" and any(argument.startswith(LONG_RUN_ARGUMENTS) for argument in arguments):
            return _long_run(own, arguments)
        if suite == "unit":
            stack.install(own, console)
            return run_checks(own, console, _checks(own, suite, arguments))
        return _with_stack(own, console, lambda: run_checks(own, console, _checks(own, suite, arguments)))


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


def _with_stack(settings: Settings, console: Console, action: Callable[[], int]) -> int:
    """Run the action on a fresh stack, or on that of DEV_STATE as it is; stop it unless it was running."""
    given = bool(os.environ.get("DEV_STATE"))
    keep_running = given and any(part.pid() for part in stack.all_parts(settings))
    if not given:
        stack.reset(settings, console)  # also what a killed ./dev test left running
    try:
        stack.ensure(settings, console, airflow_database=True)
        return action()
    finally:
        if not keep_running:
            stack.down(settings, console)


def _checks(settings: Settings, suite: str | None, arguments: list[str]) -> list[Check]:
    if suite == "unit" and not arguments:
        return [_covered_unit_tests(settings)]
    if suite:
        return [_pytest(settings, [suite], arguments)]
    return [
        *(Check(title, command) for title, command in static_checks.commands(settings.venv)),
        *([] if arguments else [_covered_unit_tests(settings)]),
        _pytest(settings, [*(["unit"] if arguments else []), *SERVER_SUITES], arguments),
    ]


def _covered_unit_tests(settings: Settings) -> Check:
    """The unit tests with the gate on coverage; with arguments a part may run, which cannot cover all."""
    gate = ["--cov", "--cov-config=tests/unit/coverage.ini", "--cov-report=term-missing:skip-covered"]
    return replace(_pytest(settings, ["unit"], gate), title="pytest unit, with coverage of the pure modules")


def _pytest(settings: Settings, suites: list[str], arguments: list[str]) -> Check:
    folders = [f"tests/{suite}" for suite in suites if (settings.root / "tests" / suite).is_dir()]
    if any((settings.root / argument.partition("::")[0]).exists() for argument in arguments):
        folders = []  # the arguments say which files
    return Check("pytest", [str(settings.python), "-m", "pytest", *folders, *arguments])


def run_checks(settings: Settings, console: Console, checks: list[Check]) -> int:
    """Run every check, even after a failure: one run shows all there is to mend."""
    env = environment.for_child(settings)
    codes = []
    for check in checks:
        with console.step(check.title):
            console.note("")
            codes.append(subprocess.run(check.command, cwd=settings.root, env=env, check=False).returncode)
    return next((code for code in codes if code), 0)
