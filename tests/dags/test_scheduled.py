"""DAGs under the real scheduler, LocalExecutor and triggerer: what `airflow dags test` cannot show.

One Airflow serves all tests of this module: its start takes longer than any of them.
"""

import csv
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from airflow.api.common.trigger_dag import trigger_dag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.exceptions import AirflowException
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select, update

from tests.dags.conftest import empty, state_of, visible
from tests.dags.privacy import ADDRESS, form, load_login, officers_environment
from tests.dags.scheduled import START_SECONDS, Airflow, pause, running, states
from tests.support.traffic import traffic
from tests.support.wait import wait_until

DAG = "/dags/pii_unmask"
WAITING, ENDED = {"awaiting_input"}, {"success", "failed", "skipped"}


@pytest.fixture(scope="module")
def loaded(sqs: Any, dags: Mapping[str, Any]) -> str:
    """The token of ADDRESS, of a login that was loaded before Airflow began to schedule."""
    url: str = sqs.get_queue_url(QueueName="login-queue")["QueueUrl"]
    empty(sqs, url)
    return load_login(sqs, url, dags)


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that Airflow writes values to."""
    folder = tmp_path_factory.mktemp("unmasked")
    folder.chmod(0o700)
    return folder


@pytest.fixture(scope="module")
def airflow(loaded: str, unmasked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    with running(tmp_path_factory.mktemp("airflow"), officers_environment(unmasked)) as airflow:
        yield airflow


@pytest.fixture
def officer(unmasked: Path) -> Path:
    """The folder for the values, empty."""
    for path in unmasked.iterdir():
        path.unlink()
    return unmasked


@pytest.fixture
def people(airflow: Airflow) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Bob, who asks, and Ada; with `pii_unmask` unpaused."""
    with airflow.log_in("bob") as bob, airflow.log_in("ada") as ada:
        wait_until(lambda: ada.patch(DAG, json={"is_paused": False}).is_success, START_SECONDS)
        yield bob, ada
        pause(True, "pii_unmask")


@pytest.fixture
def unpaused(airflow: Airflow) -> Iterator[None]:
    """The schedule of `user_logins` runs, and is paused again after the test."""
    pause(False)
    yield
    pause(True)


# pii_unmask: people answer by the REST API, as the UI does


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


def audited(warehouse: psycopg.Connection[Any], run_ids: list[str]) -> dict[str, list[tuple[Any, ...]]]:
    """Ticket -> (action, who asked, who answered, why it was refused) of each entry, the oldest first."""
    entries = warehouse.execute(
        "SELECT ticket, action, details ->> 'requested_by',"
        " coalesce(details ->> 'approved_by', details ->> 'answered_by'), details ->> 'why'"
        " FROM pii.audit WHERE details ->> 'run' = ANY (%s) ORDER BY id",
        [run_ids],
    ).fetchall()
    told: dict[str, list[tuple[Any, ...]]] = {}
    for ticket, *rest in entries:
        told.setdefault(ticket, []).append(tuple(rest))
    return told


# user_logins


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


@pytest.mark.usefixtures("unpaused")
def test_a_run_waits_in_the_triggerer_and_goes_on_when_messages_come(
    airflow: Airflow, login_queue: str, sqs: Any, warehouse: psycopg.Connection[Any]
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
    ended = {"success", "failed", "upstream_failed"}
    wait_until(lambda: states().get((run_id, "finish")) in ended, START_SECONDS)
    print(f"20 messages, from sending to the end of the run: {time.monotonic() - sent:.1f} s")
    of_run = {task: state for (run, task), state in states().items() if run == run_id}
    tasks = ("sense", "extract", "mask", "load", "finish")
    assert of_run == dict.fromkeys(tasks, "success"), airflow.errors(run_id)
    count = "SELECT count(*) FROM public.user_logins WHERE user_id = %s"
    assert warehouse.execute(count, [user]).fetchone() == (20,)


@pytest.mark.usefixtures("unpaused")
def test_a_run_marked_failed_releases_its_messages_within_minutes(
    airflow: Airflow, login_queue: str, sqs: Any, warehouse: psycopg.Connection[Any]
) -> None:
    run_id = f"scheduled-test-{secrets.token_hex(4)}"
    wait_until(lambda: trigger_when_known(run_id), START_SECONDS)
    pause(True, "queue_etl_recovery")  # its schedule, every five minutes, might be due now
    with traffic(sqs, login_queue, run_id, rate=5) as sent:
        wait_until(lambda: airflow.said(run_id, "sealed"), START_SECONDS)
        pause(True)  # else the next scheduled run takes what this one releases
        with airflow.log_in("ada") as api:
            api.patch(f"/dags/user_logins/dagRuns/{run_id}", json={"state": "failed"}).raise_for_status()
        wait_until(lambda: airflow.said(run_id, "released"), START_SECONDS)
    assert airflow.said(run_id, "sealed messages stay staged")
    assert state_of(warehouse, run_id) == "running"
    pause(False, "queue_etl_recovery")
    trigger_dag("queue_etl_recovery", triggered_by=DagRunTriggeredByType.TEST, run_id=f"{run_id}-recovery")
    wait_until(lambda: state_of(warehouse, run_id) == "failed", START_SECONDS)
    wait_until(lambda: visible(sqs, "login-queue") == sent.count)
