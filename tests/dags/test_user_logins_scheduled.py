"""The DAG under the real scheduler, LocalExecutor and triggerer: what `airflow dags test` cannot show."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import AirflowException
from airflow.models.dag import DagModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select, update

from tests.dags.conftest import wait_until

START_SECONDS = 120  # of all of Airflow's parts, on a busy machine


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def airflow(tmp_path: Path) -> Iterator[Path]:
    """Airflow as `./dev up` starts it, on ports of its own, with the DAG paused until all parts are healthy;
    gives the folder of the tasks' logs.

    A task that starts before the api-server listens dies; its retry would come later than the test waits.
    """
    pause(True)
    api = free_port()
    environment = {
        **os.environ,
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(tmp_path / "passwords"),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{api}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(tmp_path / "logs"),
    }
    log = tmp_path / "standalone.log"
    command = [sys.executable, "-m", "airflow", "standalone"]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, cwd=tmp_path, start_new_session=True
        )
    try:
        wait_until(lambda: healthy(api), START_SECONDS)
        pause(False)
        yield tmp_path / "logs"
    finally:
        stop(process)


def pause(paused: bool) -> None:
    with create_session() as session:
        session.execute(update(DagModel).where(DagModel.dag_id == "user_logins").values(is_paused=paused))


def healthy(port: int) -> bool:
    try:
        parts = httpx.get(f"http://127.0.0.1:{port}/api/v2/monitor/health").json()
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
        _, family = psutil.wait_procs(family, timeout=5)
    assert not family


def trigger_when_known(run_id: str) -> bool:
    """Start a run as the UI does; False as long as Airflow has not parsed the DAG."""
    try:
        trigger_dag(
            "user_logins",
            triggered_by=DagRunTriggeredByType.TEST,
            run_id=run_id,
            conf={"wait_seconds": 120},
        )
    except AirflowException:
        return False
    return True


def states() -> dict[tuple[str, str], str | None]:
    with create_session() as session:
        found = session.execute(select(TaskInstance.run_id, TaskInstance.task_id, TaskInstance.state))
        return {(run_id, task): state and str(state) for run_id, task, state in found}


def errors_in(logs: Path, run_id: str) -> list[str]:
    """What the tasks of the run logged as errors."""
    lines = [
        line for path in logs.rglob(f"run_id={run_id}/**/*.log") for line in path.read_text().splitlines()
    ]
    return [line for line in lines if '"level":"error"' in line]


@pytest.mark.timeout(300)
def test_a_run_waits_in_the_triggerer_and_goes_on_when_messages_come(
    airflow: Path, login_queue: str, sqs: Any, warehouse: psycopg.Connection[Any]
) -> None:
    run_id = f"scheduled-test-{secrets.token_hex(4)}"
    user = f"user-{run_id}"
    wait_until(lambda: trigger_when_known(run_id), START_SECONDS)
    wait_until(lambda: states().get((run_id, "sense")) == "deferred", START_SECONDS)
    body = f'{{"user_id": "{user}", "app_version": "1.0", "device_type": "ios", "ip": "198.51.100.7", '
    body += '"locale": "en", "device_id": "d-1"}'
    for _ in range(20):
        sqs.send_message(QueueUrl=login_queue, MessageBody=body)
    sent = time.monotonic()
    wait_until(lambda: states().get((run_id, "finish")) in {"success", "failed", "upstream_failed"}, 90)
    print(f"20 messages, from sending to the end of the run: {time.monotonic() - sent:.1f} s")
    of_run = {task: state for (run, task), state in states().items() if run == run_id}
    tasks = ("sense", "extract", "mask", "load", "finish")
    assert of_run == dict.fromkeys(tasks, "success"), errors_in(airflow, run_id)
    count = "SELECT count(*) FROM public.user_logins WHERE user_id = %s"
    assert warehouse.execute(count, [user]).fetchone() == (20,)
