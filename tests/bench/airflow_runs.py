"""A running Airflow looked at from outside: start a run as the UI does, and see when each of its tasks ran.

Times are Airflow's own, of its metadata database.
"""

import json
import secrets
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg

from devstack import processes

DAG = "user_logins"
STATE = "SELECT state FROM dag_run WHERE dag_id = %s AND run_id = %s"
KNOWN = "SELECT count(*) FROM serialized_dag WHERE dag_id = %s"
ENDED = "SELECT extract(epoch FROM end_date) FROM dag_run WHERE dag_id = %s AND run_id = %s"
TASKS = """
    SELECT task_id, count(*),
           extract(epoch FROM min(start_date)) - %s,
           extract(epoch FROM max(end_date)) - %s,
           extract(epoch FROM avg(start_date - queued_dttm)),
           extract(epoch FROM avg(end_date - start_date)),
           max(try_number)
    FROM task_instance WHERE dag_id = %s AND run_id = %s GROUP BY task_id ORDER BY 3
"""


class RunFailed(RuntimeError):
    """A DAG run did not succeed, or did not end in time."""


@dataclass(frozen=True)
class TaskTimes:
    """One task of a run, all its mapped instances together; seconds.

    Attributes:
        started: of the first instance, since the run was triggered
        ended: of the last
        waited: mean, from queued to started
        lasted: mean, from start to end
    """

    instances: int
    started: float
    ended: float
    waited: float
    lasted: float
    tries: int


@dataclass(frozen=True)
class Airflow:
    """Where it answers, and who asks."""

    url: str
    user: str
    password: str
    metadata_dsn: str

    def trigger(self, dag: str = DAG) -> "StartedRun":
        """Starts a run, as the UI does."""
        run_id, token = f"bench__{secrets.token_hex(4)}", self._token()
        asked: dict[str, Any] = {"dag_run_id": run_id, "logical_date": None, "conf": {}}
        triggered = time.time()
        self._call("POST", f"/api/v2/dags/{dag}/dagRuns", asked, {"Authorization": f"Bearer {token}"})
        return StartedRun(self, run_id, triggered, dag)

    def knows(self, dag: str = DAG) -> bool:
        """Whether the DAG has been parsed."""
        return bool(self.rows(KNOWN, dag)[0][0])

    def dags(self) -> list[str]:
        """All that have been parsed, sorted."""
        return [dag for (dag,) in self.rows("SELECT dag_id FROM dag ORDER BY dag_id")]

    def pause(self, dags: Iterable[str], is_paused: bool = True) -> None:
        """Keeps the schedules of DAGs from running, or lets them run."""
        bearer = {"Authorization": f"Bearer {self._token()}"}
        for dag in dags:
            self._call("PATCH", f"/api/v2/dags/{dag}", {"is_paused": is_paused}, bearer)

    def rows(self, question: str, *values: object) -> list[tuple]:
        """Asks the metadata database."""
        with psycopg.connect(self.metadata_dsn) as connection:
            return connection.execute(question.encode(), values).fetchall()

    def _token(self) -> str:
        asked = {"username": self.user, "password": self.password}
        return str(self._call("POST", "/auth/token", asked, {})["access_token"])

    def _call(self, method: str, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return json.load(answer)


@dataclass(frozen=True)
class StartedRun:
    """A run that was triggered at `triggered`, seconds since the epoch."""

    airflow: Airflow
    run_id: str
    triggered: float
    dag: str = DAG

    def seconds(self, patience: float) -> float:
        """Waits for its end; from trigger to success.

        Raises:
            RunFailed: it failed, or lasts longer than `patience` seconds
        """
        if not processes.wait_until(lambda: self._state() in ("success", "failed"), patience, every=0.2):
            raise RunFailed(f"{self.run_id} is {self._state()} after {patience:.0f} s")
        if self._state() != "success":
            raise RunFailed(f"{self.run_id} failed: {self.tasks()}")
        return float(self.airflow.rows(ENDED, self.dag, self.run_id)[0][0]) - self.triggered

    def tasks(self) -> dict[str, TaskTimes]:
        """Its tasks, in order of their start."""
        found = self.airflow.rows(TASKS, self.triggered, self.triggered, self.dag, self.run_id)
        return {
            name: TaskTimes(
                count, _rounded(started), _rounded(ended), _rounded(waited), _rounded(lasted), tries
            )
            for name, count, started, ended, waited, lasted, tries in found
        }

    def _state(self) -> str:
        return str(self.airflow.rows(STATE, self.dag, self.run_id)[0][0])


def _rounded(seconds: Any) -> float:
    return round(float(seconds or 0), 2)
