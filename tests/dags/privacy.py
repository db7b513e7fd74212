"""What the tests of the privacy DAGs share: a login with a known address, and an officer."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from airflow.sdk.exceptions import TaskAwaitingInput
from psycopg.conninfo import conninfo_to_dict

from tests.dags.conftest import visible
from tests.dags.runs import run_dag
from tests.support.wait import wait_until

ADDRESS = "203.0.113.66"


@pytest.fixture
def loaded(sqs: Any, login_queue: str, dags: Mapping[str, Any]) -> str:
    """A login whose address is ADDRESS; returns its token."""
    return load_login(sqs, login_queue, dags)


def load_login(sqs: Any, login_queue: str, dags: Mapping[str, Any]) -> str:
    """Send a login whose address is ADDRESS and run `user_logins` in this process; return its token."""
    body = {
        "user_id": "privacy-dag", "app_version": "2.3.0", "device_type": "ios", "locale": None, "ip": ADDRESS,
        "device_id": "1",
    }  # fmt: skip
    sqs.send_message(QueueUrl=login_queue, MessageBody=json.dumps(body))
    wait_until(lambda: visible(sqs, "login-queue") >= 1)
    assert run_dag(dags["user_logins"], {"wait_seconds": 1}).state == "success"
    with psycopg.connect(os.environ["QUEUE_ETL_OWNER_DSN"]) as connection:
        found = connection.execute(
            "SELECT masked_ip FROM public.user_logins WHERE user_id = 'privacy-dag' LIMIT 1"
        ).fetchone()
    return str(found and found[0])


@pytest.fixture
def officer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The connection `postgres_officer`, and the folder for the values."""
    folder = tmp_path / "unmasked"
    folder.mkdir(mode=0o700)
    for name, value in officers_environment(folder).items():
        monkeypatch.setenv(name, value)
    return folder


def officers_environment(folder: Path) -> dict[str, str]:
    """What Airflow needs to unmask: the connection `postgres_officer`, and the folder for the values."""
    dsn = conninfo_to_dict(os.environ["QUEUE_ETL_OFFICER_DSN"])
    connection = {
        "conn_type": "postgres", "host": dsn["host"], "port": int(str(dsn["port"])), "login": dsn["user"],
        "password": dsn["password"], "schema": dsn["dbname"],
    }  # fmt: skip
    return {
        "AIRFLOW_CONN_POSTGRES_OFFICER": json.dumps(connection),
        "QUEUE_ETL_UNMASKED_FOLDER": str(folder),
    }


def form(tokens: list[str], **other: str) -> dict[str, Any]:
    """What a person fills in to unmask these."""
    return {
        "contract": "user_logins", "field": "ip", "tokens": tokens, "reason": "access request",
        "ticket": "DPO-1", **other,
    }  # fmt: skip


def context_of(dags: Mapping[str, Any], asked: str | None, params: dict[str, Any]) -> dict[str, Any]:
    """What Airflow tells the task of a new run."""
    return {
        "dag_run": SimpleNamespace(triggering_user_name=asked), "dag": dags["pii_unmask"],
        "run_id": f"manual__{secrets.token_hex(8)}", "params": params,
        "task_instance": SimpleNamespace(id=None),
    }  # fmt: skip


def ask(task: Any, context: dict[str, Any]) -> None:
    """Run the task to where it waits for an answer."""
    question = "airflow.providers.standard.operators.hitl.upsert_hitl_detail"
    with (
        patch("airflow.sdk.get_current_context", lambda: context),
        patch(question) as asked,
        pytest.raises(TaskAwaitingInput),
    ):
        task.execute(context)
    asked.assert_called_once()


__all__ = ["ADDRESS", "ask", "context_of", "form", "loaded", "officer"]
