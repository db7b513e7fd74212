"""Tests side by side: each worker of pytest-xdist has a stack to itself."""

import os
from pathlib import Path

import pytest

from devstack import environment, suite


def use_own_stack(worker: str) -> None:
    """Point this worker, `gw0` and so on, at its own Postgres, queues and Airflow database."""
    stacks = os.environ.get(suite.STACKS_VARIABLE, "").split(os.pathsep)
    number = int(worker.removeprefix("gw"))
    if number >= len(stacks) or not stacks[number]:
        raise pytest.UsageError(f"no stack for the worker {worker}: leave -n to ./dev test")
    os.environ.update(environment.read(Path(stacks[number], "env")))


# At import, which comes before that of every conftest below: some read the environment at theirs.
if "PYTEST_XDIST_WORKER" in os.environ:
    use_own_stack(os.environ["PYTEST_XDIST_WORKER"])
