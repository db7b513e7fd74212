"""A living queue under the scheduler, LocalExecutor and triggerer, which `airflow dags test` has not.

One stack serves all tests of this module: the start of Airflow takes longer than any of them.
"""

import contextlib
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from devstack import orchestrator, processes, stack
from devstack.console import Console
from tests.bench import airflow_idle, airflow_servers
from tests.faults import live, live_kills
from tests.faults.live import DAG, Plan, Soak, soaking
from tests.support.airflow_settings import LEAN
from tests.support.traffic import traffic
from tests.support.wait import wait_until

LONG_SECONDS = 300  # of a run, on a busy machine
# What the killed process had not sealed is then back soon.
SOON = {
    "QUEUE_ETL_FRESHNESS_SECONDS": "0",
    "QUEUE_ETL_RECEIVE_SECONDS": "10",
    "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "20",
}
# Without runs of the schedule, which would take the messages of the test's own run.
AN_HOUR = {
    "QUEUE_ETL_RECEIVE_SECONDS": "30",
    "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "3600",
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
}
TASKS = "SELECT task_id, state FROM task_instance WHERE run_id = %s"
BY_CLOCK = (
    "SELECT run_id, state FROM dag_run WHERE dag_id = %s AND run_type = 'scheduled' ORDER BY logical_date"
)
BY_EVENTS = "SELECT run_id FROM dag_run WHERE dag_id = %s AND run_type = 'asset_triggered'"
LOADED = "SELECT count(*) FROM public.user_logins WHERE user_id = %s"


@dataclass(frozen=True)
class Airflow:
    """The stack's Airflow, and a run of `user_logins` that a test starts."""

    soak: Soak
    run_id: str

    def start(self) -> None:
        conf = {"wait_seconds": 120}
        wait_until(lambda: self.soak.trigger(dag_run_id=self.run_id, conf=conf), LONG_SECONDS)

    def tasks(self) -> dict[str, str | None]:
        """State of each task of the run."""
        return dict(self.soak.airflow_rows(TASKS, self.run_id))

    def run(self) -> dict[str, Any]:
        """The run as the REST API tells it."""
        return dict(self.soak.request("GET", f"/dags/{DAG}/dagRuns/{self.run_id}").json())

    def mark_failed(self) -> None:
        path = f"/dags/{DAG}/dagRuns/{self.run_id}"
        self.soak.request("PATCH", path, json={"state": "failed"}).raise_for_status()

    def said(self, text: str) -> list[str]:
        """Lines with this text in the logs of the run's tasks."""
        paths = self.soak.servers.settings.logs.rglob(f"run_id={self.run_id}/**/*.log")
        return [line for path in paths for line in path.read_text().splitlines() if text in line]

    def state(self) -> str:
        """Of the run in etl.runs; empty where it was never opened."""
        found = self.soak.servers.rows("SELECT state FROM etl.runs WHERE airflow_run_id = %s", self.run_id)
        return str(found[0][0]) if found else ""

    def visible(self) -> int:
        names = ["ApproximateNumberOfMessages"]
        reply = self.soak.sqs.get_queue_attributes(QueueUrl=self.soak.queue_url, AttributeNames=names)
        return int(reply["Attributes"][names[0]])


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    """A stack with Airflow on which messages come back soon."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (SOON | LEAN | live_kills.SOON).items():
            patch.setenv(name, value)
        with soaking(Plan(seconds=1, rate=1), tmp_path_factory.mktemp("live") / "s") as soak:
            yield soak


@pytest.fixture(scope="module")
def patient(soak: Soak) -> Soak:
    """The same stack, with messages hidden for an hour: those that come back were released.

    Tasks have the environment of the scheduler, which is started anew.
    """
    settings = soak.servers.settings
    processes.stop([part for part in orchestrator.parts(settings) if part.name == "scheduler"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AN_HOUR.items():
            patch.setenv(name, value)
        stack.ensure_airflow(settings, Console(sys.stderr))
    # A run that began before would take the messages of the test's own run.
    wait_until(lambda: not soak.works(), LONG_SECONDS)
    return soak


def send(soak: Soak, messages: int) -> str:
    """Send so many messages of one user, whose id is returned."""
    user = f"user-{secrets.token_hex(4)}"
    body = f'{{"user_id": "{user}", "app_version": "1.0", "device_type": "ios", "ip": "198.51.100.7", '
    body += '"locale": "en", "device_id": "d-1"}'
    for _ in range(messages):
        soak.sqs.send_message(QueueUrl=soak.queue_url, MessageBody=body)
    return user


@pytest.fixture
def airflow(patient: Soak) -> Airflow:
    return Airflow(patient, f"scheduled-test-{secrets.token_hex(4)}")


def test_a_history_of_cron_goes_on_with_events_and_a_look_each_hour(soak: Soak) -> None:
    """With Airflow's own `@continuous` no run ever follows."""
    wait_until(lambda: len(soak.airflow_rows(BY_CLOCK, DAG)) > 1, LONG_SECONDS)
    assert soak.airflow_rows(BY_CLOCK, DAG)[0] == ("scheduled__by_cron", "success")
    wait_until(lambda: not soak.works(), LONG_SECONDS)
    user = send(soak, 20)
    wait_until(lambda: soak.servers.rows(LOADED, user) == [(20,)], LONG_SECONDS)
    assert soak.airflow_rows(BY_EVENTS, DAG)


def test_a_run_by_hand_begins_at_once_and_looks_once(soak: Soak) -> None:
    run_id = f"by-hand-{secrets.token_hex(4)}"
    assert soak.trigger(dag_run_id=run_id)
    wait_until(lambda: dict(soak.airflow_rows(TASKS, run_id)).get("sense") == "skipped", LONG_SECONDS)


def test_what_idling_costs_is_measured(soak: Soak) -> None:
    """The benchmark's own way to do it, on this Airflow, which stands for the bare one too."""
    airflow = airflow_servers.airflow(soak.settings)
    stand = airflow_idle.Stand(soak.settings, airflow)
    try:
        found = airflow_idle.compared({0: stand, 1: stand}, 2, Console(sys.stderr))
    finally:
        airflow.pause(airflow.dags(), is_paused=False)
    bare, ours = found["idle"].values()
    assert set(ours["cpu_percent"]) >= {"triggerer", "dag-processor", "scheduler", "postgres"}
    assert set(ours["cpu_seconds_a_run"]) == set(airflow_idle.BESIDE)
    assert set(bare["runs_ended"]) | set(ours["runs_ended"]) <= {"skipped"}
    assert ours["triggerer_mb"] > 0
    said = airflow_idle.table(found)
    assert "\nabove bare " in said
    assert "\n1 contract: triggerer " in said


def test_a_living_queue_under_the_scheduler_loses_nothing_to_a_kill(
    soak: Soak, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "soaking", lambda plan, _: contextlib.nullcontext(replace(soak, plan=plan)))
    options = ["--live=30", "--rate=10", "--kills=1", "--json"]
    monkeypatch.setattr(sys, "argv", ["live", *options])
    code, printed = live.main(), capsys.readouterr()
    assert code == 0, printed.out + printed.err[-4000:]
    result = json.loads(printed.out)
    assert result["kills"] == 1
    assert result["sent"] >= 290
    assert 0 < result["p50_seconds"] <= result["p95_seconds"] <= result["max_seconds"]
    with_kill = f"p50 {result['p50_seconds']}, p95 {result['p95_seconds']}, max {result['max_seconds']} s"
    print(f"\nfrom sending to row, one extract killed: {with_kill}")


def test_kills_of_worker_and_scheduler_and_cleared_tasks_lose_nothing(
    soak: Soak, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Rows of another test have the same user ids.
    monkeypatch.setattr(live, "TAG", "killed")
    monkeypatch.setattr(
        live, "soaking", lambda plan, _: contextlib.nullcontext(replace(soak, plan=plan, done=Counter()))
    )
    mischief = ["--worker-kills=1", "--scheduler-kills=1", "--clears=2"]
    monkeypatch.setattr(sys, "argv", ["live", "--live=20", "--rate=10", "--json", *mischief])
    code, printed = live.main(), capsys.readouterr()
    assert code == 0, printed.out + printed.err[-4000:]
    result = json.loads(printed.out)
    assert (result["worker_kills"], result["scheduler_kills"], result["clears"]) == (1, 1, 2)
    assert result["sent"] >= 190
    print(f"\nempty {result['drained_after_seconds']} s after the last message")


def test_a_run_waits_in_the_triggerer_and_goes_on_when_messages_come(airflow: Airflow) -> None:
    airflow.start()
    wait_until(lambda: airflow.tasks().get("sense") == "deferred", LONG_SECONDS)
    user = send(airflow.soak, 20)
    sent = time.monotonic()
    ended = {"success", "failed", "upstream_failed"}
    wait_until(lambda: airflow.tasks().get("finish") in ended, LONG_SECONDS)
    print(f"20 messages, from sending to the end of the run: {time.monotonic() - sent:.1f} s")
    tasks = ("sense", "extract", "mask", "load", "finish")
    assert airflow.tasks() == dict.fromkeys(tasks, "success"), airflow.said('"level":"error"')
    wait_until(lambda: airflow.run()["state"] == "success", LONG_SECONDS)
    assert airflow.run()["note"].startswith("succeeded: received 20: loaded 20")
    assert airflow.soak.servers.rows(LOADED, user) == [(20,)]


def test_a_run_marked_failed_releases_its_messages_within_minutes(airflow: Airflow) -> None:
    airflow.start()
    with traffic(airflow.soak.sqs, airflow.soak.queue_url, airflow.run_id, rate=5) as sent:
        wait_until(lambda: bool(airflow.said("sealed")), LONG_SECONDS)
        airflow.mark_failed()
        wait_until(lambda: bool(airflow.said("released")), LONG_SECONDS)
    wait_until(lambda: bool(airflow.said("sealed messages stay staged")))
    assert airflow.state() == "running"
    assert airflow.soak.trigger("queue_etl_recovery", dag_run_id=f"{airflow.run_id}-recovery")
    wait_until(lambda: airflow.state() == "failed", LONG_SECONDS)
    wait_until(lambda: airflow.visible() == sent.count)
