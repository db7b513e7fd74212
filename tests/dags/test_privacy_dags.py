"""The DAGs `pii_unmask` and `queue_etl_remask`: two people, no value anywhere but in the file."""

import csv
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from include.contracts import contract_names
from include.queue_etl.errors import PermanentError
from tests.dags.conftest import visible, wait_until
from tests.dags.runs import Outcome

PROJECT = Path(__file__).resolve().parents[2]
TASKS = {"pii_unmask": {"approve", "unmask"}, "queue_etl_remask": {"remask"}}
ADDRESS = "203.0.113.66"
ADA = {"responded_by_user": {"id": "7", "name": "ada"}}


@pytest.fixture
def loaded(
    sqs: Any, login_queue: str, warehouse: psycopg.Connection[Any], run_user_logins: Callable[..., Outcome]
) -> str:
    """A login whose address is ADDRESS; returns its token."""
    body = {
        "user_id": "privacy-dag", "app_version": "2.3.0", "device_type": "ios", "locale": None, "ip": ADDRESS,
        "device_id": "1",
    }  # fmt: skip
    sqs.send_message(QueueUrl=login_queue, MessageBody=json.dumps(body))
    wait_until(lambda: visible(sqs, "login-queue") >= 1)
    assert run_user_logins().state == "success"
    found = warehouse.execute(
        "SELECT masked_ip FROM public.user_logins WHERE user_id = 'privacy-dag' LIMIT 1"
    ).fetchone()
    return str(found and found[0])


@pytest.fixture
def officer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The connection `postgres_officer`, and the folder for the values."""
    dsn = conninfo_to_dict(os.environ["QUEUE_ETL_OFFICER_DSN"])
    connection = {
        "conn_type": "postgres", "host": dsn["host"], "port": int(str(dsn["port"])), "login": dsn["user"],
        "password": dsn["password"], "schema": dsn["dbname"],
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_OFFICER", json.dumps(connection))
    monkeypatch.setenv("QUEUE_ETL_UNMASKED_FOLDER", str(tmp_path))
    return tmp_path


def asked_by(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    run = SimpleNamespace(triggering_user_name=name)
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: {"dag_run": run})


# What they promise


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


def test_people_start_them_and_unmask_is_paused_until_it_is_wanted(dags: Mapping[str, Any]) -> None:
    assert [dags[dag_id].schedule for dag_id in TASKS] == [None, None]
    assert dags["pii_unmask"].is_paused_upon_creation is True
    assert dags["queue_etl_remask"].is_paused_upon_creation is False
    assert {task.retries for task in dags["pii_unmask"].tasks} == {0}


def test_nothing_is_unmasked_without_an_approval_within_a_day(dags: Mapping[str, Any]) -> None:
    dag = dags["pii_unmask"]
    approve = dag.get_task("approve")
    assert type(approve).__name__ == "ApprovalOperator"
    assert approve.downstream_task_ids == {"unmask"}
    assert approve.response_timeout == timedelta(days=1)
    assert not approve.defaults  # silence is not consent


def test_the_form_asks_for_tokens_reason_and_ticket(dags: Mapping[str, Any]) -> None:
    params = dags["pii_unmask"].params
    assert set(params) == {"contract", "field", "tokens", "reason", "ticket"}
    assert params.get_param("contract").schema["enum"] == contract_names()
    for dag_id in TASKS:
        for name in ("reason", "ticket"):
            assert dags[dag_id].params.get_param(name).schema["minLength"] == 1


def test_the_dag_files_are_short() -> None:
    for dag_id in TASKS:
        assert len((PROJECT / "dags" / f"{dag_id}.py").read_text().splitlines()) <= 100


# Two people


@pytest.mark.parametrize(
    ("asked", "approval"),
    [
        ("ada", ADA),
        ("7", ADA),
        (None, ADA),
        ("", ADA),
        ("bob", {}),
        ("bob", {"responded_by_user": None}),
        ("bob", {"responded_by_user": {"id": "", "name": None}}),
        ("bob", {**ADA, "timedout": True}),
    ],
)
def test_one_person_alone_or_unknown_is_not_enough(
    asked: str | None, approval: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from queue_etl_privacy import NotApproved, two_people

    asked_by(monkeypatch, asked)
    with pytest.raises(NotApproved) as caught:
        two_people(approval)
    assert isinstance(caught.value, PermanentError)


def test_two_people_are_named_to_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    from queue_etl_privacy import two_people

    asked_by(monkeypatch, "bob")
    assert two_people(ADA) == {"requested_by": "bob", "approved_by": "ada"}


# What they do


def test_unmask_writes_the_values_to_a_private_file_and_nowhere_else(
    dags: Mapping[str, Any],
    officer: Path,
    loaded: str,
    warehouse: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = {
        "dag_run": SimpleNamespace(triggering_user_name="bob"),
        "dag": dags["pii_unmask"],
        "run_id": "manual__1",
    }
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: context)
    form = {
        "contract": "user_logins", "field": "ip", "tokens": [loaded], "reason": "access request",
        "ticket": "DPO-1",
    }  # fmt: skip
    result = dags["pii_unmask"].get_task("unmask").python_callable(ADA, params=form)
    path = Path(result.pop("file"))
    assert path.parent == officer
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"field": "ip", "token": loaded, "value": ADDRESS}]
    entry = warehouse.execute("SELECT id, hash, details FROM pii.audit ORDER BY id DESC LIMIT 1").fetchone()
    assert entry is not None
    assert result == {"values": 1, "audit_entry": f"{entry[0]}:{entry[1].hex()}"}
    assert (entry[2]["requested_by"], entry[2]["approved_by"]) == ("bob", "ada")
    assert ADDRESS not in f"{result}{entry}{caplog.text}"


def test_remask_runs_as_a_dag(dags: Mapping[str, Any], loaded: str) -> None:
    assert dags["queue_etl_remask"].test(run_conf={"ticket": "DPO-2"}).state.value == "success"
