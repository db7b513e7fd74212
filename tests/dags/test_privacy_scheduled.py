"""`pii_unmask` under the real scheduler: people answer by Airflow's REST API, as its UI does."""

import csv
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import select, update

from tests.dags.privacy import ADDRESS, form, loaded, officer
from tests.dags.scheduled import START_SECONDS, Airflow, airflow, pause, states
from tests.support.wait import wait_until

__all__ = ["airflow", "loaded", "officer"]
DAG = "/dags/pii_unmask"
WAITING, ENDED = {"awaiting_input"}, {"success", "failed", "skipped"}


@pytest.fixture
def people(officer: Path, loaded: str, airflow: Airflow) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Bob, who asks, and Ada; with the DAG unpaused."""
    with airflow.log_in("bob") as bob, airflow.log_in("ada") as ada:
        wait_until(lambda: ada.patch(DAG, json={"is_paused": False}).is_success, START_SECONDS)
        yield bob, ada
        pause(True, "pii_unmask")


def asked(person: httpx.Client, token: str, ticket: str) -> str:
    """Id of a new run."""
    conf = form([token], ticket=ticket)
    said = person.post(f"{DAG}/dagRuns", json={"logical_date": None, "conf": conf})
    return str(said.raise_for_status().json()["dag_run_id"])


def answers(person: httpx.Client, run_id: str, answer: str) -> None:
    url = f"{DAG}/dagRuns/{run_id}/taskInstances/unmask/-1/hitlDetails"
    person.patch(url, json={"chosen_options": [answer], "params_input": {}}).raise_for_status()


def nobody_answers(run_id: str) -> None:
    """The day is over."""
    task = (TaskInstance.run_id == run_id, TaskInstance.task_id == "unmask")
    with create_session() as session:
        session.execute(update(TaskInstance).where(*task).values(trigger_timeout=datetime.now(UTC)))


def clear(person: httpx.Client, run_id: str) -> None:
    """The task, as the UI does it."""
    body = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["unmask"], "only_failed": False}
    person.post(f"{DAG}/clearTaskInstances", json=body).raise_for_status()


def clear_uncounted(person: httpx.Client, run_id: str) -> None:
    """The task, and then set the run to go on: `clear_number` stays 0."""
    body = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["unmask"], "only_failed": False}
    person.post(f"{DAG}/clearTaskInstances", json={**body, "reset_dag_runs": False}).raise_for_status()
    person.patch(f"{DAG}/dagRuns/{run_id}", json={"state": "queued"}).raise_for_status()


def make_anew(person: httpx.Client, run_id: str) -> None:
    """Delete the task and have it made again: `try_number` begins again at 1, `clear_number` stays 0."""
    person.delete(f"{DAG}/dagRuns/{run_id}/taskInstances/unmask").raise_for_status()
    body = {"dry_run": False, "only_new": True}
    person.post(f"{DAG}/dagRuns/{run_id}/clear", json=body).raise_for_status()
    person.patch(f"{DAG}/dagRuns/{run_id}", json={"state": "queued"}).raise_for_status()


def wait_for(wanted: set[str], *run_ids: str) -> None:
    wait_until(lambda: {states().get((run_id, "unmask")) for run_id in run_ids} <= wanted, START_SECONDS)


def wait_for_question(airflow: Airflow, try_number: int, *run_ids: str) -> None:
    """Until they wait for an answer, and the scheduler has heard so.

    One that is quicker than the executor's report lets Airflow 3.3.2 take the report for the end of the task.
    """
    wait_for(WAITING, *run_ids)
    wait_until(lambda: all(airflow.heard_from(run_id, try_number) for run_id in run_ids), START_SECONDS)


def seen_in(person: httpx.Client, run_ids: list[str]) -> str:
    """What the API says of the runs: tasks, XComs, answers, logs."""
    tasks = [f"{DAG}/dagRuns/{run_id}/taskInstances/unmask" for run_id in run_ids]
    parts = ("", "/-1/hitlDetails", "/xcomEntries", "/xcomEntries/return_value", "/logs/1")
    return "\n".join(person.get(task + part).text for task in tasks for part in parts)


@pytest.mark.timeout(300)
def test_values_come_back_when_a_second_person_approves_and_only_then(
    people: tuple[httpx.Client, httpx.Client],
    officer: Path,
    loaded: str,
    airflow: Airflow,
    warehouse: psycopg.Connection[Any],
) -> None:
    bob, ada = people
    started = time.monotonic()
    approved, alone, rejected, unanswered = runs = [
        asked(bob, loaded, ticket) for ticket in ("yes", "alone", "no", "nobody")
    ]
    wait_for_question(airflow, 1, *runs)
    assert list(officer.iterdir()) == []
    answers(bob, alone, "Approve")
    answers(bob, rejected, "Reject")
    nobody_answers(unanswered)
    answers(ada, approved, "Approve")
    wait_for(ENDED, *runs)
    print(f"four requests, to the end of the last: {time.monotonic() - started:.1f} s")
    assert [states()[run_id, "unmask"] for run_id in runs] == ["success", "failed", "skipped", "failed"], [
        airflow.errors(run_id) for run_id in runs
    ]

    (path,) = officer.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"field": "ip", "token": loaded, "value": ADDRESS}]
    told = audited(warehouse, runs)
    assert told["yes"] == [("unmask asked", "bob", None, None), ("unmask", "bob", "ada", None)]
    assert told["alone"][1] == (
        "unmask refused", "bob", "bob", "bob asked for this and approved it: a second person has to",
    )  # fmt: skip
    assert told["no"][1] == ("unmask refused", "bob", "bob", "bob rejected it")
    assert told["nobody"][1] == ("unmask refused", "bob", None, "nobody answered in time")
    visible = seen_in(ada, runs)
    assert "audit_entry" in visible
    logs = [log.read_text() for log in airflow.logs.rglob("*.log")]
    assert len(logs) >= len(runs)
    assert ADDRESS not in "\n".join([visible, *logs])


@pytest.mark.timeout(300)
def test_a_run_that_somebody_makes_go_again_asks_nobody(
    people: tuple[httpx.Client, httpx.Client],
    officer: Path,
    loaded: str,
    airflow: Airflow,
    warehouse: psycopg.Connection[Any],
) -> None:
    """Else one person could open what another asked for long ago, and even rejected."""
    bob, ada = people
    ways = {"cleared": clear, "uncounted": clear_uncounted, "anew": make_anew, "waiting": clear}
    runs = {ticket: asked(bob, loaded, ticket) for ticket in ways}
    wait_for_question(airflow, 1, *runs.values())
    rejected = [run_id for ticket, run_id in runs.items() if ticket != "waiting"]
    for run_id in rejected:
        answers(bob, run_id, "Reject")
    wait_for({"skipped"}, *rejected)
    wait_until(lambda: run_states(rejected) == {"success"}, START_SECONDS)
    for ticket, again in ways.items():
        again(ada, runs[ticket])
    wait_for({"failed", *WAITING}, *runs.values())
    assert {states()[run_id, "unmask"] for run_id in runs.values()} == {"failed"}
    assert counted(runs["anew"]) == (0, 1)  # by what Airflow counts, it never ran before
    assert list(officer.iterdir()) == []
    for ticket, entries in audited(warehouse, list(runs.values())).items():
        assert [action for action, *_ in entries].count("unmask asked") == 1, ticket
        assert entries[-1] == (
            "unmask refused", "bob", None,
            "cleared: a run asks once and is answered once; trigger the DAG again",
        )  # fmt: skip


def run_states(run_ids: list[str]) -> set[str]:
    with create_session() as session:
        return {
            str(state) for state in session.scalars(select(DagRun.state).where(DagRun.run_id.in_(run_ids)))
        }


def counted(run_id: str) -> tuple[int, int]:
    """How often the run was cleared, and which try its task is at."""
    with create_session() as session:
        run = session.scalars(select(DagRun).where(DagRun.run_id == run_id)).one()
        task = session.scalars(select(TaskInstance).where(TaskInstance.run_id == run_id)).one()
        return run.clear_number, task.try_number


def audited(warehouse: psycopg.Connection[Any], run_ids: list[str]) -> dict[str, list[tuple[str, ...]]]:
    """Ticket -> (action, who asked, who answered, why it was refused) of each entry, the oldest first."""
    entries = warehouse.execute(
        "SELECT ticket, action, details ->> 'requested_by',"
        " coalesce(details ->> 'approved_by', details ->> 'answered_by'), details ->> 'why'"
        " FROM pii.audit WHERE details ->> 'run' = ANY (%s) ORDER BY id",
        [run_ids],
    ).fetchall()
    told: dict[str, list[tuple[str, ...]]] = {}
    for ticket, *rest in entries:
        told.setdefault(ticket, []).append(tuple(rest))
    return told
