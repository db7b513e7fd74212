"""Tests side by side: each worker of pytest-xdist has a stack to itself, where its tests need one."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader

from devstack import environment, suite


def use_own_stack(worker: str) -> None:
    """Point this worker, `gw0` and so on, at its own Postgres, queues and Airflow database.

    The variable is empty where `./dev test` runs tests that need no stack. It is missing in any other run.
    """
    folders = os.environ.get(suite.STACKS_VARIABLE)
    if folders == "":
        return
    stacks = folders.split(os.pathsep) if folders else []
    number = int(worker.removeprefix("gw"))
    if number >= len(stacks):
        raise pytest.UsageError(f"no stack for the worker {worker}: leave -n to ./dev test")
    os.environ.update(environment.read(Path(stacks[number], "env")))


@cache
def read_once(path: str, read: Any = JSONFileLoader.load_file) -> Any:
    """A model of a service, which botocore changes nowhere."""
    return read(JSONFileLoader(), path)


# Each boto3 session reads a megabyte of JSON of its own: 50 ms of CPU, for most tests make one or more.
JSONFileLoader.load_file = lambda self, path: read_once(path)

# At import, which comes before that of every conftest below: some read the environment at theirs.
if "PYTEST_XDIST_WORKER" in os.environ:
    use_own_stack(os.environ["PYTEST_XDIST_WORKER"])
