"""The DAGs of operators, redrive, recovery and maintenance: what they promise, and what they do when run."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest
from airflow.models.dagrun import DagRun
from airflow.sdk import TriggerRule
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunType
from sqlalchemy import delete

from include.contracts import contract_names
from include.queue_etl.cli import app as command_line
from include.queue_etl.contract import Rejected
from include.queue_etl.errors import PreflightError, WarehouseUnavailable
from include.queue_etl.operations import maintenance
from include.queue_etl.operations import redrive as engine
from include.queue_etl.transform.parsing import Parser
from tests.dags.conftest import state_of, visible
from tests.dags.runs import Outcome, run_dag
from tests.support.receiver import Inbox, inbox
from tests.support.wait import wait_until

__all__ = ["inbox"]
PROJECT = Path(__file__).resolve().parents[2]
Warehouse = psycopg.Connection[Any]
Run = Callable[..., Outcome]
TASKS = {
    "queue_etl_redrive": {"redrive"},
    "queue_etl_recovery": {"runs"},
    "queue_etl_maintenance": {"ledger", "partitions", "quarantine", "runs", "staging", "verify"},
    "queue_etl_watch": {"watch"},
}


@pytest.fixture
def run(dags: Mapping[str, Any]) -> Run:
    """Run one of the DAGs by its id, with params."""
    return lambda dag_id, **params: run_dag(dags[dag_id], params)


@pytest.fixture
def quarantined(
    sqs: Any, login_queue: str, warehouse: Warehouse, run_user_logins: Callable[..., Outcome]
) -> str:
    """A good message that the pipeline quarantined as bad_version; returns its user."""
    user = f"user-{time.time_ns()}"
    login = {
        "user_id": user, "app_version": "2.3.0", "device_type": "ios", "locale": None, "ip": "203.0.113.77",
        "device_id": "1",
    }  # fmt: skip
    with mock.patch.object(Parser, "parse", return_value=Rejected("bad_version")):
        sqs.send_message(QueueUrl=login_queue, MessageBody=json.dumps(login))
        wait_until(lambda: visible(sqs, "login-queue") >= 1)
        assert run_user_logins().state == "success"
    return user


def rows_of(warehouse: Warehouse, user: str) -> int:
    found = warehouse.execute("SELECT count(*) FROM public.user_logins WHERE user_id = %s", [user]).fetchone()
    return found[0] if found else 0


# What they promise


@pytest.mark.parametrize("dag_id", TASKS)
def test_policy_is_that_of_every_dag(dags: Mapping[str, Any], dag_id: str) -> None:
    dag = dags[dag_id]
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert dag.is_paused_upon_creation is False
    assert "operations" in dag.tags
    for task in dag.tasks:
        assert (task.owner, task.retries) == ("data-platform", 4)
        assert timedelta() < task.execution_timeout <= timedelta(minutes=15)
        assert task.retry_policy.evaluate(PreflightError(["x"]), 1, 4).action.value == "fail"
        assert task.retry_policy.evaluate(WarehouseUnavailable("x"), 1, 4).action.value == "retry"


def test_each_dag_has_its_own_schedule(dags: Mapping[str, Any]) -> None:
    assert dags["queue_etl_redrive"].schedule is None
    assert dags["queue_etl_recovery"].schedule == "*/5 * * * *"
    assert dags["queue_etl_maintenance"].schedule == "17 3 * * *"
    assert dags["queue_etl_watch"].schedule == "*/5 * * * *"


def test_redrive_is_a_dry_run_unless_told_otherwise(dags: Mapping[str, Any]) -> None:
    params = dags["queue_etl_redrive"].params
    assert set(params) == {"dry_run", "contract", "reason", "since", "until"}
    assert params["dry_run"] is True
    assert params.get_param("contract").schema["enum"] == contract_names()
    assert [params[name] for name in ("reason", "since", "until")] == [None, None, None]


def test_staging_is_cleaned_after_runs_are_closed_even_if_closing_fails(
    dags: Mapping[str, Any],
) -> None:
    dag = dags["queue_etl_maintenance"]
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks if task.downstream_task_ids} == {
        "runs": {"staging"}
    }
    assert dag.get_task("staging").trigger_rule == TriggerRule.ALL_DONE


@pytest.mark.parametrize(("dag_id", "tasks"), TASKS.items())
def test_doc_md_says_for_each_task_what_to_do_when_it_fails(
    dags: Mapping[str, Any], dag_id: str, tasks: set[str]
) -> None:
    lines = [line for line in dags[dag_id].doc_md.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["if this task fails", "what you see", "where your data is", "what to do"]
    rows = {row[0].strip("`"): row[1:] for row in cells[2:]}
    assert set(rows) == tasks == {task.task_id for task in dags[dag_id].tasks}
    assert all(all(row) and len(row) == 3 for row in rows.values())


def test_the_dag_files_are_short() -> None:
    for dag_id in TASKS:
        assert len((PROJECT / "dags" / f"{dag_id}.py").read_text().splitlines()) <= 100


# What they do


def test_a_dry_run_changes_nothing(run: Run, quarantined: str, warehouse: Warehouse) -> None:
    assert run("queue_etl_redrive").tasks == {"redrive": "success"}
    assert rows_of(warehouse, quarantined) == 0


def test_a_redrive_loads_what_the_contract_accepts_once(
    run: Run, quarantined: str, warehouse: Warehouse
) -> None:
    for _ in range(2):
        outcome = run("queue_etl_redrive", dry_run=False, reason="bad_version", since="2026-01-01T00:00:00Z")
        assert outcome.tasks == {"redrive": "success"}
    assert rows_of(warehouse, quarantined) == 1


def test_filters_reach_the_engine(run: Run, quarantined: str, warehouse: Warehouse) -> None:
    outcome = run("queue_etl_redrive", dry_run=False, reason="never_met")
    assert (outcome.tasks["redrive"], outcome.tries["redrive"]) == ("failed", 1)
    assert run("queue_etl_redrive", dry_run=False, until="2026-01-01T00:00:00+00:00").state == "success"
    assert rows_of(warehouse, quarantined) == 0


def test_a_redrive_that_fails_leaves_the_message_in_quarantine(
    run: Run, quarantined: str, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PreflightError(["the keyset lacks key 7"])

    with monkeypatch.context() as broken:
        broken.setattr(engine, "_pages", refuse)
        outcome = run("queue_etl_redrive", dry_run=False)
    assert (outcome.tasks["redrive"], outcome.tries["redrive"]) == ("failed", 1)
    assert rows_of(warehouse, quarantined) == 0
    run("queue_etl_redrive", dry_run=False, reason="bad_version")
    assert rows_of(warehouse, quarantined) == 1


@pytest.fixture
def extracted(sqs: Any, login_queue: str) -> Callable[[str], None]:
    """Let a run receive and seal three messages, and no more."""

    def extract(run_id: str) -> None:
        for _ in range(3):
            sqs.send_message(QueueUrl=login_queue, MessageBody='{"foo": "no login"}')
        wait_until(lambda: visible(sqs, "login-queue") >= 3)
        assert command_line.main(["step", "extract", "--run-id", run_id]) == 0
        assert visible(sqs, "login-queue") == 0

    return extract


@pytest.fixture
def airflow_run() -> Iterator[Callable[[DagRunState], str]]:
    """Enter a run of `user_logins` in Airflow's database, in this state and without tasks; its run id.

    It is gone after the test: others look at the last runs there are.
    """
    made: list[str] = []

    def enter(state: DagRunState) -> str:
        made.append(f"recovery-{time.time_ns()}")
        run = DagRun(dag_id="user_logins", run_id=made[-1], run_type=DagRunType.MANUAL, state=state)
        run.run_after = datetime.now(UTC)
        with create_session() as session:
            session.add(run)
        return made[-1]

    yield enter
    with create_session() as session:
        session.execute(delete(DagRun).where(DagRun.run_id.in_(made)))


@pytest.mark.parametrize("state", [DagRunState.FAILED, DagRunState.SUCCESS])
def test_a_run_that_airflow_ended_is_closed_and_its_messages_are_visible(
    run: Run,
    airflow_run: Callable[[DagRunState], str],
    extracted: Callable[[str], None],
    warehouse: Warehouse,
    sqs: Any,
    state: DagRunState,
) -> None:
    run_id = airflow_run(state)
    extracted(run_id)
    assert run("queue_etl_recovery").tasks == {"runs": "success"}
    assert state_of(warehouse, run_id) == "failed"
    wait_until(lambda: visible(sqs, "login-queue") == 3)


@pytest.mark.parametrize("known", [True, False])
def test_a_run_that_goes_on_or_is_none_of_airflows_is_left_alone(
    run: Run,
    airflow_run: Callable[[DagRunState], str],
    extracted: Callable[[str], None],
    warehouse: Warehouse,
    sqs: Any,
    known: bool,
) -> None:
    run_id = airflow_run(DagRunState.RUNNING) if known else f"drain-{time.time_ns()}"
    extracted(run_id)
    try:
        assert run("queue_etl_recovery").tasks == {"runs": "success"}
        assert state_of(warehouse, run_id) == "running"
        assert visible(sqs, "login-queue") == 0
    finally:
        assert command_line.main(["step", "finish", "--run-id", run_id, "--upstream-failed"]) == 1


def test_maintenance_runs_all_its_parts(run: Run, warehouse: Warehouse) -> None:
    warehouse.execute("SELECT etl.ensure_ledger_partition(current_date - 400)")
    assert run("queue_etl_maintenance").tasks == dict.fromkeys(TASKS["queue_etl_maintenance"], "success")
    found = warehouse.execute("SELECT etl.ledger_day_exists(current_date - 400)").fetchone()
    assert found == (False,)


def test_the_watch_looks_at_every_queue_and_tells_its_receivers(
    run: Run, sqs: Any, login_queue: str, warehouse: Warehouse, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_ETL_ALERT_URLS", inbox.address())
    dead_letters = sqs.get_queue_url(QueueName="login-queue-dlq")["QueueUrl"]
    sqs.send_message(QueueUrl=dead_letters, MessageBody="dead")
    try:
        assert run("queue_etl_watch").tasks == {"watch": "success"}
    finally:
        sqs.purge_queue(QueueUrl=dead_letters)
    assert "queue_etl alert: user_logins: dead_letters" in inbox.titles()
    seen = warehouse.execute("SELECT contract FROM etl.queue_states ORDER BY 1").fetchall()
    assert [name for (name,) in seen] == contract_names()
    wait_until(lambda: run("queue_etl_watch").state == "success" and len(inbox.titles()) >= 2)
    assert "queue_etl ended: user_logins: dead_letters" in inbox.titles()


@pytest.mark.parametrize(
    ("task", "function"),
    [
        ("ledger", "maintain_ledger"),
        ("partitions", "maintain_partitions"),
        ("quarantine", "expire_quarantine"),
        ("runs", "settle_runs"),
        ("staging", "clean_staging"),
        ("verify", "verify_days"),
    ],
)
def test_a_part_that_fails_stops_no_other(
    run: Run, monkeypatch: pytest.MonkeyPatch, task: str, function: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PreflightError(["broken"])

    with monkeypatch.context() as broken:
        broken.setattr(maintenance, function, refuse)
        outcome = run("queue_etl_maintenance")
    expected = dict.fromkeys(TASKS["queue_etl_maintenance"], "success") | {task: "failed"}
    assert outcome.tasks == expected
