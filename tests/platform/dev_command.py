"""Drives ./dev as a person does: by running it, on a stack of its own."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from devstack import emulator, environment, processes, stack
from devstack.processes import Part
from devstack.settings import DEFAULT_PORTS, ROOT, Settings, from_environment
from tests.support.airflow_settings import LEAN
from tests.support.ports import lasting_ports

# What `./dev test` or a person's shell has set would point the stack under test at another one.
FOREIGN = ("DEV_", "QUEUE_ETL_", "AWS_", "AIRFLOW")


@dataclass(frozen=True)
class Launcher:
    """Runs ./dev with a state folder and ports of its own."""

    env: dict[str, str]

    @property
    def settings(self) -> Settings:
        return from_environment(self.env)

    def start(
        self,
        *arguments: str,
        start_new_session: bool = False,
        cwd: Path = Path("/"),
        root: Path = ROOT,
        **changed: str,
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(root / "dev"), *arguments],
            env={**self.env, **changed},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )

    def run(
        self, *arguments: str, cwd: Path = Path("/"), root: Path = ROOT, **changed: str
    ) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments, start_new_session=False, cwd=cwd, root=root, **changed)
        stdout, stderr = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def start_servers(self) -> None:
        """Start what is down, as any command does first; missing queues are made again."""
        done = self.run("run", "depth")
        assert done.returncode == 0, done.stderr

    def part(self, name: str) -> Part:
        return next(part for part in stack.all_parts(self.settings) if part.name == name)

    def pid(self, name: str) -> int | None:
        return self.part(name).pid()

    def variables(self) -> dict[str, str]:
        return environment.read(self.settings.state / "env")


def kill(part: Part) -> None:
    """Kill a part of a stack as a crash does."""
    pid = part.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert processes.wait_until(lambda: part.pid() is None, 10)


def sqs(settings: Settings) -> Any:
    """A boto3 client of the stack's SQS endpoint."""
    return boto3.client(
        "sqs",
        endpoint_url=emulator.endpoint(settings),
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def clean_environment(state: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    chosen = {name: str(port) for name, port in lasting_ports(DEFAULT_PORTS).items()}
    return {**inherited, **chosen, **LEAN, "DEV_STATE": str(state)}
