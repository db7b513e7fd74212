"""The project's own commands, `python -m include.queue_etl`, in the stack's environment."""

import json
import subprocess
import sys

from devstack import environment
from devstack.errors import StackError
from devstack.settings import Settings


def run(settings: Settings, *arguments: str) -> int:
    """Run one command in the person's folder, with the terminal's streams; return its exit code."""
    with subprocess.Popen(_command(settings, arguments), env=_environment(settings)) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # the child has it too, and releases what it holds before it ends


def output(settings: Settings, *arguments: str) -> str:
    """Run one command and return what it printed; its warnings go to our own standard error.

    Raises:
        StackError: it failed; the message is the last line it wrote.
    """
    run = subprocess.run(
        _command(settings, arguments), env=_environment(settings), capture_output=True, text=True, check=False
    )
    if run.returncode:
        said = (run.stderr.strip() or run.stdout.strip() or f"exit {run.returncode}").splitlines()
        raise StackError(f"{arguments[0]}: {said[-1].removeprefix(f'{arguments[0]}: ')}")
    if run.stderr:
        print(run.stderr, end="", file=sys.stderr)
    return run.stdout


def depth(settings: Settings, contract: str) -> dict[str, int]:
    """Return how many messages the contract's queue holds: visible, in_flight, delayed."""
    return dict(json.loads(output(settings, "depth", "--contract", contract, "--json")))


def _command(settings: Settings, arguments: tuple[str, ...]) -> list[str]:
    # -P: the folder it is called from may hold an `include` of its own.
    return [str(settings.python), "-P", "-m", "include.queue_etl", *arguments]


def _environment(settings: Settings) -> dict[str, str]:
    return {**environment.for_child(settings), "PYTHONPATH": str(settings.root)}
