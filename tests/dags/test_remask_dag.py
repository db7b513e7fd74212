"""The DAG `queue_etl_remask`: what it promises, and that it runs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import ParamValidationError

from tests.dags.conftest import visible
from tests.dags.runs import Outcome
from tests.support.wait import wait_until

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dag(dags: Mapping[str, Any]) -> Any:
    return dags["queue_etl_remask"]


def test_doc_md_says_what_to_do_when_the_task_fails(dag: Any) -> None:
    lines = [line for line in dag.doc_md.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["if this task fails", "what you see", "where your data is", "what to do"]
    rows = {row[0].strip("`"): row[1:] for row in cells[2:]}
    assert set(rows) == {"remask"} == {task.task_id for task in dag.tasks}
    assert all(all(row) and len(row) == 3 for row in rows.values())


def test_only_people_start_it(dag: Any) -> None:
    assert dag.schedule is None
    assert dag.is_paused_upon_creation is False


@pytest.mark.parametrize("name", ["reason", "ticket"])
def test_the_form_refuses_a_blank_reason_or_ticket(dag: Any, name: str) -> None:
    param = dag.params.get_param(name)
    assert param.resolve("DPO-18, as the law says") == "DPO-18, as the law says"
    for blank in ("", "  "):
        with pytest.raises(ParamValidationError):
            param.resolve(blank)


def test_the_dag_file_is_short() -> None:
    assert len((PROJECT / "dags" / "queue_etl_remask.py").read_text().splitlines()) <= 100


def test_it_runs(sqs: Any, login_queue: str, dag: Any, run_user_logins: Callable[..., Outcome]) -> None:
    body = {
        "user_id": "remasked", "app_version": "2.3.0", "device_type": "ios", "locale": None,
        "ip": "203.0.113.66", "device_id": "1",
    }  # fmt: skip
    sqs.send_message(QueueUrl=login_queue, MessageBody=json.dumps(body))
    wait_until(lambda: visible(sqs, "login-queue") >= 1)
    assert run_user_logins().state == "success"
    assert dag.test(run_conf={"ticket": "DPO-2"}).state.value == "success"
