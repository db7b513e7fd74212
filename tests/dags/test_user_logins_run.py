"""The DAG `user_logins`, run: rows and metrics when all is well, and each row of its failure table."""

import json
import os
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from include.queue_etl import steps
from include.queue_etl.counts import run_in_words
from include.queue_etl.errors import PermanentError, WarehouseUnavailable
from tests.dags.conftest import visible
from tests.dags.runs import Outcome, note_of
from tests.support.wait import wait_until

Run = Callable[..., Outcome]
Warehouse = psycopg.Connection[Any]

SECRET_IP = "203.0.113.77"


@pytest.fixture
def send_logins(sqs: Any, login_queue: str) -> Callable[..., str]:
    """Put logins of one new user on the queue; returns the user's id."""

    def put(count: int, bad: int = 0) -> str:
        user = f"user-{time.time_ns()}"
        fields = {"user_id": user, "app_version": "2.3.0", "device_type": "ios", "locale": None}
        login = json.dumps({**fields, "ip": SECRET_IP, "device_id": f"device-of-{user}"})
        for body in [login] * count + ['{"foo": "oops_wrong_msg_type"}'] * bad:
            sqs.send_message(QueueUrl=login_queue, MessageBody=body)
        wait_until(lambda: visible(sqs, "login-queue") >= count + bad)
        return user

    return put


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_ETL_BATCH_MESSAGES", "10")


def rows_of(warehouse: Warehouse, user: str) -> list[tuple[Any, ...]]:
    return warehouse.execute("SELECT * FROM public.user_logins WHERE user_id = %s", [user]).fetchall()


def summary_of(warehouse: Warehouse, run_id: str) -> dict[str, Any]:
    cursor = warehouse.execute("SELECT * FROM etl.run_summary WHERE airflow_run_id = %s", [run_id])
    assert cursor.description
    names = [column.name for column in cursor.description]
    row = cursor.fetchone()
    return dict(zip(names, row, strict=True)) if row else {}


def break_step(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, *, when: Callable[..., bool]
) -> None:
    """Let the step raise `error` in place of working, `when` its arguments say so."""
    step = getattr(steps, name)

    def broken(*arguments: Any, **keywords: Any) -> Any:
        if when(*arguments, **keywords):
            raise error
        return step(*arguments, **keywords)

    monkeypatch.setattr(steps, name, broken)


def first_batch(context: Any, batch: str) -> bool:
    return batch.startswith("0000")


# All is well --------------------------------------------------------------------------------------


def test_a_run_loads_rows_quarantines_the_rest_and_empties_the_queue(
    run_user_logins: Run, send_logins: Callable[..., str], warehouse: Warehouse, sqs: Any
) -> None:
    user = send_logins(5, bad=2)
    outcome = run_user_logins()
    assert outcome.state == "success"
    assert set(outcome.tasks.values()) == {"success"}
    rows = rows_of(warehouse, user)
    assert len(rows) == 5
    assert SECRET_IP not in str(rows)
    summary = summary_of(warehouse, outcome.run_id)
    assert (summary["state"], summary["received"], summary["loaded"]) == ("succeeded", 7, 5)
    assert summary["quarantined_by_reason"] == {"missing_field user_id": 2}
    assert (summary["deleted"], summary["visible_before"]) == (7, 7)
    assert outcome.note == run_in_words(summary)
    wait_until(lambda: visible(sqs, "login-queue") == 0)


def test_a_note_that_somebody_wrote_stays(run_user_logins: Run, send_logins: Callable[..., str]) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    send_logins(1)
    run_id = run_user_logins().run_id
    with create_session() as session:
        session.scalars(select(DagRun).where(DagRun.run_id == run_id)).one().note = "looked at by Ann"
    assert note_of(run_id) == "looked at by Ann"


def test_mapped_tasks_are_one_a_batch_and_named_by_it(
    run_user_logins: Run, send_logins: Callable[..., str], small_batches: None, warehouse: Warehouse
) -> None:
    user = send_logins(25)
    outcome = run_user_logins()
    assert outcome.state == "success"
    batches = sorted(name for name in outcome.tasks if name.startswith("load["))
    assert len(batches) >= 2
    assert len(outcome.names) == len(batches)
    assert all(name[:4].isdigit() and name[4] == "-" for name in outcome.names)
    assert len(rows_of(warehouse, user)) == 25


def test_max_messages_reaches_the_engine(
    run_user_logins: Run, send_logins: Callable[..., str], warehouse: Warehouse
) -> None:
    user = send_logins(15)
    assert run_user_logins(max_messages=10).state == "success"
    assert len(rows_of(warehouse, user)) == 10
    assert run_user_logins().state == "success"
    assert len(rows_of(warehouse, user)) == 15


def test_without_max_messages_the_environments_setting_holds(
    run_user_logins: Run,
    send_logins: Callable[..., str],
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUEUE_ETL_MAX_MESSAGES", "10")
    user = send_logins(15)
    assert run_user_logins().state == "success"
    assert len(rows_of(warehouse, user)) == 10
    assert run_user_logins(max_messages=100).state == "success"
    assert len(rows_of(warehouse, user)) == 15


def test_min_messages_reaches_the_sensor(
    run_user_logins: Run, send_logins: Callable[..., str], warehouse: Warehouse
) -> None:
    user = send_logins(2)
    outcome = run_user_logins(min_messages=3)
    assert outcome.state == "success"
    assert set(outcome.tasks.values()) == {"skipped"}
    assert outcome.note is None
    assert rows_of(warehouse, user) == []


def test_a_good_run_announces_the_table_with_its_rows(
    run_user_logins: Run, send_logins: Callable[..., str]
) -> None:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    send_logins(3, bad=1)
    run_id = run_user_logins().run_id
    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == run_id)).all()
        found = [(event.asset.name, event.source_task_id, event.extra) for event in events]
    assert found == [("public.user_logins", "finish", {"rows": 3})]


# The failure table of the DAG's doc_md ------------------------------------------------------------


def test_if_sense_fails_nothing_is_received_and_no_later_task_runs(
    run_user_logins: Run,
    send_logins: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    warehouse: Warehouse,
    sqs: Any,
) -> None:
    send_logins(3)
    wrong = {"conn_type": "aws", "login": "x", "password": "x", "extra": {"region_name": "eu-west-1"}}
    wrong["extra"]["endpoint_url"] = "nonsense"
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(wrong))
    outcome = run_user_logins()
    assert outcome.state == "failed"
    assert outcome.tasks.pop("sense") == "failed"
    assert set(outcome.tasks.values()) == {"upstream_failed"}
    assert outcome.tries["sense"] == 1
    assert summary_of(warehouse, outcome.run_id) == {}
    assert visible(sqs, "login-queue") == 3


def test_if_extract_cannot_start_nothing_is_received_and_it_is_not_retried(
    run_user_logins: Run, send_logins: Callable[..., str], monkeypatch: pytest.MonkeyPatch, sqs: Any
) -> None:
    send_logins(3)
    monkeypatch.setenv("QUEUE_ETL_STAGING", "/proc/nowhere")
    outcome = run_user_logins()
    assert outcome.state == "failed"
    assert (outcome.tasks["extract"], outcome.tries["extract"]) == ("failed", 1)
    assert outcome.tasks["finish"] == "failed"
    assert visible(sqs, "login-queue") == 3


def test_if_mask_fails_for_a_batch_others_load_and_its_messages_come_back(
    run_user_logins: Run,
    send_logins: Callable[..., str],
    small_batches: None,
    monkeypatch: pytest.MonkeyPatch,
    warehouse: Warehouse,
    sqs: Any,
) -> None:
    user = send_logins(25)
    with monkeypatch.context() as patch:
        break_step(patch, "mask", PermanentError("broken"), when=first_batch)
        outcome = run_user_logins()
    assert outcome.state == "failed"
    assert (outcome.tasks["mask[0]"], outcome.tries["mask[0]"]) == ("failed", 1)
    assert (outcome.tasks["load[0]"], outcome.tasks["load[1]"]) == ("upstream_failed", "success")
    assert outcome.tasks["finish"] == "failed"
    loaded = len(rows_of(warehouse, user))
    assert 0 < loaded < 25
    summary = summary_of(warehouse, outcome.run_id)
    assert summary["state"] == "failed"
    assert outcome.note == run_in_words(summary)
    wait_until(lambda: visible(sqs, "login-queue") == 25 - loaded)
    assert run_user_logins().state == "success"
    assert len(rows_of(warehouse, user)) == 25


def test_after_all_retries_of_load_the_messages_of_a_batch_come_back_once(
    run_user_logins: Run,
    send_logins: Callable[..., str],
    small_batches: None,
    monkeypatch: pytest.MonkeyPatch,
    warehouse: Warehouse,
    sqs: Any,
) -> None:
    user = send_logins(15)
    with monkeypatch.context() as patch:
        break_step(patch, "load", WarehouseUnavailable("down"), when=first_batch)
        outcome = run_user_logins()
    assert outcome.state == "failed"
    assert (outcome.tasks["load[0]"], outcome.tries["load[0]"]) == ("failed", 5)
    assert 0 < len(rows_of(warehouse, user)) < 15
    wait_until(lambda: visible(sqs, "login-queue") == 15 - len(rows_of(warehouse, user)))
    assert run_user_logins().state == "success"
    assert len(rows_of(warehouse, user)) == 15


def test_finish_is_told_of_its_last_try_and_no_earlier_failure_is_hidden(
    run_user_logins: Run,
    send_logins: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    warehouse: Warehouse,
) -> None:
    user = send_logins(3)
    told = []

    def note(context: Any, *, upstream_failed: bool, last_attempt: bool, **others: Any) -> bool:
        told.append((upstream_failed, last_attempt))
        return True

    with monkeypatch.context() as patch:
        break_step(patch, "finish", WarehouseUnavailable("down"), when=note)
        outcome = run_user_logins()
    assert outcome.state == "failed"
    assert told == [(False, False)] * 4 + [(False, True)]
    assert len(rows_of(warehouse, user)) == 3


def test_if_finish_fails_rows_stay_and_messages_come_back_as_duplicates(
    run_user_logins: Run,
    send_logins: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    warehouse: Warehouse,
    sqs: Any,
) -> None:
    user = send_logins(3)
    monkeypatch.setenv("QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS", "8")
    monkeypatch.setenv("QUEUE_ETL_RECEIVE_SECONDS", "4")
    with monkeypatch.context() as patch:
        break_step(patch, "finish", PermanentError("broken"), when=lambda *_, **__: True)
        assert run_user_logins().tasks["finish"] == "failed"
    assert len(rows_of(warehouse, user)) == 3
    wait_until(lambda: visible(sqs, "login-queue") == 3)
    outcome = run_user_logins()
    assert outcome.state == "success"
    summary = summary_of(warehouse, outcome.run_id)
    assert (summary["loaded"], summary["duplicates"], summary["deleted"]) == (0, 3, 3)
    assert len(rows_of(warehouse, user)) == 3


# Connections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("conn_id", ["postgres_default", "pii_keyset"])
def test_a_missing_connection_is_one_clear_error_and_nothing_is_received(
    run_user_logins: Run,
    send_logins: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    sqs: Any,
    conn_id: str,
) -> None:
    send_logins(2)
    monkeypatch.delenv(f"AIRFLOW_CONN_{conn_id.upper()}")
    outcome = run_user_logins()
    assert (outcome.tasks["extract"], outcome.tries["extract"]) == ("failed", 1)
    said = capfd.readouterr().out
    assert f"no connection {conn_id}" in said
    assert f"airflow connections add {conn_id}" in said
    assert visible(sqs, "login-queue") == 2


def test_no_log_of_a_run_holds_a_password_a_keyset_or_personal_data(
    run_user_logins: Run,
    send_logins: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    user = send_logins(2, bad=1)
    break_step(monkeypatch, "load", WarehouseUnavailable("down"), when=lambda *_: True)
    assert run_user_logins().state == "failed"
    monkeypatch.undo()
    assert run_user_logins().state == "success"
    said = "".join(capfd.readouterr())
    keyset = json.loads(json.loads(os.environ["AIRFLOW_CONN_PII_KEYSET"])["password"])
    secrets = [key["keyData"]["value"] for key in keyset["key"]]
    secrets.append(json.loads(os.environ["AIRFLOW_CONN_POSTGRES_DEFAULT"])["password"])
    assert "Returned value was" in said
    for secret in [*secrets, SECRET_IP, user, "oops_wrong_msg_type"]:
        assert secret not in said


# An empty queue -----------------------------------------------------------------------------------


def test_a_run_of_an_empty_queue_is_skipped_by_its_deadline(
    login_queue: str, run_user_logins: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    outcome = run_user_logins(wait_seconds=4)
    print(f"empty queue, deadline 4 s: {time.monotonic() - started:.1f} s")
    assert (outcome.state, set(outcome.tasks.values())) == ("success", {"skipped"})
    said = capfd.readouterr().out
    assert "Skipping task." in said
    assert "XCom not found" not in said
