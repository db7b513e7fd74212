"""What the soak does to a living Airflow: kill tasks, workers and the scheduler, and clear tasks."""

import contextlib
import os
import random
import signal
import sys
from typing import TYPE_CHECKING

import psutil

from devstack import orchestrator, processes, stack
from devstack.console import Console
from devstack.processes import Part
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.faults.live import Soak

# Airflow notices within seconds what has died, in place of minutes; the caller's values win.
SOON = {
    "QUEUE_ETL_FRESHNESS_SECONDS": "0",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
}
RUNNING = """
    SELECT pid, hostname FROM task_instance
    WHERE dag_id = %s AND state = 'running' AND pid IS NOT NULL AND task_id <> 'sense'
"""
RECENT = "SELECT run_id FROM dag_run WHERE dag_id = %s ORDER BY id DESC LIMIT 3"
DAG = orchestrator.DAG
TASKS = ("sense", "extract", "mask", "load", "finish")


def kill_worker(soak: "Soak") -> bool:
    """Kill what runs a task, with the task in it, and start a new worker; whether there was one.

    With Celery it is the worker; else the executor's process, a child of the scheduler.
    """
    for pid, host in soak.airflow_rows(RUNNING, DAG):
        if soak.celery is not None:
            soak.celery.kill(host)
            soak.celery.start_worker(host)
            return True
        if killed := _kill_below(_part(soak, "scheduler"), pid):
            return killed
    return False


def kill_scheduler(soak: "Soak") -> bool:
    """Kill the scheduler, under LocalExecutor with all tasks, and start a new one."""
    part = _part(soak, "scheduler")
    for pid in processes.members(part):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: part.pid() is None)  # else it counts as running, and none is started
    stack.ensure_airflow(soak.settings, Console(sys.stderr))
    return True


def clear_task(soak: "Soak", dice: random.Random) -> bool:
    """Clear a task of one of the last runs, with all that come after it, as a person does in the UI."""
    runs = [run for (run,) in soak.airflow_rows(RECENT, DAG)]
    asked = {
        "dry_run": False,
        "only_failed": False,
        "include_downstream": True,
        "dag_run_id": dice.choice(runs),
        "task_ids": [dice.choice(TASKS)],
    }
    reply = soak.request("POST", f"/dags/{DAG}/clearTaskInstances", json=asked)
    return reply.is_success and reply.json()["total_entries"] > 0


def _kill_below(scheduler: Part, pid: int) -> bool:
    """Kill a task's process and the executor's process that watches it; False where they are gone."""
    leader = scheduler.pid()
    with contextlib.suppress(psutil.NoSuchProcess):
        task = psutil.Process(pid)
        watcher = task.parent()
        above = {parent.pid for parent in task.parents()}
        if leader in above and watcher is not None and watcher.pid != leader:
            watcher.send_signal(signal.SIGKILL)
            task.send_signal(signal.SIGKILL)
            return True
    return False


def _part(soak: "Soak", name: str) -> Part:
    return next(part for part in orchestrator.parts(soak.settings) if part.name == name)
