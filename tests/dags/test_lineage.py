"""What the OpenLineage provider says of a run: in a process of its own, through its file transport."""

import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict

from devstack.environment import LINEAGE
from tests.dags.conftest import visible
from tests.support.python_process import run_code
from tests.support.wait import wait_until

PROJECT = Path(__file__).resolve().parents[2]
RUN = """
import tests.dags.conftest
from airflow.dag_processing.dagbag import DagBag
from tests.dags.runs import run_dag
bag = DagBag({dags!r})
outcome = run_dag(bag.dags["user_logins"], {{"wait_seconds": 1}})
print("state", outcome.state)
import sys
print("asset handlers", [name for name in sys.modules if "common.io.assets" in name])
"""
CANARY = "canary-4711"


@pytest.fixture(scope="module")
def events(sqs: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What was said of a run of one good message and a bad one."""
    url = sqs.get_queue_url(QueueName="login-queue")["QueueUrl"]
    login = {
        "user_id": f"{CANARY}-{time.time_ns()}", "app_version": "2.3.0", "device_type": "ios", "locale": None,
        "ip": "198.51.100.77", "device_id": CANARY,
    }  # fmt: skip
    for body in (json.dumps(login), json.dumps({CANARY: CANARY})):
        sqs.send_message(QueueUrl=url, MessageBody=body)
    wait_until(lambda: visible(sqs, "login-queue") >= 2)
    file = tmp_path_factory.mktemp("lineage") / "events.jsonl"
    transport = json.dumps({"type": "file", "log_file_path": str(file), "append": True})
    environment = {
        **os.environ,
        "AIRFLOW__OPENLINEAGE__TRANSPORT": transport,
        **LINEAGE,  # as all stacks of this project have it
        "PYTHONPATH": str(PROJECT),
    }
    code = RUN.format(dags=str(PROJECT / "dags"))
    done = run_code(code, environment)
    assert "state success" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    assert "asset handlers []" in done.stdout  # they are the dearest part of an event: they bring boto3
    text = file.read_text()
    for value in (CANARY, "198.51.100.77"):
        assert value not in text
    return [json.loads(line) for line in text.splitlines()]


def finished(events: list[dict[str, Any]]) -> dict[str, Any]:
    (event,) = [
        one for one in events if one["job"]["name"] == "user_logins.finish" and one["eventType"] == "COMPLETE"
    ]
    return event


def test_a_run_reads_the_queue_and_writes_the_table(events: list[dict[str, Any]]) -> None:
    event = finished(events)
    (read,) = event["inputs"]
    place = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    assert read["namespace"] == f"sqs://{place.netloc}"
    assert read["name"].endswith("/login-queue")
    (written,) = event["outputs"]
    warehouse = conninfo_to_dict(os.environ["QUEUE_ETL_WAREHOUSE_DSN"])
    assert written["namespace"] == f"postgres://{warehouse['host']}:{warehouse['port']}"
    assert written["name"] == f"{warehouse['dbname']}.public.user_logins"


def test_it_says_how_many_rows_and_which_columns_are_masked(events: list[dict[str, Any]]) -> None:
    event = finished(events)
    assert event["inputs"][0]["inputFacets"]["inputStatistics"]["rowCount"] >= 2
    (written,) = event["outputs"]
    assert written["outputFacets"]["outputStatistics"]["rowCount"] >= 1
    masked = {field["name"] for field in written["facets"]["schema"]["fields"] if field.get("description")}
    assert masked == {"masked_ip", "masked_device_id"}
    sources = written["facets"]["columnLineage"]["fields"]
    (source,) = sources["masked_ip"]["inputFields"]
    assert (source["field"], source["transformations"][0]["masking"]) == ("ip", True)


def test_nothing_but_finish_says_anything(events: list[dict[str, Any]]) -> None:
    told = {(one["job"]["name"], one["eventType"]) for one in events}
    assert told == {("user_logins.finish", "START"), ("user_logins.finish", "COMPLETE")}


def test_a_locked_rule_lets_all_tasks_tell_and_params_stay_cheap() -> None:
    code = """
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.openlineage.utils.emission_policy import resolve_task_emission_policy as policy
dag = DagBag({dags!r}).dags["user_logins"]
print("told", sorted(task.task_id for task in dag.tasks if policy(task, dag.dag_id, task.task_id).emit))
params = [task.params.get_param(name) for task in dag.tasks for name in task.params]
print("drafts", {{param.schema["$schema"] for param in params}}, len(params) >= len(dag.tasks))
"""
    rule = [{"scope": {"dag_id": "user_logins"}, "controls": {"emit": True}, "locked": True}]
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": '{"type": "console"}',
        "AIRFLOW__OPENLINEAGE__EMISSION_POLICY": json.dumps(rule),
    }
    done = run_code(code.format(dags=str(PROJECT / "dags")), environment)
    told = "told ['extract', 'finish', 'load', 'mask', 'sense']"
    assert told in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert "drafts {'http://json-schema.org/draft-07/schema#'} True" in done.stdout


def test_a_provider_that_sends_nowhere_costs_nothing() -> None:
    code = """
import sys
import queue_etl_lineage
queue_etl_lineage.only_finish_tells(None)
queue_etl_lineage.tell_lineage(None, {})
print("imported", sorted(name for name in sys.modules if name.startswith("openlineage")))
"""
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT / 'plugins'}:{PROJECT}"}
    done = run_code(code, environment)
    assert "imported []" in done.stdout, done.stderr[-2000:]
