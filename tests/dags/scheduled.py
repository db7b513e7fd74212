"""Airflow as `./dev up` starts it, for tests of what `airflow dags test` cannot show."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from airflow.models.dag import DagModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import select, update

from tests.support.wait import wait_until

START_SECONDS = 300  # of all of Airflow's parts, on a busy machine
USER = "ada"  # who may log in, with the name as password


@dataclass(frozen=True)
class Airflow:
    """Airflow's processes: scheduler with LocalExecutor, api-server, DAG processor and triggerer.

    Attributes:
        url: of the api-server
        logs: folder of the tasks' logs
    """

    url: str
    logs: Path

    def log_in(self) -> httpx.Client:
        """The REST API, as USER."""
        who = {"username": USER, "password": USER}
        said = httpx.post(f"{self.url}/auth/token", json=who, timeout=START_SECONDS)
        headers = {"Authorization": f"Bearer {said.raise_for_status().json()['access_token']}"}
        return httpx.Client(base_url=f"{self.url}/api/v2", headers=headers, timeout=START_SECONDS)

    def errors(self, run_id: str) -> list[str]:
        """What the tasks of the run logged as errors."""
        return [line for line in self._lines(run_id) if '"level":"error"' in line]

    def said(self, run_id: str, text: str) -> bool:
        """Whether a task of the run logged this text."""
        return any(text in line for line in self._lines(run_id))

    def _lines(self, run_id: str) -> list[str]:
        paths = self.logs.rglob(f"run_id={run_id}/**/*.log")
        return [line for path in paths for line in path.read_text().splitlines()]


@contextmanager
def running(folder: Path) -> Iterator[Airflow]:
    """Airflow on ports of its own, all its parts healthy, with `user_logins` paused.

    A task that starts before the api-server listens dies; its retry would come later than the test waits.
    """
    pause(True)
    url, logs = f"http://127.0.0.1:{free_port()}", folder / "logs"
    changed = {**settings(url, folder), "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(logs)}
    command = [sys.executable, "-m", "airflow", "standalone"]
    with (folder / "standalone.log").open("w") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **changed},
            stdout=file,
            stderr=file,
            cwd=folder,
            start_new_session=True,
        )
    try:
        wait_until(lambda: healthy(url), START_SECONDS)
        yield Airflow(url, logs)
    finally:
        stop(process)


def settings(url: str, folder: Path) -> dict[str, str]:
    """What differs from the stack's own Airflow: ports, people, and no long pauses."""
    passwords = folder / "passwords"
    passwords.write_text(json.dumps({USER: USER}))
    return {
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:op",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "15",
        "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": url.rpartition(":")[2],
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def pause(paused: bool, dag: str = "user_logins") -> None:
    with create_session() as session:
        session.execute(update(DagModel).where(DagModel.dag_id == dag).values(is_paused=paused))


def healthy(url: str) -> bool:
    try:
        parts = httpx.get(f"{url}/api/v2/monitor/health", timeout=START_SECONDS).json()
    except httpx.TransportError:
        return False
    return all(part["status"] == "healthy" for part in parts.values())


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop it with everything it started: on a signal to itself alone it leaves children behind."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                ask(member)
        _, family = psutil.wait_procs(family, timeout=30)
    assert not family


def states() -> dict[tuple[str, str], str | None]:
    """(run id, task id) -> state, of all runs."""
    with create_session() as session:
        found = session.execute(select(TaskInstance.run_id, TaskInstance.task_id, TaskInstance.state))
        return {(run_id, task): state and str(state) for run_id, task, state in found}
